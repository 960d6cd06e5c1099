"""Turns: one writer at a time, and readers whose kernels are not overtaken by the next
writer's.

Inside their `with` blocks a writer keeps out everybody, and a reader with a stream
keeps out writers; who comes meanwhile waits on the host, as for a lock, for as long as
somebody is putting work into a stream. The work itself is waited for on the GPU: who
enters makes the stream wait for the accesses whose work is not over (a reader for who
writes, a writer for who reads too), and who leaves signals. So the publication may come
before the work is done: it says "there is a newer one", and the fence says when it can
be read.

Entering and leaving are C (`cshim/owners.h`), so no handler of a signal can come
between a step of them and what belongs to it. The methods here are called from there,
where nothing is held, or where what is held is given back when they raise. An access
whose object is gone is ended: nobody else could.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from muninn.control import layout
from muninn.errors import WriterDied
from muninn.session import owners
from muninn.sync import fences
from muninn.sync.readers import awaitNone
from muninn.system import atomics, threads
from muninn.system.deadlines import deadlineOf, remaining

if TYPE_CHECKING:
    from muninn.devices.port import Stream
    from muninn.session.openbuffer import OpenBuffer

#: No stream was named, not even the default one.
WITHOUT_STREAM: Any = type(
    "WithoutStream", (), {"__repr__": lambda self: "WITHOUT_STREAM", "__slots__": ()}
)()
#: Until when, and how many seconds that were; None: for ever.
_Until = tuple[float, float] | None


class Opened(Protocol):
    """A buffer object, as an access needs it."""

    def _checked(self) -> OpenBuffer:
        """The holding, for one more operation. Raises what forbids one."""

    def _view(self, openBuffer: OpenBuffer) -> Any:
        """The array for the host."""

    def deviceArray(self, gpu: int | None = None) -> Any:
        """The array for the kernels of a GPU."""


class _OnOpenBuffer(atomics.AccessScope):
    """What the accesses of an open buffer have in common."""

    _openBuffer: OpenBuffer
    _timeout: float | None
    _inside = ""

    if TYPE_CHECKING:

        def __enter__(self) -> Any: ...
        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> Literal[False]: ...
    else:
        __del__ = atomics.scopeDrop

    def _deadlineOf(self, _: None) -> _Until:
        timeout = self._timeout
        return None if timeout is None else (deadlineOf(timeout) or 0.0, timeout)

    def _await(self, until: _Until, word: int) -> bool:
        openBuffer = self._openBuffer
        isDead = owners.awaitOwner(
            openBuffer.ownerLockAddress,
            openBuffer.tables.key,
            openBuffer.tables.isDead,
            None if until is None else until[0],
            word,
        )
        if isDead is None and until is not None:
            other = "thread" if openBuffer.isOwn(word) else "process"
            raise TimeoutError(
                f"another {other} has been writing {openBuffer.description.name!r} for {until[1]} s"
            )
        return bool(isDead)

    def _refuse(self, reason: int) -> None:
        name = self._openBuffer.description.name
        if reason == owners.REFUSED_VOID:
            raise RuntimeError(
                f"this process was forked, or has left, while it began an access of {name!r}"
            )
        raise RuntimeError(
            f"this thread is {'writing' if reason == owners.REFUSED_WRITING else 'reading'} "
            f"{name!r} already"
        )

    def _forKernels(self, buffer: Opened, stream: Stream | None) -> Any:
        """The view for kernels in `stream`, before that is made to wait; raises what
        forbids one, as GPUs that do not reach each other.
        """
        return buffer.deviceArray(
            None if stream is None or self._openBuffer.memory.gpu is None else stream.gpu
        )

    def _refuseLeft(self) -> None:
        """Inside a read access: nobody who lives writes, nor will before it ends, so an
        odd word is what somebody left half written.
        """
        if self._openBuffer.generation.value() & 1:
            raise WriterDied(
                f"a writer of {self._openBuffer.description.name!r} died or gave up half way"
            )

    def _linger(self) -> None:
        _endBehindWork(self._openBuffer, lambda: atomics.scopeEnd(self))


class Writing(_OnOpenBuffer):
    """One write access. Leaving it by an exception leaves the buffer half written:
    readers are told, and the next writer repairs it.
    """

    def __init__(self, buffer: Opened, timeout: float | None, stream: Any) -> None:
        super().__init__(None, _WRITING_CALLS, id(self))
        self._isTimed = timeout is not None
        self._buffer = buffer
        self._timeout = timeout
        self._stream = stream

    if not TYPE_CHECKING:
        __enter__, __exit__ = atomics.writingEnter, atomics.writingExit

    def _attach(self) -> Any:
        openBuffer = self._openBuffer = _opened(self._buffer)
        self._owner = openBuffer.owner
        if self._stream is WITHOUT_STREAM and not openBuffer.memory.isHostVisible:
            # kernels must write it, and theirs is the default stream if no other is
            # named
            self._stream = None
        if self._stream is not WITHOUT_STREAM:
            self._kind = owners.KIND_STREAM
            return None
        self._kind = owners.KIND_HOST
        return self._buffer._view(openBuffer)

    def _awaitOthers(self, until: _Until) -> Any:
        """The view, behind those whose work is not over. The owner lock is ours."""
        openBuffer, buffer = self._openBuffer, self._buffer
        left = None if until is None else remaining(until[0])
        if not awaitNone(openBuffer, left):
            raise TimeoutError(
                f"others have been reading {openBuffer.description.name!r} for {self._timeout} s"
            )
        left = None if until is None else remaining(until[0])
        if self._stream is WITHOUT_STREAM:
            fences.holdBack(openBuffer, None, writing=True, timeout=left)
            return buffer._view(openBuffer)
        self._stream = fences.usableStream(openBuffer, self._stream)
        self._errorCursor = None if self._stream is None else self._stream.errorCursor()
        given = self._forKernels(buffer, self._stream)
        fences.holdBack(openBuffer, self._stream, writing=True, timeout=left)
        return given

    def _end(self, _: type[BaseException] | None) -> None:
        if self._stream is not WITHOUT_STREAM:
            # Behind an error too: what the stream was given is done all the same, and
            # nobody's work may come between.
            fences.signal(self._openBuffer, self._stream, layout.TICKET_WRITING, self._errorCursor)
        else:
            fences.mend(self._openBuffer)


class Reading(_OnOpenBuffer):
    """A read access on a stream: later work of the stream comes behind who wrote, and
    the next writer's behind it.
    """

    def __init__(self, buffer: Opened, stream: Any, timeout: float | None) -> None:
        super().__init__(None, _READING_CALLS, id(self))
        self._isTimed, self._kind = timeout is not None, owners.KIND_STREAM
        self._buffer, self._stream, self._timeout = buffer, stream, timeout

    if not TYPE_CHECKING:
        __enter__, __exit__ = atomics.readingEnter, atomics.readingExit

    def _attach(self) -> None:
        openBuffer = self._openBuffer = _opened(self._buffer)
        self._owner = openBuffer.owner
        openBuffer.refuseOwnWriter()
        self._stream = fences.usableStream(openBuffer, self._stream)

    def _awaitOthers(self, until: _Until) -> Any:
        openBuffer = self._openBuffer
        self._refuseLeft()
        given = self._forKernels(self._buffer, self._stream)
        fences.holdBack(
            openBuffer,
            self._stream,
            writing=False,
            timeout=None if until is None else remaining(until[0]),
        )
        return given

    def _end(self, _: type[BaseException] | None) -> None:
        fences.signal(self._openBuffer, self._stream, layout.TICKET_READING)


class Copying(_OnOpenBuffer):
    """A read access in which the host copies: taken by a copy that writers have not
    left room for.
    """

    def __init__(self, openBuffer: OpenBuffer, deadline: float, timeout: float) -> None:
        super().__init__(None, _COPYING_CALLS, id(self))
        self._isTimed, self._kind = True, owners.KIND_HOST
        self._openBuffer, self._deadline, self._timeout = openBuffer, deadline, timeout

    if not TYPE_CHECKING:
        __enter__, __exit__ = atomics.readingEnter, atomics.readingExit

    def _attach(self) -> None:
        self._owner = self._openBuffer.owner
        self._openBuffer.refuseOwnWriter()

    def _deadlineOf(self, _: None) -> _Until:
        return self._deadline, self._timeout or 0

    def _awaitOthers(self, _: _Until) -> None:
        # A writer that came meanwhile has the claim and waits for this access, so the
        # copy would find it alive, and wait for it.
        self._refuseLeft()


_WRITING_CALLS, _READING_CALLS, _COPYING_CALLS = (
    owners.callsOf(Writing),
    owners.callsOf(Reading),
    owners.callsOf(Copying),
)


def _opened(buffer: Opened) -> OpenBuffer:
    """The holding, for an access that is begun under a membership that stays."""
    openBuffer = buffer._checked()
    if openBuffer.context.departure.isOn:
        openBuffer.context.departure.awaitEnd()
        openBuffer = buffer._checked()
    return openBuffer


def _endBehindWork(openBuffer: OpenBuffer, end: Callable[[], object]) -> None:
    """Others can not wait for what the stream of an access was given: the access lasts
    until that is over, and keeps them out.
    """
    try:
        threads.start(lambda: fences.behindWork(openBuffer, end), "muninn-access")
    except RuntimeError:  # no thread can be had: it is waited for here, within limits
        fences.behindWork(openBuffer, end, openBuffer.tables.settings.devices.ipcGraceMs / 1000)
