"""Handover: what a member kept when it left the broker's office, until its successor
has it.

Descriptors of memory without a name, which would end with the last of them. They are
private to this process; a death of it before the successor has asked loses what nobody
else has open.
"""

from __future__ import annotations

from muninn.system.descriptors import Descriptor, duplicate

#: (row, incarnation) and a descriptor of its memory.
Allocation = tuple[tuple[int, int], Descriptor]


class Handover:
    """What one member has kept. It is false when there is nothing."""

    def __init__(self) -> None:
        self._kept: list[Allocation] = []

    def __bool__(self) -> bool:
        return bool(self._kept)

    def keep(self, allocations: list[Allocation]) -> None:
        self._kept += allocations

    def duplicates(self) -> list[Allocation]:
        """Copies of the descriptors, which are the caller's."""
        return [(pair, duplicate(each)) for pair, each in list(self._kept)]

    def taken(self) -> list[Allocation]:
        """All of it, which is the caller's from now on."""
        kept, self._kept = self._kept, []
        return kept

    def drop(self) -> None:
        """The successor has it, or nobody is to have it."""
        for _, descriptor in self.taken():
            descriptor.close()
