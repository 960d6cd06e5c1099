"""Fences: tickets of a buffer, tied to streams.

`signal` promises that what a stream was given so far is done once the ticket is; `wait` holds a stream, or the caller, until then.
A dead writer's tickets are poisoned by the broker, so a waiter gets `OwnerDied` and does not hang.
"""

from __future__ import annotations

import time
from typing import Any

from muninn.api.gpus import deviceOf
from muninn.api.holdings import Holding
from muninn.control import layout
from muninn.errors import OwnerDied

#: How long `signal` waits for the ring's oldest ticket: a stream that is stuck for longer is the program's error.
_ISSUE_BOUND_SECONDS = 30.0
_SLICE_SECONDS = 1.0


def signal(holding: Holding, stream: Any) -> int:
    """Issue a ticket, and complete it when `stream` gets there. Raises `TimeoutError` when the ring stays full."""
    membership, tickets = holding.membership, holding.tickets
    device = deviceOf(membership)
    if stream is not None or device.gpuCount:
        stream = device.asStream(stream)
    ticket = tickets.issue(membership.key, _ISSUE_BOUND_SECONDS)
    if ticket is None:
        raise TimeoutError(
            f"{layout.TICKET_RING} tickets of {holding.description.name!r} have been pending for {_ISSUE_BOUND_SECONDS:.0f} s"
        )

    def onReached(error: BaseException | None) -> None:
        tickets.complete(ticket, membership.key, layout.TICKET_DONE if error is None else layout.TICKET_POISONED)

    if stream is None:
        onReached(None)  # without a GPU, not even a pretended one, there is only the caller's own order
        return ticket
    try:
        device.recordFence(stream, onReached)
    except BaseException as error:
        onReached(error)  # nobody else would complete the ticket, and its waiters must not hang
        raise
    return ticket


def wait(holding: Holding, stream: Any, ticket: int | None, timeout: float | None) -> int:
    """Hold `stream`, or without one the caller, until the ticket is done; returns the ticket."""
    tickets = holding.tickets
    wanted = tickets.last() if ticket is None else ticket
    if not 0 <= wanted <= tickets.last():
        raise ValueError(f"ticket {wanted} of {holding.description.name!r} was never issued; the last one is {tickets.last()}")
    if wanted == 0:
        return 0
    deadline = None if timeout is None else time.monotonic() + timeout

    def isReachedInTime(seconds: float) -> bool:
        remaining = seconds if deadline is None else min(seconds, max(0.0, deadline - time.monotonic()))
        if _isReached(holding, wanted, remaining):
            return True
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(f"ticket {wanted} of {holding.description.name!r} was not done within {timeout} s")
        return False

    if stream is None:
        while not isReachedInTime(_SLICE_SECONDS):
            pass
    else:
        deviceOf(holding.membership).delayStream(stream, isReachedInTime)
    return wanted


def _isReached(holding: Holding, ticket: int, seconds: float) -> bool:
    state = holding.tickets.await_(ticket, seconds)
    if state == layout.TICKET_POISONED:
        raise OwnerDied(f"the member that promised ticket {ticket} of {holding.description.name!r} died before it was done")
    return state == layout.TICKET_DONE
