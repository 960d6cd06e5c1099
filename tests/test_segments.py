"""Segments: named memory of a stated size, allocated before any process maps it."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import threading

import numpy as np
import pytest

from muninn.control import layout
from muninn.errors import BufferFreed, ControlBlockInvalid, HostMemoryFull
from muninn.storage import segments
from muninn.storage.paths import Paths
from muninn.system import pages
from muninn.system.structures import Extent
from support import eventually, leftovers


@pytest.fixture
def paths(domain: str) -> Paths:
    made = Paths(os.getuid(), domain)
    made.makeDirectory()
    return made


def test_oneMappingReadsTheBytesThatAnotherWrites(paths: Paths) -> None:
    fd = segments.create(paths, 1, 2, 8192)
    writing = segments.Mapping(fd, 8192, writable=True)
    other = segments.open_(paths, 1, 2, 8192)
    reading = segments.Mapping(other, 8192, writable=False)
    data = np.arange(1024)
    segments.reserve(fd, writing, 1, [Extent(0, data.ctypes.data, data.nbytes)])
    copy = np.empty_like(data)
    segments.atomics.copy(copy.ctypes.data, reading.address, data.nbytes)
    assert (copy == data).all() and paths.segments() == [(1, 2)]
    for mapping in (writing, reading, reading):
        mapping.close()
    os.close(fd)
    os.close(other)


@pytest.mark.parametrize("sizeBytes", [8192, 4 << 20])
def test_whatIsWrittenToAPrivateMappingIsNotInTheFile(paths: Paths, sizeBytes: int) -> None:
    fd = segments.create(paths, 1, 2, sizeBytes)
    writing = segments.Mapping(fd, sizeBytes, writable=True)
    private = [segments.mapped(paths, 1, 2, sizeBytes, isPrivate=True) for _ in range(2)]
    source = np.full(8, 7, np.uint8)
    segments.atomics.copy(private[0].address, source.ctypes.data, 8)
    segments.atomics.copy(writing.address + 4096, source.ctypes.data, 8)
    copies = np.empty((3, 2, 8), np.uint8)
    for copy, mapping in zip(copies, (writing, *private), strict=True):
        segments.atomics.copy(copy[0].ctypes.data, mapping.address, 8)
        segments.atomics.copy(copy[1].ctypes.data, mapping.address + 4096, 8)
    assert copies[:, 0, 0].tolist() == [0, 7, 0] and (copies[:, 1] == 7).all()
    assert all(mapping.writable for mapping in private)
    for mapping in (writing, *private):
        mapping.close()
    os.close(fd)


def test_aLeftoverOfADeadCreatorIsReplaced(paths: Paths) -> None:
    first, second = segments.create(paths, 1, 2, 4096), segments.create(paths, 1, 2, 8192)
    assert os.fstat(second).st_size == 8192 and os.fstat(first).st_ino != os.fstat(second).st_ino
    os.close(first)
    os.close(second)


def test_unlinkingTwiceIsFine(paths: Paths, domain: str) -> None:
    os.close(segments.create(paths, 1, 2, 4096))
    segments.unlink(paths, 1, 2)
    segments.unlink(paths, 1, 2)
    assert leftovers(domain) == []
    with pytest.raises(BufferFreed):
        segments.open_(paths, 1, 2, 4096)


def test_aTruncatedSegmentIsNotMapped(paths: Paths) -> None:
    fd = segments.create(paths, 1, 2, 8192)
    os.ftruncate(fd, 4096)
    with pytest.raises(ControlBlockInvalid):
        segments.open_(paths, 1, 2, 8192)
    os.close(fd)


def test_aLinkInPlaceOfASegmentIsNotFollowed(paths: Paths, domain: str) -> None:
    os.symlink("/etc/passwd", f"/dev/shm{paths.segmentName(1, 2)}")
    with pytest.raises(ControlBlockInvalid, match="symbolic"):
        segments.open_(paths, 1, 2, 1)


def test_aFullShmIsAnErrorBeforeAnyTouch(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test replaces the kernel's answer; `test_takeover` has a real full /dev/shm
    in a namespace of its own.
    """
    fd = segments.create(paths, 1, 2, 8192)
    mapping = segments.Mapping(fd, 8192, writable=True)

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(segments.atomics, "reserve", lambda *_: -errno.ENOSPC)
    with pytest.raises(HostMemoryFull, match="No space left"):
        segments.reserve(fd, mapping, 1, [Extent(0, mapping.address, 1)])
    mapping.close()
    os.close(fd)


def test_progressAddsUpForAnyNumberOfThreads(paths: Paths) -> None:
    sizeBytes = segments.CHUNK_BYTES * 2 + 4096
    fd = segments.create(paths, 1, 2, sizeBytes)
    mapping = segments.Mapping(fd, sizeBytes, writable=True)
    seen: list[int] = []
    segments.reserve(fd, mapping, 3, progress=seen.append)
    assert sum(seen) == sizeBytes and threading.active_count() < 20
    mapping.close()
    os.close(fd)


def test_noThreadIsAtWorkWhenAReservationIsInterrupted(paths: Paths) -> None:
    """Broken: the threads of a pool went on copying into the mapping that a second
    Ctrl-C had unmapped, and the process died of SIGSEGV.
    """
    sizeBytes = segments._SLICE_BYTES * 2 * 3
    fd = segments.create(paths, 1, 2, sizeBytes)
    mapping = segments.Mapping(fd, sizeBytes, writable=True)
    source = np.ones(sizeBytes, np.uint8)
    extent = Extent(0, source.ctypes.data, sizeBytes)
    before = _threads()

    def interrupt(_: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            segments.reserve(fd, mapping, 2, [extent], interrupt)
        eventually(lambda: _threads() <= before, "no thread is left")
        assert os.fstat(fd).st_blocks * 512 < sizeBytes
    mapping.close()
    os.close(fd)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))


def _extentsOf(source: np.ndarray) -> list[Extent]:
    """The array in parts of any size, in their order; one of them has no bytes."""
    ends = [0, 0, 8, 4096, 5000, 1 << 20, source.nbytes // 2 // 8 * 8, source.nbytes]
    return [
        Extent(begin, source.ctypes.data + begin, end - begin)
        for begin, end in itertools.pairwise(ends)
    ]


def test_threadsCopyTheBytesOfTheSource(paths: Paths) -> None:
    sizeBytes = segments._SLICE_BYTES * 2 + 3 * layout.PAGE_BYTES
    fd = segments.create(paths, 1, 2, sizeBytes)
    mapping = segments.Mapping(fd, sizeBytes, writable=True)
    source = np.arange((sizeBytes - 5) // 8 * 8 // 8)
    segments.reserve(fd, mapping, 2, _extentsOf(source))
    copy = np.empty_like(source)
    segments.atomics.copy(copy.ctypes.data, mapping.address, copy.nbytes)
    assert (copy == source).all()
    mapping.close()
    os.close(fd)


def test_aKernelThatCanNotPopulateIsHelpedByFallocate(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizeBytes = segments._SLICE_BYTES
    fd = segments.create(paths, 1, 2, sizeBytes)
    mapping = segments.Mapping(fd, sizeBytes, writable=True)
    source = np.arange(sizeBytes // 8)
    monkeypatch.setattr(segments.atomics, "reserve", lambda *_: -errno.EINVAL)
    segments.reserve(fd, mapping, 2, _extentsOf(source))
    copy = np.empty_like(source)
    segments.atomics.copy(copy.ctypes.data, mapping.address, copy.nbytes)
    assert (copy == source).all() and os.fstat(fd).st_blocks * 512 >= sizeBytes
    mapping.close()
    os.close(fd)


def test_aSizeThatCanNotFitIsRefusedBeforeAPageIsTaken(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: `reserve` did not check the available memory, and the kernel's
    out-of-memory killer ended the process.
    """
    fd = segments.create(paths, 0, 1, 4 * layout.PAGE_BYTES)
    mapping = segments.Mapping(fd, 4 * layout.PAGE_BYTES, writable=True)
    monkeypatch.setattr(segments.hostmemory, "availableBytes", lambda: layout.PAGE_BYTES)
    monkeypatch.setattr(segments.hostmemory, "_kept", (0.0, 0))
    with pytest.raises(HostMemoryFull, match="16K do not fit: .* has room for 4K") as raised:
        segments.reserve(fd, mapping, 1)
    assert "a larger /dev/shm does not help" in raised.value.fix, "it said to enlarge /dev/shm"
    assert os.fstat(fd).st_blocks == 0
    mapping.close()
    os.close(fd)


_ROOT = "21 1 8:1 / / rw,relatime - ext4 /dev/root rw,huge=always"
_SHM = "24 21 0:22 / /dev/shm rw,nosuid - tmpfs tmpfs rw,size=24684084k"


@pytest.mark.parametrize(
    ("machine", "mounts", "expected"),
    [
        ("always within_size advise [never] deny force", [_ROOT, _SHM], "never"),
        ("always within_size [advise] never deny force", [_ROOT, _SHM], "never"),
        (
            "always within_size advise [never] deny force",
            [_SHM + ",huge=advise,inode64", _ROOT],
            "advise",
        ),
        ("always within_size advise [never] deny force", [_SHM + ",huge=always", _SHM], "never"),
        (
            "always within_size advise [never] deny force",
            [_SHM, _SHM + ",huge=within_size"],
            "within_size",
        ),
        ("always within_size advise never [deny] force", [_SHM + ",huge=always"], "never"),
        ("always within_size advise never deny [force]", [_SHM], "always"),
        ("always within_size advise [never] deny force", [_ROOT], "never"),
    ],
)
def test_aMountSaysWhetherItHasHugePages(machine: str, mounts: list[str], expected: str) -> None:
    assert pages.offered(machine, "\n".join(mounts) + "\n") == expected


def test_asksForHugePagesWhereTheyAreOffered(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        segments.atomics, "advise", lambda address, sizeBytes, advice: asked.append(advice) or 0
    )
    fd = segments.create(paths, 1, 2, pages.HUGE_PAGE_BYTES)
    mapping = segments.Mapping(fd, pages.HUGE_PAGE_BYTES, writable=True)
    os.close(fd)
    for offer, expected in (
        ("never", []),
        ("unavailable", []),
        ("advise", [14]),
        ("within_size", [14]),
        ("always", [14]),
    ):
        monkeypatch.setattr(segments, "hugePages", lambda offer=offer: offer)
        asked.clear()
        segments.advise(mapping, None)
        assert asked == expected, offer
    mapping.close()


def test_aLimitOfThisProcessIsNamed(paths: Paths) -> None:
    """Broken: `OSError: File too large`, and `mmap: Cannot allocate memory`, which do
    not name the limit.
    """
    os.close(segments.create(paths, 0, 1, 1 << 40))  # sparse: it takes no memory
    pages, files = resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 40, pages[1]))
    try:
        with pytest.raises(HostMemoryFull, match="ulimit -v"):
            segments.mapped(paths, 0, 1, 1 << 40)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, pages)
        segments.unlink(paths, 0, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, files[1]))
    try:
        with pytest.raises(
            HostMemoryFull, match=f"process {os.getpid()} may write no file of more than 4096 bytes"
        ):
            segments.create(paths, 0, 2, 8192)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, files)
    assert paths.segmentKeys() == []
