"""The watchdog: proof that a member is dead, and what follows from it.

The broker holds a pidfd of every member, as long as they are few. Of more it holds the connection only: that ends with the process, and
where a forked child has a copy of it, the robust word tells; either makes the broker open a pidfd by the member's identity. A member of
another PID namespace can not be looked up so, and its own pidfd is kept. When a pidfd is readable and the member's byte lock is free,
the death is proven, and only then are its leases cleared, its half-made rows buried, its tickets poisoned and its slot given back, in
that order: the slot comes last, so a successor that finds it DEAD does it all again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from muninn.broker.directory import Directory
from muninn.control import layout, leases, ownerlock
from muninn.control.block import ControlBlock
from muninn.control.generations import Generation
from muninn.control.members import MemberKey, MemberTable, openPidfd, ownPidNamespace
from muninn.control.tickets import Tickets
from muninn.system import atomics
from muninn.system.descriptors import Descriptor, own
from muninn.system.logs import Log

_log = Log("muninn.broker")
#: So many members cost the broker two descriptors, the others one.
MAX_PIDFDS = 64
_CLAIM_BITS = 0x7FFFFFFF
#: How many rows of the dead are settled in one step: each costs about as much as serving a request.
_SLICE_ROWS = 32


class Watchdog:
    """The pidfds of the members, and the reclaiming of those that have died.

    Parameters
    ----------
    watch, unwatch
        Called with a descriptor that the broker's loop should, or should no longer, wait for.
    """

    def __init__(
        self, block: ControlBlock, members: MemberTable, directory: Directory, watch: Callable[[int], None], unwatch: Callable[[int], None]
    ) -> None:
        self._block = block
        self._members = members
        self._directory = directory
        self._watch = watch
        self._unwatch = unwatch
        self._pidfds: dict[MemberKey, Descriptor] = {}
        self._memberOf: dict[int, MemberKey] = {}
        self._underWay: dict[MemberKey, Iterator[int]] = {}
        self._connected: Counter[MemberKey] = Counter()  # connections of a member

    def follow(self, key: MemberKey, pidfd: int | Descriptor) -> None:
        """Wait for the death of a member by a descriptor that is the watchdog's from now on."""
        kept = own(pidfd)
        self.forget(key)
        self._watch(kept.number)
        self._pidfds[key] = kept
        self._memberOf[kept.number] = key

    def greeted(self, key: MemberKey, pidfd: int | Descriptor) -> None:
        """A member has connected, and sent a pidfd, which is the watchdog's from now on."""
        self._connected[key] += 1
        if len(self._pidfds) >= MAX_PIDFDS and self._canBeLookedUp(key):
            self.forget(key)
            own(pidfd).close()
        else:
            self.follow(key, pidfd)

    def disconnected(self, key: MemberKey) -> bool:
        """A connection of a member has ended. Whether it must be looked for, because nothing else tells of its death."""
        self._connected[key] -= 1
        if self._connected[key] <= 0:
            del self._connected[key]
        return key not in self._connected and key not in self._pidfds

    def economize(self) -> int:
        """Close the pidfds of members whose connections tell as much; returns how many."""
        spared = [key for key in self._pidfds if key in self._connected and self._canBeLookedUp(key)]
        for key in spared:
            self.forget(key)
        return len(spared)

    def _canBeLookedUp(self, key: MemberKey) -> bool:
        return self._members.identity(key.slot).pidNamespace == ownPidNamespace()

    def forget(self, key: MemberKey) -> None:
        kept = self._pidfds.pop(key, None)
        if kept is not None:
            if self._memberOf.get(kept.number) == key:  # not where the number is another member's by now
                del self._memberOf[kept.number]
            if kept.isOurs():
                self._unwatch(kept.number)
            kept.close()

    def owns(self, descriptor: int) -> bool:
        return descriptor in self._memberOf

    def adopt(self, own: MemberKey) -> list[MemberKey]:
        """Follow every member that lives and has not said hello (yet), and return those that are dead.

        Those of before this term, and those that died between joining and hello.
        """
        dead = []
        for slot in self._members.occupied():
            state, generation = self._members.state(slot)
            key = MemberKey(slot, generation)
            pidfd = self._pidfds.get(key)
            isWatched = pidfd is not None or key in self._connected
            if key == own or (isWatched and not self._members.isMarked(slot)):
                continue
            # A pidfd does not end with an exec. A child that was forked before may keep the connection open, too.
            if state == layout.MEMBER_DEAD or self._members.isProvenDead(key, None if pidfd is None else pidfd.number):
                dead.append(key)
            elif state == layout.MEMBER_LIVE and pidfd is None:
                self._followByPid(key)
        return dead

    def _followByPid(self, key: MemberKey) -> None:
        """Follow a member that has not sent a pidfd, where its pid means something. None to be had is no proof of death."""
        identity = self._members.identity(key.slot)
        if not self._canBeLookedUp(key):
            return
        pidfd = openPidfd(identity.pid, identity.startTime)
        if pidfd.number >= 0:
            self.follow(key, pidfd)

    def ended(self, pidfd: int) -> bool:
        """A pidfd became readable. Reclaims its member once the death is proven; False when that takes another look."""
        key = self._memberOf[pidfd]
        if not self._members.isProvenDead(key, pidfd):
            return False
        self.begin(key)
        return True

    def suspect(self, key: MemberKey) -> int | None:
        """The connection of a member has ended: its pidfd, if its thread has ended too, and nobody but who asks again will hear more."""
        kept = self._pidfds.get(key)
        return kept.number if kept is not None and kept.isOurs() and self._members.isMarked(key.slot) else None

    # --- reclaiming --------------------------------------------------------------------------------------------------

    def reclaim(self, key: MemberKey) -> None:
        """Take back everything of a member that is proven dead. Idempotent, and harmless when somebody else has done it."""
        self.begin(key)
        while key in self._underWay:
            self._goOn(key)

    def begin(self, key: MemberKey) -> None:
        """The same, a slice now and the others by `reclaimOn`: a broker serves and beats in between."""
        self.forget(key)
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
        # What raises is not tried again in this way: the slot stays DEAD, and the next sweep finds it.
        if next(slices, None) is not None:
            self._underWay[key] = slices

    def _slices(self, key: MemberKey) -> Iterator[int]:
        """One step at a time; yields what is left to do. The slot comes last: a successor that finds it DEAD does it all again."""
        state, generation = self._members.state(key.slot)
        if generation != key.generation or state == layout.MEMBER_FREE:
            return
        if state == layout.MEMBER_CLAIMING:
            self._members.vacate(key, layout.MEMBER_CLAIMING)
            return
        if not self._members.condemn(key):
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
            if row < self._directory.rows.count():  # what a lease word says is not checked by anybody before
                self._directory.settle(row)
            if done % _SLICE_ROWS == 0:
                yield len(rows) - done
        self._members.vacate(key, layout.MEMBER_DEAD)
        _log.info("reclaimed member %d.%d: %d leases", key.slot, key.generation, len(held))

    def leave(self, key: MemberKey, isBroker: bool = False) -> None:
        """A member said good-bye: the same, without waiting for its death. It has let go of everything that it could."""
        self.begin(key)
        if isBroker:
            self.finish()  # perhaps nobody is left who would

    def _poison(self, key: MemberKey) -> None:
        """Tell those who wait for the dead: for its tickets, for its claims, for what it was writing."""
        rows = self._directory.rows
        count = rows.count()
        if not count:
            return
        first, indices = self._block.rowAddress(0), atomics.indexBuffer(count)
        claimed = atomics.scan32(
            first + layout.ROW_CLAIM_OFFSET, layout.ROW_BYTES, count, _CLAIM_BITS, ownerlock.claimWord(key), indices, count
        )
        for row in list(indices[: min(claimed, count)]):
            ownerlock.markDead(self._block.rowAddress(row) + layout.ROW_CLAIM_OFFSET, key)
            Generation(self._block.rowAddress(row)).wake()
        for row in self._pendingOf(key, count):
            Tickets(self._block.rowAddress(row), self._block.fencesAddress(row)).poison(key)

    def _pendingOf(self, key: MemberKey, count: int) -> set[int]:
        first, indices = self._block.rowAddress(0) + layout.ROW_TICKETS_OFFSET, atomics.indexBuffer(count)
        pending: set[int] = set()
        for position in range(layout.TICKET_RING):
            found = atomics.scan64(first + position * 8, layout.ROW_BYTES, count, *Tickets.openOf(key), indices, count)
            pending.update(indices[: min(found, count)])
        return pending

    def closeInChild(self) -> None:
        """In a forked child: let go of the descriptors, and leave the parent's epoll as it is."""
        for kept in self._pidfds.values():
            kept.close()
        self._pidfds.clear()

    def close(self) -> None:
        for key in list(self._pidfds):
            self.forget(key)
