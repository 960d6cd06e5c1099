"""Memory of an emulated GPU: one sealed memfd per allocation.

The creator allocates every page, and then seals the size and the seals. So a process
that maps the file can touch every byte of it for ever, independent of other processes:
there is no SIGBUS. The file has no name, and lives while any process has a descriptor
or a mapping. The kill of its creator loses nothing, and nothing is left when all
processes are gone.
"""

from __future__ import annotations

import _thread
import errno
import fcntl
import os
import weakref

from muninn.config.sizes import exactly
from muninn.devices.host.links import Links
from muninn.devices.mapped import MappedAllocation
from muninn.errors import (
    BufferFreed,
    HostMemoryFull,
    InvalidArgument,
    IpcHandleMismatch,
    PermissionDenied,
)
from muninn.system import atomics, descriptors, hostmemory
from muninn.system.descriptors import Descriptor, Known
from muninn.system.oserrors import fileError, requireFileBytes
from muninn.system.pages import alignmentOf, pagesUp

TRANSPORT = "memfd"
_REASON = "an emulated GPU's memory is a sealed memfd"
#: How many bytes are allocated between two looks at the available memory.
_CHUNK_BYTES = 256 << 20
#: How much memory is left to the host: with less, its own work would make it reclaim.
_SPARE_BYTES = 64 << 20
_MAX_BYTES = 1 << 47
#: SHRINK and GROW keep a reader safe; SEAL keeps a peer from forbidding writes to the
#: others later.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Mapping:
    """One mapping, until it is collected: the anchor of an allocation."""

    __slots__ = ("__weakref__", "_range", "address", "reserved")

    def __init__(self, fd: Known, sizeBytes: int, writable: bool, reserved: object) -> None:
        alignment = alignmentOf(sizeBytes)
        #: The device counts these bytes by this object, which is gone with the mapping.
        self.reserved = reserved
        # An interruption between two steps leaves no mapping, or a mapping that is
        # unmapped with this object.
        self._range = atomics.OwnedRange(None, sizeBytes)
        self.address = int(
            atomics.mapped(fd, sizeBytes, writable=writable, alignment=alignment, owner=self._range)
        )


class MemfdAllocation(MappedAllocation[Mapping]):
    """A mapped memfd and its descriptor. The object owns the descriptor from the call
    on, also when the memory can not be mapped.
    """

    def __init__(
        self,
        gpu: int,
        fd: Descriptor,
        sizeBytes: int,
        writable: bool,
        links: Links,
        reserved: object = None,
    ) -> None:
        self.gpu, self.sizeBytes, self.writable = gpu, sizeBytes, writable
        self.allocatedBytes = pagesUp(sizeBytes)
        self.transport, self.transportReason, self.handle = TRANSPORT, _REASON, b""
        self.isHostVisible, self.isOwned = True, False
        self._links = links
        self._kept = descriptors.own(fd)
        # The kernel reuses a descriptor's number at once, so no close may come while an
        # export uses the number.
        self._closing = _thread.RLock()
        self._finalizer = weakref.finalize(self, self._kept.close)
        self._finalizer.atexit = False
        try:
            self._mapping = Mapping(fd, self.allocatedBytes, writable, reserved)
        except OSError as error:
            self._finalizer()
            raise _typed(error, f"{sizeBytes} bytes can not be mapped") from error

    def exportDescriptor(self, writable: bool = True) -> Descriptor:
        with self._closing:
            self._mapped()
            try:
                fd = self._kept.checked()
            except OSError as error:
                raise BufferFreed(
                    f"the allocation can not be passed on any more: {error.strerror}"
                ) from error
            mayWrite = _mayWrite(fd)
            if writable and not (mayWrite and self.writable):
                raise PermissionDenied(
                    "this process was given read access only, and can not pass on more"
                )
            try:
                if writable == mayWrite:
                    return descriptors.duplicate(fd)
                # Open the same memory a second time. Its mode is 0600, so that only
                # this uid can do that, and not another uid that gets the descriptor.
                return atomics.opened(
                    atomics.openFile(b"/proc/thread-self/fd/%d" % fd, os.O_RDONLY, 0)
                )
            except OSError as error:
                raise _typed(error, "the allocation can not be exported") from error

    def _give(self, gpu: int) -> None:
        self._links.require(self.gpu, gpu)

    def close(self) -> None:
        with self._closing:
            super().close()
            self._finalizer()


def allocate(gpu: int, sizeBytes: int, links: Links, reserved: object) -> MemfdAllocation:
    """New memory: allocated, sealed, mapped. Raises `HostMemoryFull` or
    `DescriptorsExhausted`, and leaves nothing behind then.
    """
    checkSize(sizeBytes)
    requireFileBytes(f"{exactly(sizeBytes)} for GPU {gpu}", pagesUp(sizeBytes))
    try:
        # The mode must not allow others: another uid with a read-only descriptor could
        # open the memory again for writing.
        fd = descriptors.memfd(f"muninn-gpu{gpu}")
        _fill(fd.number, pagesUp(sizeBytes))
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        raise _typed(error, f"{exactly(sizeBytes)} for GPU {gpu}") from error
    return MemfdAllocation(gpu, fd, sizeBytes, True, links, reserved)


def importDescriptor(
    gpu: int, descriptor: int | Known, sizeBytes: int, writable: bool, links: Links
) -> MemfdAllocation:
    """Map a peer's memfd, after a check that no process can take its bytes away."""
    checkSize(sizeBytes)
    try:
        # Duplicate first and check the duplicate: another thread may close the caller's
        # number and reuse it.
        fd = descriptors.duplicate(descriptor)
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise _typed(error, "the descriptor can not be kept") from error
        raise IpcHandleMismatch(f"{descriptor} is not an open descriptor") from error
    _checkMemfd(fd.number, sizeBytes)
    if writable and not _mayWrite(fd.number):
        raise PermissionDenied("the descriptor is read-only")
    return MemfdAllocation(gpu, fd, sizeBytes, writable, links)


def checkSize(sizeBytes: int) -> None:
    """`InvalidArgument` if no machine could map so many bytes."""
    if not 0 < sizeBytes <= _MAX_BYTES:
        raise InvalidArgument(f"{sizeBytes} is not a size in bytes")


def _fill(fd: int, sizeBytes: int) -> None:
    for offset in range(0, sizeBytes, _CHUNK_BYTES):
        wanted = sizeBytes - offset
        hostmemory.requireAvailable(wanted, _SPARE_BYTES)
        os.posix_fallocate(fd, offset, min(_CHUNK_BYTES, wanted))


def _checkMemfd(fd: int, sizeBytes: int) -> None:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise IpcHandleMismatch("the descriptor is not a memfd") from None
    if seals & _SEALS != _SEALS:
        raise IpcHandleMismatch(
            f"the memfd is not sealed as its exporter seals it (seals {seals:#x})"
        )
    if (actual := os.fstat(fd).st_size) < pagesUp(sizeBytes):
        raise IpcHandleMismatch(f"the memfd has {actual} bytes where {sizeBytes} were announced")


def _mayWrite(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def _typed(error: OSError, what: str) -> Exception:
    if error.errno in (errno.EACCES, errno.EPERM):
        return PermissionDenied(f"{what}: {error.strerror}")
    if error.errno in (errno.ENOSPC, errno.EAGAIN) and "mmap" not in str(error):
        return HostMemoryFull(
            f"{what}: {error.strerror}", "Free buffers, or lower [devices] hostGpuBytes"
        )
    return fileError(error, what)
