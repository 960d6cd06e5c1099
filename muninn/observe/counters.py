"""Counters of this process: a name, a label, and two sums.

They only grow, and go with the process. A count is two additions under a lock of a few
instructions, so it costs nothing beside what is counted.
"""

from __future__ import annotations

from typing import NamedTuple

from muninn.system.forks import Guard


class Count(NamedTuple):
    """How often something happened, and how many bytes it was about in all."""

    times: int
    sizeBytes: int


class Counter:
    """One count, for a caller that counts often."""

    __slots__ = ("_sizeBytes", "_times")

    def __init__(self) -> None:
        self._times = self._sizeBytes = 0

    def add(self, sizeBytes: int = 0) -> None:
        """Count one more."""
        with _changing.lock:
            self._times += 1
            self._sizeBytes += sizeBytes

    def counted(self) -> Count:
        return Count(self._times, self._sizeBytes)


_counters: dict[tuple[str, str], Counter] = {}
_changing = Guard()


def counter(name: str, label: str) -> Counter:
    """The counter of `name` with this label."""
    return _counters.setdefault((name, label), Counter())


def counted(name: str) -> dict[str, Count]:
    """The counts of `name`, by label."""
    return {
        label: each.counted() for (known, label), each in list(_counters.items()) if known == name
    }
