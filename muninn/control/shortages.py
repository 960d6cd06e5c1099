"""Shortages: a member that finds no room in the VRAM of a GPU says so to all others.

Others may have scratch memory there that nothing uses: it is kept for the next window,
or was prefetched. Their background threads look at these counts as long as they have
any, and give up what ranks below. Nothing else follows from a count, so it need not be
right: one that is lost, or damaged, costs the asker its wait. Two GPUs may have the same
counts: then what is on either of them is given up.
"""

from __future__ import annotations

import zlib

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.system import atomics

#: The rank of a buffer: all that nothing uses gives way to it.
EVERYTHING = layout.SHORTAGE_RANKS - 1


class Shortages:
    """The counts of one control block, by the GPU and by what ranks below the asker."""

    def __init__(self, block: ControlBlock) -> None:
        self._block = block

    def tell(self, gpu: str, belowRank: int) -> None:
        """There is no room for something that ranks so. `gpu` is a word for the GPU, the
        same in all processes.
        """
        # SYNC shortage: pairs with counts. Whoever sees the count gives way; the asker
        # asks again until there is room.
        atomics.fetchAddAcqRel32(self._address(groupOf(gpu), belowRank), 1)

    def counts(self, group: int) -> tuple[int, ...]:
        """How often it was told of a group of GPUs, by the rank."""
        # SYNC shortage: pairs with tell.
        return tuple(
            int(atomics.loadAcquire32(self._address(group, rank)))
            for rank in range(layout.SHORTAGE_RANKS)
        )

    def _address(self, group: int, rank: int) -> int:
        place = group * layout.SHORTAGE_RANKS + rank
        return self._block.address + layout.SHORTAGES_OFFSET + 4 * place


def groupOf(gpu: str) -> int:
    """The group of a GPU."""
    return zlib.crc32(gpu.encode()) % layout.SHORTAGE_GROUPS
