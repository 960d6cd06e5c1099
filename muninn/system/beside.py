"""Work on a thread beside a program that answers requests: many small portions with a
rest after each.

A thread that wants the interpreter waits until the one that has it lets it go, or for
5 ms (`sys.setswitchinterval`); a request that calls C code several times waits so long
each time. So loops over many things call `rest`, which lets the program run for a while
if their thread works beside it, and does nothing on any other thread. Meanwhile the
interpreter also switches more often, for the steps that have no such loop.

No lock, which a fork could leave taken: the worst that two threads can do to each other
is that one of them works at the ordinary interval.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from muninn.errors import ThreadsExhausted
from muninn.system import clock, green, threads

#: In whole microseconds, so that the interpreter gives it back as it is.
_OFTEN_SECONDS = 0.000125
_PORTION, _REST_SECONDS = 16, 0.0005
#: The interval of the program, as it was last seen.
_usual = [sys.getswitchinterval()]
#: The threads that work so, and how much each has done since it rested.
_working: dict[int, int] = {}


@contextmanager
def besideTheProgram() -> Iterator[None]:
    """Within the block this thread works beside the program."""
    thread = green.identity()
    try:
        _working[thread] = 0
        if (usual := sys.getswitchinterval()) > _OFTEN_SECONDS:
            _usual[0] = usual
            sys.setswitchinterval(_OFTEN_SECONDS)
        yield
    finally:
        _working.pop(thread, None)
        if not _working:
            _asUsual()


def worksBeside() -> bool:
    """Whether the calling thread works beside the program."""
    return bool(_working) and green.identity() in _working


def begin(work: Callable[[], object]) -> None:
    """Call `work` on a thread beside the program; on this one if there is no other."""

    def run() -> None:
        with besideTheProgram():
            work()

    try:
        threads.startBare(run)
    except (ThreadsExhausted, RuntimeError):
        work()


def rest() -> None:
    """Called once for each of many things."""
    if not _working:
        return
    thread = green.identity()
    done = _working.get(thread)
    if done is None:
        return
    if done + 1 < _PORTION:
        _working[thread] = done + 1
    else:
        _working[thread] = 0
        clock.sleep(_REST_SECONDS)


def _asUsual() -> None:
    # Otherwise the program has set another one meanwhile.
    if sys.getswitchinterval() == _OFTEN_SECONDS:
        sys.setswitchinterval(_usual[0])


def _resetInChild() -> None:
    _working.clear()  # their threads were not forked
    _asUsual()


os.register_at_fork(after_in_child=_resetInChild)
