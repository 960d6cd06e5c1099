"""Departure: leaving a domain while other threads of the process may still be at work
in it.

After a slot is given back, other members may take its owner locks, and its leases are
cleared. So the process gives its slot back only while no thread is inside an access,
holds a `Lock` or creates a buffer, and no thread may begin any of these between that
check and the good-bye.

1. The leaving thread sets `isOn` and the leaver in the owner records
   (`Owners.depart`), and then looks for threads that are inside.
2. A thread that begins an access or takes a lock reads the leaver in the C call that
   takes it, while it has the interpreter's lock. While another thread leaves, it takes
   nothing.
3. A thread that creates takes its name first, and then reads `isOn`. If that is set, it
   gives the name back.

So at least one of the two threads sees the other. A thread that sees a departure waits
until the departure is over, and begins again; if this membership has ended, it begins
under the next membership of the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from muninn.control import layout
from muninn.control.members import MemberKey, MemberTable
from muninn.session.gpus import Gpus
from muninn.session.owners import Owners
from muninn.system import aside, clock, green

#: How long a departure waits for the threads that are inside. They may stay there for
#: ever; the broker reclaims everything when the process ends.
_OUTSIDE_SECONDS = 0.2
_LOOK_SECONDS = 0.001
_PAST_SECONDS = 1.0
#: How often a thread that has nothing else to do looks whether the others are outside.
_STAY_SECONDS = 0.05
#: How long a thread waits for the end of a departure: longer than a departure may take.
_OVER_SECONDS = 60.0


class Departing(Exception):
    """This membership may end at any moment: a thread must not begin anything under it."""


class Departure:
    """Whether a thread of this process is leaving the domain; one object for each
    membership.
    """

    def __init__(self, owners: Owners) -> None:
        self.isOn = False
        self._owners = owners
        self._leaver = 0

    def check(self) -> None:
        """Called after a name was taken. Raises `Departing` when the caller must give
        it back, and take it under the next membership.
        """
        # SYNC depart: pairs with begin. The creation of this thread is noted before
        # this is read; the interpreter's lock orders both.
        if self.isOn and green.identity() != self._leaver:
            raise Departing

    def begin(self) -> None:
        """From now on no other thread begins anything. *Afterwards* the caller looks
        for threads that are inside.
        """
        # SYNC depart: pairs with check.
        self._leaver = green.identity()
        self.isOn = True
        self._owners.depart(True)

    def isOwn(self) -> bool:
        """Whether the calling thread is the one that leaves."""
        return self.isOn and green.identity() == self._leaver

    def end(self) -> None:
        """The membership has ended, or stays after all."""
        self._owners.depart(False)
        self.isOn = False

    def awaitOutside(self, isInside: Callable[[], bool], ownThread: object) -> bool:
        """Wait a moment for the other threads to come out; False when a thread is still
        inside.
        """
        deadline = clock.now() + _OUTSIDE_SECONDS
        while isInside():
            if clock.now() > deadline or not _anyOther(ownThread):
                return False
            clock.sleep(_LOOK_SECONDS)
        return True

    def awaitEnd(self) -> None:
        """Wait until it is known whether the membership has ended; not on the thread
        that leaves.
        """
        deadline = clock.now() + _OVER_SECONDS
        while self.isOn and green.identity() != self._leaver and clock.now() < deadline:
            aside.refuseOwn()  # a departure ends with that thread
            clock.sleep(_LOOK_SECONDS)


def stayWhile(isInside: Callable[[], bool], owners: Owners) -> None:
    """Wait for the accesses, locks and creations of this process in a control block
    that was removed, until they end or the process ends.

    Meanwhile no process makes the next block.
    """
    # From now on no other thread takes an owner lock. The loop waits for those that
    # have one.
    owners.depart(True)
    while isInside():
        clock.sleep(_STAY_SECONDS)


def keepPromises(gpus: Gpus, seconds: float, isAtWork: Callable[[], bool]) -> bool:
    """Wait until streams complete the work that others wait for; False when that takes
    longer than `seconds`.

    Parameters
    ----------
    isAtWork
        Whether GPUs may be at work on memory that others will use.
    """
    deadline = clock.now() + seconds
    while gpus.promised and clock.now() < deadline:
        clock.sleep(_LOOK_SECONDS)
    if gpus.promised:
        return False
    return gpus.device is None or not isAtWork() or gpus.device.awaitWork(seconds)


def awaitPast(members: MemberTable, key: MemberKey) -> None:
    """After an exec: wait a moment until the broker has reclaimed the leases and locks
    of the previous program of this process, since its user expects them to be gone.
    """
    deadline = clock.now() + _PAST_SECONDS
    past = members.predecessors(key)
    while any(
        members.state(each.slot)
        in ((layout.MEMBER_LIVE, each.generation), (layout.MEMBER_DEAD, each.generation))
        for each in past
    ):
        if clock.now() > deadline:
            return
        clock.sleep(_LOOK_SECONDS)


def _anyOther(ownThread: object) -> bool:
    """Whether a thread of this process could come out of anything while this one waits."""
    return green.areGreen() or any(
        each not in (threading.current_thread(), ownThread) for each in threading.enumerate()
    )
