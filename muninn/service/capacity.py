"""Capacity: how many bytes a tier could still give.

Of host memory it is what `/dev/shm` and the machine have left; of a GPU what its driver
says by NVML, which needs no context in the GPU's memory, or the rest of an emulated one.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from muninn.devices import chooseDevice
from muninn.errors import DeviceUnavailable
from muninn.storage.room import hostRoomBytes

if TYPE_CHECKING:
    from muninn.config import Settings
    from muninn.devices.cuda.nvml import Nvml
    from muninn.devices.port import Device


class Capacity:
    """The tiers of this machine."""

    def __init__(self, settings: Settings) -> None:
        self._device: Device | None = None
        # The GPUs may be missing here and not where the members are, as in a container.
        with contextlib.suppress(DeviceUnavailable):
            self._device = chooseDevice(settings.devices)
        self._emulatedBytes = settings.devices.hostGpuBytes
        self._nvml: Nvml | None = None

    @property
    def gpus(self) -> int:
        """How many GPUs there are."""
        return 0 if self._device is None else self._device.gpuCount

    def hostEmpty(self) -> int:
        """The bytes that new buffers could take in host memory."""
        return hostRoomBytes()

    def gpuEmpty(self, gpu: int, takenBytes: int) -> int | None:
        """The bytes that are free on a GPU of which buffers take so many; None where
        nothing tells.
        """
        if self._device is None or gpu >= self.gpus:
            return None
        if not (busId := self._device.site(gpu).busId):
            return max(0, self._emulatedBytes - takenBytes)
        if self._nvml is None:
            from muninn.devices.cuda.nvml import Nvml

            self._nvml = Nvml()
        return self._nvml.freeBytes(busId)
