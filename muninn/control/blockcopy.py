"""A copy of a control block in private memory, for a process that only looks.

Its file may be another user's, and may shrink at any moment: then a touch of a mapping
would be a SIGBUS. So the parts that are in use are read into this memory, and read
again for each look. The readers of a block (`memberreader.py`, `rowreader.py` and so on)
see one that nobody changes meanwhile. It is no snapshot, since processes write while it
is read; a stale read costs what it costs in a mapping.

The copy has no lock file: to close that would drop the byte locks of this process. So
nothing here can confirm a death.
"""

from __future__ import annotations

import os

from muninn.control import cells, layout
from muninn.control.block import ControlBlock
from muninn.control.geometry import Geometry
from muninn.control.lockfile import LockFile
from muninn.control.memberreader import MemberReader
from muninn.control.rowreader import RowReader
from muninn.errors import ControlBlockInvalid
from muninn.storage.paths import Paths
from muninn.system import atomics, descriptors
from muninn.system.descriptors import Descriptor


class _NoLockFile(LockFile):
    """The place of the lock file, which is not opened."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.inode = 0


class BlockCopy(ControlBlock):
    """The parts of a control block that are in use, as they were at the last `refresh`.

    Raises `ControlBlockInvalid` if the file ends before them.
    """

    def __init__(self, paths: Paths, fd: Descriptor, geometry: Geometry) -> None:
        super().__init__(paths, _NoLockFile(paths), descriptors.duplicate(fd), geometry)
        try:
            self.refresh(fd)
        except BaseException:
            self.close()
            raise

    def _mapped(self, fd: Descriptor, sizeBytes: int) -> int:
        return atomics.mappedWipedOnFork(sizeBytes)

    def _begin(self, fd: Descriptor) -> None:
        self._read(fd, 0, layout.MEMBERS_OFFSET)

    def refresh(self, fd: Descriptor) -> None:
        """Read the parts in use anew. What is in no part is a hole of the file, which a
        touch would fill, or is not read by those who look.
        """
        geometry = self.geometry
        self._read(fd, 0, geometry.indexOffset)  # the header, and the member slots
        self._read(fd, geometry.rowsOffset, RowReader(self).count() * layout.ROW_BYTES)
        members = MemberReader(self)
        for slot in cells.used(self):
            leasesBytes = members.leaseHigh(slot) * layout.LEASE_BYTES
            self._read(fd, self.areaAddress(slot) - self.address, leasesBytes)
            self._read(fd, geometry.cellsOffset(slot), layout.CELLS_BYTES)

    def _read(self, fd: Descriptor, offset: int, sizeBytes: int) -> None:
        while sizeBytes:
            count = os.preadv(fd.number, [self.bytes[offset : offset + sizeBytes]], offset)
            if count == 0:
                raise ControlBlockInvalid(f"the control block has shrunk to {offset} bytes")
            offset, sizeBytes = offset + count, sizeBytes - count
