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


_counts: dict[tuple[str, str], Count] = {}
_changing = Guard()


def count(name: str, label: str, sizeBytes: int = 0) -> None:
    """Count one more of `name` with this label."""
    with _changing.lock:
        times, total = _counts.get((name, label), Count(0, 0))
        _counts[name, label] = Count(times + 1, total + sizeBytes)


def counted(name: str) -> dict[str, Count]:
    """The counts of `name`, by label."""
    return {label: each for (known, label), each in list(_counts.items()) if known == name}
