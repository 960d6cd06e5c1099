"""Waiting for a name to come or to go, without asking for it again and again.

The control block has some words for all names, chosen by a name's hash; the broker
changes the word of each name that comes or goes, and wakes the threads that sleep on
it. A thread that wakes looks into the index. It asks the broker itself at first, and
again only when the broker may know more than the index does: the broker says so in the
word when the index had no room for a name. A broker that died may not have changed the
word, so the thread asks its successor once; and because the index is only a hint, it
asks again every few seconds. A stale read of the word costs one more look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muninn.control import layout
from muninn.errors import BufferNotFound
from muninn.system import aside, atomics
from muninn.system.clock import monotonicMs
from muninn.system.deadlines import sleepNs
from muninn.system.green import sleepOn

if TYPE_CHECKING:
    from muninn.session.openbuffer import OpenBuffer
    from muninn.session.openbuffers import OpenBuffers
    from muninn.session.tables import Tables

#: The advice for a name that does not exist, where waiting does not help.
LOOK = "Check the name with `python -m muninn list`"

#: A name is looked up in the index again at least so often; the broker wakes waiters
#: sooner.
_LOOK_NS = 500_000_000
_ASK_MS = 10_000


def absent(tables: Tables, name: str, waited: str = "", fix: str | None = LOOK) -> BufferNotFound:
    """The error for a name that does not exist."""
    return BufferNotFound(
        f"there is no buffer {name!r} in domain {tables.paths.domain!r}{waited}", fix
    )


class NameWatch:
    """The wake word of a name, as one thread has seen it.

    Attributes
    ----------
    seen
        The word.
    """

    def __init__(self, tables: Tables, name: str) -> None:
        self._word = tables.index.wakeAddress(name.encode())
        self.seen = 0

    def see(self) -> None:
        """Read the word. The caller then looks; if the name comes, goes or gets another
        version from here on, the next `sleep` ends.
        """
        # SYNC names: pairs with NameIndex.tell; the word is read before the look, so
        # nothing that comes afterwards is missed.
        self.seen = int(atomics.loadAcquire32(self._word))

    def sleep(self, deadline: float | None, mostNs: int = _LOOK_NS) -> bool:
        """Sleep until the name may have changed, at most `mostNs`; False when the
        deadline has passed.
        """
        timeoutNs = sleepNs(deadline, mostNs)
        if timeoutNs <= 0:
            return False
        aside.refuseOwn()
        # SYNC names: pairs with NameIndex.tell. The word is compared as the thread
        # falls asleep. SYNC again: pairs with NameWatch.wake.
        sleepOn(self._word, self.seen, timeoutNs)
        return True

    def wake(self) -> None:
        """Let the sleepers look again."""
        # SYNC again: pairs with NameWatch.sleep. A thread that falls asleep just now is
        # missed, and sleeps until its next look.
        atomics.futexWake32(self._word, atomics.FUTEX_ALL)


class NameWait:
    """One thread's wait for one name.

    Attributes
    ----------
    isComing
        Whether the broker said that a process is creating it.
    """

    def __init__(self, openBuffers: OpenBuffers, name: str) -> None:
        self._openBuffers = openBuffers
        self._name = name
        self._watch = NameWatch(openBuffers.tables, name)
        self._asked: tuple[int, int] | None = None
        self._askAgainMs = 0
        self.isComing = False

    def look(self) -> OpenBuffer | None:
        """The open buffer of the name, if it is there. If the name comes or goes from
        here on, the next `sleep` ends.
        """
        self._watch.see()
        openBuffers = self._openBuffers
        openBuffer = openBuffers.known(self._name)
        if openBuffer is None and self._mayBeKnownToTheBroker():
            openBuffer, self.isComing = openBuffers.asked(self._name)
        return openBuffer

    def _mayBeKnownToTheBroker(self) -> bool:
        # While a process is creating the name, any change of the word counts. Otherwise
        # only a change outside of the index does: the index shows the others.
        seen = self._watch.seen
        told = seen if self.isComing else layout.NAME_WAKE_NOT_INDEXED.of(seen)
        state, now = (self._openBuffers.tables.election.epoch(), told), monotonicMs()
        if state == self._asked and now < self._askAgainMs:
            return False
        self._asked, self._askAgainMs = state, now + _ASK_MS
        return True

    def sleep(self, deadline: float | None) -> bool:
        """Sleep until the name may have come or gone, at most half a second; False when
        the deadline has passed.

        Raises `BrokerUnavailable` when the calling thread itself is creating the name,
        and was interrupted by this call.
        """
        if sleepNs(deadline, _LOOK_NS) <= 0:
            return False
        self._openBuffers.creating.refuseOwn(self._name)
        return self._watch.sleep(deadline)
