"""Pressure: how full a GPU's BAR1 aperture is, and how long the queues of NVMe devices.

Both are facts of the machine, whichever domain asks. Where there is no NVML or no such
device the answer is empty.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from muninn.devices.port import Device

#: Where Linux tells how many requests are under way in a block device: reads, writes.
_BLOCK_DEVICES = Path("/sys/block")


def apertures(device: Device) -> dict[str, float]:
    """How much of its BAR1 each GPU has in use, from 0 to 1. Emulated GPUs have none."""
    found = dict[str, float]()
    for gpu in range(device.gpuCount):
        site = device.site(gpu)
        if site.bar1TotalBytes and site.bar1UsedBytes is not None:
            found[str(gpu)] = site.bar1UsedBytes / site.bar1TotalBytes
    return found


def queues(folder: Path = _BLOCK_DEVICES) -> dict[str, int]:
    """The requests under way, by NVMe device, such as ``nvme0n1``."""
    found = dict[str, int]()
    with contextlib.suppress(OSError):  # no such file system, as in some containers
        for name in sorted(os.listdir(folder)):
            if name.startswith("nvme"):
                with contextlib.suppress(OSError, ValueError):  # it is being removed
                    found[name] = sum(map(int, (folder / name / "inflight").read_text().split()))
    return found
