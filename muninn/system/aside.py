"""Aside: work that the program must not cut in half runs on another thread, while its
caller waits.

Python runs signal handlers on the main thread only, between any two bytecodes, and an
exception of a handler ends the work that was under way there. So work that changes
several things in a row runs on a thread that signals never reach. Its caller only
waits: the wait may be interrupted at any moment, and the caller may wait again. All
here is private to the process.

The garbage collector may run a finalizer of the program on such a thread. The finalizer
must not wait there: it might wait for that very thread, which perhaps serves a whole
domain. So each wait that a public call can come to calls `refuseOwn` as soon as the
call can not go on at once. Muninn's own work on these threads waits by other functions.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from typing import Generic, TypeVar

from muninn.errors import BrokerUnavailable
from muninn.system import atomics, threads
from muninn.system.green import Local

Value = TypeVar("Value")
Lock = _thread.RLock

_marks = Local()


def markOwn() -> None:
    """Say that the calling thread is one of Muninn's, and keep signals from it."""
    atomics.blockSignals()
    _marks.isOwn = True


def isOwn() -> bool:
    """Whether the calling thread is one of Muninn's. The only code of the program that
    runs there is a finalizer.
    """
    return hasattr(_marks, "isOwn")


def refusal() -> BrokerUnavailable:
    """The error for a finalizer that would have to wait on one of Muninn's threads."""
    return BrokerUnavailable(
        "a finalizer ran on Muninn's own thread, as the garbage collector chose, and this "
        "call would have to wait there, perhaps for that "
        "very thread",
        "Keep objects that call Muninn when they end out of reference cycles, or let them "
        "call on a thread of yours",
    )


def refuseOwn() -> None:
    """Raise `refusal` on one of Muninn's threads. A public call does this before it
    waits.
    """
    if isOwn():
        raise refusal()


def unlessTaken(lock: Lock) -> Lock | _Tried:
    """The lock, to be entered at once. On one of Muninn's threads, entering raises
    `refusal` if another thread has the lock, because that thread may be waiting for
    this one.
    """
    return _Tried(lock) if isOwn() else lock


class _Tried:
    """A lock that is entered without a wait. No signal handler runs between its steps,
    because signals do not reach this thread.
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
    """One call on a thread of its own, for which any number of callers may wait. A
    caller that is interrupted leaves the call running.
    """

    def __init__(self, call: Callable[[], Value]) -> None:
        self._call = call
        self._making = threads.Once(self._make)
        self._outcome: list[Value] = []
        self._error: BaseException | None = None
        self._thread = 0

    def isOwn(self) -> bool:
        """Whether the calling thread makes the call."""
        return bool(self._thread == atomics.threadId())

    def result(self, seconds: float) -> Value | None:
        """Return the call's result; None if the call is not over in time. Raises the
        call's exception, and `RuntimeError` if no thread can be started.
        """
        if not self._making.isTaken():
            threads.startBare(self._making)
        if not self._making.ended.wait(seconds):
            return None
        error = self._error
        if error is not None:
            try:
                raise error
            finally:
                # The error refers to this frame. If the frame referred to the error,
                # the circle would keep the frame's objects alive for a while.
                del self, error
        return self._outcome[0]

    def _make(self) -> None:
        markOwn()
        self._thread = atomics.threadId()
        try:
            self._outcome.append(self._call())
        except BaseException as error:
            self._error = error
        del self  # the error has this frame too
