"""Fences: tickets of a buffer, tied to streams.

`signal` promises that what a stream was given so far is done once the ticket is; `wait` holds a stream, or the caller, until then.
Between GPUs the ticket's fence word does it, which one GPU writes and another waits for, with no CPU between them. A dead writer's
tickets are poisoned by the broker, which raises their fence words too, so a waiter gets `OwnerDied` and does not hang.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from muninn.control import layout
from muninn.control.tickets import DONE_AT_ONCE
from muninn.devices.port import FenceWord
from muninn.errors import OwnerDied
from muninn.session.gpus import deviceOf
from muninn.session.openbuffer import Holding
from muninn.system import aside, clock
from muninn.system.deadlines import deadlineOf, remaining

if TYPE_CHECKING:
    from muninn.devices.port import Device

#: How long `signal` waits for the ring's oldest ticket: a stream that is stuck for longer is the program's error.
_ISSUE_BOUND_SECONDS = 30.0
_SLICE_SECONDS = 1.0


def signal(holding: Holding, stream: Any, kind: int = layout.TICKET_PENDING, place: int | None = None) -> int:
    """Issue a ticket, and complete it when `stream` gets there. Raises `TimeoutError` when the ring stays full.

    From a `place` on (`Stream.place`) the stream's errors are the ticket's, whoever else was told of them meanwhile.
    """
    return _issued(holding, *_meant(holding, stream), kind, place)


def mend(holding: Holding) -> None:
    """Say that what the last writer had left half written was written anew by this CPU. The caller has not published it yet."""
    if holding.tickets.torn() is not None:
        _issued(holding, None, None, layout.TICKET_WRITING, None)


def _issued(holding: Holding, device: Device | None, stream: Any, kind: int, place: int | None) -> int:
    deadline = clock.now() + _ISSUE_BOUND_SECONDS
    while True:
        ticket = _attempted(holding, device, stream, kind, place)
        if ticket is not None:
            return ticket
        if not holding.tickets.awaitRoom(max(0.0, deadline - clock.now())):
            raise TimeoutError(
                f"{layout.TICKET_RING} tickets of {holding.description.name!r} have been pending for {_ISSUE_BOUND_SECONDS:.3g} s"
            )


class _Signalling:
    """One attempt at a ticket."""

    __slots__ = ("_holding", "promising")

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self.promising = 0  #: the ticket that is being given to a stream

    def undo(self) -> bool:
        """Poison what was issued and is no stream's: nobody may have known which ticket it was. False while a thread signals."""
        holding = self._holding
        gpus = holding.context.gpus
        if not holding.fencing.acquire(blocking=False):
            return False
        try:
            gpus.promised.discard((holding.row, self.promising))
            holding.tickets.abandon(holding.tables.key, {ticket for row, ticket in list(gpus.promised) if row == holding.row})
        finally:
            holding.fencing.release()
        return True


def _attempted(holding: Holding, device: Device | None, stream: Any, kind: int, place: int | None) -> int | None:
    """A ticket that the stream completes; None when the ring has no room."""
    gpus, key, tickets = holding.context.gpus, holding.tables.key, holding.tickets
    if device is None:  # nobody but the caller can have done anything, and that is done
        return tickets.issue(key, DONE_AT_ONCE[kind])
    signalling = _Signalling(holding)
    # A thread of this process must not let a GPU wait for a ticket before the word that ends the wait is in its stream: the two streams
    # may be one, or one wait for the other as a default stream does. So nobody sees a ticket whose fence is not recorded.
    with aside.unlessTaken(holding.fencing), gpus.signalling.begin(signalling):
        ticket = tickets.issue(key, kind)
        if ticket is not None:
            signalling.promising = ticket
            _promise(holding, device, stream, ticket, place)
            signalling.promising = 0
        gpus.signalling.end(signalling)
        return ticket


def _promise(holding: Holding, device: Device, stream: Any, ticket: int, place: int | None) -> None:
    """Let `stream` complete the ticket when it gets there."""
    gpus, key, tickets = holding.context.gpus, holding.tables.key, holding.tickets

    def isSound() -> bool:
        return place is None or stream.errorSince(place) is None

    def onReached(error: BaseException | None) -> None:
        # By the holding: until then its lease stands, so nobody else's tickets are in this row.
        isDone = error is None and isSound()
        holding.tickets.complete(ticket, key, layout.TICKET_DONE if isDone else layout.TICKET_POISONED)
        gpus.promised.discard((holding.row, ticket))

    try:
        gpus.promised.add((holding.row, ticket))
        if device.recordFence(stream, onReached, _wordOf(holding, device, ticket)) and isSound():
            tickets.makeSure(ticket, key)
    except BaseException as error:
        onReached(error)  # nobody else would complete the ticket, and its waiters must not hang
        raise


def wait(holding: Holding, stream: Any, ticket: int | None, timeout: float | None) -> int:
    """Hold `stream`, or without one the caller, until the ticket is done; returns the ticket."""
    last = holding.tickets.last()
    if ticket is not None and not 0 <= ticket <= last:
        raise ValueError(f"ticket {ticket} of {holding.description.name!r} was never issued; the last one is {last}")
    return _held(holding, stream, ticket, timeout, mindsDeath=True)


def _held(holding: Holding, stream: Any, ticket: int | None, timeout: float | None, *, mindsDeath: bool) -> int:
    tickets = holding.tickets
    wanted = tickets.last() if ticket is None else ticket
    if wanted == 0:
        return 0
    deadline = deadlineOf(timeout)

    def isReachedInTime(seconds: float) -> bool:
        left = remaining(deadline)
        if _isOver(holding, wanted, seconds if left is None else min(seconds, left), mindsDeath):
            return True
        if deadline is not None and clock.now() >= deadline:
            raise TimeoutError(f"ticket {wanted} of {holding.description.name!r} was not done within {timeout:.3g} s")
        return False

    if stream is None:
        while not isReachedInTime(_SLICE_SECONDS):
            pass
        return wanted
    device, stream = deviceOf(holding.context), streamOf(holding, stream)
    # One that waits here and now must not keep the others from what it waits for.
    with contextlib.nullcontext() if stream.isSynchronous else aside.unlessTaken(holding.fencing):
        if tickets.state(wanted) != layout.TICKET_DONE:
            # A GPU's wait for a word can not be called off, so one that has a limit is the host's.
            device.delayStream(stream, isReachedInTime, None if timeout is not None else _wordOf(holding, device, wanted))
    return wanted


def holdBack(holding: Holding, stream: Any, *, writing: bool, timeout: float | None) -> None:
    """Let `stream` wait for those who write, and if it will write itself also for those who read; without a stream, the caller.

    Raises
    ------
    OwnerDied
        Who wrote last died half way; whoever writes next does not mind.
    """
    tickets = holding.tickets
    if not tickets.last():
        return
    deadline = deadlineOf(timeout)
    lastWriter = tickets.lastWriter()
    for ticket in tickets.turns(reading=writing):
        # What earlier writers leave half written, the last one writes anew. A caller looks when it has waited for all: since then the dead
        # one may have had a successor. A stream can not look.
        _held(holding, stream, ticket, remaining(deadline), mindsDeath=not writing and stream is not None and ticket >= lastWriter)
    if not writing and (torn := tickets.torn()) is not None:
        raise _died(holding, torn)


def behindWriters(holding: Holding) -> bool:
    """Put the default stream behind those who write; False when nobody does."""
    if not holding.tickets.turns(reading=False):
        return False
    holdBack(holding, defaultStream(holding), writing=False, timeout=None)
    return True


def streamOf(holding: Holding, stream: Any) -> Any:
    """The stream that is meant, which can be used; None means the default one, and stays None where no GPU has any work of this process."""
    return defaultStream(holding) if stream is None else deviceOf(holding.context).asStream(stream, _gpuOf(holding) or 0)


def usableStream(holding: Holding, stream: Any) -> Any:
    """The same, and what the stream has failed with is raised now: who gives it work should know."""
    meant = streamOf(holding, stream)
    if meant is not None:
        meant.check()
    return meant


def defaultStream(holding: Holding) -> Any:
    """What a kernel runs in if no stream is named: the default stream of the buffer's GPU, or of the one that is worked on."""
    gpu = _gpuOf(holding)
    return None if gpu is None else deviceOf(holding.context).asStream(None, gpu)


def _gpuOf(holding: Holding) -> int | None:
    """Whose default streams are meant: the buffer's GPU, or of host memory the one that is worked on, if there is one."""
    gpu = holding.memory.gpu
    return deviceOf(holding.context).workingGpu() if gpu is None else gpu


def _meant(holding: Holding, stream: Any) -> tuple[Device | None, Any]:
    """The device and the stream that is meant; no device where no GPU, not even a pretended one, can have any work of this process."""
    if stream is not None:
        return deviceOf(holding.context), streamOf(holding, stream)
    chosen = defaultStream(holding) if holding.context.gpus.device is not None or not holding.memory.isHostVisible else None
    return (None, None) if chosen is None else (deviceOf(holding.context), chosen)


def _wordOf(holding: Holding, device: Device, ticket: int) -> FenceWord:
    """The ticket's fence word, as the GPUs of this process find it. Their pages are registered a chunk of rows at a time."""
    tables, fenceWords = holding.tables, holding.context.gpus.fenceWords
    first = holding.row // layout.ROW_CHUNK * layout.ROW_CHUNK
    start = tables.block.fencesAddress(first)
    with aside.unlessTaken(tables.leaseLock):
        registration = fenceWords.get(first)
        if registration is None:
            registration = device.registerHost(start, layout.ROW_CHUNK * layout.FENCE_BYTES, True)
            fenceWords[first] = registration
    return FenceWord(registration.devicePointer + holding.tickets.fenceAddress(ticket) - start, ticket)


def behindWork(holding: Holding, action: Callable[[], object], seconds: float = float("inf")) -> None:
    """Call `action` once the GPUs have done what this process gave them, or after so many seconds."""
    device, deadline = deviceOf(holding.context), clock.now() + seconds
    try:
        while not device.awaitWork(min(_SLICE_SECONDS, max(0.0, deadline - clock.now()))) and clock.now() < deadline:
            pass
    finally:
        action()


def _isOver(holding: Holding, ticket: int, seconds: float, mindsDeath: bool) -> bool:
    state = holding.tickets.await_(ticket, seconds)
    if state != layout.TICKET_PENDING:
        # Whoever ended it may have died before this: a GPU's wait has no other end.
        holding.tickets.raiseFence(ticket)
    if state == layout.TICKET_POISONED and mindsDeath:
        raise _died(holding, ticket)
    return state != layout.TICKET_PENDING


def _died(holding: Holding, ticket: int) -> OwnerDied:
    reason = f"before ticket {ticket} of {holding.description.name!r} was done, the member that promised it died, or its stream failed"
    return OwnerDied(reason)
