"""Counters: how often something happened, and about how many bytes.

A count goes into a cell of this process's slot in the control block, and so outlives the
process (`families.py` has the table). Before the process has joined a domain, and after
it has left, it goes into words of its own, which its next membership takes along. To
count is one call of C, which adds up to three amounts.
"""

from __future__ import annotations

import mmap
import struct

from muninn.control.block import ControlBlock
from muninn.control.cells import CELL_BYTES, CELLS, cellsAddress
from muninn.observe.families import FAMILIES, LATENCY_BOUNDS_MS
from muninn.system import atomics

_WIPE_ON_FORK = 18  # MADV_WIPEONFORK, for which Python has no name
_BOUNDS_NS = [int(bound * 1e6) for bound in LATENCY_BOUNDS_MS]


class Counting:
    """Where this process counts."""

    def __init__(self) -> None:
        # A forked child begins with zeros, since its parent counts what it has counted.
        # Not by the C part: `import muninn` gets along without it.
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._words = mmap.mmap(-1, CELLS * CELL_BYTES, flags=private)
        self._words.madvise(_WIPE_ON_FORK)
        self._own = atomics.addressOfBytes(self._words)
        self.isOn = True
        #: Where C counts what is not to be counted.
        self._kept, self.discarded = atomics.privateWord()
        #: (what keeps the words mapped, the address of the first one). One reference: a
        #: thread that counts holds it, so the words stay mapped until it has added.
        self.now: tuple[object, int] = self._private()

    def _private(self) -> tuple[object, int]:
        return self._words, self._own

    def join(self, block: ControlBlock, slot: int, keepsMapped: object, isOn: bool) -> None:
        """Count in the cells of this slot from now on, and what was counted before.

        Parameters
        ----------
        keepsMapped
            The object with which the block's mapping ends.
        isOn
            Whether anything is counted.
        """
        start = cellsAddress(block, slot)
        self.isOn, self.now = isOn, (keepsMapped, start)
        # SYNC cells: pairs with sums, which may read them a moment late.
        for offset in range(0, CELLS * CELL_BYTES, CELL_BYTES):
            if count := atomics.exchangeSeqCst64(self._own + offset, 0):
                atomics.fetchAddAcqRel64(start + offset, count)

    def leave(self, keepsMapped: object) -> None:
        """Count in words of this process's own, if it counts in that block."""
        if self.now[0] is keepsMapped:
            self.now = self._private()


counting = Counting()


class Counter:
    """The cells of one label, for a caller that counts often."""

    __slots__ = ("_offset",)

    def __init__(self, family: str, label: str = "") -> None:
        self._offset = FAMILIES[family].cellOf(label) * CELL_BYTES

    def add(self, times: int = 1, second: int = 0, third: int = 0) -> None:
        """Add the amounts of the family, in the order of its table."""
        if counting.isOn:
            kept, first = counting.now
            atomics.addThree(first + self._offset, times, second, third)
            del kept  # the words were mapped until now

    def address(self) -> int:
        """Where the first amount is now, for C that adds to it. It is mapped as long as the
        membership that counts.
        """
        if counting.isOn:
            return counting.now[1] + self._offset
        return counting.discarded


class Latency:
    """A histogram of the times of something that is counted, too.

    Parameters
    ----------
    counted
        The family in which each is counted.
    family
        That of the histogram.
    """

    __slots__ = ("_address", "_timed")

    def __init__(self, counted: str, family: str) -> None:
        words = (FAMILIES[counted].first, FAMILIES[family].first, len(_BOUNDS_NS), *_BOUNDS_NS)
        self._timed = bytearray(struct.pack(f"<{len(words)}Q", *words))  # `struct mnnTimed`
        self._address = atomics.addressOfBytes(self._timed)

    def ended(self, begunNs: int) -> None:
        """Count one that began at this time of the monotonic clock. One call of C does all."""
        if counting.isOn:
            kept, first = counting.now
            atomics.countTimed(first, self._address, begunNs)
            del kept


#: Opens, which are counted by C where a process has the buffer open already.
OPENS = Counter("opens")


def count(family: str, label: str = "", *amounts: int) -> None:
    """Add to the cells of a label."""
    Counter(family, label).add(*amounts)
