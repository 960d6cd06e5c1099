"""Write the commands of `docs/cli.md` from the grammar: `python ops/clipage.py`, or with
`--check` only say whether the page is current.

What stands between the two marks of the page is generated: what a command does, its
arguments and options, as `--help` says them. `NOTES` has what is worth more words than a
help text has room for.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from muninn.cli import grammar  # noqa: E402  # after the line that finds it

PAGE = ROOT / "docs" / "cli.md"
PROG = "python -m muninn"
_BEGIN = "<!-- from here on made by ops/clipage.py -->"
_END = "<!-- up to here made by ops/clipage.py -->"

NOTES = {
    "list": [
        "Buffers that are gone and that some process still maps have the state `freed`.",
        "The last line has the totals: how many buffers there are, and their bytes by tier.",
        "With `--json` it prints the whole domain.",
    ],
    "topology": ["It says [what is known of the link](#links-between-gpus) of each pair of GPUs."],
    "alloc": [
        "Without `--name` it makes a name up, and prints it.",
        (
            "A `fastMode` buffer is held until Ctrl-C, because it goes with the last process of "
            "the domain."
        ),
    ],
    "open": [
        (
            "With `--target-gpu` it is opened for kernels of that GPU: as a copy there if it is "
            "elsewhere, and the command prints [which way the bytes went, and why]"
            "(routes.md#routes-and-reasons), and how fast."
        ),
    ],
    "close": [
        (
            "Where several processes have the same pid, in "
            "[containers](troubleshooting.md#containers-and-pid-namespaces) of their own, it "
            "refuses and names their slots."
        ),
    ],
    "promote": [
        "The window is [scratch memory of the GPU](gpus.md#promoting-a-window).",
        (
            "That of a `readOnly` buffer is held until Ctrl-C, or for `--seconds`, and processes "
            "that promote these bytes use it; of another the command only shows what it costs."
        ),
    ],
    "hint": ["Without an option it shows [the hints](gpus.md#hints-what-will-be-used)."],
    "free": [
        "A name that is not there is an error, and the others are freed all the same.",
        (
            "`--all` and `--tenant` free what is listed at that moment; the windows of a buffer go "
            "with it."
        ),
    ],
    "drain": [
        "A drain outlives all processes.",
        "Errors of creations, lists and `doctor` show the reason, of which 155 bytes are kept.",
    ],
    "keep": ["`--systemd` is for [a service of type notify](systemd.md)."],
    "load": [
        (
            "[Which files](choosing.md#files-load) it reads: `.npy` becomes an array, the others a "
            "bundle."
        ),
        "`--mode fastMode --gpu G` reads into VRAM, and holds it until Ctrl-C.",
    ],
    "doctor": ["It prints a line for each check."],
    "domains": [
        "It looks from outside, and joins no domain.",
        "The states are [below](#domains-and-what-they-leave).",
    ],
    "purge": [
        "[What it removes, and what it keeps](#domains-and-what-they-leave), is below.",
    ],
    "completion": ["[How to install it](#completion), is below."],
}


def page(text: str) -> str:
    """The page with its commands as the grammar has them now."""
    head, mark, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not mark or not end:
        raise ValueError(f"{PAGE} lacks the line {_BEGIN if not mark else _END}")
    return f"{head}{_BEGIN}\n\n{_commands()}\n{_END}{tail}"


def _commands() -> str:
    parser = grammar.parserOf(PROG)
    helps = grammar.helpsOf(parser)
    commands = grammar.commandsOf(parser)
    lines = ["| command | does |", "|---|---|"]
    lines += [
        (
            f"| `{PROG}` | lists the buffers and under each of them its holders; then the members "
            "of the domain, this command included while it looks |"
        )
    ]
    lines += [f"| [`{name}`](#{name}) | {_cell(helps[name])} |" for name in commands]
    lines += ["", *_options(parser, "Before or after each command:")]
    for name, command in commands.items():
        lines += [f"### {name}", "", f"{_sentence(helps[name])}", *NOTES.get(name, ())]
        lines += ["", "```sh", *_usage(command), "```", "", *_options(command)]
    return "\n".join(lines)


def _usage(command: argparse.ArgumentParser) -> list[str]:
    """The usage in one line, without what all commands have, and the example. It is not
    argparse's own, which differs between versions of Python.
    """
    groups = [each for each in command._mutually_exclusive_groups if each.required]
    parts, done = list[str](), list[argparse.Action]()
    for action in command._actions:
        if _isCommon(action) or action in done:
            continue
        group = next((each for each in groups if action in each._group_actions), None)
        members = [action] if group is None else group._group_actions
        done += members
        places = [each for each in members if not each.option_strings]
        if group is not None and not places:
            parts.append(f"({' | '.join(map(_word, members))})")
        elif places:
            (place,) = places
            isFree = group is None and place.nargs in ("?", "*")
            more = " ..." * (place.nargs == "*")
            said = _place(place)
            parts.append(f"[{said}{more}]" if isFree else f"{said}{more}")
        elif "--name" not in action.option_strings or not _hasPlace(command):
            parts.append(_word(action) if action.required else f"[{_word(action)}]")
    example = (command.epilog or "").removeprefix("example: ")
    return [" ".join([command.prog, *parts]), f"# {example}"]


def _hasPlace(command: argparse.ArgumentParser) -> bool:
    """Whether the name may be given by position, which is shorter."""
    return any(each.metavar == "NAME" and not each.option_strings for each in command._actions)


def _word(action: argparse.Action) -> str:
    return _spelt(action).partition(", ")[0].strip("`")


def _isCommon(action: argparse.Action) -> bool:
    return bool({"--help", "--json", "--domain"} & set(action.option_strings))


def _options(command: argparse.ArgumentParser, title: str = "") -> list[str]:
    """A table of the options; the common ones only under a title."""
    rows = [
        f"| {_spelt(each)} | {_cell(each.help)} |"
        for each in command._actions
        if each.help and bool(title) == _isCommon(each) and not _isOfParser(each)
    ]
    return [*([title, ""] if title else []), "| option | means |", "|---|---|", *rows, ""] * bool(
        rows
    )


def _isOfParser(action: argparse.Action) -> bool:
    return isinstance(action, argparse._SubParsersAction | argparse._VersionAction)


def _spelt(action: argparse.Action) -> str:
    value = f" {action.metavar or action.dest.upper()}" if action.nargs != 0 else ""
    if not action.option_strings:
        return f"`{_place(action)}`"
    return ", ".join(f"`{option}{value}`" for option in action.option_strings)


def _place(action: argparse.Action) -> str:
    """What stands for an argument by position."""
    return str(action.metavar or f"{{{','.join(map(str, action.choices or ()))}}}")


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("%%", "%")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def main() -> int:
    current = PAGE.read_text()
    wanted = page(current)
    if "--check" not in sys.argv:
        PAGE.write_text(wanted)
    elif current != wanted:
        print(f"{PAGE.relative_to(ROOT)} is not what the grammar says: python ops/clipage.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
