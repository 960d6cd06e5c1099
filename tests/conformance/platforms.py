"""The platforms that the suite runs on. A platform's name is all that a peer process needs to make its own device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from muninn.devices.port import Device

MIB = 1 << 20
HOST_GPU_BYTES = 64 * MIB


def hostDevice() -> Device:
    from muninn.devices.host import HostDevice

    return HostDevice(2, HOST_GPU_BYTES)


class Platform(NamedTuple):
    """One back-end in one environment.

    Attributes
    ----------
    makeDevice
        Makes a device with two GPUs at least.
    environment
        What a peer process needs in addition, to get the same.
    outlivesOwner
        Whether memory lives on in its importers when the process that allocated it is killed.
    exactAccounting
        Whether `memoryInfo` counts nothing but this suite's own allocations.
    missing
        What is missing here to run it; empty: nothing.
    """

    name: str
    makeDevice: Callable[[], Device]
    environment: Mapping[str, str] = {}
    outlivesOwner: bool = True
    exactAccounting: bool = True
    missing: Callable[[], str] = str


PLATFORMS = {platform.name: platform for platform in (Platform("host", hostDevice),)}
