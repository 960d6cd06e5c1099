"""The control block as a mapping: made once, checked by everyone who opens it.

Algorithm. The block has two names of one file: `Places.linkPath` in the domain's own directory, which counts, and the POSIX name in
`/dev/shm`, which another user may have taken and a cleaner may remove. A creator works under the lock file's CREATE byte. It fills a
draft that nobody opens (the rows of what older journals vouch for are installed there, see `broker/repair.py`), stores the version in it
and gives the whole block its names by one rename and one link: a creator that dies half way leaves a draft, which the next one
replaces, and whatever was there before. So a block that has a name is whole, and one without a version has been withdrawn:
by the last member, or for a repair, and whoever withdrew it died before it came to an end. Nothing was taken out of it, so the next
process that holds CREATE gives it the version back. A process that finds one name gone restores it from the other; a process that finds
both gone makes a new block, but not while anybody lives in an old one (a locked slot byte says so).

A stale read of the version costs one attempt to join. A block of another boot is discarded with everything that it named.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import stat
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

import posix_ipc

from muninn.control import atomics, clock, descriptors, layout
from muninn.control.clock import monotonicMs as monotonicMs  # the clock of its words
from muninn.control.files import openFile
from muninn.control.layout import Geometry
from muninn.control.lockfile import LockFile, fileError
from muninn.control.places import SHM_ROOT, Places
from muninn.errors import BrokerUnavailable, ControlBlockInvalid, DomainChanged, HostMemoryFull

_log = logging.getLogger("muninn.control")
_HEADER = struct.Struct("<8sIxxxx16sQIIII")
_IDENTITY = struct.Struct("<QQI")
#: How long a creator waits for those who live in a block that has lost its names.
_LEAVING_SECONDS = 10.0
_LOOK_SECONDS = 0.02

#: Called with a block that nobody can open yet; what it returns is called once the block can be found.
Adopt = Callable[["ControlBlock"], Callable[[], object]]


def bootId() -> bytes:
    """16 bytes that change with every boot."""
    with openFile("/proc/sys/kernel/random/boot_id") as file:
        return bytes.fromhex(file.read().strip().replace("-", ""))


class BlockLost(Exception):
    """Both names of the block were removed from outside: nobody finds it any more, and who is in it has to join anew."""


class Header(NamedTuple):
    """What a control block says of itself, read by a copy."""

    magic: bytes
    version: int
    boot: bytes
    totalBytes: int
    maxMembers: int
    maxBuffers: int
    maxLeases: int
    indexSlots: int
    identity: int
    lockInode: int
    adopted: int

    @staticmethod
    def of(fd: int) -> Header | None:
        """None when the file is too short to have one."""
        raw = os.pread(fd, layout.ELECTION_OFFSET, 0)
        if len(raw) < layout.ELECTION_OFFSET:
            return None
        return Header(*_HEADER.unpack_from(raw), *_IDENTITY.unpack_from(raw, layout.IDENTITY_OFFSET))

    def isWithdrawn(self) -> bool:
        """Whether it was whole once, and somebody took its version away."""
        return (self.magic, self.version, self.boot) == (layout.MAGIC, 0, bootId()) and self.identity != 0


class ControlBlock:
    """A mapped, validated control block.

    Attributes
    ----------
    address
        Where it is mapped, as an integer; words are reached through `atomics` only.
    bytes
        A view, to read descriptions (which are published by a word) and not words.
    identity
        Random, and no other block's.
    places
        The names that belong to this block.
    """

    def __init__(self, places: Places, lockFile: LockFile, fd: int, geometry: Geometry) -> None:
        self.lockFile: Final = lockFile
        self.geometry: Final = geometry
        self._status = os.fstat(fd)
        self.address: Final = atomics.mapped(fd, geometry.totalBytes, writable=True)
        self.bytes: Final = memoryview((ctypes.c_char * geometry.totalBytes).from_address(self.address)).cast("B")
        self.electionAddress: Final = self.address + layout.ELECTION_OFFSET
        self.readyAddress: Final = self.address + layout.READY_OFFSET
        self.heartbeatAddress: Final = self.address + layout.HEARTBEAT_OFFSET
        self.rowsReadyAddress: Final = self.address + layout.ROWS_READY_OFFSET
        self.drainAddress: Final = self.address + layout.DRAIN_OFFSET
        self.forkedAddress: Final = self.address + layout.FORKED_OFFSET
        # Kept, and not counted anew by each look at a row.
        self.rowsOffset: Final = geometry.rowsOffset
        self.rowsAddress: Final = self.address + self.rowsOffset
        self._fencesAddress: Final = self.address + geometry.fencesOffset
        self._areasAddress: Final = self.address + geometry.areasOffset
        self._areaBytes: Final = geometry.areaBytes
        self.secret: Final = bytes(self.bytes[layout.SECRET_OFFSET : layout.SECRET_OFFSET + layout.SECRET_BYTES])
        self.identity: Final = int.from_bytes(self.bytes[layout.IDENTITY_OFFSET : layout.IDENTITY_OFFSET + 8], "little")
        self.places: Final = places._replace(identity=self.identity)
        self._isMapped = True
        os.close(fd)  # last: whoever called closes it after any error

    def memberAddress(self, slot: int) -> int:
        return self.address + layout.MEMBERS_OFFSET + slot * layout.MEMBER_BYTES

    def rowAddress(self, row: int) -> int:
        return self.rowsAddress + row * layout.ROW_BYTES

    def fencesAddress(self, row: int) -> int:
        return self._fencesAddress + row * layout.FENCE_BYTES

    def areaAddress(self, slot: int) -> int:
        return self._areasAddress + slot * self._areaBytes

    def allocate(self, offset: int, sizeBytes: int) -> None:
        """Give a range of the sparse block its pages, or raise `HostMemoryFull`: nothing may touch it before."""
        fd = self._reopened()
        try:
            os.posix_fallocate(fd, offset, sizeBytes)
        except OSError as error:
            raise HostMemoryFull(
                f"the control block can not grow by {sizeBytes} bytes: {error.strerror}", "Enlarge /dev/shm, or free buffers"
            ) from error
        finally:
            os.close(fd)

    def _reopened(self) -> int:
        """A descriptor, for a moment: one that is kept may be closed by the program, and its number be somebody else's then."""
        for path in (self.places.linkPath, self.places.blockPath, self.places.draftPath):
            if not self._isAt(path):
                continue
            try:
                fd = descriptors.opened(path, os.O_RDWR)
            except OSError as error:
                raise fileError(error, path) from error
            if os.path.samestat(os.fstat(fd), self._status):
                return fd
            os.close(fd)
        raise DomainChanged(f"the control block of {self.places.stem} was removed from /dev/shm", "Try again")

    def put(self, offset: int, raw: bytes) -> None:
        """Write a description. Plain stores: a word that is changed later publishes them."""
        self.bytes[offset : offset + len(raw)] = raw

    def isRetired(self) -> bool:
        """Whether somebody has withdrawn this block, and may give it back; who joins opens one anew."""
        return int(atomics.loadSeqCst32(self.address + layout.VERSION_OFFSET)) != layout.VERSION

    def hasAdopted(self) -> bool:
        """Whether all that older journals vouched for is in the rows here, so that nobody needs those any more."""
        return int(atomics.loadAcquire32(self.address + layout.ADOPTED_OFFSET)) == 1

    def hasName(self) -> bool:
        """Whether a name of the domain still leads to this block; only who holds CREATE can rely on the answer for long.

        Without the lock file that its slot bytes are in nobody joins it, whatever leads to it.
        """
        return self._hasLockFile() and (self._isAt(self.places.linkPath) or self._isAt(self.places.blockPath))

    def restoreNames(self) -> bool:
        """Give the block a name back that was removed from outside; False when it has lost both, and nobody finds it any more."""
        if self._hasLockFile() and self._isAt(self.places.linkPath) and self._isAt(self.places.blockPath):
            return True
        with self.lockFile.creating():
            if not self.hasName():
                return False
            _giveNames(self.places, self.places.linkPath if self._isAt(self.places.linkPath) else self.places.blockPath)
            return True

    def _hasLockFile(self) -> bool:
        try:
            return os.lstat(self.places.lockPath).st_ino == self.lockFile.inode
        except OSError:
            return False

    def _isAt(self, path: str) -> bool:
        try:
            return os.path.samestat(os.lstat(path), self._status)
        except OSError:
            return False

    def close(self) -> None:
        """Unmap. Words must not be touched afterwards."""
        if self._isMapped:
            self._isMapped = False
            self.bytes.release()
            atomics.unmap(self.address, self.geometry.totalBytes)


def openOrCreate(places: Places, lockFile: LockFile, limits: Geometry, adopt: Adopt | None = None) -> ControlBlock:
    """The control block of the domain; made with `limits` when there is none.

    Parameters
    ----------
    adopt
        Takes over what older journals vouch for. Without it what they know stays where it is, and is in nobody's rows.

    Raises
    ------
    ControlBlockInvalid
        It is damaged, or of another version.
    HostMemoryFull
        `/dev/shm` has no room for it.
    BrokerUnavailable
        Somebody lives in a block that has lost its names, and does not end.
    """
    block = openExisting(places, lockFile)
    if block is not None:
        return block
    with lockFile.creating():
        _reinstate(places, lockFile)
        block = openExisting(places, lockFile)
        if block is None:
            _awaitNobody(places, lockFile)
            _discard(places)
            block = create(places, lockFile, limits, adopt)
    return block


def readHeader(fd: int, path: str) -> Geometry | None:
    """The geometry that a control block states; None when it is withdrawn or of another boot. Copied before it is checked."""
    header = Header.of(fd)
    if header is None or header.version == 0:
        return None
    if header.magic != layout.MAGIC:
        raise ControlBlockInvalid(f"{path} does not begin with Muninn's magic")
    if header.boot != bootId():
        return None
    if header.version != layout.VERSION:
        raise ControlBlockInvalid(
            f"{path} has layout version {header.version}, and this program speaks {layout.VERSION}",
            "Use one version of Muninn in all processes of a domain",
        )
    geometry = Geometry(header.maxMembers, header.maxBuffers, header.maxLeases, header.indexSlots).checked()
    sizeBytes = os.fstat(fd).st_size
    if geometry.totalBytes != header.totalBytes or sizeBytes < header.totalBytes:
        raise ControlBlockInvalid(f"{path} has {sizeBytes} bytes and states {header.totalBytes}, its sizes make {geometry.totalBytes}")
    return geometry


def openNamed(places: Places, lockFile: LockFile | None = None) -> tuple[int, str] | None:
    """A descriptor of the domain's control block, and the name that led to it; None when there is none that is ours.

    Only a regular file of this uid that nobody else may open is ours; with a lock file given also only a block of that lock file, since
    another one's slot bytes are not in it.
    """
    for path, opened in ((places.linkPath, _openedLink), (places.blockPath, _openedName)):
        fd = opened(places)
        if fd is None:
            continue
        header = Header.of(fd) if _isOurs(os.fstat(fd), path, places) else None
        if header is not None and (lockFile is None or header.magic != layout.MAGIC or header.lockInode == lockFile.inode):
            return fd, path
        os.close(fd)
    return None


def _openedLink(places: Places) -> int | None:
    try:
        return descriptors.opened(places.linkPath, os.O_RDWR | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        typed = fileError(error, places.linkPath)
        if typed is not error:
            raise typed from error
        raise ControlBlockInvalid(
            f"{places.linkPath} can not be opened: {error.strerror}", "Remove it, once you know who made it"
        ) from error


def _openedName(places: Places) -> int | None:
    try:
        memory = posix_ipc.SharedMemory(places.blockName)
    except posix_ipc.ExistentialError:
        return None
    except (posix_ipc.Error, ValueError, OSError) as error:
        if isinstance(error, OSError) and (typed := fileError(error, places.blockName)) is not error:
            raise typed from error
        _warnOfStranger(places, str(error))
        return None
    try:
        return descriptors.own(descriptors.duplicate(memory.fd))
    finally:
        memory.close_fd()


def _isOurs(status: os.stat_result, path: str, places: Places) -> bool:
    if stat.S_ISREG(status.st_mode) and status.st_uid == places.uid and not status.st_mode & 0o077:
        return True
    _warnOfStranger(places, f"{path} is uid {status.st_uid}'s with mode {stat.filemode(status.st_mode)}")
    return False


#: What was warned of, once.
_strangers: set[tuple[str, str]] = set()


def _warnOfStranger(places: Places, what: str) -> None:
    if (places.blockPath, what) in _strangers:
        return
    _strangers.add((places.blockPath, what))
    _log.warning("%s is left alone, it is not uid %d's own: %s; `python -m muninn doctor` says more", places.blockPath, places.uid, what)


def openExisting(places: Places, lockFile: LockFile) -> ControlBlock | None:
    """The control block of the domain; None when there is none that somebody may join. Raises `ControlBlockInvalid`."""
    named = openNamed(places, lockFile)
    if named is None:
        return None
    fd, path = named
    try:
        geometry = readHeader(fd, path)
        if geometry is None:
            os.close(fd)
            return None
        return ControlBlock(places, lockFile, fd, geometry)
    except BaseException:
        with contextlib.suppress(OSError):  # a mapping that failed has not taken it
            os.close(fd)
        raise


class Withdrawal:
    """The version of whatever block there is, taken away for as long as this is open. The caller holds CREATE.

    Who joins meanwhile has its slot first and reads the version second, so it is seen by `holder`, or sees that it has to wait.
    """

    def __init__(self, places: Places, lockFile: LockFile) -> None:
        self._lockFile = lockFile
        named = openNamed(places)
        self._fd = -1 if named is None else named[0]
        if self._fd >= 0:
            self._before = os.pread(self._fd, 4, layout.VERSION_OFFSET)
            os.pwrite(self._fd, bytes(4), layout.VERSION_OFFSET)

    def holder(self) -> int:
        """The pid of a process that is in the domain; 0: nobody is."""
        return self._lockFile.anyLocked()

    def giveBack(self) -> None:
        """Let the block be what it was."""
        if self._fd >= 0:
            os.pwrite(self._fd, self._before, layout.VERSION_OFFSET)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _reinstate(places: Places, lockFile: LockFile) -> None:
    """Give a block its version back that somebody was withdrawing, and died. The caller holds CREATE, as who withdraws does.

    Whoever withdraws removes the names first and anything else later, so a block that has a name is whole.
    """
    named = openNamed(places, lockFile)
    if named is None:
        return
    fd, _ = named
    try:
        header = Header.of(fd)
        if header is not None and header.isWithdrawn():
            os.pwrite(fd, layout.VERSION.to_bytes(4, "little"), layout.VERSION_OFFSET)
    finally:
        os.close(fd)


def _awaitNobody(places: Places, lockFile: LockFile) -> None:
    """Those who live in a block without a name find out, and leave it; what they still use there must not be adopted meanwhile."""
    deadline = clock.now() + _LEAVING_SECONDS
    while pid := lockFile.anyLocked():
        if clock.now() > deadline:
            raise BrokerUnavailable(
                f"the control block of {places.domain!r} was removed from /dev/shm while process {pid} uses it", "End that process"
            )
        clock.sleep(_LOOK_SECONDS)


def _discard(places: Places) -> None:
    """Remove what is at the block's names and is no block of now: of another boot with all that it named. The caller holds CREATE."""
    named = openNamed(places)
    if named is None:
        return
    header = Header.of(named[0])
    os.close(named[0])
    if header is not None and header.magic == layout.MAGIC and header.boot != bootId():
        for key in places.segmentKeys():
            _unlinkFile(f"{SHM_ROOT}{places.segmentName(key.row, key.incarnation, key.origin)}")
        for ofBlock, epoch in places.journals():
            _unlinkFile(ofBlock.journalPath(epoch))
    unlinkBlock(places)


def unlinkBlock(places: Places) -> None:
    """Take both names away. What is not ours is left alone."""
    with contextlib.suppress(OSError, posix_ipc.Error):  # gone already, or another user's: then it is not in our way
        posix_ipc.unlink_shared_memory(places.blockName)
    _unlinkFile(places.linkPath)


def _unlinkFile(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def create(places: Places, lockFile: LockFile, limits: Geometry, adopt: Adopt | None) -> ControlBlock:
    """Make a block, whole, and put it in the place of whatever has the names. The caller holds CREATE."""
    _unlinkFile(places.draftPath)  # of a creator that died
    try:
        fd = descriptors.opened(places.draftPath, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except OSError as error:
        raise fileError(error, places.draftPath) from error
    try:
        os.fchmod(fd, 0o600)  # whatever the umask took away
        os.ftruncate(fd, limits.totalBytes)
        os.posix_fallocate(fd, 0, limits.rowsOffset)
        identity = int.from_bytes(os.urandom(8), "little") or 1
        os.pwrite(fd, _HEADER.pack(layout.MAGIC, 0, bootId(), limits.totalBytes, *limits), 0)
        os.pwrite(fd, os.urandom(layout.SECRET_BYTES), layout.SECRET_OFFSET)
        os.pwrite(fd, _IDENTITY.pack(identity, lockFile.inode, 0), layout.IDENTITY_OFFSET)
        block = ControlBlock(places, lockFile, fd, limits)
    except OSError as error:
        os.close(fd)
        _unlinkFile(places.draftPath)
        raise HostMemoryFull(
            f"/dev/shm has no room for the control block: {error.strerror}", "Enlarge /dev/shm, or free what is in it"
        ) from error
    try:
        published = adopt(block) if adopt is not None else None
        # SYNC version: pairs with readHeader in every process that opens the block; header, secret and rows are visible before it.
        atomics.storeRelease32(block.address + layout.VERSION_OFFSET, layout.VERSION)
        os.rename(places.draftPath, places.linkPath)
        _giveNames(places, places.linkPath)
    except BaseException:
        block.close()
        raise
    if published is not None:
        published()
    return block


def _giveNames(places: Places, path: str) -> None:
    """Let both names lead to the file at `path`, which is one of them. The caller holds CREATE."""
    wanted = os.lstat(path)
    for other in (places.linkPath, places.blockPath):
        try:
            status = os.lstat(other)
        except FileNotFoundError:
            os.link(path, other, follow_symlinks=False)
            continue
        if os.path.samestat(status, wanted):
            continue
        if not _isOurs(status, other, places):
            continue
        _unlinkFile(places.draftPath)
        os.link(path, places.draftPath, follow_symlinks=False)
        os.rename(places.draftPath, other)  # in one step: nobody finds none
