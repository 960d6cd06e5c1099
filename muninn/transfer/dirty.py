"""Dirty slices: which parts of a window were written, and the copies that bring them
back.

A flag is a byte for each slice, 1 once any of its bytes may have been written. Kernels
and the host set flags, or a comparison does. Neighbouring slices are copied as one
range. The flags are private to the process that promoted the window.

Threads mark while another one takes the flags, and no lock is held: a flag is stored, and
never read and stored again. A flag that is cleared was taken before, and the bytes are
copied later: of a mark between the two nothing is lost.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Flags = np.ndarray[Any, np.dtype[np.uint8]]


class Range(NamedTuple):
    """Bytes of a window."""

    offset: int
    sizeBytes: int

    def overlaps(self, other: Range) -> bool:
        return self.offset < sum(other) and other.offset < sum(self)


def rangesOf(flags: Flags, sliceBytes: int, windowBytes: int) -> list[Range]:
    """The ranges that are dirty, in their order; no two of them touch."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags != 0, [0])).astype(np.int8)))
    begins, ends = edges[::2] * sliceBytes, np.minimum(edges[1::2] * sliceBytes, windowBytes)
    return [*map(Range, begins.tolist(), (ends - begins).tolist())]


def rangesIn(flags: Flags) -> int:
    """How many ranges there are."""
    marked = flags != 0
    return int(marked[0]) + int(np.count_nonzero(marked[1:] & ~marked[:-1]))


def mark(flags: Flags, sliceBytes: int, offset: int, sizeBytes: int) -> None:
    """Mark the slices that a range touches."""
    if sizeBytes:
        flags[offset // sliceBytes : -(-(offset + sizeBytes) // sliceBytes)] = 1


def add(flags: Flags, others: Flags) -> None:
    """Mark the slices that others mark. Another thread may mark meanwhile: an `or` of the
    arrays would store what it had read before.
    """
    flags[others != 0] = 1


def clear(flags: Flags, taken: Flags) -> None:
    """Clear those that were taken. Others were marked since, and stay."""
    flags[taken != 0] = 0
