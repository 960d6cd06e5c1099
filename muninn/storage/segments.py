"""Segments: the named shared memory behind bigMode buffers.

A segment is a file in the domain's own directory on `/dev/shm`, named after the
identity of the control block that made it, its row and incarnation: a process that
finds one knows which row vouches for it, and another user can not foresee or plant one.
Its creator allocates every page before anybody maps it (`reserve="full"`): a full
`/dev/shm` is then an error of the creator, and never a SIGBUS of a reader. Each process
maps a segment once. A segment outlives all processes; only the broker unlinks it, when
its row is DEAD.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from muninn.config.sizes import exactly
from muninn.errors import BufferFreed, ControlBlockInvalid, DomainChanged, HostMemoryFull
from muninn.storage.paths import SHM_ROOT, Paths
from muninn.system import atomics, descriptors, hostmemory, ownership, threads
from muninn.system.descriptors import Descriptor, Known
from muninn.system.oserrors import fileError, missingShm, requireFileBytes
from muninn.system.pages import HUGE_PAGE_BYTES, OFFERS_HUGE, alignmentOf, hugePages, pagesUp

#: What is copied at a time: large enough to amortise the calls, small enough for a
#: smooth progress bar.
CHUNK_BYTES = 16 << 20
#: What each thread reserves between two moments at which the caller may be interrupted:
#: about 30 ms.
_SLICE_BYTES = 32 << 20
#: Less is done before a thread has been started.
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
        A descriptor, or the path of a file of this user, which is looked up and mapped
        in one step.

    Attributes
    ----------
    address
        Where the bytes are; the same for the life of the mapping.
    sizeBytes
        How many there are.
    writable
        Whether this process may write them; `allowWriting` may make it so later, in
        place.
    """

    __slots__ = ("__weakref__", "_cell", "_protecting", "address", "sizeBytes", "writable")

    def __init__(self, file: int | Known | str, sizeBytes: int, writable: bool) -> None:
        self.address = 0
        self.sizeBytes = sizeBytes
        self.writable = writable
        self._protecting = _thread.RLock()  # a finalizer may come here while its thread is inside
        # Whoever is interrupted between two steps has mapped nothing, or what goes with
        # this object.
        self._cell = cell = atomics.AddressCell(None, sizeBytes)
        alignment = alignmentOf(sizeBytes)
        if isinstance(file, str):
            atomics.checked(
                atomics.mapPath(file.encode(), os.geteuid(), sizeBytes, alignment, writable, cell),
                file,
            )
        else:
            atomics.checked(atomics.mapFile(file, sizeBytes, alignment, writable, cell), "mmap")
        self.address = cell.address or 0

    def allowWriting(self) -> None:
        """Make a read-only mapping writable, where it is."""
        with self._protecting:
            if not self.writable:
                atomics.checked(atomics.protect(self.address, self.sizeBytes, 1), "mprotect")
                self.writable = True

    @contextlib.contextmanager
    def writableMeanwhile(self) -> Iterator[None]:
        """For what asks how it is mapped, once: a driver that is to let kernels write.
        The CPU may not, afterwards as before.
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
        # else the interpreter has let go of the modules, and the place is unmapped with
        # its object
        if atomics is not None:
            atomics.unmapOnce(self._cell)

    def closeThen(self, closed: Callable[[], object]) -> None:
        """Unmap, and say so."""
        self.close()
        closed()


def create(paths: Paths, row: int, incarnation: int, sizeBytes: int) -> Descriptor:
    """Create the segment, sparse; returns its descriptor. A left-over of that name is
    from a dead creator of this row and goes.
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
    """A descriptor of an existing segment of at least `sizeBytes`; mapping more than
    there is would be a SIGBUS later.

    Parameters
    ----------
    origin
        The identity of the block that made it, if that is another one than this.
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


def mapped(paths: Paths, row: int, incarnation: int, sizeBytes: int, origin: int = 0) -> Mapping:
    """An existing segment, mapped for reading. Raises what `open_` does."""
    path = f"{SHM_ROOT}{paths.segmentName(row, incarnation, origin)}"
    try:
        return Mapping(path, sizeBytes, writable=False)
    except OSError:
        fd = open_(paths, row, incarnation, sizeBytes, origin)  # which knows what is wrong with it
    try:
        return Mapping(fd, sizeBytes, writable=False)
    except OSError as error:
        raise fileError(error, path) from error
    finally:
        fd.close()


def unlink(paths: Paths, row: int, incarnation: int, origin: int = 0) -> None:
    """Remove the name; the memory goes with the last mapping. Removing it twice is
    fine.

    The kernel frees a large segment's pages in the process that lets go last, which
    takes a second for some ten GiB. The caller must not be that process, since others
    wait for it: a descriptor outlives the name, and a thread closes it.
    """
    path = f"{SHM_ROOT}{paths.segmentName(row, incarnation, origin)}"
    held = None
    try:
        if os.lstat(path).st_size >= _SLOW_TO_FREE_BYTES:
            held = descriptors.opened(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    except OSError:
        held = None  # no descriptor is left: the name goes all the same
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    except OSError as error:
        raise fileError(error, path) from error
    if held is not None:
        try:
            threads.start(held.close, "muninn-unlink")
        except RuntimeError:  # no thread can be had: the caller waits
            held.close()


def advise(mapping: Mapping, node: int | None) -> None:
    """Before the first page exists: huge pages where the machine offers them, and the
    NUMA node that was asked for.
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
    source: int | None = None,
    sourceBytes: int = 0,
    progress: Progress | None = None,
) -> None:
    """Allocate every page of a segment, in parallel, and copy `source` into it on the
    way.

    It goes by slices of some 30 ms: between two of them Ctrl-C and `progress` have
    their access, and no thread is at work on the memory.

    Parameters
    ----------
    fd, mapping
        The segment, and the caller's mapping of it.
    threads
        How many threads work; 0: as many as the process may use, at most 8.
    source, sourceBytes
        Address and length of what is copied to the segment's beginning.
    progress
        Called with the bytes that were finished since the last call.

    Raises
    ------
    HostMemoryFull
        `/dev/shm` ended before the segment did. What was allocated is the caller's to
        unlink.
    """
    _requireAvailable(mapping.sizeBytes)
    workers = threads or min(8, len(os.sched_getaffinity(0)))
    # Whole chunks, so that huge pages are not cut; and some of them, so that progress
    # is seen of what one slice could hold.
    chunks = max(1, mapping.sizeBytes // CHUNK_BYTES // 8)
    sliceBytes = min(_SLICE_BYTES * workers, chunks * CHUNK_BYTES)
    try:
        for offset in range(0, mapping.sizeBytes, sliceBytes):
            length = min(sliceBytes, mapping.sizeBytes - offset)
            copied = max(0, min(length, sourceBytes - offset)) if source is not None else 0
            _reserveSlice(fd, mapping, offset, length, (source or 0) + offset, copied, workers)
            if progress is not None:
                progress(length)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise HostMemoryFull(
                f"{exactly(mapping.sizeBytes)} do not fit into {SHM_ROOT}: {error.strerror}"
            ) from error
        raise fileError(error, f"{exactly(mapping.sizeBytes)} in {SHM_ROOT}") from error


def _reserveSlice(
    fd: int, mapping: Mapping, offset: int, length: int, source: int, copied: int, workers: int
) -> None:
    """One slice; raises `OSError` where there is no room for it."""
    target = mapping.address + offset
    isHuge = mapping.sizeBytes >= _HUGE_SEGMENT_BYTES
    if (
        length >= _PARALLEL_BYTES
        and atomics.reserve(target, length, source, copied, workers, isHuge) == 0
    ):
        return
    # Populating fails where a touch is a SIGBUS. What fallocate then says is the
    # reason, or it succeeds on a kernel that can not populate.
    if atomics.advise(target, length, _MADV_POPULATE_WRITE) != 0:
        os.posix_fallocate(fd, offset, length)
    atomics.copy(target, source, copied)


def _requireAvailable(sizeBytes: int) -> None:
    """Refuse what can not fit before a page of it is taken. What is not enough in spite
    of this is an error of the reservation.
    """
    status = os.statvfs(SHM_ROOT)
    hostmemory.requireAvailable(sizeBytes)
    # Without blocks it is as large as the memory: a tmpfs of size=0, or a ramfs.
    if status.f_blocks and sizeBytes > (free := status.f_bavail * status.f_frsize):
        raise HostMemoryFull(
            f"{exactly(sizeBytes)} do not fit: {SHM_ROOT} has room for {exactly(free)}"
        )


def copyIn(mapping: Mapping, source: int, sizeBytes: int) -> None:
    """Copy to the beginning of a lazily reserved segment."""
    for offset in range(0, sizeBytes, CHUNK_BYTES):
        length = min(CHUNK_BYTES, sizeBytes - offset)
        populate(mapping, offset, length)
        atomics.copy(mapping.address + offset, source + offset, length)


def populate(mapping: Mapping, offset: int, sizeBytes: int) -> None:
    """Allocate a range, from a page's beginning, of a lazily reserved segment; where a
    touch would be a SIGBUS it is an error.
    """
    if (
        sizeBytes
        and (
            result := atomics.advise(
                mapping.address + offset, pagesUp(sizeBytes), _MADV_POPULATE_WRITE
            )
        )
        != 0
    ):
        raise HostMemoryFull(
            f"{SHM_ROOT} is full at {exactly(offset)} of {exactly(mapping.sizeBytes)}: "
            f"{os.strerror(-result)}"
        )
