"""The stall detector: how long the broker has been standing still.

A broker that is alive and stuck, because it was stopped or its interpreter is held,
does not answer and does not die. The broker increments a heartbeat counter at each
step, in shared memory. A member that waits for an answer compares epoch, ready word and
heartbeat with what it saw before. When none of them has moved for `takeoverMs` on this
process's monotonic clock, the member may replace the broker. No time crosses a process.
A stale read of the words costs one more look, and never a broker that moves.
"""

from __future__ import annotations

from muninn.session.clientcontext import ClientContext
from muninn.system import clock

#: The least pause between two looks at the broker.
RETRY_SECONDS = 0.001


class StallDetector:
    """Whether the broker makes progress while one request waits for it."""

    def __init__(self, context: ClientContext) -> None:
        self._context = context
        self._seen: tuple[int, int, int] | None = None
        self._since = 0.0

    def isStalled(self) -> bool:
        """Look at the broker's words; whether neither epoch, ready word nor heartbeat
        has moved for `takeoverMs`.
        """
        election, now = self._context.election, clock.now()
        seen = (election.epoch(), election.readyEpoch(), election.heartbeat())
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since >= self._context.takeoverMs / 1000

    def remaining(self) -> float:
        """Seconds until the broker counts as stalled, if nothing moves."""
        return max(RETRY_SECONDS, self._since + self._context.takeoverMs / 1000 - clock.now())
