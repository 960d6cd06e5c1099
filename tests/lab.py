"""A domain inside one process: a control block, and as many members and brokers on it
as a test wants, without threads or sockets.

A test gives each broker its epoch, so it can let a deposed broker act after its
successor has begun. The byte locks of one process do not exclude each other; therefore
a test that needs the proof of a death uses real processes (`support.Actor`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from muninn.broker.broker import Broker
from muninn.broker.catalog import Catalog
from muninn.broker.directory import Directory
from muninn.broker.journal import Journal
from muninn.broker.policy.limits import Limits
from muninn.broker.policy.usage import Usage
from muninn.control.block import ControlBlock
from muninn.control.creation import openOrCreate
from muninn.control.descriptions import RowDescription
from muninn.control.election import Election, Term
from muninn.control.geometry import Geometry
from muninn.control.lockfile import LockFile
from muninn.control.members import MemberKey, MemberTable
from muninn.control.rows import RowTable
from muninn.control.transitions import ROW_TRANSITIONS
from muninn.session.leases import LeaseTable
from muninn.storage.paths import Paths
from muninn.system import atomics
from muninn.terms import Access, Lifetime, Mode

PAGE = 4096
LIMITS = Limits(1 << 40, 1 << 40, 1 << 40, 1 << 40, 1 << 40, 1 << 40, 1 << 10)


def describe(name: str = "a", **changes: object) -> RowDescription:
    """The description of a small array."""
    plain = RowDescription(
        sizeBytes=8,
        segmentBytes=PAGE,
        createdMs=1,
        deadlineMs=0,
        metaOffset=0,
        metaBytes=0,
        mode=Mode.BIG,
        access=Access.READ_WRITE,
        lifetime=Lifetime.KEEP,
        kind=0,
        gpu=-1,
        flags=0,
        transport="segment",
        shape=(1,),
        dtype="<f8",
        tenant="default",
        name=name,
    )
    return plain._replace(**changes)  # type: ignore[arg-type]


def usage(name: str = "a", **changes: object) -> Usage:
    plain = Usage(name, "default", Mode.BIG, -1, PAGE, 0)
    return plain._replace(**changes)  # type: ignore[arg-type]


class Member:
    """One claimed and entered slot. `die` does what the kernel does when the member's
    thread ends.
    """

    def __init__(self, block: ControlBlock) -> None:
        self.table = MemberTable(block)
        self.key: MemberKey = self.table.claim(preferred=False)
        self.table.enter(self.key)
        # As if a thread held the robust word; no thread has so high an id.
        atomics.storeRelease32(self.table.robustAddress(self.key.slot), 0x3FFFFFF0)
        self.leases = LeaseTable(block, self.table, self.key)

    def die(self) -> None:
        atomics.storeRelease32(self.table.robustAddress(self.key.slot), 0x40000000)


class Lab:
    """A control block with its members and brokers."""

    def __init__(
        self, domain: str, maxMembers: int = 8, maxBuffers: int = 512, maxLeases: int = 256
    ) -> None:
        self.paths = Paths(os.getuid(), domain)
        self.lockFile = LockFile(self.paths)
        self.block = openOrCreate(
            self.paths, self.lockFile, Geometry.of(maxMembers, maxBuffers, maxLeases)
        )
        self.paths = self.block.paths
        self.members = MemberTable(self.block)
        self.election = Election(self.block)
        self.rows = RowTable(self.block)
        self._closers: list[object] = []
        self._descriptors: list[int] = []

    def member(self) -> Member:
        return Member(self.block)

    def directory(self, epoch: int, fence: bool = True) -> Directory:
        """The directory of the broker of `epoch`; with `fence`, it stamps the rows
        first.
        """
        journal = Journal(self.paths, epoch)
        self._closers.append(journal)
        made = Directory(
            self.block, self.members, epoch, journal, lambda rows: Catalog(rows, LIMITS)
        )
        if fence:
            made.fence()
        return made

    def broker(self, member: Member) -> Broker:
        """A started broker, elected as the next one. The test calls `step`."""
        old = self.election.term()
        term = self.election.replace(old, member.key.slot)
        assert term is not None
        wakeFd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._descriptors.append(wakeFd)
        made = Broker(self.block, member.table, self.election, term, member.key, LIMITS, wakeFd)
        self._closers.append(made)
        made.start()
        return made

    def afterMaintenance(self, broker: Broker) -> Broker:
        """Return the broker after it has done the maintenance that begins its term."""
        for _ in range(50):
            broker.step(0)
        return broker

    def elect(self, slot: int | None) -> Term:
        term = self.election.replace(self.election.term(), slot)
        assert term is not None
        return term

    def make(
        self, directory: Directory, creator: Member, name: str = "a", **changes: object
    ) -> tuple[int, int]:
        """Make a LIVE row without memory; returns (row, incarnation)."""
        row, incarnation = directory.grant(creator.key, usage(name), 0)
        directory.rows.describe(row, describe(name, **changes))
        directory.commit(creator.key, row, incarnation, None)
        return row, incarnation

    def close(self) -> None:
        for each in reversed(self._closers):
            each.close()  # type: ignore[attr-defined]
        for descriptor in self._descriptors:
            os.close(descriptor)
        self.block.close()
        self.lockFile.close()


@contextmanager
def opened(domain: str, **limits: int) -> Iterator[Lab]:
    lab = Lab(domain, **limits)
    try:
        yield lab
    finally:
        lab.close()


__all__ = ["LIMITS", "Lab", "Member", "Term", "describe", "opened", "usage"]


def bring(rows: RowTable, row: int, state: int, epoch: int = 1) -> None:
    """Change a row to `state` by the shortest sequence of legal transitions."""
    ways = [[rows.state(row).state]]
    while (way := ways.pop(0))[-1] != state:
        ways += [
            [*way, each.after]
            for each in ROW_TRANSITIONS
            if each.before == way[-1] and each.after not in way
        ]
    for each in way[1:]:
        rows.change(row, rows.state(row), epoch, each)


def reclaim(broker: Broker, key: MemberKey) -> None:
    """Reclaim everything of a member that is confirmed dead, in one call."""
    broker._reclaimer.begin(key)
    broker._reclaimer.finish()
