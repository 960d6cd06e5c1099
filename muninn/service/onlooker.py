"""An onlooker reads a domain without being a member: it copies the parts of the control
block that are in use, anew for each look, and takes no slot.

So it never is a broker, holds no lease, and no list names it. It asks no process, so it
sees a domain whose broker is dead or stopped, and it keeps no domain from ending. Root
may look at the domain of another user. So it opens the block as one does from outside
(`outside.py`): it makes no file, changes no mode, and maps nothing that may shrink.

When the domain ends, or gets another control block, the onlooker lets the old copy go.
A stale look at the names costs one more reading of the old block.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from muninn.control.blockcopy import BlockCopy
from muninn.control.drain import Drain
from muninn.control.header import readHeader
from muninn.control.memberidentity import MemberIdentity
from muninn.control.memberreader import MemberKey, MemberReader
from muninn.errors import PermissionDenied
from muninn.service.outside import openedBlock
from muninn.service.readings import Column, Reading, namesIn, readingOf
from muninn.storage.paths import Paths
from muninn.system.descriptors import Descriptor
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
        self._block: BlockCopy | None = None
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

    def _current(self) -> BlockCopy | None:
        """The block as it is now; None if there is none, or if it was withdrawn."""
        opened = self._opened()
        if opened is None:
            self.close()
            return None
        fd, path = opened
        try:
            geometry, inode = readHeader(fd, path), os.fstat(fd.number).st_ino
            old = self._block
            if old is not None and (inode, geometry) == (self._inode, old.geometry):
                old.refresh(fd)
            else:
                self.close()
                if geometry is not None:
                    self._block, self._inode = BlockCopy(self.paths, fd, geometry), inode
        except OSError as error:
            raise fileError(error, path) from error
        finally:
            fd.close()
        return self._block

    def _opened(self) -> tuple[Descriptor, str] | None:
        try:
            return openedBlock(self.paths)
        except FileNotFoundError:
            return None
        except PermissionError:
            raise PermissionDenied(
                f"uid {os.geteuid()} may not look at the domain of uid {self.paths.uid}",
                "Look as that user or as root",
            ) from None
        except OSError as error:
            raise fileError(error, self.paths.linkPath) from error

    def close(self) -> None:
        """Let the copy go."""
        if self._block is not None:
            block, self._block = self._block, None
            self._processes.clear()
            block.close()
