"""Reclaiming: taking back what a member had whose death is confirmed, or who has said
good-bye.

The broker takes back in this order: the rows whose memory was the member's own, its
leases, the rows that it was creating, its tickets and owner locks, the rows on which it
held the last lease, and its slot. Each step is idempotent. The slot comes last, so that
a successor of a broker that died in the middle finds the slot DEAD and does all of it
again. Nothing of this survives the broker in private memory; the slot's state is the
record.

A member may have thousands of leases. The broker takes them back in slices, and serves
requests and beats in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from muninn.broker.directory import Directory
from muninn.control import layout, leases, ownerlock
from muninn.control.block import ControlBlock
from muninn.control.generations import Generation
from muninn.control.members import MemberKey, MemberTable
from muninn.control.tickets import Tickets
from muninn.system import atomics
from muninn.system.logs import Log

_log = Log("muninn.broker")
_OWNER_LOCK_BITS = 0x7FFFFFFF
#: How many rows of the dead are settled in one step: each costs about as much as
#: serving a request.
_SLICE_ROWS = 32


class Reclaimer:
    """The members whose belongings are being taken back.

    Parameters
    ----------
    forget
        Called with a member that is watched no more.
    """

    def __init__(
        self,
        block: ControlBlock,
        members: MemberTable,
        directory: Directory,
        forget: Callable[[MemberKey], None],
    ) -> None:
        self._block = block
        self._members = members
        self._directory = directory
        self._forget = forget
        self._underWay: dict[MemberKey, Iterator[int]] = {}

    def begin(self, key: MemberKey) -> None:
        """Take back everything of a member that is confirmed dead: a slice now, and the
        others by `reclaimOn`, so that a broker serves and beats in between. Idempotent,
        and harmless when another broker has done it.
        """
        self._forget(key)
        if key not in self._underWay:
            self._underWay[key] = self._slices(key)
            self._goOn(key)

    def isReclaiming(self) -> bool:
        return bool(self._underWay)

    def reclaimOn(self) -> None:
        """The next slice of the member that has waited longest."""
        key = next(iter(self._underWay), None)
        if key is not None:
            self._goOn(key)

    def finish(self) -> None:
        """All that was begun, before a term ends for which there may be no successor."""
        while self._underWay:
            self.reclaimOn()

    def _goOn(self, key: MemberKey) -> None:
        slices = self._underWay.pop(key)
        # What raises is not tried again in this way: the slot stays DEAD, and the next
        # sweep finds it.
        if next(slices, None) is not None:
            self._underWay[key] = slices

    def _slices(self, key: MemberKey) -> Iterator[int]:
        """One step at a time; yields what is left to do. The slot comes last: a
        successor that finds it DEAD does it all again.
        """
        state, generation = self._members.state(key.slot)
        if generation != key.generation or state == layout.MEMBER_FREE:
            return
        if state == layout.MEMBER_CLAIMING:
            self._members.release(key, layout.MEMBER_CLAIMING)
            return
        if not self._members.markDead(key):
            return
        owned = self._directory.rows.ownedBy(key.slot)
        for done, row in enumerate(owned, 1):
            self._directory.ownerGone(row)
            if done % _SLICE_ROWS == 0:
                yield len(owned) - done
        held = leases.clearDead(self._block, self._members, key)
        for row in self._directory.rows.createdBy(key.slot):
            self._directory.orphaned(row)
        self._poison(key)
        rows = list(dict.fromkeys(held))
        for done, row in enumerate(rows, 1):
            # what a lease word says is not checked by anybody before
            if row < self._directory.rows.count():
                self._directory.tryReclaim(row)
            if done % _SLICE_ROWS == 0:
                yield len(rows) - done
        self._members.release(key, layout.MEMBER_DEAD)
        _log.info("reclaimed member %d.%d: %d leases", key.slot, key.generation, len(held))

    def leave(self, key: MemberKey, isBroker: bool = False) -> None:
        """A member said good-bye: the same, without waiting for its death. It has let
        go of everything that it could.
        """
        self.begin(key)
        if isBroker:
            self.finish()  # perhaps nobody is left who would

    def _poison(self, key: MemberKey) -> None:
        """Tell those who wait for the dead: for its tickets, for its claims, for what
        it was writing.
        """
        rows = self._directory.rows
        count = rows.count()
        if not count:
            return
        first, indices = self._block.rowAddress(0), atomics.indexBuffer(count)
        claimed = atomics.scan32(
            first + layout.ROW_OWNER_LOCK_OFFSET,
            layout.ROW_BYTES,
            count,
            _OWNER_LOCK_BITS,
            ownerlock.ownerLockWord(key),
            indices,
            count,
        )
        for row in list(indices[: min(claimed, count)]):
            ownerlock.markDead(self._block.rowAddress(row) + layout.ROW_OWNER_LOCK_OFFSET, key)
            Generation(self._block.rowAddress(row)).wake()
        for row in self._pendingOf(key, count):
            Tickets(self._block.rowAddress(row), self._block.fencesAddress(row)).poison(key)

    def _pendingOf(self, key: MemberKey, count: int) -> set[int]:
        first, indices = (
            self._block.rowAddress(0) + layout.ROW_TICKETS_OFFSET,
            atomics.indexBuffer(count),
        )
        pending: set[int] = set()
        for position in range(layout.TICKET_RING):
            found = atomics.scan64(
                first + position * 8, layout.ROW_BYTES, count, *Tickets.openOf(key), indices, count
            )
            pending.update(indices[: min(found, count)])
        return pending
