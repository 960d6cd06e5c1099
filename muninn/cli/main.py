"""The steps that all commands of `python -m muninn` share.

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

from muninn.cli.grammar import UsageError, argumentsOf
from muninn.errors import InvalidConfig, MuninnError


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


def runTop() -> int:
    """The console script `muninn-top`: `python -m muninn top`."""
    return main(["top", *sys.argv[1:]])


def runProfiler() -> int:
    """The program `muninn-prof`: the command `prof`."""
    return main(["prof", *sys.argv[1:]])


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


def _run(argv: Sequence[str]) -> int:
    from muninn.cli.output import printError, printJson, printProblem, problem, waitingBy

    asJson = "--json" in argv
    try:
        arguments = argumentsOf(argv)
        asJson = arguments.json
        _configure(arguments)
        with waitingBy(None):
            return _runnerOf(arguments.run)(arguments)
    except UsageError as error:
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
    from muninn.observe import outlet

    overrides = {} if arguments.domain is None else {"domain": arguments.domain}
    logging.basicConfig(format="muninn: %(message)s")  # warnings about settings use it too
    try:
        settings = loadSettings(overrides=overrides)
        outlet.attach(settings.server.log)
    except InvalidConfig:
        if arguments.command != "doctor":
            raise
        return
    if arguments.domain is not None:
        os.environ[variableOf("domain")] = arguments.domain
    if arguments.command != "keep":  # the others are there for a moment
        os.environ[variableOf("metricsPort")] = "0"
    logging.getLogger().setLevel(settings.server.logLevel.upper())
    if settings.server.log and not outlet.isFile(settings.server.log):
        # The lines of the setting go to stderr, and are all that a program wants to read.
        logging.getLogger().handlers.clear()
