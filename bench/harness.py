"""The parts that every measurement shares: rows with their bounds, peer processes, and a
domain of its own. What `python -m muninn prof` needs too is in `muninn/prof/`.

A figure of a busy machine means little alone, so every row is a ratio. A round measures
Muninn and the peer one after the other, and gives one ratio. The table shows the median
of the ratios, with the smallest and the largest.
"""

from __future__ import annotations

import atexit
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from muninn.prof import limits, peer
from muninn.prof.ground import Ground
from muninn.prof.peer import environment as environment
from muninn.prof.quantiles import quantile as quantile
from muninn.prof.timing import alternated as alternated
from muninn.prof.timing import microseconds as microseconds
from muninn.prof.timing import seconds as seconds

ROOT = Path(__file__).parent.parent
#: The ground of this process, once it has a domain.
_grounds: list[Ground] = []


class Row(NamedTuple):
    """One line of the table. `ours` and `peer` are in `unit`. `limit` and `goal` bound
    the ratio; in a row without a peer they bound `ours`.
    """

    what: str
    unit: str
    ours: list[float]
    peer: list[float]
    peerName: str
    limit: float | None
    goal: float | None
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        return (
            [mine / other for mine, other in zip(self.ours, self.peer, strict=True)]
            if self.peer
            else []
        )

    @property
    def compared(self) -> float:
        """The figure that `limit` and `goal` bound."""
        return statistics.median(self.ratios or self.ours)

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return "beside"
        if self.goal is not None and self.compared <= self.goal:
            return "goal"
        return "ok" if self.compared <= self.limit else "SHORT"


class Options(NamedTuple):
    """How much is measured.

    Attributes
    ----------
    pinnedBytes
        How much host memory is pinned beside a neighbour; 0: what the machine allows.
    """

    quick: bool
    pinnedBytes: int = 0

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full


def writingSeconds(arrays: Sequence[np.ndarray]) -> float:
    """The seconds in which the bytes of arrays are written to a new file in `/dev/shm`."""
    return limits.writingSeconds(arrays, str(newFile()))


def newDomain() -> str:
    """Leave the present domain, and choose a fresh one for this process and the
    processes that it starts. All of them are removed at the end of this process.
    """
    return _ground().another()


def newFile(ending: str = "") -> Path:
    """A path in `/dev/shm` for a file that goes at the end of this process at the latest."""
    return Path(f"{_ground().file()}{ending}")


def _ground() -> Ground:
    if not _grounds:
        _grounds.append(Ground(kind="bench"))
        atexit.register(_grounds[0].__exit__, None, None, None)
        _grounds[0].__enter__()
    return _grounds[0]


class Peer(peer.Peer):
    """Another Python process that runs `bench.parts:function(*arguments)` and talks in
    lines of JSON.
    """

    module = "bench.parts"
    boundSeconds = 3600.0
