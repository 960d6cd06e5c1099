"""Families: what is counted, and in which cells.

A family has one to three neighbouring cells for each value of its label. Whoever counts
and whoever shows the counts use this table. A version of Muninn with another table has
another `layout.VERSION`, so the two never meet in one control block.
"""

from __future__ import annotations

from typing import NamedTuple

from muninn.control.cells import CELLS
from muninn.control.leases import REVOCATION_REASONS
from muninn.errortable import ERRORS
from muninn.terms import MODES

#: The label of what has no cell of its own.
OTHER = "other"
_GPUS = (*map(str, range(16)), OTHER)
_MODES = tuple(mode.value for mode in MODES)
#: Routes with their reasons, as transfers are counted.
_WAYS = (
    "local/sameGpu",
    "local/hostMemory",
    "p2p/peerAccess",
    "p2p/asked",
    "staged/peerDenied",
    "staged/peerCorrupt",
    "staged/peerSlower",
    "staged/peerUnverified",
    "staged/peerEnableFailed",
    "staged/policyPrefersStaged",
    "staged/asked",
    "upload/hostMemory",
    "download/hostMemory",
    "mapped/asked",
    OTHER,
)
#: The upper bounds of the buckets of a latency, in milliseconds; one more has none.
LATENCY_BOUNDS_MS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 100, 1000)


class Family(NamedTuple):
    """One thing that is counted.

    Attributes
    ----------
    first
        The first cell of the first label; those of the others come behind it.
    labels
        The values of its label; one empty text if it has no label.
    amounts
        What its neighbouring cells sum up.
    """

    first: int
    labels: tuple[str, ...]
    amounts: tuple[str, ...]

    def cellOf(self, label: str) -> int:
        """The first cell of a label."""
        known = label if label in self.labels else OTHER
        return self.first + len(self.amounts) * self.labels.index(known)

    def read(self, cells: list[int]) -> dict[str, dict[str, int]]:
        """The sums by label and amount, of all cells."""
        width = len(self.amounts)
        starts = range(self.first, self.first + width * len(self.labels), width)
        return {
            label: dict(zip(self.amounts, cells[start : start + width], strict=True))
            for label, start in zip(self.labels, starts, strict=True)
        }


_TIMES = ("times",)
_BUCKETS = (*map(str, LATENCY_BOUNDS_MS), "+Inf")
#: (family, labels, amounts), in the order of the cells.
_TABLE: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("buffers", _MODES, _TIMES),
    ("allocations", ("vram", "host", "nvme"), ("times", "bytes")),
    ("opens", ("",), _TIMES),
    # Opens that took a lease, by the bucket of their time. The last bucket has no bound.
    *((f"openLatency/{mode}", _BUCKETS, ("times", "ns")) for mode in _MODES),
    ("promotions", _GPUS, ("times", "bytes", "ns")),
    ("promotionFailures", _GPUS, _TIMES),
    # Windows whose use was marked, their bytes, and the bytes of the slices in use.
    ("usedWindows", _GPUS, ("times", "bytes", "usedBytes")),
    ("writebacks", _GPUS, ("times", "bytes")),
    ("transfers", _WAYS, ("times", "bytes", "ns")),
    ("revocations", (*REVOCATION_REASONS[1:], OTHER), _TIMES),
    ("errors", (*(row.code for row in ERRORS), OTHER), _TIMES),
    ("elections", ("",), _TIMES),
    ("deaths", ("",), _TIMES),
)


def _placed() -> dict[str, Family]:
    found, first = dict[str, Family](), 0
    for name, labels, amounts in _TABLE:
        found[name] = Family(first, labels, amounts)
        first += len(labels) * len(amounts)
    assert first <= CELLS, first
    return found


FAMILIES = _placed()
