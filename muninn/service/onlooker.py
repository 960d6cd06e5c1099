"""An onlooker reads a domain without being a member: it maps the control block read-only
and takes no slot.

So it never is a broker, holds no lease, and no list names it. It asks no process, so it
sees a domain whose broker is dead or stopped, and it keeps no domain from ending. Root
may look at the domain of another user.

It touches no page that no process has made: rows below `rowsReady`, and areas of slots
that had a member. When the domain ends, or gets another control block, the onlooker lets
the old block go and looks for the next one each time. A stale look at the names costs one
more reading of the old block.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from muninn.control.block import ControlBlock
from muninn.control.creation import openExisting
from muninn.control.drain import Drain
from muninn.control.lockfile import LockFile
from muninn.control.memberidentity import MemberIdentity
from muninn.control.memberreader import MemberKey, MemberReader
from muninn.errors import PermissionDenied
from muninn.service.readings import Column, Reading, namesIn, readingOf
from muninn.storage.paths import Paths
from muninn.system.oserrors import fileError
from muninn.system.processes import ownPidNamespace


class Process(NamedTuple):
    """The process of a member, as it wrote it.

    Attributes
    ----------
    isNear
        Whether its pid means the same to this process: they share a PID namespace.
    """

    identity: MemberIdentity
    program: str
    isNear: bool


class Onlooker:
    """The domain that the paths name, whether or not it is there."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._block: ControlBlock | None = None
        self._inode = 0
        self._processes: dict[MemberKey, Process] = {}

    def read(self) -> Reading | None:
        """Read the domain; None while no process is in it.

        Raises
        ------
        ControlBlockInvalid
            The block is damaged, or of another version.
        PermissionDenied
            This process may not look.
        """
        block = self._current()
        return None if block is None else readingOf(block)

    def names(self, rows: Column) -> list[str]:
        """The names of rows of the last reading."""
        return [] if self._block is None else namesIn(self._block, rows)

    def process(self, key: MemberKey) -> Process:
        """The process of a member of the last reading."""
        if (known := self._processes.get(key)) is not None or self._block is None:
            return known or Process(MemberIdentity(0, 0, 0, 0, 0, 0, 0), "", False)
        members = MemberReader(self._block)
        identity = members.identity(key.slot)
        isNear = identity.pidNamespace == ownPidNamespace()
        process = Process(identity, members.program(key.slot), isNear)
        if members.isCurrent(key):  # else the words may be of the slot's next member
            self._processes[key] = process
        return process

    def drainReason(self) -> str | None:
        """Why the domain creates nothing new; None: it does."""
        return None if self._block is None else Drain(self._block).reason()

    def rowsPlace(self) -> tuple[int, int]:
        """Where the rows begin in the file of the block, and the inode of that."""
        return (0 if self._block is None else self._block.rowsOffset), self._inode

    def _current(self) -> ControlBlock | None:
        if self._block is not None and not self._isOver(self._block):
            return self._block
        self.close()
        if not self._isThere():
            return None
        lockFile = LockFile(self.paths)
        try:
            self._block = openExisting(self.paths, lockFile, isReadOnly=True)
        finally:
            if self._block is None:
                lockFile.close()
        if self._block is not None:
            self._inode = _inodeAt(self.paths.linkPath)
        return self._block

    def _isThere(self) -> bool:
        """Whether the domain has a lock file, as it has while it has a block. It is not
        made here.
        """
        path = self.paths.lockPath
        try:
            os.stat(path)
        except FileNotFoundError:
            return False
        except PermissionError:
            raise PermissionDenied(
                f"uid {os.geteuid()} may not look at the domain of uid {self.paths.uid}",
                "Look as that user or as root",
            ) from None
        except OSError as error:
            raise fileError(error, path) from error
        return True

    def _isOver(self, block: ControlBlock) -> bool:
        """Whether the block was withdrawn, or its name leads to another file."""
        return block.isRetired() or _inodeAt(self.paths.linkPath) != self._inode

    def close(self) -> None:
        """Unmap the block."""
        if self._block is not None:
            block, self._block = self._block, None
            self._processes.clear()
            block.close()
            block.lockFile.close()


def _inodeAt(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0
