"""The place of each GPU, and the links between two, as the driver, the kernel and NVML
state them. They are asked each time: somebody looks at them once, and the use of BAR1
changes.
"""

from __future__ import annotations

from pathlib import Path

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.driver import DriverError, call, typed
from muninn.devices.cuda.gpu import Gpu
from muninn.devices.cuda.nvml import Nvml
from muninn.devices.port import SAME_GPU, Link, Site

_P2P = cu.CUdevice_P2PAttribute
_RANK = _P2P.CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK
_ATOMICS = _P2P.CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED
_SYSTEM = Path("/sys")


class Links:
    """The facts about the GPUs of this process.

    Attributes
    ----------
    nvml
        Its `reason` says why facts are missing.
    """

    def __init__(self, nvml: Nvml | None = None, system: Path = _SYSTEM) -> None:
        self.nvml = Nvml() if nvml is None else nvml
        self._system = system

    def between(self, gpu: Gpu, peer: Gpu) -> Link:
        """The link from `gpu` to the memory of `peer`."""
        if gpu is peer:
            return Link(True, None, True, SAME_GPU)
        driver.guard()
        try:
            canAccess = gpu.canReach(peer)
            rank = int(call(cu.cuDeviceGetP2PAttribute, _RANK, gpu.device, peer.device))
            atomics = call(cu.cuDeviceGetP2PAttribute, _ATOMICS, gpu.device, peer.device)
        except DriverError as error:
            raise typed(error, "the topology can not be asked") from error
        # The rank of a pair without a path is no rank.
        return Link(
            canAccess,
            rank if canAccess else None,
            canAccess and bool(atomics),
            self.nvml.path(gpu.busId, peer.busId),
        )

    def siteOf(self, gpu: Gpu) -> Site:
        """Where the GPU is."""
        driver.guard()
        bar1 = self.nvml.bar1(gpu.busId)
        return Site(
            gpu.busId,
            self._numaNodeOf(gpu.busId),
            None if bar1 is None else bar1.totalBytes,
            None if bar1 is None else bar1.usedBytes,
        )

    def driverText(self) -> str:
        """The driver's version, with that of its kernel module where the kernel tells:
        one can be replaced without the other, and without a boot.
        """
        module = self._text("module/nvidia/version")
        return " ".join(filter(None, (f"CUDA {driver.version()}", module)))

    def _numaNodeOf(self, busId: str) -> int | None:
        # The kernel writes addresses in lower case, and -1 for a machine of one node.
        text = self._text(f"bus/pci/devices/{busId.lower()}/numa_node")
        return int(text) if text.isascii() and text.isdecimal() else None

    def _text(self, path: str) -> str:
        try:
            return (self._system / path).read_text().strip()
        except (OSError, ValueError):  # it is not there, or is no text
            return ""
