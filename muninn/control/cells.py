"""Cells: words in which each member counts, in a page of its own slot.

The member of a slot adds to its cells, and nobody clears them. When it is dead or gone,
the slot's next member counts on from what is there. So the sum of a cell over all slots
is the count of the domain, and never goes back while the control block lives. An add
that comes late, after the slot has another member, is in the right sum all the same.
`docs/design/0024-seeing.md` has the reasons; `observe/families.py` says which cell counts
what.
"""

from __future__ import annotations

import struct

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.system import atomics

CELL_BYTES = 8
#: The cells of one slot.
CELLS = layout.CELLS_BYTES // CELL_BYTES
_PAGE = struct.Struct(f"<{CELLS}Q")


def cellsAddress(block: ControlBlock, slot: int) -> int:
    """The address of the first cell of a slot that this process has."""
    return block.address + block.geometry.cellsOffset(slot)


def used(block: ControlBlock) -> list[int]:
    """The slots that a process ever had."""
    geometry = block.geometry
    slots = atomics.indexBuffer(geometry.maxMembers)
    # SYNC area: pairs with MemberTable._prepare. To read the cells of a slot that no
    # process ever had would allocate their page.
    ready = atomics.scan32(
        block.memberAddress(0) + layout.MEMBER_AREA_OFFSET,
        layout.MEMBER_BYTES,
        geometry.maxMembers,
        0xFFFFFFFF,
        1,
        slots,
        geometry.maxMembers,
    )
    return list(slots[:ready])


def sums(block: ControlBlock) -> list[int]:
    """The sum of each cell over all slots. Each count is of a moment ago (SYNC cells: pairs
    with Counting.join).
    """
    offsets = map(block.geometry.cellsOffset, used(block))
    pages = (_PAGE.unpack_from(block.bytes, each) for each in offsets)
    return [*map(sum, zip(*pages, strict=True))] or [0] * CELLS
