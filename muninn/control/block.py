"""The control block as a mapping: made once, checked by everyone who opens it.

Algorithm. The block has two names of one file: `Paths.linkPath` in the domain's own
directory, which counts, and the POSIX name in `/dev/shm`, which another user may have
taken and a cleaner may remove. A creator works under the lock file's CREATE byte. It
fills a draft that nobody opens (the rows of what older journals vouch for are installed
there, see `broker/repair.py`), stores the version in it and gives the whole block its
names by one rename and one link: a creator that dies half way leaves a draft, which the
next one replaces, and whatever was there before; one that fails, for want of room say,
takes with it what it has made. So a block that has a name is whole, and one without a
version has been withdrawn: by the last member, or for a repair, and whoever withdrew it
died before it came to an end. Nothing was taken out of it, so the next process that
holds CREATE gives it the version back. A process that finds one name gone restores it
from the other; a process that finds both gone makes a new block, but not while anybody
lives in an old one (a locked slot byte says so).

A stale read of the version costs one attempt to join. A block of another boot is
discarded with everything that it named.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable
from typing import Final

from muninn.config.sizes import exactly
from muninn.control import layout
from muninn.control.geometry import Geometry
from muninn.control.header import (
    HEADER,
    IDENTITY,
    Header,
    bootId,
    giveNames,
    isOfThisBoot,
    openNamed,
    readHeader,
    unlinkBlock,
    unlinkFile,
)
from muninn.control.lockfile import LockFile
from muninn.control.withdrawal import inhabitantOf, reinstate
from muninn.errors import BrokerUnavailable, DomainChanged, HostMemoryFull
from muninn.storage.paths import SHM_ROOT, Paths
from muninn.system import atomics, clock, descriptors
from muninn.system.clock import monotonicMs as monotonicMs  # the clock of its words
from muninn.system.descriptors import Descriptor
from muninn.system.logs import Log
from muninn.system.oserrors import fileError, missingShm

_log = Log("muninn.control")
#: How long a creator waits for those who live in a block that has lost its names.
_LEAVING_SECONDS = 10.0
_LOOK_SECONDS = 0.02

#: Called with a block that nobody can open yet; what it returns is called once the
#: block can be found.
Adopt = Callable[["ControlBlock"], Callable[[], object]]


class BlockLost(Exception):
    """Both names of the block were removed from outside: nobody finds it any more, and
    who is in it has to join anew.
    """


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

    def __init__(
        self, paths: Paths, lockFile: LockFile, fd: Descriptor, geometry: Geometry
    ) -> None:
        self.lockFile: Final = lockFile
        self.geometry: Final = geometry
        self._status = os.fstat(fd.number)
        self.address: Final = atomics.mapped(fd, geometry.totalBytes, writable=True)
        self.bytes: Final = memoryview(
            (ctypes.c_char * geometry.totalBytes).from_address(self.address)
        ).cast("B")
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
        self.secret: Final = bytes(
            self.bytes[layout.SECRET_OFFSET : layout.SECRET_OFFSET + layout.SECRET_BYTES]
        )
        self.identity: Final = int.from_bytes(
            self.bytes[layout.IDENTITY_OFFSET : layout.IDENTITY_OFFSET + 8], "little"
        )
        self.paths: Final = paths._replace(identity=self.identity, folder=lockFile.paths.folder)
        self._isMapped = True
        fd.close()  # last: whoever called closes it after any error

    def memberAddress(self, slot: int) -> int:
        return self.address + layout.MEMBERS_OFFSET + slot * layout.MEMBER_BYTES

    def rowAddress(self, row: int) -> int:
        return self.rowsAddress + row * layout.ROW_BYTES

    def fencesAddress(self, row: int) -> int:
        return self._fencesAddress + row * layout.FENCE_BYTES

    def areaAddress(self, slot: int) -> int:
        return self._areasAddress + slot * self._areaBytes

    def allocate(self, offset: int, sizeBytes: int) -> None:
        """Give a range of the sparse block its pages, or raise `HostMemoryFull`:
        nothing may touch it before.
        """
        fd = self._reopened()
        try:
            os.posix_fallocate(fd.number, offset, sizeBytes)
        except OSError as error:
            raise _blockError(
                error,
                f"another {exactly(sizeBytes)} of the control block",
                "Enlarge /dev/shm, or free buffers",
            ) from error
        finally:
            fd.close()

    def _reopened(self) -> Descriptor:
        """A descriptor, for a moment: one that is kept may be closed by the program,
        and its number be somebody else's then.
        """
        for path in (self.paths.linkPath, self.paths.blockPath, self.paths.temporaryPath):
            if not self._isAt(path):
                continue
            try:
                fd = descriptors.opened(path, os.O_RDWR)
            except OSError as error:
                raise fileError(error, path) from error
            if os.path.samestat(os.fstat(fd.number), self._status):
                return fd
            fd.close()
        raise missingShm() or DomainChanged(
            f"the control block of {self.paths.stem} was removed from /dev/shm", "Try again"
        )

    def put(self, offset: int, raw: bytes) -> None:
        """Write a description. Plain stores: a word that is changed later publishes
        them.
        """
        self.bytes[offset : offset + len(raw)] = raw

    def isRetired(self) -> bool:
        """Whether somebody has withdrawn this block, and may give it back; who joins
        opens one anew.
        """
        return int(atomics.loadSeqCst32(self.address + layout.VERSION_OFFSET)) != layout.VERSION

    def hasAdopted(self) -> bool:
        """Whether all that older journals vouched for is in the rows here, so that
        nobody needs those any more.
        """
        return int(atomics.loadAcquire32(self.address + layout.ADOPTED_OFFSET)) == 1

    def hasName(self) -> bool:
        """Whether a name of the domain still leads to this block; only who holds CREATE
        can rely on the answer for long.

        Without the lock file that its slot bytes are in nobody joins it, whatever leads
        to it.
        """
        return self._hasLockFile() and (
            self._isAt(self.paths.linkPath) or self._isAt(self.paths.blockPath)
        )

    def dropJournals(self, before: int) -> None:
        """Remove its own journals of epochs before one, and other blocks', which are
        older, once all that those vouch for was adopted.

        The caller holds CREATE, and this is the domain's block: one that lost its names
        without knowing it would drop the next one's.
        """
        for ofBlock, epoch in self.paths.journals():
            if epoch < before if ofBlock.identity == self.identity else self.hasAdopted():
                unlinkFile(ofBlock.journalPath(epoch))

    def requireTemporary(self) -> None:
        """Raise `DomainChanged` if what is to get the domain's name may be another's
        draft: CREATE goes when the program reads its file.
        """
        self.lockFile.requireCreating()
        if not self._isAt(self.paths.temporaryPath):
            raise DomainChanged(
                f"another process has created the control block of {self.paths.stem} meanwhile",
                "Try again",
            )

    def dropTemporary(self) -> None:
        """Remove what was made for it before it had a name: the draft and its own
        journals, which take room. The caller holds CREATE.
        """
        paths = self.paths
        if (
            not self._isAt(paths.temporaryPath)
            or self._isAt(paths.linkPath)
            or self._isAt(paths.blockPath)
        ):
            return
        for epoch in paths.epochsOf("journal"):
            unlinkFile(paths.journalPath(epoch))
        unlinkFile(paths.temporaryPath)

    def restoreNames(self) -> bool:
        """Give the block a name back that was removed from outside; False when it has
        lost both, and nobody finds it any more.
        """
        if (
            self._hasLockFile()
            and self._isAt(self.paths.linkPath)
            and self._isAt(self.paths.blockPath)
        ):
            return True
        with self.lockFile.creating():
            if not self.hasName():
                return False
            giveNames(
                self.paths,
                self.paths.linkPath if self._isAt(self.paths.linkPath) else self.paths.blockPath,
            )
            return True

    def _hasLockFile(self) -> bool:
        status = _found(self.paths.lockPath)
        return status is not None and status.st_ino == self.lockFile.inode

    def _isAt(self, path: str) -> bool:
        status = _found(path)
        return status is not None and os.path.samestat(status, self._status)

    def close(self) -> None:
        """Unmap. Words must not be touched afterwards."""
        if self._isMapped:
            self._isMapped = False
            self.bytes.release()
            atomics.unmap(self.address, self.geometry.totalBytes)


def _found(path: str) -> os.stat_result | None:
    """What is there. Raises a typed error when this process may not look: that says
    nothing of a name's loss.
    """
    try:
        return os.lstat(path)
    except PermissionError as error:
        raise fileError(error, path) from error
    except OSError:
        return None


def openOrCreate(
    paths: Paths, lockFile: LockFile, limits: Geometry, adopt: Adopt | None = None
) -> ControlBlock:
    """The control block of the domain; made with `limits` when there is none.

    Parameters
    ----------
    adopt
        Takes over what older journals vouch for. Without it what they know stays where
        it is, and is in nobody's rows.

    Raises
    ------
    ControlBlockInvalid
        It is damaged, or of another version.
    HostMemoryFull
        `/dev/shm` has no room for it.
    BrokerUnavailable
        Somebody lives in a block that has lost its names, and does not end.
    """
    deadline = clock.now() + _LEAVING_SECONDS
    while True:
        block = openExisting(paths, lockFile)
        if block is not None:
            return block
        with lockFile.creating():
            reinstate(paths, lockFile)
            block = openExisting(paths, lockFile)
            if block is not None:
                return block
            # What those who live in a block without a name still use there must not be
            # adopted: they find out, and leave it.
            inhabitant = inhabitantOf(paths, lockFile)
            if not inhabitant:
                _discard(paths)
                return create(paths, lockFile, limits, adopt)
        if clock.now() > deadline:
            raise BrokerUnavailable(
                f"process {inhabitant} is at work in the control block of {paths.domain!r}, "
                "which was removed from /dev/shm",
                "End that process, or what it does there",
            )
        clock.sleep(_LOOK_SECONDS)


def openExisting(paths: Paths, lockFile: LockFile) -> ControlBlock | None:
    """The control block of the domain; None when there is none that somebody may join.
    Raises `ControlBlockInvalid`.
    """
    named = openNamed(paths, lockFile)
    if named is None:
        return None
    fd, path = named
    try:
        geometry = readHeader(fd, path)
        if geometry is None:
            fd.close()
            return None
        return ControlBlock(paths, lockFile, fd, geometry)
    except BaseException:
        with contextlib.suppress(OSError):  # a mapping that failed has not taken it
            fd.close()
        raise


def _discard(paths: Paths) -> None:
    """Remove what is at the block's names and is no block of now: of another boot with
    all that it named. The caller holds CREATE.
    """
    named = openNamed(paths)
    if named is None:
        return
    header = Header.of(named[0])
    named[0].close()
    if header is not None and header.magic == layout.MAGIC and not isOfThisBoot(header.boot):
        for key in paths.segmentKeys():
            unlinkFile(f"{SHM_ROOT}{paths.segmentName(key.row, key.incarnation, key.origin)}")
        for ofBlock, epoch in paths.journals():
            unlinkFile(ofBlock.journalPath(epoch))
    unlinkBlock(paths)


def _blockError(error: OSError, what: str, fix: str) -> Exception:
    if error.errno == errno.ENOSPC:
        return HostMemoryFull(f"/dev/shm has no room for {what}", fix)
    return fileError(error, what)


def create(paths: Paths, lockFile: LockFile, limits: Geometry, adopt: Adopt | None) -> ControlBlock:
    """Make a block, whole, and put it in the place of whatever has the names. The
    caller holds CREATE.
    """
    # of a creator, and of brokers, that died: nobody is in the domain
    for left in (paths.temporaryPath, *paths.copies()):
        unlinkFile(left)
    try:
        fd = descriptors.opened(
            paths.temporaryPath, os.O_RDWR | os.O_CREAT | os.O_EXCL, maker=paths.uid
        )
    except OSError as error:
        raise fileError(error, paths.temporaryPath) from error
    boot = bootId()
    try:
        os.ftruncate(fd.number, limits.totalBytes)
        os.posix_fallocate(fd.number, 0, limits.rowsOffset)
        identity = int.from_bytes(os.urandom(8), "little") or 1
        os.pwrite(fd.number, HEADER.pack(layout.MAGIC, 0, boot, limits.totalBytes, *limits), 0)
        os.pwrite(fd.number, os.urandom(layout.SECRET_BYTES), layout.SECRET_OFFSET)
        os.pwrite(
            fd.number,
            IDENTITY.pack(identity, lockFile.inode, 0, layout.VERSION),
            layout.IDENTITY_OFFSET,
        )
        block = ControlBlock(paths, lockFile, fd, limits)
    except OSError as error:
        fd.close()
        unlinkFile(paths.temporaryPath)
        # addresses for all, pages for what all have
        neededBytes = limits.totalBytes if error.errno == errno.ENOMEM else limits.rowsOffset
        raise _blockError(
            error,
            f"{exactly(neededBytes)} for the control block",
            "Enlarge /dev/shm, or free what is in it",
        ) from error
    try:
        published = adopt(block) if adopt is not None else None
        # SYNC version: pairs with readHeader in every process that opens the block;
        # header, secret and rows are visible before it.
        atomics.storeRelease32(block.address + layout.VERSION_OFFSET, layout.VERSION)
        block.requireTemporary()
        os.rename(paths.temporaryPath, paths.linkPath)
        giveNames(paths, paths.linkPath)
    except BaseException:
        block.dropTemporary()
        block.close()
        raise
    if published is not None:
        published()
    return block
