"""Turns: one writer at a time, and readers whose kernels are not overtaken by the next writer's.

Inside their `with` blocks a writer keeps out everybody, and a reader with a stream keeps out writers; who comes meanwhile waits on the
host, as for a lock, for as long as somebody is putting work into a stream. The work itself is waited for on the GPU: who enters makes
the stream wait for the turns whose work is not over (a reader for who writes, a writer for who reads too), and who leaves signals. So
the publication may come before the work is done: it says "there is a newer one", and the fence says when it can be read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from muninn.api import fences
from muninn.api.departure import Departing
from muninn.control import claims, layout
from muninn.control.deadlines import deadlineOf, remaining
from muninn.errors import WriterDied

if TYPE_CHECKING:
    from muninn.api.buffer import MuninnBuffer
    from muninn.api.holdings import Holding

#: Whose turn it is while its work is still to come and cannot be promised: no thread has this identity.
_NO_THREAD = -1
#: No stream was named, not even the default one.
WITHOUT_STREAM: Any = type("WithoutStream", (), {"__repr__": lambda self: "WITHOUT_STREAM", "__slots__": ()})()


class Writing:
    """One writer's turn. Leaving it by an exception leaves the buffer half written: readers are told, and the next writer repairs it."""

    __slots__ = ("_begun", "_buffer", "_deadline", "_holding", "_place", "_stream", "_timeout")

    def __init__(self, buffer: MuninnBuffer, timeout: float | None, stream: Any) -> None:
        self._buffer = buffer
        self._timeout = timeout
        self._stream = stream

    def __enter__(self) -> Any:
        self._deadline = deadlineOf(self._timeout)
        while True:
            try:
                return self._enter()
            except Departing:
                self._holding.membership.departure.awaitEnd()

    def _enter(self) -> Any:
        holding = self._holding = self._buffer._checked()
        name, thread = holding.description.name, threading.get_ident()
        if holding.writer == thread or holding.readers.isOne():
            raise RuntimeError(f"this thread is {'writing' if holding.writer == thread else 'reading'} {name!r} already")
        if not holding.turnLock.acquire(timeout=-1 if self._timeout is None else self._timeout):
            raise TimeoutError(f"another thread has been writing {name!r} for {self._timeout} s")
        try:
            membership = holding.membership
            if claims.acquire(holding.claimAddress, membership.key, membership.isDead, remaining(self._deadline)) is None:
                raise TimeoutError(f"another process has been writing {name!r} for {self._timeout} s")
            try:
                holding.writer = thread
                membership.departure.check()
                if not holding.readers.awaitNone(remaining(self._deadline)):
                    raise TimeoutError(f"others have been reading {name!r} by kernels for {self._timeout} s")
                view = self._fenced()
            except BaseException:
                holding.writer = 0
                claims.release(holding.claimAddress)
                raise
            self._begun = holding.generation.begin()
            return view
        except BaseException:
            holding.turnLock.release()
            raise

    def _fenced(self) -> Any:
        """The view, behind those whose work is not over."""
        holding, buffer = self._holding, self._buffer
        if self._stream is WITHOUT_STREAM and not holding.memory.isHostVisible:
            self._stream = None  # kernels must write it, and theirs is the default stream if no other is named
        if self._stream is WITHOUT_STREAM:
            fences.holdBack(holding, None, writing=True, timeout=remaining(self._deadline))
            return buffer._view(holding)
        self._stream = fences.usableStream(holding, self._stream)
        self._place = None if self._stream is None else self._stream.place()
        fences.holdBack(holding, self._stream, writing=True, timeout=remaining(self._deadline))
        return buffer.deviceArray()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> Literal[False]:
        holding = self._holding
        if holding.membership.isStale():
            return False  # a child that was forked meanwhile: the turn is its parent's
        try:
            if self._stream is not WITHOUT_STREAM:
                # Behind an error too: what the stream was given is done all the same, and nobody's work may come between.
                fences.signal(holding, self._stream, layout.TICKET_WRITING, self._place)
            elif kind is None:
                fences.mend(holding)
        except BaseException:
            if self._stream is WITHOUT_STREAM:
                self._giveUp()
            else:
                holding.writer = _NO_THREAD
                _endBehindWork(holding, self._giveUp)
            raise
        if kind is None:
            self._publish()
        else:
            self._giveUp()
        return False

    def _publish(self) -> None:
        holding = self._holding
        holding.writer = 0
        holding.generation.publish(self._begun)
        claims.release(holding.claimAddress)
        holding.turnLock.release()

    def _giveUp(self) -> None:
        """Leave it half written: readers are told, and the next writer repairs it."""
        holding = self._holding
        holding.writer = 0
        claims.release(holding.claimAddress)
        holding.generation.wake()
        holding.turnLock.release()


class Reading:
    """A reader's turn on a stream: later work of the stream comes behind who wrote, and the next writer's behind it."""

    __slots__ = ("_buffer", "_holding", "_stream", "_thread", "_timeout")

    def __init__(self, buffer: MuninnBuffer, stream: Any, timeout: float | None) -> None:
        self._buffer, self._stream, self._timeout = buffer, stream, timeout

    def __enter__(self) -> Any:
        deadline = deadlineOf(self._timeout)
        while True:
            try:
                return self._enter(deadline)
            except Departing:
                self._holding.membership.departure.awaitEnd()

    def _enter(self, deadline: float | None) -> Any:
        holding = self._holding = self._buffer._checked()
        self._thread, name = threading.get_ident(), holding.description.name
        if holding.writer == self._thread:
            raise RuntimeError(f"this thread is writing {name!r}")
        self._stream = fences.usableStream(holding, self._stream)
        if not holding.readers.enter(self._timeout):
            raise TimeoutError(f"{name!r} has been written for {self._timeout} s")
        try:
            holding.membership.departure.check()
            if holding.generation.value() & 1:  # and nobody who lives is inside
                raise WriterDied(f"a writer of {name!r} died or gave up half way")
            fences.holdBack(holding, self._stream, writing=False, timeout=remaining(deadline))
            return self._buffer.deviceArray()
        except BaseException:
            holding.readers.leave(self._thread)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> Literal[False]:
        if not self._holding.membership.isStale():
            readers = self._holding.readers
            try:
                fences.signal(self._holding, self._stream, layout.TICKET_READING)
            except BaseException:
                readers.handOn(self._thread, _NO_THREAD)
                _endBehindWork(self._holding, lambda: readers.leave(_NO_THREAD))
                raise
            readers.leave(self._thread)
        return False


def _endBehindWork(holding: Holding, end: Callable[[], object]) -> None:
    """Others can not wait for what the stream of a turn was given: the turn lasts until that is over, and keeps them out."""
    try:
        threading.Thread(target=fences.behindWork, args=(holding, end), name="muninn-turn", daemon=True).start()
    except RuntimeError:  # no thread can be had: it is waited for here, within limits
        fences.behindWork(holding, end, holding.membership.settings.devices.ipcGraceMs / 1000)
