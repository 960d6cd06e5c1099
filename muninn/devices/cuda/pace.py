"""The pace of pinning: how much host memory the driver pins in one call, and how long it
rests before the next one.

While the driver pins memory it has locks that other processes need too: one call for
700 GB stopped them for minutes (TensorRT-LLM PR #17773). How much fits into a short
call depends on the machine and on the pages: a GiB took 0.04 s on an H200, and 0.22 s
there in pages of 4 KiB. So the pace measures each call, and chooses the next piece by
that.

The rest lets others in. Some locks of a kernel are handed over in the order of arrival,
and for those no rest is needed. Others go to the thread that runs already, and a thread
that has to wake up first comes too late each time. To wake up takes some 50 us, and one
launch may take several locks in a row, so the rest is a millisecond after a call of 25.
To yield the processor is no rest: the thread that waits is on another one.

A piece is never large, however fast the last one was: pages of 4 KiB may follow huge
ones, and the slowest pages that were seen take a tenth of a second for the largest
piece. Larger pieces would gain nothing, because the rests are shares of the time.

A pace belongs to one registration, and knows neither the driver nor a clock.
"""

from __future__ import annotations

from typing import NamedTuple

#: A piece is at most so many times as large as the one before it: pages that follow
#: huge pages may be small.
_GROWTH = 2


class PieceBounds(NamedTuple):
    """What a piece may be.

    Attributes
    ----------
    leastBytes
        The size of the first piece; no later one is smaller, but for the last and for
        the alignment.
    mostBytes
        The largest size.
    alignBytes
        Pieces end at multiples of this address: a huge page belongs to one piece.
    callSeconds
        How long a call should take.
    restShare
        The rest after a call, as a share of the call's time.
    """

    leastBytes: int = 64 << 20
    mostBytes: int = 512 << 20
    alignBytes: int = 2 << 20
    callSeconds: float = 0.025
    restShare: float = 0.04


USUAL_BOUNDS = PieceBounds()


class Pace:
    """The sizes of the pieces of one registration."""

    def __init__(self, bounds: PieceBounds) -> None:
        self._bounds = bounds
        self._pieceBytes = float(bounds.leastBytes)

    def endOf(self, address: int, end: int) -> int:
        """Where the piece that begins at `address` ends, in memory up to `end`."""
        align = self._bounds.alignBytes
        aligned = (address + int(self._pieceBytes)) // align * align
        return min(end, aligned if aligned > address else address // align * align + align)

    def took(self, sizeBytes: int, seconds: float) -> None:
        """Learn how long the driver's call for a piece took."""
        least, most, _, wanted, _ = self._bounds
        grown = self._pieceBytes * _GROWTH
        fitting = sizeBytes * wanted / seconds if seconds > 0 else grown
        self._pieceBytes = max(least, min(most, grown, fitting))

    def restAfter(self, seconds: float) -> float:
        """How long to rest after a call of the driver that took so long."""
        return seconds * self._bounds.restShare
