"""The withdrawal of a control block: its version is taken away, so that no process
joins it, and given back.

The last member that leaves withdraws the block before it removes the names, and a
repair does so before it replaces the block. In both cases the process holds the lock
file's CREATE byte. It clears the version first and looks for locked slots second. A
process that joins takes its slot first and reads the version second. So one of the two
sees the other: the withdrawing process gives the version back, or the joining process
leaves its slot and tries again.

A death in between leaves a block without a version, from which nothing was taken: the
next process that holds CREATE gives the version back (`reinstate`). A stale read of the
version costs one more attempt to join.
"""

from __future__ import annotations

import os

from muninn.control import layout
from muninn.control.header import Header, checkVersion, openNamed
from muninn.control.lockfile import LockFile, removedFileHolder
from muninn.storage.paths import Paths

#: How long the search through the descriptors of this user's processes may take.
_SCAN_SECONDS = 1.0


def inhabitantOf(paths: Paths, lockFile: LockFile | None) -> int:
    """The pid of another process that has a slot in any block of the domain; 0: no
    process has.

    A block whose lock file was removed can not say that a process is in it. Then a
    process that still has that file open is: it may hold a lock there even when there
    is no segment. Where there are segments, a process that has lost its byte counts
    too. A caller that makes no lock file where there is none gives None.
    """
    holder = 0 if lockFile is None else lockFile.anyLocked()
    return holder or removedFileHolder(
        paths.lockPath, _SCAN_SECONDS, amongAll=bool(paths.segmentKeys())
    )


class Withdrawal:
    """Withdraws the domain's block, if there is one: the block has no version until
    `giveBack`. The caller holds CREATE.

    A process that joins meanwhile takes its slot first and reads the version second: so
    `holder` sees it, or it sees that it has to wait.
    """

    def __init__(self, paths: Paths, lockFile: LockFile) -> None:
        self._paths, self._lockFile = paths, lockFile
        named = openNamed(paths)
        self._fd = None if named is None else named[0]
        if self._fd is not None:
            self._before = os.pread(self._fd.number, 4, layout.VERSION_OFFSET)
            # The block keeps its version in a second word. If this process dies after
            # the next write, a block of another version must not be taken for one of
            # this version.
            if self._before.strip(b"\0"):
                os.pwrite(self._fd.number, self._before, layout.LAYOUT_VERSION_OFFSET)
            os.pwrite(self._fd.number, bytes(4), layout.VERSION_OFFSET)

    def holder(self) -> int:
        """The pid of a process that is in the domain; 0: there is none."""
        return inhabitantOf(self._paths, self._lockFile)

    def giveBack(self) -> None:
        """Give the block its version back."""
        if self._fd is not None:
            os.pwrite(self._fd.number, self._before, layout.VERSION_OFFSET)

    def close(self) -> None:
        if self._fd is not None:
            self._fd.close()
            self._fd = None


def reinstate(paths: Paths, lockFile: LockFile) -> None:
    """Give a block its version back whose withdrawing process died. The caller holds
    CREATE, as a withdrawing process does.

    A withdrawing process removes the names first and everything else later, so a block
    that has a name is whole. A block of another version is not changed, and the call
    raises `ControlBlockInvalid`.
    """
    named = openNamed(paths, lockFile)
    if named is None:
        return
    fd, path = named
    try:
        header = Header.of(fd)
        if header is not None and header.isWithdrawn():
            checkVersion(header.layoutVersion, path)
            os.pwrite(fd.number, layout.VERSION.to_bytes(4, "little"), layout.VERSION_OFFSET)
    finally:
        fd.close()
