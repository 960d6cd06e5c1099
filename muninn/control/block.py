"""The control block as a mapping: the shared words of a domain, by their addresses.

The block is one file with two names. `Paths.linkPath` in the domain's own directory is
the name that counts. The POSIX name in `/dev/shm` is for other programs to find.
Another user may have taken it, and a program that cleans up may remove it. A process
that finds one name gone restores it from the other, under the lock file's CREATE byte.
A process that finds both gone leaves the block (`BlockLost`) and joins anew;
`creation.py` says how a new block comes to be.

A block that has a name is whole. A block without a version has been withdrawn
(`withdrawal.py`): by the last member, or for a repair.

A process allocates the pages of a range (`allocate`) before any process touches them: a
write to a hole of a full tmpfs would be a SIGBUS.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

from muninn.config.sizes import exactly
from muninn.control import layout
from muninn.control.geometry import Geometry
from muninn.control.header import (
    giveNames,
    unlinkFile,
)
from muninn.control.lockfile import LockFile
from muninn.errors import DomainChanged, HostMemoryFull
from muninn.storage.paths import Paths
from muninn.system import atomics, descriptors
from muninn.system.clock import monotonicMs as monotonicMs  # the clock of its words
from muninn.system.descriptors import Descriptor
from muninn.system.logs import Log
from muninn.system.oserrors import fileError, missingShm

_log = Log("muninn.control")


class BlockLost(Exception):
    """Both names of the block were removed from outside. No process finds it any more,
    and the processes that use it have to join anew.
    """


class ControlBlock:
    """A mapped, validated control block.

    Attributes
    ----------
    address
        The address at which it is mapped, as an integer. Words are read and changed
        through `atomics` only.
    bytes
        A view of the bytes, to read descriptions (which a word publishes), and not
        words.
    identity
        A random number that no other block has.
    paths The names of this block's files.
    """

    def __init__(
        self,
        paths: Paths,
        lockFile: LockFile,
        fd: Descriptor,
        geometry: Geometry,
    ) -> None:
        self.lockFile: Final = lockFile
        self.geometry: Final = geometry
        self._status = os.fstat(fd.number)
        self.address: Final = self._mapped(fd, geometry.totalBytes)
        self.bytes: Final = memoryview(
            (ctypes.c_char * geometry.totalBytes).from_address(self.address)
        ).cast("B")
        self._isMapped = True
        self._begin(fd)
        self.electionAddress: Final = self.address + layout.ELECTION_OFFSET
        self.readyAddress: Final = self.address + layout.READY_OFFSET
        self.heartbeatAddress: Final = self.address + layout.HEARTBEAT_OFFSET
        self.rowsReadyAddress: Final = self.address + layout.ROWS_READY_OFFSET
        self.drainAddress: Final = self.address + layout.DRAIN_OFFSET
        self.forkedAddress: Final = self.address + layout.FORKED_OFFSET
        self.replacementAddress: Final = self.address + layout.REPLACEMENT_OFFSET
        # Stored here, so that reading a row does not calculate it again.
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
        fd.close()  # last: the caller closes it after any error

    def _mapped(self, fd: Descriptor, sizeBytes: int) -> int:
        """The address of so many bytes with the content of the file."""
        return atomics.mapped(fd, sizeBytes, writable=True)

    def _begin(self, fd: Descriptor) -> None:
        """Called before a byte is used: a mapping has them all."""

    def memberAddress(self, slot: int) -> int:
        return self.address + layout.MEMBERS_OFFSET + slot * layout.MEMBER_BYTES

    def rowAddress(self, row: int) -> int:
        return self.rowsAddress + row * layout.ROW_BYTES

    def fencesAddress(self, row: int) -> int:
        return self._fencesAddress + row * layout.FENCE_BYTES

    def areaAddress(self, slot: int) -> int:
        return self._areasAddress + slot * self._areaBytes

    def allocate(self, offset: int, sizeBytes: int) -> None:
        """Allocate the pages of a range of the sparse block, which no process may touch
        before. Raises `HostMemoryFull`.
        """
        fd = self._reopened()
        try:
            os.posix_fallocate(fd.number, offset, sizeBytes)
        except OSError as error:
            raise roomError(
                error,
                f"another {exactly(sizeBytes)} of the control block",
                "Enlarge /dev/shm, or free buffers",
            ) from error
        finally:
            fd.close()

    def _reopened(self) -> Descriptor:
        """Open a descriptor for a moment. If it were kept, the program might close it,
        and its number might then lead to another file.
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
        """Write a description. These are plain stores; a later change of a word
        publishes them.
        """
        self.bytes[offset : offset + len(raw)] = raw

    def isRetired(self) -> bool:
        """Whether a process has withdrawn this block, and may give it back. A process
        that joins opens a block anew.
        """
        return int(atomics.loadSeqCst32(self.address + layout.VERSION_OFFSET)) != layout.VERSION

    def hasAdopted(self) -> bool:
        """Whether all buffers that older journals vouched for are in the rows here, so
        that no process needs those journals any more.
        """
        return int(atomics.loadAcquire32(self.address + layout.ADOPTED_OFFSET)) == 1

    def hasName(self) -> bool:
        """Whether a name of the domain still leads to this block. The answer lasts only
        while the caller holds CREATE.

        If the lock file with the bytes of its slots is gone, no process joins the
        block, even by a name that leads to it.
        """
        return self._hasLockFile() and (
            self._isAt(self.paths.linkPath) or self._isAt(self.paths.blockPath)
        )

    def dropJournals(self, before: int) -> None:
        """Remove this block's journals of the epochs before `before`. Remove the older
        journals of other blocks too, once every buffer that they vouch for was adopted.

        The caller holds CREATE, and has found that this is the domain's block. A block
        that has lost its names would otherwise drop the journals of the next block.
        """
        for ofBlock, epoch in self.paths.journals():
            if epoch < before if ofBlock.identity == self.identity else self.hasAdopted():
                unlinkFile(ofBlock.journalPath(epoch))

    def requireTemporary(self) -> None:
        """Raise `DomainChanged` if the temporary file may be another process's: this
        process loses CREATE if the program reads the lock file.
        """
        self.lockFile.requireCreating()
        if not self._isAt(self.paths.temporaryPath):
            raise DomainChanged(
                f"another process has created the control block of {self.paths.stem} meanwhile",
                "Try again",
            )

    def dropTemporary(self) -> None:
        """Remove the temporary file and this block's journals, which take room, if the
        block has no name yet. The caller holds CREATE.
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
        """Restore a name of the block that was removed from outside. Returns False if
        both are gone, so that no process finds the block any more.
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
    """The status of the file; None if there is none. Raises a typed error if this
    process may not look, because that does not mean that the name is gone.
    """
    try:
        return os.lstat(path)
    except PermissionError as error:
        raise fileError(error, path) from error
    except OSError:
        return None


def roomError(error: OSError, what: str, fix: str) -> Exception:
    """The typed error for a block that did not get its pages."""
    if error.errno == errno.ENOSPC:
        return HostMemoryFull(f"/dev/shm has no room for {what}", fix)
    return fileError(error, what)
