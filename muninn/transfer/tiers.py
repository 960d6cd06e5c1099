"""Tiers: the kinds of memory that bytes can be in, and the windows that are copied.

Plain values; nothing here is shared.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from muninn.devices.port import Allocation


class Tier(enum.StrEnum):
    """A kind of memory."""

    VRAM = "vram"
    HOST = "host"


class Place(NamedTuple):
    """A tier, and for VRAM the GPU, by its index in this process; -1 for the host."""

    tier: Tier
    gpu: int = -1

    def __str__(self) -> str:
        return f"GPU {self.gpu}" if self.tier is Tier.VRAM else str(self.tier.value)


class Window(NamedTuple):
    """Bytes in one place that are copied, or written.

    Attributes
    ----------
    address
        Where they are, for the GPUs; of host memory that the GPUs have mapped.
    allocation
        The VRAM that they are in; None of host memory.
    """

    place: Place
    address: int
    sizeBytes: int
    allocation: Allocation | None = None


def slicesOf(sizeBytes: int, sliceBytes: int) -> int:
    """How many slices there are; the last one may be shorter."""
    return -(-sizeBytes // sliceBytes)
