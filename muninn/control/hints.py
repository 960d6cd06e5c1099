"""Hints: what the users of a buffer say about its use: the ranges that kernels will read
most, how urgent they are, and until when that holds.

They are in the buffer's row. The creator writes them while the row is CREATING, and any
member that has the buffer open changes them later, without a lock: each word is whole
by itself, and nothing follows from two of them together. Of two members that set hints
at the same moment, ranges of both may be there. A death half way leaves some old ranges
beside some new ones. A stale or damaged word costs a prefetch that nobody needs, or one
that is missing: hints never decide what is right, only what is fast.
"""

from __future__ import annotations

from typing import NamedTuple

from muninn.control import layout
from muninn.system import atomics, clock
from muninn.system.pages import PAGE_BYTES, pagesUp
from muninn.terms import PRIORITIES, Priority

#: The longest range, in bytes, and the end of the last one.
MAX_RANGE_BYTES = layout.HOT_PAGES.top * PAGE_BYTES
MAX_END_BYTES = layout.HOT_FIRST.top * PAGE_BYTES
_WORDS = 1 + layout.MAX_HOT_RANGES
_UNSAID = [0] * _WORDS


class Hints(NamedTuple):
    """The hints of a buffer.

    Attributes
    ----------
    hotRanges
        (offset, length) in bytes; whole pages once they were in a row.
    untilMs
        Monotonic ms of the host until which they hold; 0: as long as the buffer.
    """

    hotRanges: tuple[tuple[int, int], ...] = ()
    priority: Priority = Priority.NORMAL
    untilMs: int = 0

    def words(self) -> list[int]:
        """The words of a row, all of them."""
        first = layout.HINT_PRIORITY.put(PRIORITIES.index(self.priority))
        ranges = [
            layout.HOT_FIRST.put(offset // PAGE_BYTES)
            | layout.HOT_PAGES.put(pagesUp(length + offset % PAGE_BYTES) // PAGE_BYTES)
            for offset, length in self.hotRanges
        ]
        unused = [0] * (layout.MAX_HOT_RANGES - len(ranges))
        return [layout.HINT_UNTIL.put(self.untilMs, first), *ranges, *unused]

    def packed(self) -> bytes:
        return b"".join(word.to_bytes(8, "little") for word in self.words())

    def holding(self) -> Hints:
        """Those that still hold: none of them once their time is over."""
        return NO_HINTS if clock.isOver(self.untilMs) else self


#: A buffer of which nobody has said anything.
NO_HINTS = Hints()


class RowHints:
    """The words of one row."""

    def __init__(self, rowAddress: int) -> None:
        first = rowAddress + layout.ROW_HINTS_OFFSET
        self._addresses = [first + 8 * index for index in range(_WORDS)]

    def get(self) -> Hints:
        """The hints, also those that hold no more."""
        # SYNC hints: pairs with RowHints.set. Each word is whole by itself.
        words = [atomics.loadAcquire64(address) for address in self._addresses]
        if words == _UNSAID:
            return NO_HINTS
        first, *ranges = map(int, words)
        number = layout.HINT_PRIORITY.of(first)
        return Hints(
            tuple(
                (layout.HOT_FIRST.of(word) * PAGE_BYTES, pages * PAGE_BYTES)
                for word in ranges
                if (pages := layout.HOT_PAGES.of(word))
            ),
            PRIORITIES[number] if number < len(PRIORITIES) else Priority.NORMAL,
            layout.HINT_UNTIL.of(first),
        )

    def set(self, hints: Hints) -> None:
        """The caller has a lease on the row."""
        for address, word in zip(self._addresses, hints.words(), strict=True):
            # SYNC hints: pairs with RowHints.get. No other data become visible with it.
            atomics.storeRelease64(address, word)
