"""The geometry of a control block: the sizes that its creator chose, and where each
part begins.

The creator writes the four numbers into the header before the version. Every process
that opens the block copies and checks them first, since they come from shared memory;
they never change. `layout.py` has the drawing.
"""

from __future__ import annotations

from typing import NamedTuple

from muninn.control.layout import (
    CELLS_BYTES,
    FENCE_BYTES,
    INDEX_ENTRY_BYTES,
    LEASE_BYTES,
    MAX_BUFFERS_LIMIT,
    MAX_LEASES_LIMIT,
    MAX_MEMBERS_LIMIT,
    MEMBER_BYTES,
    MEMBERS_OFFSET,
    ROW_BYTES,
    ROW_CHUNK,
)
from muninn.errors import ControlBlockInvalid
from muninn.system.pages import pagesUp


class Geometry(NamedTuple):
    """The sizes that the creator of a control block chose, and the offsets that follow
    from them.
    """

    maxMembers: int
    maxBuffers: int
    maxLeases: int
    indexSlots: int

    @staticmethod
    def of(maxMembers: int, maxBuffers: int, maxLeases: int) -> Geometry:
        """The geometry for these limits: an index at most half full, rows in whole
        chunks.
        """
        rows = -(-maxBuffers // ROW_CHUNK) * ROW_CHUNK
        return Geometry(maxMembers, rows, maxLeases, 1 << (2 * rows - 1).bit_length()).checked()

    def checked(self) -> Geometry:
        """Return the geometry, or raise `ControlBlockInvalid`: the four numbers come
        from shared memory.
        """
        sane = (
            0 < self.maxMembers <= MAX_MEMBERS_LIMIT
            and 0 < self.maxBuffers <= MAX_BUFFERS_LIMIT
            and self.maxBuffers % ROW_CHUNK == 0
            and 0 < self.maxLeases <= MAX_LEASES_LIMIT
            and self.indexSlots >= self.maxBuffers
            and self.indexSlots & (self.indexSlots - 1) == 0
            and self.indexSlots <= 4 * MAX_BUFFERS_LIMIT
        )
        if not sane:
            raise ControlBlockInvalid(f"its sizes {tuple(self)} are impossible")
        return self

    @property
    def indexOffset(self) -> int:
        return pagesUp(MEMBERS_OFFSET + self.maxMembers * MEMBER_BYTES)

    @property
    def rowsOffset(self) -> int:
        return pagesUp(self.indexOffset + self.indexSlots * INDEX_ENTRY_BYTES)

    @property
    def leasesBytes(self) -> int:
        """Bytes of one member's lease slots, whole pages."""
        return pagesUp(self.maxLeases * LEASE_BYTES)

    @property
    def areaBytes(self) -> int:
        """Bytes of one member's area: its lease slots and its cells."""
        return self.leasesBytes + CELLS_BYTES

    @property
    def fencesOffset(self) -> int:
        return pagesUp(self.rowsOffset + self.maxBuffers * ROW_BYTES)

    @property
    def areasOffset(self) -> int:
        return pagesUp(self.fencesOffset + self.maxBuffers * FENCE_BYTES)

    def cellsOffset(self, slot: int) -> int:
        return self.areasOffset + slot * self.areaBytes + self.leasesBytes

    @property
    def totalBytes(self) -> int:
        return self.areasOffset + self.maxMembers * self.areaBytes
