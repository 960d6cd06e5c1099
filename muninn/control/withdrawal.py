"""The withdrawal of a control block: its version taken away, so that nobody joins it,
and given back.

The last member that leaves withdraws the block before it removes the names, and a
repair does before it replaces the block. Whoever withdraws holds the lock file's CREATE
byte. A death in between leaves a block without a version, from which nothing was taken:
the next process that holds CREATE gives the version back (`reinstate`).
"""

from __future__ import annotations

import os

from muninn.control import layout
from muninn.control.header import Header, checkVersion, openNamed
from muninn.control.lockfile import LockFile, removedFileHolder
from muninn.storage.paths import Paths

#: How long the descriptors of this user's processes may be looked through.
_SCAN_SECONDS = 1.0


def inhabitantOf(paths: Paths, lockFile: LockFile) -> int:
    """The pid of another process that has a slot in a block of the domain, whichever;
    0: nobody has.

    With its lock file a block loses what says that somebody is in it. Then whoever has
    that file open still is; a lock is held there, perhaps, also when there is no
    segment. Where there are some, even a process counts that has lost its byte.
    """
    return lockFile.anyLocked() or removedFileHolder(
        paths.lockPath, _SCAN_SECONDS, amongAll=bool(paths.segmentKeys())
    )


class Withdrawal:
    """The version of whatever block there is, taken away for as long as this is open.
    The caller holds CREATE.

    Who joins meanwhile has its slot first and reads the version second, so it is seen
    by `holder`, or sees that it has to wait.
    """

    def __init__(self, paths: Paths, lockFile: LockFile) -> None:
        self._paths, self._lockFile = paths, lockFile
        named = openNamed(paths)
        self._fd = None if named is None else named[0]
        if self._fd is not None:
            self._before = os.pread(self._fd.number, 4, layout.VERSION_OFFSET)
            # of any version: a death from here on must not let it pass for one of ours
            if self._before.strip(b"\0"):
                os.pwrite(self._fd.number, self._before, layout.LAYOUT_VERSION_OFFSET)
            os.pwrite(self._fd.number, bytes(4), layout.VERSION_OFFSET)

    def holder(self) -> int:
        """The pid of a process that is in the domain; 0: nobody is."""
        return inhabitantOf(self._paths, self._lockFile)

    def giveBack(self) -> None:
        """Let the block be what it was."""
        if self._fd is not None:
            os.pwrite(self._fd.number, self._before, layout.VERSION_OFFSET)

    def close(self) -> None:
        if self._fd is not None:
            self._fd.close()
            self._fd = None


def reinstate(paths: Paths, lockFile: LockFile) -> None:
    """Give a block its version back that somebody was withdrawing, and died. The caller
    holds CREATE, as who withdraws does.

    Whoever withdraws removes the names first and anything else later, so a block that
    has a name is whole. One of another version is left alone: `ControlBlockInvalid`.
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
