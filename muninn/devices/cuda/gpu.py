"""A GPU: the driver's device, its abilities, and its primary context, which other
libraries of the process use too.

The first use that needs the context retains it (it costs some 500 MiB of an H100's
memory). It is never released: the kernel does that at the end of the process.
"""

from __future__ import annotations

import _thread
import uuid
from types import TracebackType
from typing import Any

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.driver import call
from muninn.errors import TopologyNotPeerable

_ATTRIBUTE = cu.CUdevice_attribute
_NAME_BYTES = 256
_BUS_ID_BYTES = 32


class Gpu:
    """One device of the driver, by its index in this process.

    Attributes
    ----------
    index, name, uuid, uuidText
        `uuid` has the 16 bytes that identify the GPU in every process, `uuidText` the same
        as text.
    busId
        The PCI address, as "0000:19:00.0".
    hasDescriptors
        Whether its memory can be exported as a POSIX descriptor.
    hasReadOnlyRegistration
        Whether host memory can be registered that the process may only read.
    granuleBytes
        The unit of VMM memory.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.device: Any = call(cu.cuDeviceGet, index)
        self.name = call(cu.cuDeviceGetName, _NAME_BYTES, self.device).partition(b"\0")[0].decode()
        busId = call(cu.cuDeviceGetPCIBusId, _BUS_ID_BYTES, self.device)
        self.busId = busId.partition(b"\0")[0].decode()
        self.uuid = bytes(call(cu.cuDeviceGetUuid, self.device).bytes)
        self.uuidText = f"GPU-{uuid.UUID(bytes=self.uuid)}"
        self.hasReadOnlyRegistration = self.has(
            _ATTRIBUTE.CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED
        )
        isVirtual = self.has(_ATTRIBUTE.CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)
        exports = self.has(
            _ATTRIBUTE.CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED
        )
        self.hasDescriptors = isVirtual and exports
        self.granuleBytes = self._granule() if self.hasDescriptors else 1
        self._reach: dict[int, bool] = {}
        self._context: Any = None
        self._retaining = _thread.RLock()

    def has(self, attribute: Any) -> bool:
        return int(call(cu.cuDeviceGetAttribute, attribute, self.device)) != 0

    def canReach(self, peer: Gpu) -> bool:
        """Whether its kernels and copies reach the other's memory directly. The driver is
        asked once.
        """
        if peer.index not in self._reach:
            self._reach[peer.index] = self is peer or bool(
                call(cu.cuDeviceCanAccessPeer, self.device, peer.device)
            )
        return self._reach[peer.index]

    def requireReach(self, peer: Gpu) -> None:
        """Raise `TopologyNotPeerable` unless it reaches the other's memory."""
        if not self.canReach(peer):
            raise TopologyNotPeerable(
                f"GPU {self.index} ({self.name}) does not reach the memory of GPU {peer.index} "
                f"({peer.name})"
            )

    @property
    def context(self) -> Any:
        """The primary context."""
        driver.guard()
        if self._context is None:
            with self._retaining:
                if self._context is None:
                    self._context = call(cu.cuDevicePrimaryCtxRetain, self.device)
        return self._context

    def isActive(self) -> bool:
        """Whether any library of this process uses its primary context."""
        return bool(call(cu.cuDevicePrimaryCtxGetState, self.device)[1])

    def entered(self) -> Entered:
        """``with gpu.entered():`` makes its primary context this thread's."""
        return Entered(self.context)

    def allocationProperties(self) -> Any:
        """The properties of VMM memory: on this GPU, pinned, exportable as a
        descriptor.
        """
        properties = cu.CUmemAllocationProp()
        properties.type = cu.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        properties.location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        properties.location.id = self.index
        properties.requestedHandleTypes = (
            cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        )
        return properties

    def _granule(self) -> int:
        minimum = cu.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
        return int(call(cu.cuMemGetAllocationGranularity, self.allocationProperties(), minimum))


class Entered:
    """A context on this thread's stack for the time of a block. After it the caller's
    own context is current again.
    """

    __slots__ = ("_context",)

    def __init__(self, context: Any) -> None:
        self._context = context

    def __enter__(self) -> None:
        call(cu.cuCtxPushCurrent, self._context)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        call(cu.cuCtxPopCurrent)
