"""The control block as a mapping: made once, checked by everyone who opens it.

The creator works under the lock file's CREATE byte and stores the version last, so a block is either ready or nobody's. A creator
that dies half way leaves a block without a version, which the next one replaces. A block of another boot is discarded with
everything that it named.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

import posix_ipc

from muninn.control import atomics, layout
from muninn.control.clock import monotonicMs as monotonicMs  # the clock of its words
from muninn.control.layout import Geometry
from muninn.control.lockfile import LockFile, fileError
from muninn.control.places import SHM_ROOT, Places
from muninn.errors import ControlBlockInvalid, HostMemoryFull

_HEADER = struct.Struct("<8sIxxxx16sQIIII")


def bootId() -> bytes:
    """16 bytes that change with every boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


class ControlBlock:
    """A mapped, validated control block.

    Attributes
    ----------
    address
        Where it is mapped, as an integer; words are reached through `atomics` only.
    bytes
        A view, to read descriptions (which are published by a word) and not words.
    """

    def __init__(self, places: Places, lockFile: LockFile, fd: int, geometry: Geometry) -> None:
        self.places: Final = places
        self.lockFile: Final = lockFile
        self.geometry: Final = geometry
        self._fd = fd
        self.address: Final = atomics.mapped(fd, geometry.totalBytes, writable=True)
        self.bytes: Final = memoryview((ctypes.c_char * geometry.totalBytes).from_address(self.address)).cast("B")
        self.electionAddress: Final = self.address + layout.ELECTION_OFFSET
        self.readyAddress: Final = self.address + layout.READY_OFFSET
        self.heartbeatAddress: Final = self.address + layout.HEARTBEAT_OFFSET
        self.rowsReadyAddress: Final = self.address + layout.ROWS_READY_OFFSET
        self.drainAddress: Final = self.address + layout.DRAIN_OFFSET
        self.rowsAddress: Final = self.address + geometry.rowsOffset
        self.secret: Final = bytes(self.bytes[layout.SECRET_OFFSET : layout.SECRET_OFFSET + layout.SECRET_BYTES])

    def memberAddress(self, slot: int) -> int:
        return self.address + layout.MEMBERS_OFFSET + slot * layout.MEMBER_BYTES

    def rowAddress(self, row: int) -> int:
        return self.rowsAddress + row * layout.ROW_BYTES

    def fencesAddress(self, row: int) -> int:
        return self.address + self.geometry.fencesOffset + row * layout.FENCE_BYTES

    def areaAddress(self, slot: int) -> int:
        return self.address + self.geometry.areasOffset + slot * self.geometry.areaBytes

    def allocate(self, offset: int, sizeBytes: int) -> None:
        """Give a range of the sparse block its pages, or raise `HostMemoryFull`: nothing may touch it before."""
        try:
            os.posix_fallocate(self._fd, offset, sizeBytes)
        except OSError as error:
            raise HostMemoryFull(
                f"the control block can not grow by {sizeBytes} bytes: {error.strerror}", "Enlarge /dev/shm, or free buffers"
            ) from error

    def put(self, offset: int, raw: bytes) -> None:
        """Write a description. Plain stores: a word that is changed later publishes them."""
        self.bytes[offset : offset + len(raw)] = raw

    def isRetired(self) -> bool:
        """Whether the last member has withdrawn this block; a new one must be opened."""
        return int(atomics.loadSeqCst32(self.address + layout.VERSION_OFFSET)) != layout.VERSION

    def hasName(self) -> bool:
        """Whether the domain's name still leads to this block; only who holds CREATE can rely on the answer."""
        try:
            named = os.stat(f"{SHM_ROOT}{self.places.blockName}")
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._fd))

    def close(self) -> None:
        """Unmap. Words must not be touched afterwards."""
        if self._fd >= 0:
            self.bytes.release()
            atomics.unmap(self.address, self.geometry.totalBytes)
            os.close(self._fd)
            self._fd = -1


def openOrCreate(places: Places, lockFile: LockFile, limits: Geometry) -> ControlBlock:
    """The control block of the domain; made with `limits` when there is none.

    Raises
    ------
    ControlBlockInvalid
        It is damaged, or of another version.
    HostMemoryFull
        `/dev/shm` has no room for it.
    """
    block = _open(places, lockFile)
    if block is not None:
        return block
    with lockFile.creating():
        _reinstate(places, lockFile)
        block = _open(places, lockFile)
        if block is None:
            _discard(places)
            block = _create(places, lockFile, limits)
    return block


def readHeader(fd: int, path: str) -> Geometry | None:
    """The geometry that a control block states; None when it is unfinished or of another boot. Copied before it is checked."""
    raw = os.pread(fd, _HEADER.size, 0)
    if len(raw) < _HEADER.size:
        return None
    magic, version, boot, totalBytes, maxMembers, maxBuffers, maxLeases, indexSlots = _HEADER.unpack(raw)
    if version == 0:
        return None
    if magic != layout.MAGIC:
        raise ControlBlockInvalid(f"{path} does not begin with Muninn's magic")
    if boot != bootId():
        return None
    if version != layout.VERSION:
        raise ControlBlockInvalid(
            f"{path} has layout version {version}, and this program speaks {layout.VERSION}",
            "Use one version of Muninn in all processes of a domain",
        )
    geometry = Geometry(maxMembers, maxBuffers, maxLeases, indexSlots).checked()
    if geometry.totalBytes != totalBytes or os.fstat(fd).st_size < totalBytes:
        raise ControlBlockInvalid(f"{path} has {os.fstat(fd).st_size} bytes and states {totalBytes}, its sizes make {geometry.totalBytes}")
    return geometry


def _open(places: Places, lockFile: LockFile) -> ControlBlock | None:
    try:
        memory = posix_ipc.SharedMemory(places.blockName)
    except posix_ipc.ExistentialError:
        return None
    except (posix_ipc.Error, ValueError, OSError) as error:
        typed = fileError(error, places.blockName) if isinstance(error, OSError) else error
        if typed is not error:
            raise typed from error
        raise ControlBlockInvalid(
            f"/dev/shm{places.blockName} can not be opened as shared memory: {error}", "Remove it, once you know who made it"
        ) from error
    try:
        geometry = readHeader(memory.fd, f"/dev/shm{places.blockName}")
        if geometry is not None:
            return ControlBlock(places, lockFile, os.dup(memory.fd), geometry)
    finally:
        memory.close_fd()
    return None


def _reinstate(places: Places, lockFile: LockFile) -> None:
    """Give a block its version back, if somebody was killed while withdrawing it and others live in it.

    The caller holds CREATE, as who withdraws does.
    """
    try:
        memory = posix_ipc.SharedMemory(places.blockName)
    except (posix_ipc.ExistentialError, OSError):
        return
    try:
        raw = os.pread(memory.fd, _HEADER.size, 0)
        if len(raw) < _HEADER.size:
            return
        magic, version, boot, _, maxMembers, *_ = _HEADER.unpack(raw)
        # A creator stores the version before anybody can claim a slot, so a locked slot says that it was there.
        ours = (magic, version, boot) == (layout.MAGIC, 0, bootId())
        if ours and any(lockFile.slotIsLocked(slot) for slot in range(min(maxMembers, layout.MAX_MEMBERS_LIMIT))):
            os.pwrite(memory.fd, layout.VERSION.to_bytes(4, "little"), layout.VERSION_OFFSET)
    finally:
        memory.close_fd()


def _discard(places: Places) -> None:
    """Remove an unfinished block, or one of another boot with all that it named. The caller holds CREATE."""
    try:
        memory = posix_ipc.SharedMemory(places.blockName)
    except posix_ipc.ExistentialError:
        return
    raw = os.pread(memory.fd, _HEADER.size, 0)
    memory.close_fd()
    ofAnotherBoot = len(raw) == _HEADER.size and _HEADER.unpack(raw)[1] != 0
    if ofAnotherBoot:
        for row, incarnation in places.segments():
            unlinkQuietly(places.segmentName(row, incarnation))
        for epoch in places.epochsOf("journal"):
            os.unlink(places.journalPath(epoch))
    unlinkQuietly(places.blockName)


def unlinkQuietly(name: str) -> None:
    """Unlink a shared-memory object; that it is gone already is what was wanted."""
    try:
        posix_ipc.unlink_shared_memory(name)
    except posix_ipc.ExistentialError:
        return


def _create(places: Places, lockFile: LockFile, limits: Geometry) -> ControlBlock:
    try:
        memory = posix_ipc.SharedMemory(places.blockName, posix_ipc.O_CREX, mode=0o600)
    except OSError as error:
        raise fileError(error, places.blockName) from error
    try:
        os.ftruncate(memory.fd, limits.totalBytes)
        os.posix_fallocate(memory.fd, 0, limits.rowsOffset)
        header = _HEADER.pack(layout.MAGIC, 0, bootId(), limits.totalBytes, *limits)
        os.pwrite(memory.fd, header, 0)
        os.pwrite(memory.fd, os.urandom(layout.SECRET_BYTES), layout.SECRET_OFFSET)
        block = ControlBlock(places, lockFile, os.dup(memory.fd), limits)
    except OSError as error:
        posix_ipc.unlink_shared_memory(places.blockName)
        raise HostMemoryFull(
            f"/dev/shm has no room for the control block: {error.strerror}", "Enlarge /dev/shm, or free what is in it"
        ) from error
    finally:
        memory.close_fd()
    # SYNC ready: pairs with readHeader in every process that opens the block; the header and the secret are visible before the version.
    atomics.storeRelease32(block.address + layout.VERSION_OFFSET, layout.VERSION)
    return block
