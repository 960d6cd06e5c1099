"""The header of a control block, and how a process checks a file before it uses it as
the domain's block.

A name may lead to anything: to a block of an earlier boot or of another version, to a
block that was withdrawn, or to a file that another user put there. So a process that
opens a name goes through these steps:

1. It follows no link, and does not wait for the file.
2. It uses only a regular file of its own uid that no other user may write.
3. It copies the header, and then checks the copy: the magic, the version, the boot and
   the sizes.

A stale read of the header costs one more attempt to open: the version, which the
creator stores last, and which a withdrawal clears, decides.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from typing import NamedTuple

import posix_ipc

from muninn.control import layout
from muninn.control.geometry import Geometry
from muninn.control.lockfile import LockFile
from muninn.errors import ControlBlockInvalid
from muninn.storage.folders import warnOfStranger
from muninn.storage.paths import Paths
from muninn.system import descriptors, ownership
from muninn.system.descriptors import Descriptor, Known
from muninn.system.files import openFile
from muninn.system.oserrors import fileError

HEADER = struct.Struct("<8sIxxxx16sQIIII")
IDENTITY = struct.Struct("<QQII")


_UNKNOWN_BOOT = bytes(16)


def bootId() -> bytes:
    """16 bytes that change with every boot. Zeros if /proc shows only processes
    (subset=pid), or if there is no /proc.
    """
    try:
        with openFile("/proc/sys/kernel/random/boot_id") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except FileNotFoundError:
        return _UNKNOWN_BOOT


def isOfThisBoot(boot: bytes) -> bool:
    """Whether `boot` is the present boot, or may be: one of the two is unknown."""
    own = bootId()
    return boot == own or _UNKNOWN_BOOT in (boot, own)


class Header(NamedTuple):
    """A copy of a control block's header."""

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
    layoutVersion: int

    @staticmethod
    def of(fd: int | Known) -> Header | None:
        """Read the header of a file; None if the file is too short."""
        raw = os.pread(int(fd), layout.ELECTION_OFFSET, 0)
        if len(raw) < layout.ELECTION_OFFSET:
            return None
        return Header(*HEADER.unpack_from(raw), *IDENTITY.unpack_from(raw, layout.IDENTITY_OFFSET))

    def isWithdrawn(self) -> bool:
        """Whether the block was whole once, and a process has cleared its version: then
        it has an identity, or its second version word names another version.
        """
        isOfNow = (self.magic, self.version) == (layout.MAGIC, 0) and isOfThisBoot(self.boot)
        return isOfNow and (self.identity != 0 or self.layoutVersion not in (0, layout.VERSION))


def readHeader(fd: int | Known, path: str) -> Geometry | None:
    """The geometry that a control block states; None if the block is withdrawn, or of
    another boot. The header is copied before it is checked.
    """
    # SYNC version: pairs with create. The creator's stores are visible to this process
    # once it reads the version. Without a version the file is no block.
    header = Header.of(fd)
    if header is None or header.version == 0:
        return None
    if header.magic != layout.MAGIC:
        raise ControlBlockInvalid(f"{path} does not begin with Muninn's magic")
    if not isOfThisBoot(header.boot):
        return None
    checkVersion(header.version, path)
    geometry = Geometry(
        header.maxMembers, header.maxBuffers, header.maxLeases, header.indexSlots
    ).checked()
    sizeBytes = os.fstat(int(fd)).st_size
    if geometry.totalBytes != header.totalBytes or sizeBytes < header.totalBytes:
        raise ControlBlockInvalid(
            f"{path} has {sizeBytes} bytes and states {header.totalBytes}, its sizes make "
            f"{geometry.totalBytes}"
        )
    return geometry


def checkVersion(version: int, path: str) -> None:
    if version != layout.VERSION:
        raise ControlBlockInvalid(
            f"{path} has layout version {version}, and this program speaks {layout.VERSION}",
            "Use one version of Muninn in all processes of a domain",
        )


def openNamed(paths: Paths, lockFile: LockFile | None = None) -> tuple[Descriptor, str] | None:
    """Open the domain's control block. Returns a descriptor and the name that led to
    it; None if no name leads to a block of this user.

    The block must be a regular file of this uid that no other user may write; from now
    on, no other user may read it either. If `lockFile` is given, the block must belong
    to it, because another lock file does not have the bytes of the block's slots. If
    other users may write the block in the domain's own directory, the call raises
    `ControlBlockInvalid`, because the domain may have members in it.
    """
    for path, opened in ((paths.linkPath, _openedLink), (paths.blockPath, _openedName)):
        fd = opened(paths)
        if fd is None:
            continue
        status = os.fstat(fd.number)
        if path == paths.linkPath and status.st_uid == paths.uid:
            ownership.requireUnwritten(status, path)
        header = Header.of(fd) if _mayBeOurs(status, path, paths) else None
        if header is None:
            isMeant = False
        elif header.magic == layout.MAGIC:
            isMeant = lockFile is None or header.lockInode == lockFile.inode
        else:  # a file that is no block keeps its mode, which shows that it is not ours
            isMeant = path == paths.linkPath or isOurs(status, path, paths)
        if isMeant:
            ownership.putRight(path, paths.uid, fd)
            return fd, path
        fd.close()
    return None


def _openedLink(paths: Paths) -> Descriptor | None:
    try:
        with contextlib.suppress(PermissionError):
            return descriptors.opened(paths.linkPath, os.O_RDWR | os.O_NONBLOCK)
        status = os.lstat(paths.linkPath)
        # No process of this domain can use it, and the next creator replaces it.
        if status.st_uid != paths.uid:
            _warned(status, paths.linkPath, paths)
            return None
        ownership.putRight(paths.linkPath, paths.uid)
        return descriptors.opened(paths.linkPath, os.O_RDWR | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        typed = fileError(error, paths.linkPath)
        if typed is not error:
            raise typed from error
        raise ControlBlockInvalid(
            f"{paths.linkPath} can not be opened: {error.strerror}",
            "Remove it, once you know who made it",
        ) from error


def _openedName(paths: Paths) -> Descriptor | None:
    try:
        # The status is checked before the file is opened: opening a file on which
        # another user holds a lease (F_SETLEASE) may take up to 45 s.
        if not _mayBeOurs(os.lstat(paths.blockPath), paths.blockPath, paths):
            return None
        memory = posix_ipc.SharedMemory(paths.blockName)
    except FileNotFoundError:
        return None
    except posix_ipc.ExistentialError:
        return None
    except (posix_ipc.Error, ValueError, OSError) as error:
        if isinstance(error, OSError) and (typed := fileError(error, paths.blockName)) is not error:
            raise typed from error
        warnOfStranger(paths.blockPath, paths.uid, str(error))
        return None
    try:
        return descriptors.duplicate(memory.fd)
    finally:
        memory.close_fd()


def isOurs(status: os.stat_result, path: str, paths: Paths) -> bool:
    """Whether the file may be replaced or removed as a block of this user, by its mode
    and owner.
    """
    return (not status.st_mode & 0o077 and _mayBeOurs(status, path, paths)) or _warned(
        status, path, paths
    )


def _mayBeOurs(status: os.stat_result, path: str, paths: Paths) -> bool:
    """Whether the file may be read: if other users could only read it, its content is
    this user's.
    """
    return ownership.isOwnFile(status, paths.uid) or _warned(status, path, paths)


def _warned(status: os.stat_result, path: str, paths: Paths) -> bool:
    warnOfStranger(path, paths.uid, f"uid {status.st_uid}'s, {stat.filemode(status.st_mode)}")
    return False


def giveNames(paths: Paths, path: str) -> None:
    """Let both names lead to the file at `path`, which is one of them. The caller holds
    CREATE.
    """
    wanted = os.lstat(path)
    for other in (paths.linkPath, paths.blockPath):
        try:
            status = os.lstat(other)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):  # another user was faster
                os.link(path, other, follow_symlinks=False)
            continue
        if os.path.samestat(status, wanted):
            continue
        if not isOurs(status, other, paths):
            continue
        unlinkFile(paths.temporaryPath)
        os.link(path, paths.temporaryPath, follow_symlinks=False)
        os.rename(paths.temporaryPath, other)  # one step: the name never leads to nothing


def unlinkBlock(paths: Paths) -> None:
    """Remove both names. A file of another user is not removed."""
    with contextlib.suppress(OSError, posix_ipc.Error):  # gone already
        if isOurs(os.lstat(paths.blockPath), paths.blockPath, paths):
            posix_ipc.unlink_shared_memory(paths.blockName)
    unlinkFile(paths.linkPath)


def unlinkFile(path: str) -> None:
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    except OSError as error:
        raise fileError(error, path) from error
