"""The command `completion`: what completes this command line in bash, zsh and fish.

The scripts are made from the grammar, so a new option completes by itself. What the
names of buffers and domains are is asked at each completion, by `completion names` and
`completion domains`: these read the control block from outside and join no domain, so a
press of the tab key changes nothing and waits for no broker.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import NamedTuple

from muninn.cli import grammar
from muninn.cli.output import printJson
from muninn.prof.rows import ROWS
from muninn.terms import Access, Mode, Reserve

PROGRAMS = ("muninn", "muninctl")
#: The values of options that have only these.
_VALUES: dict[str, tuple[str, ...]] = {
    "--mode": tuple(Mode),
    "--access": tuple(Access),
    "--reserve": tuple(Reserve),
    "--route": ("p2p", "staged", "mapped"),
    "--priority": ("low", "normal", "high"),
    "--user": ("all",),
    "SHELL": ("bash", "zsh", "fish"),
    "ROW": tuple(ROWS),
}
#: What else a value is, by its name in the help.
_KINDS = {"NAME": "names", "D": "domains", "DOMAIN": "domains", "FILE": "files"}


class Word(NamedTuple):
    """An option, or an argument by position.

    Attributes
    ----------
    options
        How it is written; empty: by position.
    takesValue
        Whether a value follows.
    values
        What the value may be, if that is fixed.
    kind
        ``names``, ``domains`` or ``files`` otherwise, or empty: anything.
    """

    options: tuple[str, ...]
    help: str
    takesValue: bool
    values: tuple[str, ...]
    kind: str


def runCompletion(arguments: argparse.Namespace) -> int:
    if arguments.shell in ("names", "domains"):
        words = _live(arguments)
        if arguments.json:
            printJson({arguments.shell: words})
        else:
            print("\n".join(words))
        return 0
    if arguments.shell not in _SHELLS:
        arguments.fail(f"{arguments.shell!r} is no shell: bash, zsh or fish")
    if arguments.json:
        own, commands = tables()
        listed = {name: _spelt(words) for name, (_, words) in commands.items()}
        printJson({"options": _spelt(own), "commands": listed})
    else:
        print(_SHELLS[arguments.shell]())
    return 0


def _spelt(words: list[Word]) -> list[str]:
    return [option for word in words for option in word.options]


def _live(arguments: argparse.Namespace) -> list[str]:
    """The names of the buffers of the domain, or of the domains of this user."""
    import os

    from muninn.config import loadSettings
    from muninn.service import domains

    if arguments.shell == "names":
        return domains.namesIn(loadSettings().control.domain)
    return [name for uid, name in domains.found() if uid == os.geteuid()]


def tables() -> tuple[list[Word], dict[str, tuple[str, list[Word]]]]:
    """The options of the program, and of each command its help and its words."""
    parser = grammar.parserOf(PROGRAMS[0])
    commands = grammar.commandsOf(parser)
    helps = grammar.helpsOf(parser)
    return _words(parser), {
        name: (helps[name], _words(command)) for name, command in commands.items()
    }


def _words(parser: argparse.ArgumentParser) -> list[Word]:
    return [
        Word(
            tuple(each.option_strings),
            (each.help or "").replace("%%", "%"),
            each.nargs != 0,
            _valuesOf(each),
            _KINDS.get(str(each.metavar), ""),
        )
        for each in parser._actions
        if not isinstance(each, argparse._SubParsersAction)
    ]


def _valuesOf(action: argparse.Action) -> tuple[str, ...]:
    if action.choices is not None:
        return tuple(map(str, action.choices))
    names = (*action.option_strings, str(action.metavar))
    return next((_VALUES[name] for name in names if name in _VALUES), ())


def _bash() -> str:
    own, commands = tables()
    every = [*own, *(word for _, words in commands.values() for word in words)]
    # Where one command's option takes a value and another's of that name does not, it
    # completes as if it took none.
    flags = {each for word in every if not word.takesValue for each in word.options}
    values: dict[str, str] = {}
    for word in every:
        for option in set(word.options) - flags if word.takesValue else ():
            values.setdefault(option, _bashValue(word))
    free = [option for option, value in values.items() if not value]
    previous = "\n".join(
        f"    {each}) {value}; return ;;" for each, value in values.items() if value
    )
    cases = "\n".join(
        f"    {name}) words={_quoted(_spelt(words))}; {_bashPlace(words)} ;;"
        for name, (_, words) in commands.items()
    )
    return f"""# bash completion for muninn, made by `muninn completion bash`
_muninn_live() {{
    # Names are no code: no word of them is expanded.
    local name
    while IFS= read -r name; do
        [[ -n "$name" && "$name" == "$current"* ]] && COMPREPLY+=("$(printf %q "$name")")
    done < <("${{COMP_WORDS[0]}}" "${{live[@]}}" completion "$1" 2>/dev/null)
}}
_muninn() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}"
    local command="" words="" position="" number places=0 live=()
    COMPREPLY=()
    for ((number = 1; number < COMP_CWORD; number++)); do
        case "${{COMP_WORDS[number]}}" in
        --domain) live=(--domain "${{COMP_WORDS[number+1]}}"); ((number++)) ;;
        {"|".join(sorted(set(values) - {"--domain"}))}) ((number++)) ;;
        -*) ;;
        *) if [[ -n "$command" ]]; then ((places++)); else command="${{COMP_WORDS[number]}}"; fi ;;
        esac
    done
    case "$previous" in
{previous}
    {"|".join(sorted(free))}) return ;;
    esac
    case "$command" in
    "") words={_quoted([*_spelt(own), *commands])} ;;
{cases}
    esac
    if [[ "$current" == -* || -z "$position" ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    else
        $position
    fi
}}
complete -F _muninn {" ".join(PROGRAMS)}"""


def _quoted(words: list[str]) -> str:
    return f'"{" ".join(words)}"'


def _bashPlace(words: list[Word]) -> str:
    """How an argument by position completes. There are two at most."""
    places = [_bashWords(word) for word in words if not word.options] or ["position="]
    first, second = places[0], places[-1]
    return first if len(places) == 1 else f"if ((places)); then {second}; else {first}; fi"


def _bashWords(place: Word) -> str:
    if place.values:
        return f'words+=" {" ".join(place.values)}"'
    return f'position="{_bashValue(place)}"'


def _bashValue(word: Word) -> str:
    """The call that completes a value; empty: nothing does."""
    if word.values:
        return f'COMPREPLY=($(compgen -W "{" ".join(word.values)}" -- "$current"))'
    if word.kind == "files":
        return "compopt -o default"
    return f"_muninn_live {word.kind}" if word.kind else ""


def _zsh() -> str:
    own, commands = tables()
    functions = "\n".join(
        f"        {name}) _arguments {_zshWords(words)} ;;" for name, (_, words) in commands.items()
    )
    listed = " ".join(_zshQuoted(f"{name}:{_short(text)}") for name, (text, _) in commands.items())
    return f"""#compdef {" ".join(PROGRAMS)}
# zsh completion for muninn, made by `muninn completion zsh`
_muninn_live() {{
    local -a found live
    (( ${{+opt_args[--domain]}} )) && live=(--domain "${{opt_args[--domain]}}")
    found=(${{(f)"$($service $live completion $1 2>/dev/null)"}})
    compadd -a found
}}
_muninn() {{
    local context state state_descr line
    typeset -A opt_args
    _arguments -C {_zshWords(own)} '1:command:->command' '*::argument:->argument'
    case $state in
    command)
        local -a commands=({listed})
        _describe command commands ;;
    argument)
        case $line[1] in
{functions}
        esac ;;
    esac
}}
if [[ $funcstack[1] == _muninn ]]; then
    _muninn "$@"  # the file was loaded by name, for a word to complete
else
    compdef _muninn {" ".join(PROGRAMS)}
fi"""


def _zshWords(words: list[Word]) -> str:
    shown, places = list[str](), [word for word in words if not word.options]
    for word in words:
        action = ""
        if word.values:
            action = f"({' '.join(word.values)})"
        elif word.kind:
            # After a blank zsh adds no words of its own to the call.
            action = "_files" if word.kind == "files" else f" _muninn_live {word.kind}"
        if not word.options:
            which = "*" if len(places) == 1 else places.index(word) + 1
            shown.append(_zshQuoted(f"{which}:argument:{action}"))
        for option in word.options:
            value = f":value:{action}" if word.takesValue else ""
            shown.append(_zshQuoted(f"{option}[{_short(word.help)}]{value}"))
    return " ".join(shown)


def _zshQuoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _short(text: str) -> str:
    """A help text in one line, without what zsh takes for its own signs."""
    return re.sub(r"[\[\]:`\\]", " ", text)


def _fish() -> str:
    own, commands = tables()
    lines = [
        "# fish completion for muninn, made by `muninn completion fish`",
        "function __muninn_live",
        "    set -l words (commandline -opc)",
        "    set -l live",
        "    if set -l at (contains -i -- --domain $words)",
        "        set -l value $words[(math $at + 1)]",
        '        test -n "$value"; and set live --domain $value',
        "    end",
        "    $words[1] $live completion $argv[1] 2>/dev/null",
        "end",
    ]
    for program in PROGRAMS:
        none = f"not __fish_seen_subcommand_from {' '.join(commands)}"
        lines.append(f"complete -c {program} -f")
        lines += _fishWords(program, none, own)
        for name, (text, words) in commands.items():
            lines.append(
                f"complete -c {program} -n {_fishQuoted(none)} -a {name} -d {_fishQuoted(text)}"
            )
            lines += _fishWords(program, f"__fish_seen_subcommand_from {name}", words)
    return "\n".join(lines)


def _fishWords(program: str, condition: str, words: list[Word]) -> list[str]:
    lines = []
    for word in words:
        parts = [f"complete -c {program} -n {_fishQuoted(condition)}"]
        parts += [
            f"-l {each[2:]}" if each.startswith("--") else f"-s {each[1:]}" for each in word.options
        ]
        if word.options:
            parts.append(f"-d {_fishQuoted(word.help)}")
        if word.takesValue and word.options:
            parts.append("-r" if word.kind == "files" else "-x")
        if word.values:
            parts.append(f"-a {_fishQuoted(' '.join(word.values))}")
        elif word.kind == "files":
            parts.append("-F")
        elif word.kind:
            parts.append(f"-a {_fishQuoted(f'(__muninn_live {word.kind})')}")
        if word.options or word.values or word.kind:
            lines.append(" ".join(parts))
    return lines


def _fishQuoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS: dict[str, Callable[[], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
