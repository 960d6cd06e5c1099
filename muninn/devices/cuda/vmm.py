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
from collections.abc import Callable
from typing import Any

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.deferredfree import DeferredFree
from muninn.devices.cuda.driver import DriverError, Made, call
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
from muninn.system import atomics, descriptors
from muninn.system.descriptors import Descriptor

_POSIX = cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
_FLAGS = cu.CUmemAccess_flags


class _Parts:
    """What a mapping consists of, each part from the driver call on that made it."""

    __slots__ = ("descriptors", "exported", "mapped", "physical", "reserved", "sizeBytes")

    def __init__(self, sizeBytes: int) -> None:
        self.sizeBytes = sizeBytes
        self.physical: Made = []
        #: The number that the driver gave, and then the descriptor of ours.
        self.exported: Made = []
        self.descriptors: list[Descriptor] = []
        self.reserved: Made = []
        self.mapped: Made = []

    def own(self, number: int) -> Descriptor:
        """Make the driver's descriptor ours, in one step."""
        self.descriptors.extend(map(atomics.own, (number,)))
        return atomics.opened(self.descriptors[-1])

    def isDone(self) -> bool:
        """Whether nothing is there (any more)."""
        return not (self.physical or self.exported or self.descriptors or self.reserved)

    def __call__(self) -> None:
        """Give back what is there, in the order in which it may go."""
        if self.descriptors:
            self.exported.clear()  # its number is a descriptor of ours since
        while self.descriptors:
            self.descriptors.pop().close()
        while self.exported:
            os.close(int(self.exported.pop()[1]))
        if self.reserved:
            # The bindings run Python for some answers: an interruption there comes from a
            # call that was made, and `mapped` does not know of it.
            unsure = contextlib.nullcontext() if self.mapped else contextlib.suppress(DriverError)
            with unsure:
                call(cu.cuMemUnmap, int(self.reserved[0][1]), self.sizeBytes)
            self.mapped.clear()
        driver.unmake(self.physical, cu.cuMemRelease)
        driver.unmake(self.reserved, cu.cuMemAddressFree, self.sizeBytes)


class VmmMapping:
    """One mapping and its descriptor, until it is collected: the anchor of an
    allocation. It is there before its parts are, so none of them is ever nobody's.
    """

    __slots__ = ("__weakref__", "_deferredFree", "address", "parts")

    def __init__(self, deferredFree: DeferredFree, sizeBytes: int) -> None:
        self.address, self.parts = 0, _Parts(sizeBytes)
        self._deferredFree = deferredFree
        deferredFree.start()
        deferredFree.deferAtEnd(self, self.parts, locks=False)

    @property
    def descriptor(self) -> Descriptor:
        return self.parts.descriptors[0]

    def map(self, gpu: Gpu, physical: Any, writable: bool) -> None:
        """Map the physical memory at an address of its own."""
        parts, sizeBytes = self.parts, self.parts.sizeBytes
        self.address = address = int(
            driver.make(parts.reserved, cu.cuMemAddressReserve, sizeBytes, 0, 0, 0)
        )
        driver.make(parts.mapped, cu.cuMemMap, address, sizeBytes, 0, physical, 0)
        call(cu.cuMemSetAccess, address, sizeBytes, [_grant(gpu, writable)], 1)

    def end(self, error: BaseException) -> None:
        """Give the parts back after an error: now, so that the memory is there for
        another attempt; or after an interruption on the thread for it, as another one may
        come, and whoever keeps the error keeps this mapping.
        """
        if isinstance(error, DriverError):
            self.parts()
        else:
            self._deferredFree.defer(self.parts, locks=False)


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
    mapping = VmmMapping(deferredFree, allocatedBytes)
    parts = mapping.parts
    try:
        properties = gpu.allocationProperties()
        physical = driver.make(parts.physical, cu.cuMemCreate, allocatedBytes, properties, 0)
        number = driver.make(parts.exported, cu.cuMemExportToShareableHandle, physical, _POSIX, 0)
        fcntl.fcntl(parts.own(int(number)), fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        mapping.map(gpu, physical, True)
    except BaseException as error:
        mapping.end(error)
        raise
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
    mapping = VmmMapping(deferredFree, handle.sizeBytes)
    parts = mapping.parts
    try:
        parts.descriptors.append(own)
        physical = driver.make(
            parts.physical, cu.cuMemImportFromShareableHandle, own.number, _POSIX
        )
        mapping.map(gpu, physical, writable)
    except BaseException as error:
        mapping.end(error)
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
