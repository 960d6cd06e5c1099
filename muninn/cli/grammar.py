"""The grammar of `python -m muninn`: the commands and their options."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from muninn.cli import housekeeping, machine
from muninn.cli.housekeeping import Add
from muninn.cli.numbers import count, seconds, whole
from muninn.cli.top.options import addOptions


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
    arguments, unknown = (parser := parserOf(program())).parse_known_args(argv)
    if unknown:  # the command's own usage helps, and not that of all commands
        getattr(arguments, "fail", parser.error)(f"unrecognized arguments: {' '.join(unknown)}")
    return arguments


def _named(command: argparse.ArgumentParser, isNeeded: bool = True) -> None:
    """The buffer's name, by position or by `--name`, as the manual of `muninctl` has
    it. It is None where it is not needed and not given.
    """
    if not isNeeded:
        command.set_defaults(name=None)
    group = command.add_mutually_exclusive_group(required=isNeeded)
    given = argparse.SUPPRESS  # a default of one would replace what the other says
    group.add_argument("name", metavar="NAME", nargs="?", default=given, help="the buffer's name")
    group.add_argument("--name", dest="name", metavar="NAME", default=given, help="the same")


def _common(**defaults: object) -> _Parser:
    """The options that may stand before and after the command. The parser after the
    command has no defaults, because a default would replace a value given before it.
    """
    common = _Parser(prog=program(), add_help=False)
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


def program() -> str:
    """How the user has called this program."""
    name = os.path.basename(sys.argv[0])
    return name if name in ("muninn", "muninctl") else "python -m muninn"


def parserOf(prog: str) -> argparse.ArgumentParser:
    """The parser of all commands, for a program of this name."""
    from muninn import __version__

    parser = _Parser(
        prog=prog,
        parents=[_common(json=False, domain=None)],
        description="Look at, and change, the buffers that the processes of this host share.",
        epilog=f"Without a command: the buffers and their holders. Example: {prog} "
        "load model.safetensors",
    )
    parser.add_argument("--version", action="version", version=f"muninn {__version__}")
    parser.set_defaults(run="listing:runList", command="list", mode=None, tenant=None, holders=True)
    commands = parser.add_subparsers(metavar="COMMAND")

    def add(name: str, run: str, text: str, example: str) -> argparse.ArgumentParser:
        described = f"{text[0].upper()}{text[1:]}."
        epilog = f"example: {prog} {example}"
        command = commands.add_parser(
            name, parents=[_common()], help=text, description=described, epilog=epilog
        )
        command.set_defaults(run=run, command=name, fail=command.error)
        return command

    _addLooking(add)
    _addHolding(add)
    _addPromoting(add)
    _addChanging(add)
    housekeeping.addHousekeeping(add)
    machine.addMachine(add)
    return parser


def commandsOf(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser, in the order of the help."""
    return dict(_subparsers(parser).choices)


def helpsOf(parser: argparse.ArgumentParser) -> dict[str, str]:
    """The help text of each command of a parser."""
    return {each.dest: each.help or "" for each in _subparsers(parser)._choices_actions}


def _subparsers(parser: argparse.ArgumentParser) -> Any:
    return next(each for each in parser._actions if isinstance(each, argparse._SubParsersAction))


def _addLooking(add: Add) -> None:
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
    addOptions(add("top", "top.command:runTop", "watch the domain live", "top --sort rate"))
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


def _addHolding(add: Add) -> None:
    """The commands that create or open a buffer, or revoke a process's lease."""
    command = add(
        "alloc",
        "commands:runAlloc",
        "create a buffer of zeros",
        "alloc --size 4G --name scratch --tenant org/job7",
    )
    command.add_argument("--size", required=True, help='bytes, or text such as "128G"')
    command.add_argument("--name", help="its name (default: a new one, which is printed)")
    command.add_argument("--mode", default="bigMode", help="bigMode (default) or fastMode")
    command.add_argument("--tenant", help="the tenant for its quota")
    command.add_argument("--gpu", type=whole, metavar="G", help="for fastMode: the GPU")
    command.add_argument(
        "--access", default="readWrite", help="readOnly, readMostly or readWrite (default)"
    )
    command.add_argument(
        "--lifetime-ms", type=count, metavar="MS", help="free it after so many milliseconds"
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
        "--timeout", type=seconds, metavar="S", help="wait so many seconds for the name"
    )
    command.add_argument(
        "--seconds", type=seconds, metavar="S", help="hold it so long instead of until Ctrl-C"
    )
    command.add_argument(
        "--target-gpu",
        type=whole,
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
        type=count,
        help="the process, as it numbers itself; its next use of the buffer is LeaseRevoked",
    )
    which.add_argument(
        "--slot",
        type=whole,
        metavar="SLOT",
        help="or its member slot, which `describe --json` shows",
    )


def _addPromoting(add: Add) -> None:
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
    command.add_argument("--gpu", type=whole, default=0, metavar="G", help="the GPU (default: 0)")
    command.add_argument(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="S",
        help="wait so many seconds for room (default: 10)",
    )
    command.add_argument(
        "--seconds", type=seconds, metavar="S", help="hold it so long instead of until Ctrl-C"
    )
    command = add(
        "plan",
        "plan:runPlan",
        "say what a plan would do and why, or do it",
        "plan check job.toml",
    )
    command.add_argument(
        "verb", choices=("check", "apply"), help="check only says it; apply does it, or nothing"
    )
    command.add_argument("file", metavar="FILE", help="a plan: .json or .toml")
    command.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        help="apply: wait so many seconds for room and for another application (default: 10)",
    )
    command.add_argument(
        "--seconds",
        type=seconds,
        metavar="S",
        help="apply: hold what goes with this process so long instead of until Ctrl-C",
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
        "--lifetime-ms", type=count, metavar="MS", help="the hints hold for so many milliseconds"
    )
    command.add_argument("--clear", action="store_true", help="forget what was said before")


def _addChanging(add: Add) -> None:
    """The commands that change a buffer or the domain, or can: `doctor --repair`."""
    command = add(
        "free",
        "commands:runFree",
        "free buffers: their names now, their memory with their last holders",
        "free weights tables",
    )
    command.add_argument("names", metavar="NAME", nargs="*", help="the buffers' names")
    command.add_argument(
        "--name", dest="named", metavar="NAME", action="append", default=[], help="the same"
    )
    command.add_argument("--tenant", help="all buffers of this tenant")
    command.add_argument("--all", action="store_true", help="all buffers of the domain")
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
        "--gpu", type=whole, metavar="G", help="with --windows: only those on this GPU"
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
    command = add(
        "load",
        "commands:runLoad",
        "read a file of arrays, or a model in several files, into shared memory",
        "load model.safetensors",
    )
    command.add_argument(
        "file", metavar="FILE", help=".safetensors, .npz, .npy, .pt, an index, or a folder"
    )
    command.add_argument("--name", help="its name (default: that of the file, without its ending)")
    command.add_argument("--mode", default="bigMode", help="bigMode (default) or fastMode")
    command.add_argument("--gpu", type=whole, metavar="G", help="for fastMode: the GPU")
    command.add_argument("--tenant", help="whose quota it counts against")
    command.add_argument(
        "--access", default="readOnly", help="readOnly (default), readMostly or readWrite"
    )
