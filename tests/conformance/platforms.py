"""The platforms that the suite runs on. A peer process needs only the name of a
platform to make its own device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from muninn.devices.port import Device

MIB = 1 << 20
HOST_GPU_BYTES = 64 * MIB


def cudaDevice() -> Device:
    from muninn.devices.cuda import CudaDevice

    return CudaDevice()


def hostDevice() -> Device:
    from muninn.devices.host.device import HostDevice

    return HostDevice(2, HOST_GPU_BYTES)


def last(device: Device) -> int:
    """The last GPU, which is another one than the first if there are several."""
    return device.gpuCount - 1


class Platform(NamedTuple):
    """One back-end in one environment. TEST_DRIVER selects the platforms of a run,
    because a process loads one driver only.

    Attributes
    ----------
    makeDevice
        Makes a device; with two GPUs the rules between them are tested too.
    environment
        Variables that a peer process needs in addition, to get the same device.
    outlivesOwner
        Whether memory lives on in its importers when the process that allocated it is
        killed.
    exactAccounting
        Whether `memoryInfo` counts nothing but this suite's own allocations.
    """

    name: str
    makeDevice: Callable[[], Device]
    environment: Mapping[str, str] = {}
    outlivesOwner: bool = True
    exactAccounting: bool = True


#: By the value of TEST_DRIVER: `make test` runs the first two, each in a process of its
#: own, and `make gpu` the third.
_OF_DRIVER = {
    "": (Platform("host", hostDevice),),
    "standin": (Platform("standin", cudaDevice),),
    "gpu": (Platform("gpu", cudaDevice, exactAccounting=False),),
}
PLATFORMS = {platform.name: platform for platform in _OF_DRIVER[os.environ.get("TEST_DRIVER", "")]}
