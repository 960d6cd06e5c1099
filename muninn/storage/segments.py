"""Segments: the named shared memory behind bigMode buffers.

A segment is a file in the domain's own directory on `/dev/shm`. Its name contains the
identity of the control block that made it, its row and its incarnation. So a process
that finds a segment knows which row vouches for it, and another user can not foresee or
plant one.

1. The creator of a buffer makes the file, without pages, and maps it.
2. With `reserve="full"` it allocates every page before another process maps the file.
   So if `/dev/shm` is full, the creator gets an error, and no reader gets a SIGBUS.
3. Each other process maps the file once, for reading, when it opens the buffer.
4. A process that opens it copyOnWrite maps it once more for each buffer object, private:
   what it writes goes to pages of its own.
5. A segment outlives all processes. Only the broker unlinks it, when its row is DEAD.
   The memory is freed with the last mapping.

A process that opens a segment just before it is unlinked keeps a valid mapping: it
finds out by its lease that the buffer was freed.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from muninn.config.sizes import exactly
from muninn.errors import BufferFreed, ControlBlockInvalid, DomainChanged, HostMemoryFull
from muninn.storage.paths import SHM_ROOT, Paths
from muninn.system import atomics, descriptors, hostmemory, ownership, threads
from muninn.system.descriptors import Descriptor, Known
from muninn.system.oserrors import fileError, missingShm, requireFileBytes
from muninn.system.pages import (
    HUGE_PAGE_BYTES,
    OFFERS_HUGE,
    PAGE_BYTES,
    alignmentOf,
    hugePages,
    pagesUp,
)
from muninn.system.structures import Extent, Extents

#: How many bytes are copied at a time: enough to amortise the calls, and few enough for
#: a smooth progress bar.
CHUNK_BYTES = 16 << 20
#: How many bytes each thread reserves before the caller may be interrupted again: about
#: 30 ms.
_SLICE_BYTES = 32 << 20
#: Fewer bytes are reserved sooner than a thread is started.
_PARALLEL_BYTES = 8 << 20
_MADV_HUGEPAGE, _MADV_POPULATE_WRITE = 14, 23
#: Segments of at least so many bytes are worth huge pages: reading them from end to end
#: is a fifth faster than with small ones.
_HUGE_SEGMENT_BYTES = 64 << 20
#: Freeing so many bytes takes some milliseconds.
_SLOW_TO_FREE_BYTES = 256 << 20

Progress = Callable[[int], None]


class Mapping:
    """One mapping of shared memory into this process.

    Parameters
    ----------
    file
        A descriptor, or the path of a file of this user. A path is looked up and mapped
        in one step.
    isPrivate
        Whether what is written goes to pages of this process, and never to the file.
        Pages that were not written show what other processes write.

    Attributes
    ----------
    address
        The address of the first byte; the same for the life of the mapping.
    sizeBytes
        The number of bytes.
    writable
        Whether this process may write. `allowWriting` may allow it later, at the same
        address.
    """

    __slots__ = ("__weakref__", "_protecting", "_range", "address", "sizeBytes", "writable")

    def __init__(
        self, file: int | Known | str, sizeBytes: int, writable: bool, isPrivate: bool = False
    ) -> None:
        self.address = 0
        self.sizeBytes = sizeBytes
        self.writable = writable
        self._protecting = _thread.RLock()  # a finalizer may come here while its thread is inside
        # If this thread is interrupted between two steps, it has mapped nothing, or a
        # range that the end of this object unmaps.
        self._range = owned = atomics.OwnedRange(None, sizeBytes)
        alignment = alignmentOf(sizeBytes)
        kind = (
            atomics.MAP_PRIVATE
            if isPrivate
            else atomics.MAP_WRITE
            if writable
            else atomics.MAP_READ
        )
        if isinstance(file, str):
            atomics.checked(
                atomics.mapPath(file.encode(), os.geteuid(), sizeBytes, alignment, kind, owned),
                file,
            )
        else:
            atomics.checked(atomics.mapFile(file, sizeBytes, alignment, kind, owned), "mmap")
        self.address = owned.address or 0

    def allowWriting(self) -> None:
        """Make a read-only mapping writable, at the same address."""
        with self._protecting:
            if not self.writable:
                atomics.checked(atomics.protect(self.address, self.sizeBytes, 1), "mprotect")
                self.writable = True

    @contextlib.contextmanager
    def writableMeanwhile(self) -> Iterator[None]:
        """Make a read-only mapping writable for a moment: for a driver that asks once
        how memory is mapped, and then lets kernels write it. The CPU may not write it,
        before and afterwards.
        """
        with self._protecting:
            if not self.writable:
                atomics.checked(atomics.protect(self.address, self.sizeBytes, 1), "mprotect")
            try:
                yield
            finally:
                if not self.writable:
                    atomics.checked(atomics.protect(self.address, self.sizeBytes, 0), "mprotect")

    def close(self) -> None:
        """Unmap. The address must not be used afterwards; a second call does nothing."""
        self.address = 0
        # Without `atomics`, the interpreter is clearing the modules, and the end of the
        # range's object unmaps it.
        if atomics is not None:
            atomics.unmapOnce(self._range)

    def closeThen(self, closed: Callable[[], object]) -> None:
        """Unmap, and call `closed`."""
        self.close()
        closed()


def create(paths: Paths, row: int, incarnation: int, sizeBytes: int) -> Descriptor:
    """Create the segment, sparse. Returns its descriptor. A file that has the name
    already was left by a dead creator of this row, and is removed.
    """
    path = f"{SHM_ROOT}{paths.segmentName(row, incarnation)}"
    requireFileBytes(path, sizeBytes)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        fd = descriptors.opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, maker=paths.uid)
    except FileNotFoundError:
        raise missingShm() or DomainChanged(
            f"the directory of {paths.stem} was removed from /dev/shm", "Try again"
        ) from None
    except OSError as error:
        raise fileError(error, path) from error
    try:
        os.ftruncate(fd.number, sizeBytes)
    except OSError as error:
        fd.close()
        os.unlink(path)
        raise fileError(error, path) from error
    return fd


def open_(paths: Paths, row: int, incarnation: int, sizeBytes: int, origin: int = 0) -> Descriptor:
    """Open an existing segment of at least `sizeBytes`. If more bytes were mapped than
    the file has, reading them would be a SIGBUS later.

    Parameters
    ----------
    origin
        The identity of the block that made the segment, if it was another block than
        this.
    """
    path = f"{SHM_ROOT}{paths.segmentName(row, incarnation, origin)}"
    try:
        fd = descriptors.opened(path, os.O_RDWR)
    except FileNotFoundError:
        raise missingShm() or BufferFreed(f"the segment {path} is gone") from None
    except OSError as error:
        raise fileError(error, path) from error
    status = os.fstat(fd.number)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != paths.uid or status.st_size < sizeBytes:
        fd.close()
        raise ControlBlockInvalid(
            f"{path} has {status.st_size} bytes where its row states {sizeBytes}, and is uid "
            f"{status.st_uid}'s",
            "Free the buffer: its memory was truncated or replaced from outside",
        )
    ownership.putRight(path, paths.uid, fd)
    return fd


def mapped(
    paths: Paths,
    row: int,
    incarnation: int,
    sizeBytes: int,
    origin: int = 0,
    isPrivate: bool = False,
) -> Mapping:
    """Map an existing segment, for reading or private. Raises the errors of `open_`."""
    path = f"{SHM_ROOT}{paths.segmentName(row, incarnation, origin)}"
    try:
        return Mapping(path, sizeBytes, isPrivate, isPrivate)
    except OSError:
        fd = open_(paths, row, incarnation, sizeBytes, origin)  # raises the typed error
    try:
        return Mapping(fd, sizeBytes, isPrivate, isPrivate)
    except OSError as error:
        raise fileError(error, path) from error
    finally:
        fd.close()


def unlink(paths: Paths, row: int, incarnation: int, origin: int = 0) -> None:
    """Remove the segment's name. The kernel frees the memory with the last mapping. A
    second call does nothing.

    The kernel frees the pages in the process that closes the file last, and takes a
    second for some ten GiB. Other processes wait for the caller, so it must not do that
    work. Therefore it opens a descriptor before it removes the name of a large segment,
    and a thread closes the descriptor.
    """
    path = f"{SHM_ROOT}{paths.segmentName(row, incarnation, origin)}"
    held = None
    try:
        if os.lstat(path).st_size >= _SLOW_TO_FREE_BYTES:
            held = descriptors.opened(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    except OSError:
        held = None  # no descriptor is left: the name is removed all the same
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    except OSError as error:
        raise fileError(error, path) from error
    if held is not None:
        try:
            threads.start(held.close, "muninn-unlink")
        except RuntimeError:  # no thread can be started: the caller waits
            held.close()


def advise(mapping: Mapping, node: int | None) -> None:
    """Ask for huge pages if the machine offers them, and for the NUMA node. Must be
    called before the first page exists.
    """
    if mapping.sizeBytes >= HUGE_PAGE_BYTES and hugePages() in OFFERS_HUGE:
        atomics.checked(
            atomics.advise(mapping.address, mapping.sizeBytes, _MADV_HUGEPAGE),
            "madvise(MADV_HUGEPAGE)",
        )
    if node is not None:
        atomics.checked(
            atomics.bindNode(mapping.address, mapping.sizeBytes, node), f"mbind to NUMA node {node}"
        )


def reserve(
    fd: int,
    mapping: Mapping,
    threads: int,
    extents: Sequence[Extent] = (),
    progress: Progress | None = None,
) -> None:
    """Allocate every page of a segment, in parallel, and copy `extents` into it.

    The work is done in slices of some 30 ms. Between two slices no thread uses the
    memory, so Ctrl-C may interrupt, and `progress` is called.

    Parameters
    ----------
    fd, mapping
        The segment, and the caller's mapping of it.
    threads
        How many threads work; 0: as many as the process may use, at most 8.
    extents
        The bytes to copy, in the order of their offsets.
    progress
        Called with the bytes that were finished since the last call.

    Raises
    ------
    HostMemoryFull
        `/dev/shm` became full. The caller must unlink the segment, which keeps its pages.
    """
    _requireAvailable(mapping.sizeBytes)
    workers = threads or min(8, len(os.sched_getaffinity(0)))
    # A slice consists of whole chunks, so that no huge page is split. A segment has
    # several slices even if one could hold it, so that `progress` is called on the way.
    chunks = max(1, mapping.sizeBytes // CHUNK_BYTES // 8)
    sliceBytes = min(_SLICE_BYTES * workers, chunks * CHUNK_BYTES)
    sources = (Extent * len(extents))(*extents)
    try:
        for offset in range(0, mapping.sizeBytes, sliceBytes):
            length = min(sliceBytes, mapping.sizeBytes - offset)
            _reserveSlice(fd, mapping, offset, length, sources, workers)
            if progress is not None:
                progress(length)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise HostMemoryFull(
                f"{exactly(mapping.sizeBytes)} do not fit into {SHM_ROOT}: {error.strerror}"
            ) from error
        raise fileError(error, f"{exactly(mapping.sizeBytes)} in {SHM_ROOT}") from error


def _reserveSlice(
    fd: int, mapping: Mapping, offset: int, length: int, extents: Extents, workers: int
) -> None:
    """Allocate and copy one slice. Raises `OSError` if there is no room for it."""
    end, isHuge = offset + length, mapping.sizeBytes >= _HUGE_SEGMENT_BYTES
    working = workers if length >= _PARALLEL_BYTES else 1
    if atomics.reserve(mapping.address, offset, end, extents, len(extents), working, isHuge) == 0:
        return
    # If a touch of the pages would be a SIGBUS, populating fails. fallocate then fails
    # with the reason; or it succeeds, on a kernel that can not populate.
    os.posix_fallocate(fd, offset, length)
    for extent in extents:
        begin, until = max(offset, extent.offset), min(end, extent.offset + extent.sizeBytes)
        if begin < until:
            source = extent.address + begin - extent.offset
            atomics.copy(mapping.address + begin, source, until - begin)


def _requireAvailable(sizeBytes: int) -> None:
    """Refuse a segment that can not fit, before a page of it is allocated. If memory
    still becomes full later, `reserve` raises.
    """
    status = os.statvfs(SHM_ROOT)
    hostmemory.requireAvailable(sizeBytes)
    # A file system without a number of blocks may grow as large as the memory: a tmpfs
    # of size=0, or a ramfs.
    if status.f_blocks and sizeBytes > (free := status.f_bavail * status.f_frsize):
        raise HostMemoryFull(
            f"{exactly(sizeBytes)} do not fit: {SHM_ROOT} has room for {exactly(free)}"
        )


def copyIn(mapping: Mapping, extent: Extent) -> None:
    """Copy into a segment that is reserved lazily."""
    before = extent.offset % PAGE_BYTES
    for done in range(0, extent.sizeBytes, CHUNK_BYTES):
        offset, length = extent.offset + done, min(CHUNK_BYTES, extent.sizeBytes - done)
        populate(mapping, offset - before, before + length)
        atomics.copy(mapping.address + offset, extent.address + done, length)


def beginParts(mapping: Mapping) -> bool:
    """Whether a segment can be allocated by `populatePart`: not on a kernel that can not
    populate (before Linux 5.14). Raises `HostMemoryFull` if it can not fit.
    """
    _requireAvailable(mapping.sizeBytes)
    return bool(atomics.advise(mapping.address, PAGE_BYTES, _MADV_POPULATE_WRITE) != -errno.EINVAL)


def populatePart(mapping: Mapping, offset: int, sizeBytes: int) -> None:
    """Allocate the pages of a range of a segment, unless the segment was reserved.
    Raises `HostMemoryFull`.
    """
    before = offset % PAGE_BYTES
    populate(mapping, offset - before, before + sizeBytes, isReserved=True)


def populate(mapping: Mapping, offset: int, sizeBytes: int, *, isReserved: bool = False) -> None:
    """Allocate a range of a segment that is reserved lazily; the range begins at a
    page. Raises `HostMemoryFull` where a touch would be a SIGBUS.

    `isReserved`: on a kernel that can not populate, the segment was reserved.
    """
    if (
        sizeBytes
        and (
            result := atomics.advise(
                mapping.address + offset, pagesUp(sizeBytes), _MADV_POPULATE_WRITE
            )
        )
        != 0
        and not (isReserved and result == -errno.EINVAL)
    ):
        # EFAULT: a touch would be a SIGBUS.
        reason = "no page is left" if -result == errno.EFAULT else os.strerror(-result)
        raise HostMemoryFull(
            f"{SHM_ROOT} is full at {exactly(offset)} of {exactly(mapping.sizeBytes)}: {reason}",
            "Free buffers, or enlarge /dev/shm",
        )
