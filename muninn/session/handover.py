"""Handover: the descriptors that a member keeps when its term as broker ends, until its
successor has them.

They are descriptors of memory without a name, which is gone once the last descriptor is
closed. `role.py` says when the broker puts them here; the member brings them to the
successor with its hello. They are private to this process. If it dies before that, only
memory that no other process has open is lost.
"""

from __future__ import annotations

from muninn.system.descriptors import Descriptor, duplicate

#: (row, incarnation) and a descriptor of its memory.
Allocation = tuple[tuple[int, int], Descriptor]


class Handover:
    """The descriptors that one member keeps. It is false when there are none."""

    def __init__(self) -> None:
        self._kept: list[Allocation] = []

    def __bool__(self) -> bool:
        return bool(self._kept)

    def keep(self, allocations: list[Allocation]) -> None:
        self._kept += allocations

    def duplicates(self) -> list[Allocation]:
        """Copies of the descriptors, which the caller owns."""
        return [(pair, duplicate(each)) for pair, each in list(self._kept)]

    def taken(self) -> list[Allocation]:
        """All descriptors, which the caller owns from now on."""
        kept, self._kept = self._kept, []
        return kept

    def drop(self) -> None:
        """Close the descriptors: the successor has them, or is not to have them."""
        for _, descriptor in self.taken():
            descriptor.close()
