"""A domain as a process that is no member sees it: the control block, read word by
word, and the files in `/dev/shm`.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import posix_ipc

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.election import Election
from muninn.control.header import readHeader
from muninn.control.lockfile import LockFile
from muninn.control.members import MemberTable
from muninn.control.rows import RowTable
from muninn.storage.paths import Paths
from muninn.system import atomics, descriptors


class Left(NamedTuple):
    """The remains of a domain."""

    rows: int
    leases: int
    members: int
    shmBytes: int


class Sight:
    """A domain from outside. It exists already; its block stays readable here when it
    is withdrawn.
    """

    def __init__(self, domain: str) -> None:
        self.paths = Paths(os.getuid(), domain)
        memory = posix_ipc.SharedMemory(self.paths.blockName)
        geometry = readHeader(memory.fd, self.paths.blockName)
        assert geometry is not None
        self._block = ControlBlock(
            self.paths, LockFile(self.paths), descriptors.duplicate(memory.fd), geometry
        )
        memory.close_fd()
        self.paths = self._block.paths
        self._members, self._rows, self._election = (
            MemberTable(self._block),
            RowTable(self._block),
            Election(self._block),
        )

    def epoch(self) -> int:
        return self._election.epoch()

    def brokerPid(self) -> int | None:
        """The pid of the member that the election word names, ready or not."""
        slot = self._election.term().slot
        return None if slot is None else self._members.identity(slot).pid

    def left(self) -> Left:
        return Left(
            len(self._rows.notFree()),
            self._leases(),
            len(self._members.occupied()),
            self.shmBytes(),
        )

    def _leases(self) -> int:
        """The leases in all areas, those of slots without a member among them."""
        total = 0
        for slot in range(self._members.count):
            for index in range(self._members.leaseHigh(slot)):
                total += (
                    atomics.loadAcquire64(
                        self._block.areaAddress(slot) + index * layout.LEASE_BYTES
                    )
                    != 0
                )
        return total

    def shmBytes(self) -> int:
        """Bytes of all files of the domain in `/dev/shm`; a file with two names counts
        once.
        """
        sizes: dict[int, int] = {}
        for place in (
            f"/dev/shm/{entry}" for entry in os.listdir("/dev/shm") if self._isOurs(entry)
        ):
            for path in [
                place,
                *(
                    f"{place}/{entry}"
                    for entry in (os.listdir(place) if os.path.isdir(place) else [])
                ),
            ]:
                try:
                    status = os.lstat(path)
                except FileNotFoundError:
                    continue
                sizes[status.st_ino] = status.st_blocks * 512
        return sum(sizes.values())

    def _isOurs(self, entry: str) -> bool:
        return entry == self.paths.stem or entry.startswith(f"{self.paths.stem}.")

    def orphans(self) -> dict[tuple[int, int], int]:
        """The segments, and their bytes, for which no row vouches now."""
        found = {}
        for origin, row, incarnation in self.paths.segmentKeys():
            state = self._rows.state(row) if row < self._rows.count() else None
            if state is None or state.state == layout.ROW_FREE or state.incarnation != incarnation:
                try:
                    found[row, incarnation] = os.stat(
                        f"/dev/shm{self.paths.segmentName(row, incarnation, origin)}"
                    ).st_size
                except FileNotFoundError:
                    continue
        return found


class Footprint(NamedTuple):
    """The resources of a process."""

    rssKib: int
    descriptors: int
    threads: int

    @staticmethod
    def of(pid: int) -> Footprint:
        with open(f"/proc/{pid}/status") as file:
            fields = dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)
        return Footprint(
            int(fields["VmRSS"].split()[0]),
            len(os.listdir(f"/proc/{pid}/fd")),
            int(fields["Threads"]),
        )


def descriptorsOf(pid: int) -> list[str]:
    """The open descriptors of a process as text, for an error about too many."""
    found = []
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    return sorted(found)
