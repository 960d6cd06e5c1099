"""Read and write access: one writer at a time, and readers whose kernels no later
writer overtakes.

The host waits for a process that is inside a ``with`` block; the GPU waits for the work
that such a block gave a stream. One of the two covers each access.

*Write access.* The writer takes the owner lock of the row. Then it waits until no
process is inside a read access (`contention.py`), and it makes its stream wait for the
accesses whose work is not over, of readers and of writers. Then it makes the generation
odd, and the block runs. At the end a writer with a stream issues a ticket, which the
stream completes. The writer stores the even generation, which is the publication, and
releases the owner lock. An exception that leaves the block leaves the generation odd:
readers get `WriterDied` until the next writer has repaired the buffer.

*Read access.* The reader marks its lease as reading, and looks at the owner lock
afterwards. If a writer has the lock, the reader takes the mark back and waits for it.
Otherwise it is inside: it makes its stream wait for the accesses that write, and the
block runs. At the end it issues a ticket, and takes the mark back. The next writer's
stream waits for that ticket.

A publication may come before its work is done: the generation says that there is a
newer one, and the fence says when its bytes can be read. A stale read of the owner lock
or of the mark costs one wait, which ends by itself: the writer and the reader each
write their own word first and read the other's afterwards, so they do not both miss the
other. A process that dies inside an access keeps the others waiting until its death is
confirmed; then the next writer takes the owner lock over.

Entering and leaving are C calls (`cshim/owners.h`), so no signal handler can interrupt
them between two steps that belong together. C calls the methods of this module where no
lock is held, or where it releases the lock when they raise. When the object of an
access is collected, its access ends: no other code could end it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from muninn.control import layout
from muninn.session import owners
from muninn.sync import fences
from muninn.sync.contention import (
    OwnerWait,
    awaitOwner,
    awaitReaders,
    ownerShown,
    refuseOwnWriter,
    writerDied,
)
from muninn.system import atomics, threads
from muninn.system.deadlines import deadlineOf, remaining, shown

if TYPE_CHECKING:
    from muninn.devices.port import Stream
    from muninn.session.openbuffer import OpenBuffer

#: The caller named no stream, not even the default one.
WITHOUT_STREAM: Any = type(
    "WithoutStream", (), {"__repr__": lambda self: "WITHOUT_STREAM", "__slots__": ()}
)()
#: The deadline of a wait, and how many seconds it has in all; None: for ever.
Until = tuple[float, float] | None


class Opened(Protocol):
    """The attributes and methods of a buffer object that an access uses."""

    def _checked(self) -> OpenBuffer:
        """The open buffer, for one more operation. Raises the error that forbids the
        operation.
        """

    def _view(self, openBuffer: OpenBuffer) -> Any:
        """The array for the host."""

    def _deviceView(self, gpu: int | None = None, *, dtype: Any = None) -> Any:
        """The array for the kernels of a GPU."""


class OnOpenBuffer(atomics.AccessScope):
    """The part that all kinds of access of an open buffer have in common."""

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

    def _deadlineOf(self, _: None) -> Until:
        timeout = self._timeout
        return None if timeout is None else (deadlineOf(timeout) or 0.0, timeout)

    def _await(self, until: Until, word: int) -> bool:
        openBuffer = self._openBuffer
        ended = awaitOwner(openBuffer, None if until is None else until[0], word)
        if ended is OwnerWait.TIME_OVER and until is not None:
            raise TimeoutError(
                f"{ownerShown(openBuffer, word)} has been writing "
                f"{openBuffer.description.name!r} for {shown(until[1])}"
            )
        return ended is OwnerWait.OWNER_DEAD

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
        """The view for kernels in `stream`. It is made before the stream is made to
        wait, because it may raise, as for GPUs that do not reach each other.
        """
        return buffer._deviceView(
            None if stream is None or self._openBuffer.memory.gpu is None else stream.gpu
        )

    def _refuseLeft(self) -> None:
        """Raise `WriterDied` if the bytes are half written. Called inside a read
        access: no living process writes then, so an odd generation is a dead writer's.
        """
        if self._openBuffer.generation.value() & 1:
            raise writerDied(self._openBuffer)

    def _linger(self) -> None:
        _endBehindWork(self._openBuffer, lambda: atomics.scopeEnd(self))


class Writing(OnOpenBuffer):
    """One write access. An exception that leaves it leaves the buffer half written:
    readers get `WriterDied`, and the next writer repairs the buffer.
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
            # The CPU does not reach the bytes, so kernels write them; they use the
            # default stream if the caller names no other.
            self._stream = None
        if self._stream is not WITHOUT_STREAM:
            self._kind = owners.KIND_STREAM
            return None
        self._kind = owners.KIND_HOST
        return self._buffer._view(openBuffer)

    def _awaitOthers(self, until: Until) -> Any:
        """The view, after a wait for the accesses that are not over. This thread has
        the owner lock.
        """
        openBuffer, buffer = self._openBuffer, self._buffer
        left = None if until is None else remaining(until[0])
        if not awaitReaders(openBuffer, left):
            raise TimeoutError(
                f"others have been reading {openBuffer.description.name!r} for "
                f"{shown(self._timeout)}"
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
            # After an exception too: the stream does the work that it was given all the
            # same, and no other work may come between.
            fences.signal(self._openBuffer, self._stream, layout.TICKET_WRITING, self._errorCursor)
        else:
            fences.mend(self._openBuffer)


class Reading(OnOpenBuffer):
    """A read access on a stream: the later work of the stream comes after the writers'
    work, and the next writer's work comes after it.
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
        refuseOwnWriter(openBuffer)
        self._stream = fences.usableStream(openBuffer, self._stream)

    def _awaitOthers(self, until: Until) -> Any:
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


class Copying(OnOpenBuffer):
    """A read access in which the host copies. A copy takes it when the pauses between
    publications are too short for it.
    """

    def __init__(self, openBuffer: OpenBuffer, deadline: float, timeout: float) -> None:
        super().__init__(None, _COPYING_CALLS, id(self))
        self._isTimed, self._kind = True, owners.KIND_HOST
        self._openBuffer, self._deadline, self._timeout = openBuffer, deadline, timeout

    if not TYPE_CHECKING:
        __enter__, __exit__ = atomics.readingEnter, atomics.readingExit

    def _attach(self) -> None:
        self._owner = self._openBuffer.owner
        refuseOwnWriter(self._openBuffer)

    def _deadlineOf(self, _: None) -> Until:
        return self._deadline, self._timeout or 0

    def _awaitOthers(self, _: Until) -> None:
        # A writer that came meanwhile has the owner lock and waits for this access. The
        # copy would find that writer alive, and wait for it in turn.
        self._refuseLeft()


_WRITING_CALLS, _READING_CALLS, _COPYING_CALLS = (
    owners.callsOf(kind) for kind in (Writing, Reading, Copying)
)


def _opened(buffer: Opened) -> OpenBuffer:
    """The open buffer for a new access, after a thread that is leaving the domain, if
    there is one, has left it.
    """
    openBuffer = buffer._checked()
    if openBuffer.context.departure.isOn:
        openBuffer.context.departure.awaitEnd()
        openBuffer = buffer._checked()
    return openBuffer


def _endBehindWork(openBuffer: OpenBuffer, end: Callable[[], object]) -> None:
    """Call `end` once the work of an access is done. Its ticket could not be issued, so
    other processes can not wait for that work; until then the access keeps them out.
    """
    try:
        threads.start(lambda: fences.behindWork(openBuffer, end), "muninn-access")
    except RuntimeError:  # no thread can be started: wait here, for a limited time
        fences.behindWork(openBuffer, end, openBuffer.tables.settings.devices.ipcGraceMs / 1000)
