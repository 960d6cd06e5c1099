"""Transport `vmm`: physical memory of a GPU behind a POSIX descriptor, mapped into an
address range of each process.

It lives as long as any process has a descriptor, a handle or a mapping: it outlives the
process that allocated it, killed or not (seen on an H100). An import is a mapping like
the first one, also in the process that allocated. The driver exports only memory that
its own process allocated (likewise), so every process keeps the descriptor too, and any
process that is left can pass the memory on.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import weakref
from collections.abc import Callable
from typing import Any

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.deferredfree import DeferredFree
from muninn.devices.cuda.driver import DriverError, call
from muninn.devices.cuda.gpu import Gpu
from muninn.devices.handle import DESCRIPTOR_EXPORT, REASONS, Handle
from muninn.devices.mapped import MappedAllocation
from muninn.errors import (
    BufferFreed,
    DescriptorsExhausted,
    IpcHandleMismatch,
    PermissionDenied,
    TopologyNotPeerable,
)
from muninn.system import descriptors
from muninn.system.descriptors import Descriptor

_POSIX = cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
_FLAGS = cu.CUmemAccess_flags


class VmmMapping:
    """One mapping and its descriptor, until it is collected: the anchor of an
    allocation.
    """

    __slots__ = ("__weakref__", "_finalizer", "address", "descriptor")

    def __init__(
        self,
        deferredFree: DeferredFree,
        physical: Any,
        descriptor: Descriptor,
        address: int,
        sizeBytes: int,
    ) -> None:
        self.descriptor = kept = descriptor
        self.address = address
        deferredFree.start()
        self._finalizer = weakref.finalize(
            self, deferredFree.defer, lambda: _unmap(physical, kept, address, sizeBytes), False
        )
        self._finalizer.atexit = False  # at exit the kernel unmaps


class VmmAllocation(MappedAllocation[VmmMapping]):
    """A mapped piece of VMM memory."""

    def __init__(
        self,
        gpu: Gpu,
        peerAt: Callable[[int], Gpu],
        mapping: VmmMapping,
        sizeBytes: int,
        writable: bool,
        handle: Handle,
    ) -> None:
        self.gpu, self.sizeBytes, self.allocatedBytes, self.writable = (
            gpu.index,
            sizeBytes,
            handle.sizeBytes,
            writable,
        )
        self.transport, self.transportReason = "vmm", REASONS[DESCRIPTOR_EXPORT]
        self.isHostVisible, self.isOwned = False, False
        self.handle = handle.packed()
        self._home, self._peerAt, self._mapping = gpu, peerAt, mapping

    def _give(self, gpu: int) -> None:
        # It takes some 10 ms from 1 GiB on, and 30 µs for the GPU's own (two H200):
        # therefore not for all GPUs when the memory is mapped.
        peer = self._peerAt(gpu)
        try:
            peer.requireReach(self._home)
            grants = [_grant(peer, self.writable)]
            with driver.BeyondCaptures():
                call(cu.cuMemSetAccess, self.address, self.allocatedBytes, grants, 1)
        except DriverError as error:
            raise TopologyNotPeerable(
                f"GPU {gpu} can not be given access to memory of GPU {self.gpu}: {error}"
            ) from error

    def exportDescriptor(self, writable: bool = True) -> Descriptor:
        mapping = self._mapped()  # held while it is exported
        if writable and not self.writable:
            raise PermissionDenied(
                "this process was given read access only, and can not pass on more"
            )
        if not mapping.descriptor.isOurs():
            raise BufferFreed(
                "the allocation can not be passed on any more: the program closed its descriptor"
            )
        try:
            return descriptors.duplicate(mapping.descriptor.number)
        except OSError as error:
            raise DescriptorsExhausted(
                f"the allocation can not be exported: {error.strerror}"
            ) from error


def allocate(
    deferredFree: DeferredFree,
    gpu: Gpu,
    peerAt: Callable[[int], Gpu],
    sizeBytes: int,
    driverVersion: int,
) -> VmmAllocation:
    """New memory of `gpu`, mapped for it; not zeroed. `peerAt` gives the GPU of an index.
    Raises `DriverError`, and leaves nothing behind then.
    """
    allocatedBytes = granulesUp(gpu, sizeBytes)
    with contextlib.ExitStack() as undo:
        physical = call(cu.cuMemCreate, allocatedBytes, gpu.allocationProperties(), 0)
        undo.callback(call, cu.cuMemRelease, physical)
        descriptor = descriptors.own(
            int(call(cu.cuMemExportToShareableHandle, physical, _POSIX, 0))
        )
        fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        mapping = _mapped(deferredFree, gpu, physical, descriptor, allocatedBytes, True)
        undo.pop_all()
    handle = Handle(
        "vmm", driverVersion, gpu.uuid, os.getpid(), DESCRIPTOR_EXPORT, 0, allocatedBytes
    )
    return VmmAllocation(gpu, peerAt, mapping, sizeBytes, True, handle)


def importDescriptor(
    deferredFree: DeferredFree,
    gpu: Gpu,
    peerAt: Callable[[int], Gpu],
    descriptor: int,
    sizeBytes: int,
    writable: bool,
    handle: Handle,
) -> VmmAllocation:
    """Map memory that a peer exported. The driver knows its own descriptors; another
    descriptor, or less memory than stated, is `IpcHandleMismatch`.
    """
    if (
        handle.offset
        or granulesUp(gpu, handle.sizeBytes) != handle.sizeBytes
        or sizeBytes > handle.sizeBytes
    ):
        raise IpcHandleMismatch(
            f"the handle states {handle.sizeBytes} bytes where {sizeBytes} were announced"
        )
    try:
        own = descriptors.duplicate(descriptor)
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise DescriptorsExhausted(
                f"the descriptor can not be kept: {error.strerror}"
            ) from error
        raise IpcHandleMismatch(f"{descriptor} is not an open descriptor: {error}") from error
    try:
        physical = call(cu.cuMemImportFromShareableHandle, own.number, _POSIX)
        try:
            mapping = _mapped(deferredFree, gpu, physical, own, handle.sizeBytes, writable)
        except BaseException:
            call(cu.cuMemRelease, physical)
            raise
    except BaseException as error:
        if not isinstance(error, DriverError):
            raise
        if error.code in ("OUT_OF_MEMORY", "OPERATING_SYSTEM"):
            raise
        raise IpcHandleMismatch(
            f"the descriptor is not {handle.sizeBytes} bytes of a GPU's memory: {error}"
        ) from error
    return VmmAllocation(gpu, peerAt, mapping, sizeBytes, writable, handle)


def granulesUp(gpu: Gpu, sizeBytes: int) -> int:
    """`sizeBytes` in whole granules."""
    return -(-sizeBytes // gpu.granuleBytes) * gpu.granuleBytes


def _mapped(
    deferredFree: DeferredFree,
    gpu: Gpu,
    physical: Any,
    descriptor: Descriptor,
    sizeBytes: int,
    writable: bool,
) -> VmmMapping:
    # No ExitStack, because the interpreter spends half of its time of an open here.
    address = int(call(cu.cuMemAddressReserve, sizeBytes, 0, 0, 0))
    try:
        call(cu.cuMemMap, address, sizeBytes, 0, physical, 0)
        call(cu.cuMemSetAccess, address, sizeBytes, [_grant(gpu, writable)], 1)
    except BaseException:
        # An interruption comes from a call that was made, or was not.
        with contextlib.suppress(DriverError):
            call(cu.cuMemUnmap, address, sizeBytes)
        call(cu.cuMemAddressFree, address, sizeBytes)
        raise
    return VmmMapping(deferredFree, physical, descriptor, address, sizeBytes)


@functools.cache
def _grant(gpu: Gpu, writable: bool) -> Any:
    """The argument of `cuMemSetAccess` for a GPU. The driver only reads it, so it is
    used again.
    """
    grant = cu.CUmemAccessDesc()
    grant.location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    grant.location.id = gpu.index
    grant.flags = (
        _FLAGS.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        if writable
        else _FLAGS.CU_MEM_ACCESS_FLAGS_PROT_READ
    )
    return grant


def _unmap(physical: Any, descriptor: Descriptor, address: int, sizeBytes: int) -> None:
    descriptor.close()
    call(cu.cuMemUnmap, address, sizeBytes)
    call(cu.cuMemRelease, physical)
    call(cu.cuMemAddressFree, address, sizeBytes)
