"""Fences: tickets of a buffer, tied to streams.

*Signal.* The process reserves the next ticket in the ring of the row, under its own
name (`control/tickets.py`). Then it records a fence in the stream. When the stream gets
there, the device writes the ticket's fence word, if it can, and a thread of the process
marks the ticket done, or poisoned if the work before it failed. If the process is
interrupted between the two steps, its next call poisons the ticket, which no stream
will complete.

*Wait.* The process takes the ticket that is asked for, or the last one. A caller
without a stream sleeps on the ticket's word until it is no longer pending. A stream is
held: the GPU waits for the fence word, without a CPU between the two GPUs, or, with a
timeout, the host waits in the stream.

*Death.* When a member is confirmed dead, the broker poisons its tickets and raises
their fence words too, so that a host and a GPU that wait both go on; the host gets
`OwnerDied`.

A stale read of a ticket costs time only: the ticket is read again after a bounded
sleep. A ring slot that a later ticket has taken means that the ticket is over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from muninn.arguments import asInteger
from muninn.control import layout
from muninn.control.tickets import DONE_AT_ONCE
from muninn.devices.port import FenceWord
from muninn.errors import InvalidArgument, OwnerDied
from muninn.session.gpus import deviceOf
from muninn.session.openbuffer import OpenBuffer
from muninn.system import aside, clock
from muninn.system.deadlines import deadlineOf, remaining, shown

if TYPE_CHECKING:
    from muninn.devices.port import Device

#: How long `signal` waits for the ring's oldest ticket. A stream that is stuck for
#: longer is an error of the program.
_ISSUE_BOUND_SECONDS = 30.0
_SLICE_SECONDS = 1.0


def signal(
    openBuffer: OpenBuffer,
    stream: Any,
    kind: int = layout.TICKET_PENDING,
    errorCursor: int | None = None,
) -> int:
    """Issue a ticket, and complete it when `stream` gets there. Raises `TimeoutError`
    when the ring stays full.

    With an `errorCursor` (`Stream.errorCursor`) the ticket is also poisoned by the
    errors that the stream has had since then and has raised elsewhere already.
    """
    return _issued(openBuffer, *_meant(openBuffer, stream), kind, errorCursor)


def mend(openBuffer: OpenBuffer) -> None:
    """Record that this CPU has written the bytes anew that a dead writer left half
    written. The caller has not published it yet.
    """
    if openBuffer.tickets.torn() is not None:
        _issued(openBuffer, None, None, layout.TICKET_WRITING, None)


def _issued(
    openBuffer: OpenBuffer, device: Device | None, stream: Any, kind: int, errorCursor: int | None
) -> int:
    deadline = clock.now() + _ISSUE_BOUND_SECONDS
    while True:
        ticket = _attempted(openBuffer, device, stream, kind, errorCursor)
        if ticket is not None:
            return ticket
        if not openBuffer.tickets.awaitFreeTicket(max(0.0, deadline - clock.now())):
            raise TimeoutError(
                f"{layout.TICKET_RING} tickets of {openBuffer.description.name!r} have been "
                f"pending for {_ISSUE_BOUND_SECONDS:.3g} s"
            )


class _Signalling:
    """One attempt at a ticket."""

    __slots__ = ("_openBuffer", "promising")

    def __init__(self, openBuffer: OpenBuffer) -> None:
        self._openBuffer = openBuffer
        self.promising = 0  #: the ticket that is being given to a stream

    def undo(self) -> bool:
        """Poison the tickets that were issued and given to no stream: an interruption
        may have lost their numbers. False while another thread signals.
        """
        openBuffer = self._openBuffer
        gpus = openBuffer.context.gpus
        if not openBuffer.fencing.acquire(blocking=False):
            return False
        try:
            gpus.promised.discard((openBuffer.row, self.promising))
            openBuffer.tickets.abandon(
                openBuffer.tables.key,
                {ticket for row, ticket in list(gpus.promised) if row == openBuffer.row},
            )
        finally:
            openBuffer.fencing.release()
        return True


def _attempted(
    openBuffer: OpenBuffer, device: Device | None, stream: Any, kind: int, errorCursor: int | None
) -> int | None:
    """Issue a ticket that the stream completes; None when the ring has no room."""
    gpus, key, tickets = openBuffer.context.gpus, openBuffer.tables.key, openBuffer.tickets
    if device is None:  # only the caller can have done any work, and it is done
        return tickets.issue(key, DONE_AT_ONCE[kind])
    signalling = _Signalling(openBuffer)
    # No thread of this process may let a GPU wait for a ticket before the fence that
    # ends the wait is in its stream: the two streams may be the same, or one may wait
    # for the other, as a default stream does. So the threads see no ticket whose fence
    # is not recorded yet.
    with aside.unlessTaken(openBuffer.fencing), gpus.signalling.begin(signalling):
        ticket = tickets.issue(key, kind)
        if ticket is not None:
            signalling.promising = ticket
            _promise(openBuffer, device, stream, ticket, errorCursor)
            signalling.promising = 0
        gpus.signalling.end(signalling)
        return ticket


def _promise(
    openBuffer: OpenBuffer, device: Device, stream: Any, ticket: int, errorCursor: int | None
) -> None:
    """Let `stream` complete the ticket when it gets there."""
    gpus, key, tickets = openBuffer.context.gpus, openBuffer.tables.key, openBuffer.tickets

    def isSound() -> bool:
        return errorCursor is None or stream.errorSince(errorCursor) is None

    def onReached(error: BaseException | None) -> None:
        # Through the open buffer, which this closure keeps: its lease stands until now,
        # so the row is still this buffer's.
        isDone = error is None and isSound()
        openBuffer.tickets.complete(
            ticket, key, layout.TICKET_DONE if isDone else layout.TICKET_POISONED
        )
        gpus.promised.discard((openBuffer.row, ticket))

    try:
        gpus.promised.add((openBuffer.row, ticket))
        if device.recordFence(stream, onReached, _wordOf(openBuffer, device, ticket)) and isSound():
            tickets.markCompletedByDevice(ticket, key)
    except BaseException as error:
        onReached(error)  # at once; the background thread would do it some time later
        raise


def wait(openBuffer: OpenBuffer, stream: Any, ticket: int | None, timeout: float | None) -> int:
    """Hold `stream`, or without one the caller, until the ticket is done; returns the
    ticket.
    """
    last = openBuffer.tickets.last()
    if ticket is not None and asInteger(ticket) is None:
        raise TypeError(f"wait: ticket must be an int, not {type(ticket).__name__}")
    if ticket is not None and not 0 <= ticket <= last:
        raise InvalidArgument(
            f"ticket {ticket} of {openBuffer.description.name!r} was never issued; the last "
            f"one is {last}",
            "Pass what `signal` returned for this buffer",
        )
    return _held(openBuffer, stream, ticket, timeout, mindsDeath=True)


def _held(
    openBuffer: OpenBuffer,
    stream: Any,
    ticket: int | None,
    timeout: float | None,
    *,
    mindsDeath: bool,
) -> int:
    tickets = openBuffer.tickets
    wanted = tickets.last() if ticket is None else ticket
    if wanted == 0:
        return 0
    deadline = deadlineOf(timeout)

    def isReachedInTime(seconds: float) -> bool:
        left = remaining(deadline)
        if _isOver(openBuffer, wanted, seconds if left is None else min(seconds, left), mindsDeath):
            return True
        if deadline is not None and clock.now() >= deadline:
            raise TimeoutError(
                f"ticket {wanted} of {openBuffer.description.name!r} was not done within "
                f"{shown(timeout)}"
            )
        return False

    if stream is None:
        while not isReachedInTime(_SLICE_SECONDS):
            pass
        return wanted
    device, stream = deviceOf(openBuffer.context), streamOf(openBuffer, stream)
    # A synchronous stream waits during the call; it must not keep other threads from
    # the work that it waits for.
    with (
        contextlib.nullcontext() if stream.isSynchronous else aside.unlessTaken(openBuffer.fencing)
    ):
        if tickets.state(wanted) != layout.TICKET_DONE:
            # A GPU's wait for a word can not be cancelled, so the host does a wait that
            # has a timeout.
            device.delayStream(
                stream,
                isReachedInTime,
                None if timeout is not None else _wordOf(openBuffer, device, wanted),
            )
    return wanted


def holdBack(
    openBuffer: OpenBuffer,
    stream: Any,
    *,
    writing: bool,
    timeout: float | None,
    gpu: int | None = None,
) -> None:
    """Let `stream` wait for the accesses that write, and if it will write itself also
    for those that read. Without a stream the caller waits.

    Parameters
    ----------
    gpu
        The GPU of a default stream, if it may be another one than the buffer's: a
        bundle may be on several.

    Raises
    ------
    OwnerDied
        The last writer died half way. Not raised for a caller that will write.
    """
    tickets = openBuffer.tickets
    if not tickets.last():
        return
    if stream is not None and gpu is not None:
        stream = deviceOf(openBuffer.context).asStream(stream, gpu)
    deadline = deadlineOf(timeout)
    lastWriter = tickets.lastWriter()
    for ticket in tickets.scopes(reading=writing):
        # The last writer writes the bytes anew that earlier writers left half written.
        # A caller checks for a dead writer below, after it has waited for all of them,
        # because a later writer may have repaired the buffer meanwhile. A stream can
        # not check.
        _held(
            openBuffer,
            stream,
            ticket,
            remaining(deadline),
            mindsDeath=not writing and stream is not None and ticket >= lastWriter,
        )
    if not writing and (torn := tickets.torn()) is not None:
        raise _died(openBuffer, torn)


def behindWriters(openBuffer: OpenBuffer, gpu: int | None) -> bool:
    """Let the default stream of a GPU, or of the buffer's own, wait for the accesses that
    write; False when there are none.
    """
    if not openBuffer.tickets.scopes(reading=False):
        return False
    stream = (
        defaultStream(openBuffer)
        if gpu is None
        else deviceOf(openBuffer.context).asStream(None, gpu)
    )
    holdBack(openBuffer, stream, writing=False, timeout=None)
    return True


def streamOf(openBuffer: OpenBuffer, stream: Any) -> Any:
    """The stream that the caller means, ready for use. None means the default stream,
    and stays None where no GPU can have any work of this process.
    """
    return (
        defaultStream(openBuffer)
        if stream is None
        else deviceOf(openBuffer.context).asStream(stream, _gpuOf(openBuffer) or 0)
    )


def usableStream(openBuffer: OpenBuffer, stream: Any) -> Any:
    """`streamOf`; raises the error of a stream that has failed, before it gets more
    work.
    """
    meant = streamOf(openBuffer, stream)
    if meant is not None:
        meant.check()
    return meant


def defaultStream(openBuffer: OpenBuffer) -> Any:
    """The stream in which a kernel runs if none is named: the default stream of the
    buffer's GPU, or for host memory of the current GPU.
    """
    gpu = _gpuOf(openBuffer)
    return None if gpu is None else deviceOf(openBuffer.context).asStream(None, gpu)


def _gpuOf(openBuffer: OpenBuffer) -> int | None:
    """The GPU whose default streams count: the buffer's, or for host memory the current
    GPU, if there is one.
    """
    gpu = openBuffer.memory.gpu
    return deviceOf(openBuffer.context).workingGpu() if gpu is None else gpu


def _meant(openBuffer: OpenBuffer, stream: Any) -> tuple[Device | None, Any]:
    """The device and the stream that the caller means; no device where no GPU, not even
    an emulated one, can have any work of this process.
    """
    if stream is not None:
        return deviceOf(openBuffer.context), streamOf(openBuffer, stream)
    chosen = (
        defaultStream(openBuffer)
        if openBuffer.context.gpus.device is not None or not openBuffer.memory.isHostVisible
        else None
    )
    return (None, None) if chosen is None else (deviceOf(openBuffer.context), chosen)


def _wordOf(openBuffer: OpenBuffer, device: Device, ticket: int) -> FenceWord:
    """The ticket's fence word, at its address for the GPUs of this process. The pages
    of fence words are registered with the driver one chunk of rows at a time.
    """
    tables, fenceWords = openBuffer.tables, openBuffer.context.gpus.fenceWords
    first = openBuffer.row // layout.ROW_CHUNK * layout.ROW_CHUNK
    start = tables.block.fencesAddress(first)
    with aside.unlessTaken(tables.leaseLock):
        registration = fenceWords.get(first)
        if registration is None:
            registration = device.registerHost(start, layout.ROW_CHUNK * layout.FENCE_BYTES, True)
            fenceWords[first] = registration
    return FenceWord(
        registration.devicePointer + openBuffer.tickets.fenceAddress(ticket) - start, ticket
    )


def behindWork(
    openBuffer: OpenBuffer, action: Callable[[], object], seconds: float = float("inf")
) -> None:
    """Call `action` once the GPUs have done the work of this process, or after
    `seconds`.
    """
    device, deadline = deviceOf(openBuffer.context), clock.now() + seconds
    try:
        while (
            not device.awaitWork(min(_SLICE_SECONDS, max(0.0, deadline - clock.now())))
            and clock.now() < deadline
        ):
            pass
    finally:
        action()


def _isOver(openBuffer: OpenBuffer, ticket: int, seconds: float, mindsDeath: bool) -> bool:
    state = openBuffer.tickets.await_(ticket, seconds)
    if state != layout.TICKET_PENDING:
        # The process that ended the ticket may have died before it raised the fence
        # word, and only that word ends the wait of a GPU.
        openBuffer.tickets.raiseFence(ticket)
    if state == layout.TICKET_POISONED and mindsDeath:
        raise _died(openBuffer, ticket)
    return state != layout.TICKET_PENDING


def _died(openBuffer: OpenBuffer, ticket: int) -> OwnerDied:
    reason = (
        f"before ticket {ticket} of {openBuffer.description.name!r} was done, the member "
        "that promised it died, or its stream failed"
    )
    return OwnerDied(reason)
