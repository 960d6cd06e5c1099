"""Reclaiming: how the broker takes back the memory, leases and locks of a member, after
the member's death is confirmed or the member has said good-bye.

1. The broker marks the slot dead: LIVE → DEAD.
2. It frees the rows whose memory was the member's own.
3. It clears the member's leases.
4. It reclaims the rows that the member was creating.
5. It marks the member's owner locks dead and poisons its tickets, and wakes the
   processes that wait for them.
6. It tries to reclaim the rows on which the member had a lease.
7. It releases the slot: DEAD → FREE.

Each step is idempotent, and the slot comes last. If the broker dies in the middle, its
successor finds the slot DEAD and repeats all steps. The state of the slot is the only
record; the list of members under way is private memory.

A member may have thousands of leases. The broker takes them back in slices, and serves
requests and beats in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from muninn.broker.directory import Directory
from muninn.broker.holders import fieldsOf
from muninn.control import layout, leases, ownerlock
from muninn.control.block import ControlBlock
from muninn.control.generations import Generation
from muninn.control.members import MemberKey, MemberTable
from muninn.control.tickets import Tickets
from muninn.observe import events
from muninn.observe.counters import count
from muninn.system import atomics

_OWNER_LOCK_BITS = 0x7FFFFFFF
#: How many rows of a dead member are reclaimed in one step. Each costs about as much as
#: serving a request.
_SLICE_ROWS = 32


class Reclaimer:
    """The members whose belongings are being taken back.

    Parameters
    ----------
    forget
        Called with a member whose death is not watched for any more.
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
        self._polite = set[MemberKey]()  # those that have said good-bye

    def begin(self, key: MemberKey) -> None:
        """Take back everything of a member that is confirmed dead: a slice now, and the
        others by `reclaimOn`. In between the broker serves and advances its heartbeat.
        Idempotent, and harmless when another broker has done it.
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
        """Finish everything that was begun, before a term that may have no successor
        ends.
        """
        while self._underWay:
            self.reclaimOn()

    def _goOn(self, key: MemberKey) -> None:
        slices = self._underWay.pop(key)
        # If this raises, the member is not under way any more. Its slot stays DEAD, and
        # the next sweep begins again.
        if next(slices, None) is not None:
            self._underWay[key] = slices
        else:
            self._polite.discard(key)

    def _slices(self, key: MemberKey) -> Iterator[int]:
        """The steps of reclaiming, a slice at a time; yields how many rows are left of
        the present step.
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
            events.say("memoryLost", **fieldsOf(self._directory.rows, row))
            self._directory.ownerGone(row)
            if done % _SLICE_ROWS == 0:
                yield len(owned) - done
        held = leases.clearDead(self._block, self._members, key)
        orphans = list(self._directory.rows.createdBy(key.slot))
        for row in orphans:
            self._directory.orphaned(row)
        self._poison(key)
        rows = list(dict.fromkeys(held))
        for done, row in enumerate(rows, 1):
            # A lease word comes from a member, and was not checked before.
            if row < self._directory.rows.count():
                self._directory.tryReclaim(row)
            if done % _SLICE_ROWS == 0:
                yield len(rows) - done
        # Its slot may be another process's from the release on.
        pid, program = self._members.identity(key.slot).pid, self._members.program(key.slot)
        self._members.release(key, layout.MEMBER_DEAD)
        self._tell(key, pid, program, len(held), len(orphans))

    def _tell(self, key: MemberKey, pid: int, program: str, held: int, halfMade: int) -> None:
        if key in self._polite:
            events.say("memberLeft", memberPid=pid, program=program)
            return
        count("deaths")
        events.say(
            "memberReclaimed", memberPid=pid, program=program, leases=held, halfMade=halfMade
        )

    def leave(self, key: MemberKey, isBroker: bool = False) -> None:
        """A member said good-bye: the same, without a wait for its death. The member
        has released everything that it could.
        """
        self._polite.add(key)
        self.begin(key)
        if isBroker:
            self.finish()  # there may be no other member that would do it

    def _poison(self, key: MemberKey) -> None:
        """Wake the processes that wait for the dead member: for its tickets, for its
        owner locks, and for the buffers that it was writing.
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
