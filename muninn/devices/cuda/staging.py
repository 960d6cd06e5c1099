"""Staging: pinned pieces of host memory through which streams copy what is not pinned.

The driver lets the caller of such a copy wait, for as long as the stream does, and may have its lock meanwhile. So the copy goes through
two pieces in turn: the GPU copies one while the host copies the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from muninn.devices.cuda import driver
from muninn.devices.cuda.gates import pinned
from muninn.devices.cuda.gpu import Entered

#: Enough for the turns between the host and a GPU (some 20 µs) not to matter beside the copying (some 200 µs).
PIECE_BYTES = 4 << 20

Pieces = tuple[int, int]


class Staging:
    """Pairs of pieces that no stream has, by address. They are kept: freeing them would wait for the GPU.

    Parameters
    ----------
    home
        Enters a context that lasts.
    """

    def __init__(self, home: Callable[[], Entered]) -> None:
        self._home = home
        self._free: list[Pieces] = []
        self._changing = threading.Lock()

    def take(self) -> Pieces:
        with self._changing:
            if not self._free:
                with self._home(), driver.BeyondCaptures():
                    first = pinned(2 * PIECE_BYTES)
                self._free.append((first, first + PIECE_BYTES))
            return self._free.pop()

    def giveBack(self, pieces: Pieces) -> None:
        self._free.append(pieces)  # one step: lanes do it


def cut(parts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(offset, bytes) of a copy, so that each fits into a piece."""
    return [
        (at, min(PIECE_BYTES, offset + sizeBytes - at))
        for offset, sizeBytes in parts
        for at in range(offset, offset + sizeBytes, PIECE_BYTES)
    ]
