"""Staging: pinned pieces of host memory through which streams copy what is not pinned.

The driver lets the caller of such a copy wait, for as long as the stream does, and may
have its lock meanwhile. So the copy goes through two pieces in turn: the GPU copies one
while the host copies the other.
"""

from __future__ import annotations

from muninn.devices.cuda.pinned import Pool, pinned

#: Enough for the accesses between the host and a GPU (some 20 µs) not to matter beside
#: the copying (some 200 µs).
PIECE_BYTES = 4 << 20

Pieces = tuple[int, int]


class Staging(Pool[Pieces]):
    """Pairs of pieces that no stream has, by address."""

    def _made(self) -> list[Pieces]:
        first = pinned(2 * PIECE_BYTES)
        return [(first, first + PIECE_BYTES)]


def cut(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(offset, bytes) of a copy, so that each fits into a piece."""
    return [
        (at, min(PIECE_BYTES, offset + sizeBytes - at))
        for offset, sizeBytes in parts
        for at in range(offset, offset + sizeBytes, PIECE_BYTES)
    ]
