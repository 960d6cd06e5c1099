"""When buffers end: the deadlines of the rows that have one, soonest first.

They are in a heap with lazy deletion. To read the soonest deadline, as each step of the
broker does, takes constant time. To add or to forget one takes time logarithmic in
their number.
"""

from __future__ import annotations

import heapq

#: The heap is rebuilt when it has more stale entries than this, and more than valid
#: ones.
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
