"""Transport `cudaIpc`: the driver's 64-byte handles, for memory that other libraries
allocated and for GPUs that export no descriptors.

The memory belongs to its exporter. CUDA does not promise that importers can use the
memory after the exporter's death (an H100 keeps it for them), so the layer above
revokes their leases. A handle of the driver names a whole allocation, so ours also says
where in it the memory begins. The driver refuses to open a handle that its own process
exported; such an import is an alias of the memory, found by the handle.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.deferredfree import DeferredFree
from muninn.devices.cuda.driver import DriverError, Made, call
from muninn.devices.cuda.gpu import Gpu
from muninn.devices.handle import IPC_BYTES, LENT_IN_PLACE, NO_DESCRIPTOR_EXPORT, REASONS, Handle
from muninn.devices.mapped import MappedAllocation
from muninn.errors import InvalidArgument, IpcHandleMismatch, TopologyNotPeerable
from muninn.system.descriptors import Descriptor

_LAZY_PEER_ACCESS = int(cu.CUipcMem_flags.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)


class Lent:
    """Memory of this process, or a peer's that was opened: the anchor of an allocation.
    When it is collected, the deferred free disposes of the memory.

    Attributes
    ----------
    closed
        Called after that, when no work of this process uses the memory any more.
    """

    __slots__ = ("__weakref__", "_finalizer", "address", "closed", "isImported")

    def __init__(
        self,
        deferredFree: DeferredFree,
        address: int,
        dispose: Callable[[], object],
        isImported: bool,
    ) -> None:
        self.address, self.isImported = address, isImported
        self.closed: list[Callable[[], object]] = []
        deferredFree.start()
        self._finalizer = weakref.finalize(
            self, deferredFree.defer, _Disposal(dispose, self.closed)
        )
        self._finalizer.atexit = False


class _Disposal:
    """The disposal of lent memory, for the deferred free. It must not refer to the
    `Lent`.
    """

    def __init__(self, dispose: Callable[[], object], closed: list[Callable[[], object]]) -> None:
        self._dispose, self._closed = dispose, closed

    def __call__(self) -> None:
        try:
            self._dispose()
        finally:
            for closed in self._closed:
                closed()


class IpcAllocation(MappedAllocation[Lent]):
    """Memory behind a 64-byte handle."""

    def __init__(
        self, gpu: Gpu, peerAt: Callable[[int], Gpu], lent: Lent, sizeBytes: int, handle: Handle
    ) -> None:
        self._home, self._peerAt = gpu, peerAt
        self.gpu, self.sizeBytes, self.allocatedBytes, self.writable = (
            gpu.index,
            sizeBytes,
            handle.sizeBytes,
            True,
        )
        self.transport, self.transportReason, self.handle = (
            "cudaIpc",
            REASONS[handle.reason],
            handle.packed(),
        )
        self.isHostVisible, self.isOwned = False, not lent.isImported
        self._mapping = lent

    def exportDescriptor(self, writable: bool = True) -> Descriptor:
        self._mapped()
        raise IpcHandleMismatch(
            "memory of transport cudaIpc has no descriptor", "Pass its handle on"
        )

    def _give(self, gpu: int) -> None:
        # Between two contexts, for all their memory of this kind. It is not taken back:
        # other libraries are told "already enabled", and rely on it from then on.
        peer = self._peerAt(gpu)
        try:
            peer.requireReach(self._home)
            with peer.entered(), driver.BeyondCaptures():
                call(cu.cuCtxEnablePeerAccess, self._home.context, 0)
        except DriverError as error:
            if error.code != "PEER_ACCESS_ALREADY_ENABLED":
                raise TopologyNotPeerable(
                    f"GPU {gpu} can not be given access to memory of GPU {self.gpu}: {error}"
                ) from error

    def closeThen(self, closed: Callable[[], object]) -> None:
        """Close. The owner of the memory may use it for something else as soon as
        `closed` was called, so the call comes after the work of this process.
        """
        lent = self._mapping
        if lent is not None and lent.isImported:
            lent.closed.append(closed)
            self.close()
        else:
            super().closeThen(closed)


class IpcMemory:
    """The memory that this process exports and imports by 64-byte handles."""

    def __init__(self, deferredFree: DeferredFree, peerAt: Callable[[int], Gpu]) -> None:
        self._deferredFree, self._peerAt = deferredFree, peerAt
        self._own: weakref.WeakValueDictionary[tuple[bytes, int], Lent] = (
            weakref.WeakValueDictionary()
        )
        self._changing = _thread.RLock()

    def allocate(self, gpu: Gpu, sizeBytes: int) -> IpcAllocation:
        """New memory of `gpu`, not zeroed. The caller has entered its context. Raises
        `DriverError`.
        """
        made: Made = []
        dispose = partial(_unmakeInside, gpu, made, cu.cuMemFree)
        try:
            address = int(driver.make(made, cu.cuMemAlloc, sizeBytes))
            handle = _exported(gpu, address, sizeBytes, 0, NO_DESCRIPTOR_EXPORT)
            return self._allocation(gpu, address, sizeBytes, handle, dispose)
        except BaseException:
            dispose()
            raise

    def lend(self, gpu: Gpu, address: int, sizeBytes: int, owner: object) -> IpcAllocation:
        """Memory that another library allocated, in place; `owner` is held. The caller
        has entered its context.
        """
        try:
            base, rangeBytes = (int(value) for value in call(cu.cuMemGetAddressRange, address))
            if address + sizeBytes > base + rangeBytes:
                raise InvalidArgument(
                    f"{sizeBytes} bytes at {address:#x} reach beyond their allocation of "
                    f"{rangeBytes} bytes"
                )
            handle = _exported(gpu, address, sizeBytes, address - base, LENT_IN_PLACE)
        except DriverError as error:
            raise InvalidArgument(
                f"this memory can not be shared where it lies: {error}", "Share a copy (copy=True)"
            ) from error
        kept = [owner]
        return self._allocation(gpu, address, sizeBytes, handle, kept.clear)

    def _allocation(
        self, gpu: Gpu, address: int, sizeBytes: int, handle: Handle, dispose: Any
    ) -> IpcAllocation:
        lent = Lent(self._deferredFree, address, dispose, False)
        with self._changing:
            self._own[handle.ipc, handle.offset] = lent
        return IpcAllocation(gpu, self._peerAt, lent, sizeBytes, handle)

    def importHandle(self, gpu: Gpu, sizeBytes: int, handle: Handle) -> IpcAllocation:
        """Map the memory that `handle` names. The caller has entered the context of
        `gpu`.
        """
        if sizeBytes > handle.sizeBytes:
            raise IpcHandleMismatch(
                f"the handle states {handle.sizeBytes} bytes where {sizeBytes} were announced"
            )
        with self._changing:
            own = self._own.get((handle.ipc, handle.offset))
        if own is not None:
            return IpcAllocation(gpu, self._peerAt, own, sizeBytes, handle)
        opened = cu.CUipcMemHandle()
        ctypes.memmove(opened.getPtr(), handle.ipc, IPC_BYTES)
        made: Made = []
        # The driver counts how often a handle was opened; each close subtracts one.
        dispose = partial(_unmakeInside, gpu, made, cu.cuIpcCloseMemHandle)
        try:
            base = int(driver.make(made, cu.cuIpcOpenMemHandle, opened, _LAZY_PEER_ACCESS))
            lent = Lent(self._deferredFree, base + handle.offset, dispose, True)
        except DriverError as error:
            if error.code in ("OUT_OF_MEMORY", "OPERATING_SYSTEM"):
                raise
            raise IpcHandleMismatch(
                f"the memory of process {handle.ownerPid} can not be opened: {error}"
            ) from error
        except BaseException:
            dispose()
            raise
        if handle.offset + sizeBytes > (rangeBytes := int(call(cu.cuMemGetAddressRange, base)[1])):
            raise IpcHandleMismatch(
                f"{handle.offset} + {sizeBytes} bytes reach beyond the exporter's allocation "
                f"of {rangeBytes}"
            )
        return IpcAllocation(gpu, self._peerAt, lent, sizeBytes, handle)


def _exported(gpu: Gpu, address: int, sizeBytes: int, offset: int, reason: int) -> Handle:
    ipc = ctypes.string_at(call(cu.cuIpcGetMemHandle, address).getPtr(), IPC_BYTES)
    return Handle(
        "cudaIpc", driver.version(), gpu.uuid, os.getpid(), reason, offset, sizeBytes, ipc
    )


def _unmakeInside(gpu: Gpu, made: Made, function: Any) -> None:
    with gpu.entered():
        driver.unmake(made, function)
