"""The states of a transfer, and which may follow which, as data."""

from __future__ import annotations

import enum


class State(enum.StrEnum):
    """How far a transfer has come."""

    QUEUED = "queued"
    RUNNING = "running"
    #: It was told to stop, and the windows that a GPU was given are still under way.
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: Its deadline has passed.
    OVERDUE = "overdue"


#: From each state to those that may follow it. A transfer that has come to its end
#: stays there.
NEXT: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.FAILED, State.CANCELLED, State.OVERDUE}),
    State.RUNNING: frozenset({State.DONE, State.FAILED, State.STOPPING, State.OVERDUE}),
    # Its last window may have arrived in the meantime.
    State.STOPPING: frozenset({State.DONE, State.FAILED, State.CANCELLED, State.OVERDUE}),
    State.DONE: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
    State.OVERDUE: frozenset(),
}
