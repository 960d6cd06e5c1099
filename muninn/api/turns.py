"""Turns: one writer at a time, and readers whose kernels are not overtaken by the next writer's.

A turn with a stream fences by itself. Who enters makes the stream wait for the others (a reader for who writes, a writer for who reads
too), and who leaves signals. So the publication may come before the work is done: it says "there is a newer one", and the fence
says when it can be read.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from muninn.api import fences
from muninn.control import claims, layout

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
            if holding.isWriting:
                raise RuntimeError(f"this thread is writing {holding.description.name!r} already")
            membership = holding.membership
            remaining = None if self._timeout is None else max(0.0, self._timeout - (time.monotonic() - started))
            if claims.acquire(holding.claimAddress, membership.key, membership.isDead, remaining) is None:
                raise TimeoutError(f"another process has been writing {holding.description.name!r} for {self._timeout} s")
            try:
                view = self._fenced()
            except BaseException:
                claims.release(holding.claimAddress)
                raise
            self._begun = holding.generation.begin()
            holding.isWriting = True
            return view
        except BaseException:
            holding.claimLock.release()
            raise

    def _fenced(self) -> Any:
        """The view, behind those whose work is not over."""
        holding, buffer = self._holding, self._buffer
        if self._stream is WITHOUT_STREAM and not holding.memory.isHostVisible:
            self._stream = None  # kernels must write it, and theirs is the default stream if no other is named
        if self._stream is WITHOUT_STREAM:
            fences.holdBack(holding, None, writing=True, timeout=self._timeout)
            return buffer._view(holding)
        self._stream = fences.streamOf(holding, self._stream)
        fences.holdBack(holding, self._stream, writing=True, timeout=self._timeout)
        return buffer.deviceArray()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> Literal[False]:
        holding = self._holding
        if holding.membership.isStale():
            return False  # a child that was forked meanwhile: the turn is its parent's
        try:
            if kind is None and self._stream is not WITHOUT_STREAM:
                fences.signal(holding, self._stream, layout.TICKET_WRITING)
        except BaseException:
            kind = BaseException  # what the stream was given is not promised to anybody: half written
            raise
        finally:
            holding.isWriting = False
            if kind is None:
                holding.generation.publish(self._begun)
            claims.release(holding.claimAddress)
            if kind is not None:
                holding.generation.wake()
            holding.claimLock.release()
        return False


class Reading:
    """A reader's turn on a stream: later work of the stream comes behind who wrote, and the next writer's behind it."""

    __slots__ = ("_buffer", "_holding", "_stream", "_timeout")

    def __init__(self, buffer: MuninnBuffer, stream: Any, timeout: float | None) -> None:
        self._buffer, self._stream, self._timeout = buffer, stream, timeout

    def __enter__(self) -> Any:
        holding = self._holding = self._buffer._checked()
        self._stream = fences.streamOf(holding, self._stream)
        fences.holdBack(holding, self._stream, writing=False, timeout=self._timeout)
        return self._buffer.deviceArray()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> Literal[False]:
        if not self._holding.membership.isStale():
            fences.signal(self._holding, self._stream, layout.TICKET_READING)
        return False
