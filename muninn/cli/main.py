"""The grammar of `python -m muninn`, and the steps that all commands share.

Exit status: 0 success, 1 an error (on stderr, with its code and fix), 2 wrong usage,
130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from muninn.errors import InvalidConfig, MuninnError

_LATER = {"promote": "promotion to VRAM", "top": "the live view", "prof": "the profiler"}
_MAX_SECONDS = 10**9


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A command must not fail because this locale can not encode a name.
            stream.reconfigure(errors="backslashreplace")
    for name in ("stdout", "stderr"):
        # The process was started with this descriptor closed, and the next file that it
        # opens would get the number.
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for as long as the program lasts
    try:
        status = _run([_decoded(each) for each in (sys.argv[1:] if argv is None else argv)])
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        # The reader of the pipe has ended, or the disk is full. Python flushes once
        # more at exit, and would print a second error; the null device takes that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"muninn: {error}", file=sys.stderr)
        return 1
    return status


def _decoded(argument: str) -> str:
    """The argument, read as UTF-8 if the locale could not decode its bytes: names are
    UTF-8 in every locale.
    """
    if argument.isascii() or not any("\udc80" <= each <= "\udcff" for each in argument):
        return argument
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        return argument


class _UsageError(Exception):
    """The command line is wrong; `text` is the message of argparse with the usage."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(reason)
        self.text = text


class _Parser(argparse.ArgumentParser):
    """A parser that raises its errors, so that `_run` can print them as JSON too."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(message, f"{self.format_usage()}{self.prog}: error: {message}")


def _run(argv: Sequence[str]) -> int:
    from muninn.cli.output import printError, printJson, printProblem, problem

    asJson = "--json" in argv
    try:
        arguments = _arguments(argv)
        asJson = arguments.json
        _configure(arguments)
        return _runnerOf(arguments.run)(arguments)
    except _UsageError as error:
        print(error.text, file=sys.stderr)
        if asJson:
            printJson(problem(str(error)))
        return 2
    except MuninnError as error:
        printError(error, asJson)
    except BrokenPipeError:
        raise
    except OSError as error:  # a TimeoutError among them
        if error.errno == errno.ENOSPC:
            raise  # stdout is full: for memory that is full Muninn has errors of its own
        printProblem(str(error), asJson)
    return 1


def runLater(arguments: argparse.Namespace) -> int:
    """A command that the manual has and this version does not; no help text names it."""
    from muninn.cli.output import printProblem

    printProblem(
        f"{_LATER[arguments.command]} ({arguments.command}) is not in this version", arguments.json
    )
    return 2


def _runnerOf(path: str) -> Callable[[argparse.Namespace], int]:
    """The function that `path` names, as `module:function` below `muninn.cli`. Its
    module is loaded only now, so that `--help` is quick.
    """
    module, _, name = path.partition(":")
    runner: Callable[[argparse.Namespace], int] = getattr(
        import_module(f"muninn.cli.{module}"), name
    )
    return runner


def _configure(arguments: argparse.Namespace) -> None:
    """Choose the domain and the verbosity. A wrong configuration ends every command
    except `doctor`, which reports the mistake.
    """
    import logging

    from muninn.config import loadSettings, variableOf

    overrides = {} if arguments.domain is None else {"domain": arguments.domain}
    logging.basicConfig(format="muninn: %(message)s")  # warnings about settings use it too
    try:
        settings = loadSettings(overrides=overrides)
    except InvalidConfig:
        if arguments.command != "doctor":
            raise
        return
    if arguments.domain is not None:
        os.environ[variableOf("domain")] = arguments.domain
    logging.getLogger().setLevel(settings.server.logLevel.upper())


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    # A command of a later version has no grammar yet. It says that it is not there, and
    # not that its options are wrong.
    early, rest = _common(json=False, domain=None).parse_known_args(argv)
    if rest and rest[0] in _LATER:
        return argparse.Namespace(
            run="main:runLater", command=rest[0], json=early.json, domain=early.domain
        )
    return _parser().parse_args(argv)


def _count(text: str) -> int:
    """A whole number above 0."""
    if not text.isascii() or not text.isdecimal() or not 0 < len(text) < 16 or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _whole(text: str) -> int:
    """A whole number from 0 up."""
    return 0 if text == "0" else _count(text)


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


def _named(command: argparse.ArgumentParser) -> None:
    """The buffer's name, by position or by `--name`, as the manual of `muninctl` has
    it.
    """
    group = command.add_mutually_exclusive_group(required=True)
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
    _addChanging(add)
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
    command.add_argument("--gpu", type=int, metavar="G", help="for fastMode: the GPU")
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
        "revoke all leases of a buffer or a tenant",
        "evict --name weights",
    )
    command.add_argument("--name")
    command.add_argument("--tenant")
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
    command.add_argument("--gpu", type=int, metavar="G", help="for fastMode: the GPU")
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
