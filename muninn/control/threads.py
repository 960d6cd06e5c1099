"""Threads: those that Muninn starts, also where Python starts none any more.

Until the interpreter is finalised, exit handlers run and may use Muninn for the first time, or again after it has left. Python 3.12 refuses
to start a thread there, though those that exist go on (3.11 and 3.13 start them). Then the C library starts it. Once `sys.is_finalizing()`,
no thread gets the interpreter any more, and a Python that is asked for one waits for it for ever: there nobody asks.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable

from muninn.control import atomics
from muninn.errors import BrokerUnavailable


class LateThread:
    """A daemon thread that the C library started. Python knows it while it runs its code, as any thread of a C library."""

    def __init__(self, target: Callable[[], object]) -> None:
        self._target = target
        self._ended = threading.Event()
        atomics.startThread(self._run)

    def _run(self) -> None:
        try:
            self._target()
        finally:
            self._ended.set()

    def join(self, timeout: float | None = None) -> None:
        self._ended.wait(timeout)


class NoThread:
    """What stands for the background thread of a process that can have none any more."""

    def join(self, timeout: float | None = None) -> None:
        """It has ended."""


def start(target: Callable[[], object], name: str) -> threading.Thread | LateThread:
    """A daemon thread that calls `target`. Raises `RuntimeError` when none can be had."""
    refuseAtEnd()
    thread = threading.Thread(target=target, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return LateThread(target)
    return thread


def startBare(target: Callable[[], object]) -> None:
    """The same, in one step, and nothing of it is known to `threading`."""
    refuseAtEnd()
    try:
        _thread.start_new_thread(target, ())
    except RuntimeError:
        LateThread(target)


def endingError(reason: str) -> BrokerUnavailable:
    """What is raised for what can not be done any more because the interpreter is finalised."""
    return BrokerUnavailable(f"the interpreter is ending, and {reason}", "Do it before, in an exit handler (atexit) at the latest")


def refuseImports(reason: str) -> None:
    """Raises `endingError` when the interpreter is being finalised: nothing can be imported any more."""
    if sys.is_finalizing():
        raise endingError(reason)


def refuseAtEnd() -> None:
    """Raises `RuntimeError` when the interpreter is being finalised."""
    if sys.is_finalizing():
        raise RuntimeError("no thread can be started while the interpreter is finalised")
