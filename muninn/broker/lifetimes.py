"""When buffers end: the deadlines of the rows that have one, soonest first.

A heap with lazy deletion. The soonest deadline, which each step of the broker asks for,
costs the same however many there are; one that is added or forgotten costs the
logarithm of their number.
"""

from __future__ import annotations

import heapq

#: The heap is built anew when there are more entries of no row in it than this, and
#: than entries that stand.
_MOST_STALE = 64


class Lifetimes:
    """(monotonic ms, row) of the rows whose lifetime ends."""

    def __init__(self) -> None:
        self._deadlineOf: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    def put(self, row: int, deadlineMs: int) -> None:
        self._deadlineOf[row] = deadlineMs
        heapq.heappush(self._heap, (deadlineMs, row))
        if len(self._heap) > 2 * len(self._deadlineOf) + _MOST_STALE:
            self._heap = [(deadline, each) for each, deadline in self._deadlineOf.items()]
            heapq.heapify(self._heap)

    def forget(self, row: int) -> None:
        """The row has no deadline, or none any more. Its entry goes when it comes to
        the top.
        """
        self._deadlineOf.pop(row, None)

    def first(self) -> tuple[int, int] | None:
        """The soonest."""
        while self._heap and self._deadlineOf.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None
