"""The tables of one domain, as one process sees them: the shared memory that a member
uses, and the slot of the member.

This is one frozen object, which is made when a process has claimed its slot. It has no
thread and asks no broker, so every part of a session may use it. The words themselves
are in the control block: `control/` says for each table which processes write it, and
what survives a crash.
"""

from __future__ import annotations

import _thread
from dataclasses import dataclass

from muninn.config import Settings
from muninn.control.block import ControlBlock
from muninn.control.election import Election
from muninn.control.index import NameIndex
from muninn.control.members import MemberKey, MemberTable
from muninn.control.rows import RowTable
from muninn.errors import DomainChanged
from muninn.session.leases import LeaseTable
from muninn.storage.paths import Paths
from muninn.system.forks import Identity


@dataclass(frozen=True, slots=True, eq=False, repr=False, weakref_slot=True)
class Tables:
    """The shared memory of a domain, and the slot of one member.

    Attributes
    ----------
    key
        The slot of this process, with its generation.
    identity
        A number that reads zero in a forked child.
    leaseLock
        Held by a thread while it opens a buffer, or gives leases back. A handler that
        interrupts the thread finds either all of it done or nothing.
    """

    settings: Settings
    paths: Paths
    block: ControlBlock
    members: MemberTable
    key: MemberKey
    election: Election
    rows: RowTable
    index: NameIndex
    leases: LeaseTable
    leaseLock: _thread.RLock
    identity: Identity

    @staticmethod
    def of(settings: Settings, block: ControlBlock, members: MemberTable, key: MemberKey) -> Tables:
        """The tables for a slot that was claimed in a control block."""
        return Tables(
            settings,
            block.paths,
            block,
            members,
            key,
            Election(block),
            RowTable(block),
            NameIndex(block),
            LeaseTable(block, members, key),
            leaseLock=_thread.RLock(),
            identity=Identity(members.identity(key.slot).nonce),
        )

    @property
    def ttlMs(self) -> int:
        """How long a lease lasts that is not renewed."""
        return self.settings.security.leaseTtlMs

    def isDead(self, slot: int, generationBits: int) -> bool:
        """Whether an owner lock's owner (slot, low bits of its generation) is confirmed
        dead: never this process, always beyond the table.
        """
        return slot >= self.members.count or self.members.isOwnerDead(
            slot, generationBits, self.key
        )

    def requireSame(self, other: Tables, name: str) -> None:
        """Raise `DomainChanged` for a buffer of another control block: a row means
        something in its own only.
        """
        self.requireSameDomain(other, name)
        if other.block.identity != self.block.identity:
            raise DomainChanged(
                f"{name!r} belongs to a control block of {self.paths.stem} that is no more"
            )

    def requireSameDomain(self, other: Tables, name: str) -> None:
        """The same for a lock, which has a name and no bytes: in a later control block
        it is made anew.
        """
        if other.paths.stem != self.paths.stem:
            raise DomainChanged(
                f"{name!r} belongs to {other.paths.stem}, and this process is in "
                f"{self.paths.stem} now"
            )
