"""Staging: pinned pieces of host memory through which streams copy memory that is not
pinned.

The driver makes the caller of such a copy wait until the stream comes to it, and may
hold its lock meanwhile. So the copy uses two pieces alternately: the GPU copies one
while the host copies the other.
"""

from __future__ import annotations

from collections.abc import Iterable

from muninn.devices.cuda.pinned import Pool, pinned

#: Large enough that a change between the host and a GPU (some 20 µs) does not matter
#: beside the copy of a piece (some 200 µs).
PIECE_BYTES = 4 << 20

Pieces = tuple[int, int]


class Staging(Pool[Pieces]):
    """The pairs of pieces that no stream uses, by address."""

    def _made(self) -> list[Pieces]:
        first = pinned(2 * PIECE_BYTES)
        return [(first, first + PIECE_BYTES)]


def cut(parts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """(offset, bytes) of the parts of a copy, each of which fits into a piece."""
    return [
        (at, min(PIECE_BYTES, offset + sizeBytes - at))
        for offset, sizeBytes in parts
        for at in range(offset, offset + sizeBytes, PIECE_BYTES)
    ]
