"""What a driver states about its GPUs: where each of them is, and what is between two of
them. Nothing here was measured; `muninn.devices.topology` has what was.
"""

from __future__ import annotations

from typing import NamedTuple


class Link(NamedTuple):
    """The way from one GPU to the memory of another.

    Attributes
    ----------
    canAccess
        Whether kernels and copies of the first reach the memory of the second.
    performanceRank
        The driver's own order of its links, 0 for the best; None: it has none.
    hasNativeAtomics
        Whether all atomic operations work over the link.
    path
        For people, as "NVLink ×18" or "PCIe, same switch"; "" where nothing tells.
    """

    canAccess: bool
    performanceRank: int | None
    hasNativeAtomics: bool
    path: str


class Site(NamedTuple):
    """The place of a GPU in this machine.

    Attributes
    ----------
    busId
        Its PCI address, as "0000:19:00.0"; "" where it is unknown.
    numaNode
        The NUMA node that is nearest to it; None where it is unknown.
    bar1TotalBytes, bar1UsedBytes
        The window through which the CPU and PCIe peers reach its memory, and how much
        of it all processes together use; None where nothing tells.
    """

    busId: str
    numaNode: int | None
    bar1TotalBytes: int | None
    bar1UsedBytes: int | None


#: The path of a GPU to itself.
SAME_GPU = "the same GPU"
