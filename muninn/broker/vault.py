"""The vault: descriptors of memory that has no name in `/dev/shm`.

fastMode memory lives as long as somebody holds a descriptor of it. Its holders do, and the broker does too, so that it outlives the
process that made it and can be handed to a newcomer. After a broker's death the holders bring their descriptors to the successor
with their first message.
"""

from __future__ import annotations

import os


class Vault:
    """Descriptors by (row, incarnation)."""

    def __init__(self) -> None:
        self._descriptors: dict[tuple[int, int], int] = {}

    def put(self, row: int, incarnation: int, descriptor: int) -> None:
        """Keep a descriptor, which is the vault's from now on; a second one for the same memory is closed."""
        if self._descriptors.setdefault((row, incarnation), descriptor) != descriptor:
            os.close(descriptor)

    def get(self, row: int, incarnation: int) -> int | None:
        return self._descriptors.get((row, incarnation))

    def drop(self, row: int, incarnation: int) -> None:
        descriptor = self._descriptors.pop((row, incarnation), None)
        if descriptor is not None:
            os.close(descriptor)

    def takeAll(self) -> list[tuple[tuple[int, int], int]]:
        """Empty the vault: what was in it is the caller's."""
        taken = list(self._descriptors.items())
        self._descriptors.clear()
        return taken

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def __len__(self) -> int:
        return len(self._descriptors)
