"""The creation of a control block, and the way in to one that exists.

A process that joins opens the block by one of its two names (`block.py`) and checks
its header. When neither name leads to a block that it may join, it takes the lock
file's CREATE byte, so that one process at a time creates, and goes on in this order:

1. It gives the version back to a block whose withdrawal a death interrupted
   (`reinstate`), and looks for a block again: another process may have been faster.
2. It looks for a process that still uses a block without a name: a locked slot byte
   says so. While there is such a process, it releases CREATE and waits, for a bounded
   time. The buffers that the process uses must not be adopted. The process finds out by
   itself that its block is gone, and leaves.
3. It removes the files at the names, and all segments and journals of a block of
   another boot.
4. It removes what the dead have left and nothing depends on: their temporary file,
   copies of journals, and sockets. Then it fills a temporary file that no other process
   opens: the header without a version, and the rows that older journals vouch for
   (`broker/repair.py`).
5. It stores the version, renames the file to the first name, and links the second.

So a block that has a name is whole. A creator that dies before the rename leaves a
temporary file, which the next creator replaces, and everything else as it was. A
creator that fails, for want of memory say, removes the files that it has made. A stale
read of the version costs a process one more attempt to join.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable

from muninn.config.sizes import exactly
from muninn.control import layout
from muninn.control.block import ControlBlock, roomError
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
from muninn.errors import BrokerUnavailable
from muninn.storage.paths import SHM_ROOT, Paths
from muninn.system import atomics, clock, descriptors
from muninn.system.oserrors import fileError

#: How long a creator waits for the processes that use a block without a name.
_LEAVING_SECONDS = 10.0
_LOOK_SECONDS = 0.02

#: Called with a block that no other process can open yet. The function that it returns
#: is called once other processes can find the block.
Adopt = Callable[[ControlBlock], Callable[[], object]]


def openOrCreate(
    paths: Paths, lockFile: LockFile, limits: Geometry, adopt: Adopt | None = None
) -> ControlBlock:
    """The control block of the domain; made with `limits` when there is none.

    Parameters
    ----------
    adopt
        Takes over the buffers that older journals vouch for. Without it, their segments
        stay where they are, and are in no row.

    Raises
    ------
    ControlBlockInvalid
        It is damaged, or of another version.
    HostMemoryFull
        `/dev/shm` has no room for it.
    BrokerUnavailable
        A process uses a block that has lost its names, and does not end.
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
            # A process may still use buffers of a block without a name, and those must
            # not be adopted. The process finds out, and leaves the block.
            inhabitant = inhabitantOf(paths, lockFile)
            if not inhabitant:
                _discard(paths)
                return create(paths, lockFile, limits, adopt)
        if clock.now() > deadline:
            raise BrokerUnavailable(
                f"process {inhabitant} is at work in the control block of {paths.domain!r}, "
                "which was removed from /dev/shm",
                "End that process",
            )
        clock.sleep(_LOOK_SECONDS)


def openExisting(paths: Paths, lockFile: LockFile) -> ControlBlock | None:
    """The control block of the domain; None when there is none that a process may join.
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
    """Remove the files at the block's names, which no process can join. With a block of
    another boot, its segments and journals are removed too. The caller holds CREATE.
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


def create(paths: Paths, lockFile: LockFile, limits: Geometry, adopt: Adopt | None) -> ControlBlock:
    """Make a whole block, and let it replace the files that have the names. The caller
    holds CREATE.
    """
    # A creator and other processes that died have left these files: no process is in
    # the domain.
    for left in (paths.temporaryPath, *paths.copies(), *paths.sockets()):
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
        # Address space is needed for the whole block, pages for the part that is used
        # from the beginning.
        neededBytes = limits.totalBytes if error.errno == errno.ENOMEM else limits.rowsOffset
        raise roomError(
            error,
            f"{exactly(neededBytes)} for the control block",
            "Enlarge /dev/shm, or remove files from it",
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
