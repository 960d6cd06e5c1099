"""Aside: work that nothing of the program's may cut in half runs on another thread,
while its caller waits.

Python runs signal handlers on the main thread only, between any two bytecodes, and what
they raise ends whatever was under way there. So what changes several things in a row
runs on a thread that signals never reach; its caller only waits, which may be
interrupted at any moment and be waited for again. All here is private to the process.

A finalizer of the program's may run on such a thread too, when the garbage collector
happens to. It must not wait there: what it waits for may wait for that very thread,
which perhaps serves a whole domain. So each wait that a public call can come to asks
`refuseOwn` as soon as the call can not go on at once. What the thread itself waits for
goes other ways.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from typing import Generic, TypeVar

from muninn.errors import BrokerUnavailable
from muninn.system import atomics, threads
from muninn.system.green import Local
from muninn.system.latch import Latch

Value = TypeVar("Value")
Lock = _thread.RLock

_marks = Local()


def markOwn() -> None:
    """Say that the calling thread is one of Muninn's, and keep signals from it."""
    atomics.blockSignals()
    _marks.isOwn = True


def isOwn() -> bool:
    """Whether the calling thread is one of Muninn's: what else of the program's runs
    here is a finalizer.
    """
    return hasattr(_marks, "isOwn")


def refusal() -> BrokerUnavailable:
    """What is raised where a finalizer would have to wait on one of Muninn's threads."""
    return BrokerUnavailable(
        "a finalizer ran on Muninn's own thread, as the garbage collector chose, and this "
        "call would have to wait there, perhaps for that "
        "very thread",
        "Keep objects that call Muninn when they end out of reference cycles, or let them "
        "call on a thread of yours",
    )


def refuseOwn() -> None:
    """Before a public call waits: raises `refusal` on one of Muninn's threads."""
    if isOwn():
        raise refusal()


def unlessTaken(lock: Lock) -> Lock | _Tried:
    """A lock, to be entered at once: on one of Muninn's threads only while nobody has
    it who may be waiting for that thread.
    """
    return _Tried(lock) if isOwn() else lock


class _Tried:
    """A lock that is entered without a wait. No signal comes between two steps of it:
    they do not reach this thread.
    """

    __slots__ = ("_lock",)

    def __init__(self, lock: Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise refusal()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Job(Generic[Value]):
    """One call on a thread of its own, which any number of callers may wait for.
    Whoever is interrupted leaves it running.
    """

    def __init__(self, call: Callable[[], Value]) -> None:
        self._call = call
        self._chance = [None]  # taken by the one thread that makes the call
        self._done = Latch()
        self._outcome: list[Value] = []
        self._error: BaseException | None = None
        self._thread = 0

    def isOwn(self) -> bool:
        """Whether the calling thread is the one that makes the call."""
        return bool(self._thread == atomics.threadId())

    def result(self, seconds: float) -> Value | None:
        """What the call returned; None when it is not over in time. Raises what it
        raised, `RuntimeError` when no thread can be had.
        """
        if self._chance:
            # More than one may be started, when this was interrupted just here; only
            # the first has anything to do.
            threads.startBare(self._run)
        if not self._done.wait(seconds):
            return None
        error = self._error
        if error is not None:
            try:
                raise error
            finally:
                # the error has this frame, and would have itself: a circle keeps for a
                # while what it had in its hands
                del self, error
        return self._outcome[0]

    def _run(self) -> None:
        try:
            self._chance.pop()
        except IndexError:
            return
        markOwn()
        self._thread = atomics.threadId()
        try:
            self._outcome.append(self._call())
        except BaseException as error:
            self._error = error
        finally:
            done = self._done
            del self  # the error has this frame too
            done.set()
