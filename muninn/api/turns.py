"""Turns: one writer at a time, and readers whose kernels are not overtaken by the next writer's.

Inside their `with` blocks a writer keeps out everybody, and a reader with a stream keeps out writers; who comes meanwhile waits on the
host, as for a lock, for as long as somebody is putting work into a stream. The work itself is waited for on the GPU: who enters makes
the stream wait for the turns whose work is not over (a reader for who writes, a writer for who reads too), and who leaves signals. So
the publication may come before the work is done: it says "there is a newer one", and the fence says when it can be read.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from muninn.api import fences
from muninn.control import claims, layout
from muninn.errors import WriterDied

if TYPE_CHECKING:
    from muninn.api.buffer import MuninnBuffer

#: No stream was named, not even the default one.
WITHOUT_STREAM: Any = type("WithoutStream", (), {"__repr__": lambda self: "WITHOUT_STREAM", "__slots__": ()})()


class Writing:
    """One writer's turn. Leaving it by an exception leaves the buffer half written: readers are told, and the next writer repairs it."""

    __slots__ = ("_begun", "_buffer", "_holding", "_stream", "_timeout")

    def __init__(self, buffer: MuninnBuffer, timeout: float | None, stream: Any) -> None:
        self._buffer = buffer
        self._timeout = timeout
        self._stream = stream

    def __enter__(self) -> Any:
        holding = self._holding = self._buffer._checked()
        started = time.monotonic()
        if not holding.claimLock.acquire(timeout=-1 if self._timeout is None else max(0.0, self._timeout)):
            raise TimeoutError(f"another thread has been writing {holding.description.name!r} for {self._timeout} s")
        try:
            if holding.writer or holding.readers.isOne():
                doing = "writing" if holding.writer else "reading"
                raise RuntimeError(f"this thread is {doing} {holding.description.name!r} already")
            membership = holding.membership
            if claims.acquire(holding.claimAddress, membership.key, membership.isDead, self._remaining(started)) is None:
                raise TimeoutError(f"another process has been writing {holding.description.name!r} for {self._timeout} s")
            try:
                if not holding.readers.awaitNone(self._remaining(started)):
                    raise TimeoutError(f"others have been reading {holding.description.name!r} by kernels for {self._timeout} s")
                view = self._fenced()
            except BaseException:
                claims.release(holding.claimAddress)
                raise
            self._begun = holding.generation.begin()
            holding.writer = threading.get_ident()
            return view
        except BaseException:
            holding.claimLock.release()
            raise

    def _remaining(self, started: float) -> float | None:
        return None if self._timeout is None else max(0.0, self._timeout - (time.monotonic() - started))

    def _fenced(self) -> Any:
        """The view, behind those whose work is not over."""
        holding, buffer = self._holding, self._buffer
        if self._stream is WITHOUT_STREAM and not holding.memory.isHostVisible:
            self._stream = None  # kernels must write it, and theirs is the default stream if no other is named
        if self._stream is WITHOUT_STREAM:
            fences.holdBack(holding, None, writing=True, timeout=self._timeout)
            return buffer._view(holding)
        self._stream = fences.usableStream(holding, self._stream)
        fences.holdBack(holding, self._stream, writing=True, timeout=self._timeout)
        return buffer.deviceArray()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> Literal[False]:
        holding = self._holding
        if holding.membership.isStale():
            return False  # a child that was forked meanwhile: the turn is its parent's
        try:
            if self._stream is not WITHOUT_STREAM:
                # Behind an error too: what the stream was given is done all the same, and nobody's work may come between.
                fences.signal(holding, self._stream, layout.TICKET_WRITING)
        except BaseException:
            kind = BaseException  # what the stream was given is not promised to anybody: half written
            raise
        finally:
            holding.writer = 0
            if kind is None:
                holding.generation.publish(self._begun)
            claims.release(holding.claimAddress)
            if kind is not None:
                holding.generation.wake()
            holding.claimLock.release()
        return False


class Reading:
    """A reader's turn on a stream: later work of the stream comes behind who wrote, and the next writer's behind it."""

    __slots__ = ("_buffer", "_holding", "_stream", "_thread", "_timeout")

    def __init__(self, buffer: MuninnBuffer, stream: Any, timeout: float | None) -> None:
        self._buffer, self._stream, self._timeout = buffer, stream, timeout

    def __enter__(self) -> Any:
        holding = self._holding = self._buffer._checked()
        self._thread, name = threading.get_ident(), holding.description.name
        if holding.writer == self._thread:
            raise RuntimeError(f"this thread is writing {name!r}")
        self._stream = fences.usableStream(holding, self._stream)
        if not holding.readers.enter(self._timeout):
            raise TimeoutError(f"{name!r} has been written for {self._timeout} s")
        try:
            if holding.generation.value() & 1:  # and nobody who lives is inside
                raise WriterDied(f"a writer of {name!r} died or gave up half way")
            fences.holdBack(holding, self._stream, writing=False, timeout=self._timeout)
            return self._buffer.deviceArray()
        except BaseException:
            holding.readers.leave(self._thread)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> Literal[False]:
        if not self._holding.membership.isStale():
            try:
                fences.signal(self._holding, self._stream, layout.TICKET_READING)
            finally:
                self._holding.readers.leave(self._thread)
        return False
