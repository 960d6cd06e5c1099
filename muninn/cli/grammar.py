"""The grammar of `python -m muninn`: the commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn

#: Commands that the manual has and this version does not.
LATER = {"top": "the live view"}
_MAX_SECONDS, _MAX_PERCENT = 10**9, 10**6


class UsageError(Exception):
    """The command line is wrong; `text` is the message of argparse with the usage."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason)
        self.text = text


class _Parser(argparse.ArgumentParser):
    """A parser that raises its errors, so that `_run` can print them as JSON too."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"{self.format_usage()}{self.prog}: error: {message}")


def argumentsOf(argv: Sequence[str]) -> argparse.Namespace:
    """What the command line says. Raises `UsageError`."""
    # A command of a later version has no grammar yet. It says that it is not there, and
    # not that its options are wrong.
    early, rest = _common(json=False, domain=None).parse_known_args(argv)
    if rest and rest[0] in LATER:
        return argparse.Namespace(
            run="main:runLater", command=rest[0], json=early.json, domain=early.domain
        )
    arguments, unknown = (parser := _parser()).parse_known_args(argv)
    if unknown:  # the command's own usage helps, and not that of all commands
        getattr(arguments, "fail", parser.error)(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def _count(text: str) -> int:
    """A whole number above 0."""
    if not _isWhole(text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _whole(text: str) -> int:
    """A whole number from 0 up."""
    if not _isWhole(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 up")
    return int(text)


def _isWhole(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 16


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _MAX_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds from 0 to {_MAX_SECONDS}"
        )
    return value


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _MAX_PERCENT:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage from 0 to {_MAX_PERCENT}")
    return value


def _named(command: argparse.ArgumentParser, isNeeded: bool = True) -> None:
    """The buffer's name, by position or by `--name`, as the manual of `muninctl` has
    it. It is None where it is not needed and not given.
    """
    if not isNeeded:
        command.set_defaults(name=None)
    group = command.add_mutually_exclusive_group(required=isNeeded)
    group.add_argument("name", metavar="NAME", nargs="?", default=argparse.SUPPRESS)
    group.add_argument(
        "--name", dest="name", metavar="NAME", default=argparse.SUPPRESS, help="the same"
    )


def _common(**defaults: object) -> _Parser:
    """The options that may stand before and after the command. The parser after the
    command has no defaults, because a default would replace a value given before it.
    """
    common = _Parser(prog="python -m muninn", add_help=False)
    json = defaults.get("json", argparse.SUPPRESS)
    domain = defaults.get("domain", argparse.SUPPRESS)
    common.add_argument(
        "--json",
        action="store_true",
        default=json,
        help="print JSON and nothing else on standard output",
    )
    common.add_argument(
        "--domain",
        metavar="D",
        default=domain,
        help="the domain (default: MUNINN_DOMAIN, or `default`)",
    )
    return common


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m muninn",
        parents=[_common(json=False, domain=None)],
        description="Look at, and change, the buffers that the processes of this host share.",
        epilog="Without a command: the buffers and their holders. Example: python -m muninn "
        "load model.safetensors --name model",
    )
    parser.set_defaults(run="listing:runList", command="list", mode=None, tenant=None, holders=True)
    commands = parser.add_subparsers(metavar="COMMAND")

    def add(name: str, run: str, text: str, example: str) -> argparse.ArgumentParser:
        described = f"{text[0].upper()}{text[1:]}."
        epilog = f"example: python -m muninn {example}"
        command = commands.add_parser(
            name, parents=[_common()], help=text, description=described, epilog=epilog
        )
        command.set_defaults(run=run, command=name, fail=command.error)
        return command

    _addLooking(add)
    _addHolding(add)
    _addPromoting(add)
    _addChanging(add)
    _addMeasuring(add)
    return parser


#: (name, function that runs it, help text, an example) → its parser.
_Add = Callable[[str, str, str, str], argparse.ArgumentParser]


def _addLooking(add: _Add) -> None:
    """The commands that only look."""
    command = add("list", "listing:runList", "list the buffers", "list --mode bigMode")
    command.add_argument("--mode", help="only bigMode, or only fastMode")
    command.add_argument("--tenant", help="only this tenant's")
    command.add_argument(
        "--holders", action="store_true", default=False, help="show the holders too"
    )
    command = add(
        "describe",
        "listing:runDescribe",
        "say everything about a buffer",
        "describe weights --json",
    )
    _named(command)
    command = add(
        "topology",
        "topology:runTopology",
        "show the GPUs, the links between them, and what was found out about these",
        "topology --refresh",
    )
    command.add_argument(
        "--refresh",
        action="store_true",
        help="verify and measure every link now, and keep that for later processes",
    )


def _addHolding(add: _Add) -> None:
    """The commands that create or open a buffer, or revoke a process's lease."""
    command = add(
        "alloc",
        "commands:runAlloc",
        "create a buffer of zeros",
        "alloc --size 4G --name scratch --tenant org/job7",
    )
    command.add_argument("--size", required=True, help='bytes, or text such as "128G"')
    command.add_argument("--name", required=True)
    command.add_argument("--mode", default="bigMode", help="bigMode (default) or fastMode")
    command.add_argument("--tenant", help="the tenant for its quota")
    command.add_argument("--gpu", type=_whole, metavar="G", help="for fastMode: the GPU")
    command.add_argument(
        "--access", default="readWrite", help="readOnly, readMostly or readWrite (default)"
    )
    command.add_argument(
        "--lifetime-ms", type=_count, metavar="MS", help="free it after so many milliseconds"
    )
    command.add_argument(
        "--reserve", default="full", help="full (default) allocates now, lazy at the first touch"
    )
    command = add(
        "open",
        "commands:runOpen",
        "open a buffer and hold it until Ctrl-C",
        "open weights --seconds 60",
    )
    _named(command)
    command.add_argument(
        "--access",
        default="readOnly",
        help="readOnly (default), readMostly, readWrite or copyOnWrite",
    )
    command.add_argument(
        "--timeout", type=_seconds, metavar="S", help="wait so many seconds for the name"
    )
    command.add_argument(
        "--seconds", type=_seconds, metavar="S", help="hold it so long instead of until Ctrl-C"
    )
    command.add_argument(
        "--target-gpu",
        type=_whole,
        metavar="G",
        help="open it for kernels of this GPU: as a copy there, if it is elsewhere",
    )
    command.add_argument(
        "--route",
        help="p2p or staged copies that way or not at all; mapped copies nothing",
    )
    command = add(
        "close",
        "commands:runClose",
        "make another process release a buffer: revoke its lease",
        "close weights --pid 4711",
    )
    _named(command)
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--pid",
        type=_count,
        help="the process, as it numbers itself; its next use of the buffer is LeaseRevoked",
    )
    which.add_argument(
        "--slot",
        type=_whole,
        metavar="SLOT",
        help="or its member slot, which `describe --json` shows",
    )


def _addPromoting(add: _Add) -> None:
    """The commands about the windows of a buffer in VRAM."""
    command = add(
        "promote",
        "promotion:runPromote",
        "copy a window of a buffer to scratch memory of a GPU; of a readOnly buffer, hold it for "
        "the processes that promote it, until Ctrl-C",
        "promote weights --offset 4G --length 512M --gpu 0",
    )
    _named(command)
    command.add_argument("--offset", help='the window\'s beginning: bytes, or text such as "4G"')
    command.add_argument("--length", help="its bytes (default: to the end)")
    command.add_argument(
        "--hot", action="store_true", help="the hot ranges of its hints instead of one window"
    )
    command.add_argument("--gpu", type=_whole, default=0, metavar="G", help="the GPU (default: 0)")
    command.add_argument(
        "--timeout",
        type=_seconds,
        default=10.0,
        metavar="S",
        help="wait so many seconds for room (default: 10)",
    )
    command.add_argument(
        "--seconds", type=_seconds, metavar="S", help="hold it so long instead of until Ctrl-C"
    )
    command = add(
        "hint",
        "promotion:runHint",
        "say how a buffer will be used, or show what was said",
        "hint weights --hot 0+256M --hot 512M+128M --priority high",
    )
    _named(command)
    command.add_argument(
        "--hot",
        action="append",
        metavar="OFFSET+LENGTH",
        help="a range that kernels will read most, such as 512M+128M; again for more, the "
        "hottest first",
    )
    command.add_argument("--priority", help="low, normal or high")
    command.add_argument(
        "--lifetime-ms", type=_count, metavar="MS", help="the hints hold for so many milliseconds"
    )
    command.add_argument("--clear", action="store_true", help="forget what was said before")


def _addChanging(add: _Add) -> None:
    """The commands that change a buffer or the domain, or can: `doctor --repair`."""
    command = add(
        "free",
        "commands:runFree",
        "free a buffer: its name now, its memory with its last holder",
        "free weights",
    )
    _named(command)
    command = add(
        "evict",
        "commands:runEvict",
        "revoke all leases of a buffer and its windows, of its windows alone, or of a tenant",
        "evict weights",
    )
    _named(command, isNeeded=False)
    command.add_argument("--tenant", help="the buffers of this tenant")
    command.add_argument(
        "--windows",
        action="store_true",
        help="only the promoted windows of the buffer: its scratch memory in VRAM",
    )
    command.add_argument(
        "--gpu", type=_whole, metavar="G", help="with --windows: only those on this GPU"
    )
    command = add(
        "drain",
        "commands:runDrain",
        "let the domain create nothing new",
        "drain --reason maintenance",
    )
    command.add_argument(
        "--reason", default="", help="shown to processes that create buffers or list them"
    )
    command.add_argument("--off", action="store_true", help="let it create buffers again")
    add("keep", "commands:runKeep", "stay in the domain, and be its broker, until Ctrl-C", "keep")
    command = add(
        "load",
        "commands:runLoad",
        "read a file of arrays, or a model in several files, into shared memory",
        "load model.safetensors --name model",
    )
    command.add_argument(
        "file", metavar="FILE", help=".safetensors, .npz, .npy, .pt, an index, or a folder"
    )
    command.add_argument("--name", required=True)
    command.add_argument("--mode", default="bigMode", help="bigMode (default) or fastMode")
    command.add_argument("--gpu", type=_whole, metavar="G", help="for fastMode: the GPU")
    command.add_argument("--tenant", help="whose quota it counts against")
    command.add_argument(
        "--access", default="readOnly", help="readOnly (default), readMostly or readWrite"
    )
    command = add(
        "doctor",
        "doctor:runDoctor",
        "check whether this machine can run Muninn, and advise",
        "doctor",
    )
    command.add_argument(
        "--repair",
        action="store_true",
        help="rebuild a damaged control block; no process may be in the domain",
    )


def _addMeasuring(add: _Add) -> None:
    """The commands that measure."""
    command = add(
        "prof",
        "prof:runProf",
        "measure Muninn on this machine, beside what the machine itself can do",
        "prof --csv today.csv --compare yesterday.csv",
    )
    command.add_argument("--quick", action="store_true", help="seconds, with smaller sizes")
    command.add_argument(
        "--only", action="append", metavar="ROW", help="only this row; again for more"
    )
    command.add_argument("--list", action="store_true", help="say which rows there are")
    command.add_argument("--csv", metavar="FILE", help="write the rows to this file too")
    command.add_argument(
        "--compare",
        metavar="OLD.csv",
        help="compare with that run; the exit status is 1 if a row is slower",
    )
    command.add_argument(
        "--within",
        type=_percent,
        metavar="PERCENT",
        help="by how much the p50 and p95 of a row may be larger than before (default: 10)",
    )
