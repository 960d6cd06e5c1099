"""The death watch: how the broker notices that a member may be dead, and how it
confirms that.

The broker alone has a death watch; it is private memory, and a successor builds its own
from the slots of the members.

The broker holds a pidfd of each member as long as there are few members. For further
members the broker holds only the connection. A connection ends with its process. Where
a forked child holds a copy of the connection, the robust word of the member's slot is
marked instead. After either event the broker opens a pidfd by the identity in the slot.
A process of another PID namespace can not be found by its pid; the broker therefore
keeps the pidfd that such a member sent.

A death is suspected when a connection ends or a pidfd is readable. A death is confirmed
when the member's byte lock is free as well (`MemberReader.isConfirmedDead`). Only a
confirmed death is passed on to reclaiming (`reclaiming.py`). The kernel frees the byte
lock last, so a suspected death is looked at again after a few milliseconds, for a
bounded number of times; then the periodic sweep (`adopt`) finds it. A stale read of a
slot costs one more look, and never memory: the confirmation reads the kernel's state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import Enum

from muninn.control import layout
from muninn.control.members import MemberKey, MemberTable
from muninn.system.descriptors import Descriptor, own
from muninn.system.processes import openPidfd, ownPidNamespace

#: So many members cost the broker two descriptors, the others one.
MAX_PIDFDS = 64
#: How soon a death that is suspected and not yet confirmed is looked at again.
RETRY_SECONDS = 0.005
#: How often it is looked at before it is left to the sweeps. A process of many GiB
#: takes its time to die, and the kernel closes its descriptors last.
RETRIES = 6000


class Death(Enum):
    """The state of the death of a pidfd's member."""

    UNWATCHED = "unwatched"  #: the pidfd belongs to no member any more
    SUSPECTED = "suspected"
    CONFIRMED = "confirmed"


class DeathWatch:
    """The pidfds of the members of a domain, and which of these members may be dead.

    Parameters
    ----------
    watch, unwatch
        Called with a descriptor that the broker's loop should, or should no longer,
        wait for.
    """

    def __init__(
        self, members: MemberTable, watch: Callable[[int], None], unwatch: Callable[[int], None]
    ) -> None:
        self._members = members
        self._watch = watch
        self._unwatch = unwatch
        self._pidfds: dict[MemberKey, Descriptor] = {}
        self._memberOf: dict[int, MemberKey] = {}
        self._suspects: dict[int, int] = {}  # pidfds, and how often each is still looked at
        self._connected: Counter[MemberKey] = Counter()  # connections of a member

    def follow(self, key: MemberKey, pidfd: int | Descriptor) -> None:
        """Wait for the death of a member by a descriptor that is the death watch's from
        now on.
        """
        kept = own(pidfd)
        self.forget(key)
        self._watch(kept.number)
        self._pidfds[key] = kept
        self._memberOf[kept.number] = key

    def connected(self, key: MemberKey, pidfd: int | Descriptor) -> None:
        """A member has connected, and sent a pidfd, which is the death watch's from now
        on.
        """
        self._connected[key] += 1
        if len(self._pidfds) >= MAX_PIDFDS and self._canBeLookedUp(key):
            self.forget(key)
            own(pidfd).close()
        else:
            self.follow(key, pidfd)

    def disconnected(self, key: MemberKey) -> bool:
        """A connection of a member has ended. Whether it must be looked for, because
        nothing else tells of its death.
        """
        self._connected[key] -= 1
        if self._connected[key] <= 0:
            del self._connected[key]
        return key not in self._connected and key not in self._pidfds

    def economize(self) -> int:
        """Close the pidfds of members whose connections tell as much; returns how many."""
        spared = [
            key for key in self._pidfds if key in self._connected and self._canBeLookedUp(key)
        ]
        for key in spared:
            self.forget(key)
        return len(spared)

    def _canBeLookedUp(self, key: MemberKey) -> bool:
        return self._members.identity(key.slot).pidNamespace == ownPidNamespace()

    def forget(self, key: MemberKey) -> None:
        kept = self._pidfds.pop(key, None)
        if kept is not None:
            # The number may belong to another member by now.
            if self._memberOf.get(kept.number) == key:
                del self._memberOf[kept.number]
            if kept.isOurs():
                self._unwatch(kept.number)
            kept.close()

    def owns(self, descriptor: int) -> bool:
        return descriptor in self._memberOf

    def adopt(self, own: MemberKey) -> list[MemberKey]:
        """Follow every member that lives and has not said hello (yet), and return those
        that are dead.

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
            # A pidfd does not end with an exec. A child that was forked before may keep
            # the connection open, too.
            if state == layout.MEMBER_DEAD or self._members.isConfirmedDead(
                key, None if pidfd is None else pidfd.number
            ):
                dead.append(key)
            elif state == layout.MEMBER_LIVE and pidfd is None:
                self._followByPid(key)
        return dead

    def _followByPid(self, key: MemberKey) -> None:
        """Follow a member that has not sent a pidfd, where its pid means something. If
        it can not be opened, that confirms no death.
        """
        identity = self._members.identity(key.slot)
        if not self._canBeLookedUp(key):
            return
        pidfd = openPidfd(identity.pid, identity.startTime)
        if pidfd.number >= 0:
            self.follow(key, pidfd)

    def confirm(self, pidfd: int) -> Death:
        """Look whether the member of a pidfd that is readable, or was suspected, is
        confirmed dead; if not, look again soon.
        """
        key = self._memberOf.get(pidfd)
        if key is None:
            self._suspects.pop(pidfd, None)
            return Death.UNWATCHED
        if self._members.isConfirmedDead(key, pidfd):
            self._suspects.pop(pidfd, None)
            return Death.CONFIRMED
        if self._suspects.setdefault(pidfd, RETRIES) > 0:
            # Its byte lock is still held: the kernel has not finished the process.
            self._suspects[pidfd] -= 1
        else:
            del self._suspects[pidfd]  # nor soon; the sweeps look again
        return Death.SUSPECTED

    def suspect(self, key: MemberKey) -> None:
        """The connection of a member has ended. Look soon whether the member is dead,
        if its thread has ended too.

        Another program may run in the process of the member by now. Then the pidfd
        stays silent, and nothing else tells of the death.
        """
        kept = self._pidfds.get(key)
        if kept is not None and kept.isOurs() and self._members.isMarked(key.slot):
            self._suspects[kept.number] = RETRIES

    def suspects(self) -> list[int]:
        """The pidfds of the members whose death is suspected."""
        return list(self._suspects)

    def memberOf(self, pidfd: int) -> MemberKey:
        """The member of a pidfd that is watched."""
        return self._memberOf[pidfd]

    def closeInChild(self) -> None:
        """In a forked child: close the copies of the descriptors, and do not change the
        parent's epoll.
        """
        for kept in self._pidfds.values():
            kept.close()
        self._pidfds.clear()

    def close(self) -> None:
        for key in list(self._pidfds):
            self.forget(key)
