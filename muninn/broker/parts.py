"""Parts: the further segments of a bundle whose arrays are on several GPUs.

A part is a row of its own, which names the bundle's row, its head. The creator fills
all segments first, and then commits the parts and, last of all, the head. So a head
that can be opened has all its parts.

A part ends with its head. When the head is DEAD, and before it is FREE, the directory
frees each part, LIVE → DYING; the part's memory goes with its last lease. A broker that
dies in between leaves the head DEAD, and the successor does the same again. If the
memory of a part is lost, the head is ended first, and then the part: a bundle without
one of its arrays is none. A stale read of a head's state can only say that the head
still lives, and costs a later look.
"""

from __future__ import annotations

from muninn.control import layout
from muninn.control.descriptions import RowDescription
from muninn.control.rowreader import RowReader
from muninn.errors import ProtocolViolation

_ENDED = (layout.ROW_DEAD, layout.ROW_FREE)


class Parts:
    """The parts among the rows of a domain, and their heads."""

    def __init__(self, rows: RowReader) -> None:
        self._rows = rows

    def of(self, row: int, incarnation: int) -> list[int]:
        """The LIVE parts of a row."""
        if not self._rows.hasParts(row):
            return []
        return [part for part, _ in self._rows.partsOf(row, incarnation)]

    def headOf(self, row: int) -> int | None:
        """The row whose part this is, if that has not ended."""
        head = self._rows.headOf(row)
        if head is None or head.row >= self._rows.count():
            return None
        state = self._rows.state(head.row)
        isThere = state.incarnation == head.incarnation and state.state not in _ENDED
        return head.row if isThere else None

    def isOver(self, row: int) -> bool:
        """Whether the row is a part whose head has ended."""
        return self._rows.headOf(row) is not None and self.headOf(row) is None

    def requireHead(self, description: RowDescription, creator: int) -> None:
        """Raise `ProtocolViolation` if the description is that of a part, and the same
        member is not creating its head.
        """
        head = description.head
        if head is None and description.kind != layout.ROW_KIND_PART:
            return
        if head is not None and head.row < self._rows.count():
            state = self._rows.state(head.row)
            if (state.state, state.creator, state.incarnation) == (
                layout.ROW_CREATING,
                creator,
                head.incarnation,
            ):
                return
        raise ProtocolViolation(f"slot {creator} commits a part of {head}, which it is not making")
