"""Departure: leaving a domain while other threads of the process may still be at work
in it.

A slot that is given back is believed to be nobody's: its claims are taken over, its
leases are swept away. So it is given back only while no thread is inside an access,
holds a `Lock` or creates, and none begins between that look and the good-bye: whoever
begins takes first and looks at `isOn` afterwards, whoever leaves sets it first and
looks for takers afterwards. At least one of the two sees the other. A taker that sees a
departure steps back, waits until it is over, and begins again, under the process's next
membership if this one has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from muninn.control import layout
from muninn.control.members import MemberKey, MemberTable
from muninn.session.gpus import Gpus
from muninn.session.owners import Owners
from muninn.system import aside, clock, green

#: How long a departure waits for the threads that are inside; they may be there for
#: ever, and a process that ends gives all back too.
_OUTSIDE_SECONDS = 0.2
_LOOK_SECONDS = 0.001
_PAST_SECONDS = 1.0
#: How often a thread that has nothing else to do looks whether the others are outside.
_STAY_SECONDS = 0.05
#: How long a thread waits for the end of a departure: above what a good-bye may take.
_OVER_SECONDS = 60.0


class Departing(Exception):
    """This membership may end at any moment: nothing is begun under it."""


class Departure:
    """Whether the membership of this process is being given up; of one membership."""

    def __init__(self) -> None:
        self.isOn = False
        self._leaver = 0

    def check(self) -> None:
        """After an access, a lock or a name was taken: raises `Departing` when it is to
        be given back, and taken under the next membership.
        """
        # SYNC depart: pairs with begin. What is taken is visible before this is read;
        # the interpreter's lock orders both.
        if self.isOn and green.identity() != self._leaver:
            raise Departing

    def begin(self) -> None:
        """From now on nobody begins anything. The caller looks for those who have
        *afterwards*.
        """
        # SYNC depart: pairs with check.
        self._leaver = green.identity()
        self.isOn = True

    def isOwn(self) -> bool:
        """Whether the calling thread is the one that leaves."""
        return self.isOn and green.identity() == self._leaver

    def end(self) -> None:
        """The membership has ended, or stays after all."""
        self.isOn = False

    def awaitOutside(self, isInside: Callable[[], bool], ownThread: object) -> bool:
        """Wait a moment for the other threads to come out; False when somebody is still
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
    """Of a control block that nobody finds: wait for the accesses, locks and creations
    of this process in it, which end or end with it.

    Nobody makes the next block meanwhile.
    """
    # whoever takes an owner lock from now on sees it, and gives it back; whoever has
    # one is seen here
    owners.depart(True)
    while isInside():
        clock.sleep(_STAY_SECONDS)


def keepPromises(gpus: Gpus, seconds: float, isAtWork: Callable[[], bool]) -> bool:
    """Let streams come to what others wait for; False when that takes longer than so
    many seconds.

    Parameters
    ----------
    isAtWork
        Whether GPUs may be at work on what others will use.
    """
    deadline = clock.now() + seconds
    while gpus.promised and clock.now() < deadline:
        clock.sleep(_LOOK_SECONDS)
    if gpus.promised:
        return False
    return gpus.device is None or not isAtWork() or gpus.device.awaitWork(seconds)


def awaitPast(members: MemberTable, key: MemberKey) -> None:
    """After an exec: wait a moment until the broker has taken back what the program
    before this one held, which its user takes for gone.
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
