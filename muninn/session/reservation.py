"""A reservation: one creation's talk with the broker, from the grant to the commit, which
leaves nothing half done behind.

A creation may be interrupted between any two bytecodes: while its question is under
way, say, so that nobody here knows what was granted. What is asked is noted before it
is asked, and `giveUp` takes back whatever can have come of it: the same grant is asked
for again, which returns the same row, and that is given back. Should that be cut short
too, the end of its `Cleanup` leaves it to the background thread. Meanwhile the name is
taken in this process: the broker takes a second request of one process for the first
one repeated, so threads of a process are told apart here. So is the thread that is
creating it: what interrupts that, or is called by it, a progress report say, must not
wait for its end.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from muninn.errors import BrokerUnavailable, BufferExists, HolderSilent, MuninnError
from muninn.system import aside, clock, green
from muninn.system.cleanups import Cleanup, Cleanups
from muninn.system.descriptors import Descriptor
from muninn.terms import INTERNAL_PREFIX
from muninn.wire.requests import LATER

if TYPE_CHECKING:
    from muninn.session.client import Client

#: How long a grant waits until what was cut short is on its way back.
_UNDONE_SECONDS = 10.0
#: How long the members have to bring a new broker the memory that they hold, before a
#: name is taken for one of theirs.
_BROUGHT_SECONDS, _BROUGHT_PAUSE_SECONDS = 1.0, 0.002


class Creating:
    """The names that this process is creating now, and by which makings."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self.cleanups = Cleanups(wake)
        self._byName: dict[str, Reservation] = {}
        self._changing = _thread.RLock()

    def take(self, name: str, reservation: Reservation) -> bool:
        """Whether the name is this reservation's from now on. One whose maker was cut short
        has none any more.
        """
        with self._changing:
            if not self.has(name):
                self._byName.pop(name, None)
            return self._byName.setdefault(name, reservation) is reservation

    def leave(self, name: str, reservation: Reservation) -> None:
        """Again, or of a name that was not taken, is fine."""
        with self._changing:
            if self._byName.get(name) is reservation:
                self._byName.pop(name, None)

    def has(self, name: str) -> bool:
        """Whether a reservation that is under way has the name."""
        return self._underWay(name) is not None

    def isOwn(self, name: str) -> bool:
        """Whether the calling thread itself is creating it, and was interrupted, or
        calls this in the midst of it.
        """
        reservation = self._underWay(name)
        return reservation is not None and reservation.thread == green.identity()

    def _underWay(self, name: str) -> Reservation | None:
        reservation = self._byName.get(name)
        return (
            reservation
            if reservation is not None and self.cleanups.isUnderWay(reservation)
            else None
        )

    def refuseOwn(self, name: str) -> None:
        """Before a wait for the name: raises `BrokerUnavailable` when it would be a
        wait for the calling thread.
        """
        if self.isOwn(name):
            raise BrokerUnavailable(
                f"{_midst(name)}: what comes in between can not wait for the end of it",
                "Use it before or after the call that creates it; a handler of a signal can "
                "note what is to be done",
            )

    def isAny(self) -> bool:
        """Whether any reservation is under way."""
        return any(self.has(name) for name in list(self._byName))


class Reservation:
    """What one creation has asked for, and not yet brought to its end.

    Attributes
    ----------
    thread
        The thread that creates.
    """

    __slots__ = (
        "_client",
        "_creating",
        "_granted",
        "_isOver",
        "_isUnanswered",
        "_mayBeLive",
        "_name",
        "_question",
        "thread",
    )

    def __init__(self, client: Client, creating: Creating, name: str) -> None:
        self._client = client
        self._creating = creating
        self._name = name
        self.thread = green.identity()
        self._question: dict[str, Any] | None = None
        self._granted: tuple[int, int] | None = None
        self._mayBeLive = False
        self._isOver = self._isUnanswered = False

    def begun(self) -> Cleanup:
        """For the `with` statement around all of it: whatever ends that, `undo` is
        called unless `leaveName` was.
        """
        return self._creating.cleanups.begin(self)

    def takeName(self) -> None:
        """Raises `BufferExists` while another thread of this process is creating it, or
        this one is, and was interrupted.
        """
        if not self._creating.take(self._name, self):
            if self._creating.isOwn(self._name):
                raise BufferExists(_midst(self._name))
            raise BufferExists(f"another thread of this process is creating {_shown(self._name)}")

    def leaveName(self) -> None:
        """Nothing is left to be done. Again, or of a name that was not taken, is fine."""
        self._creating.leave(self._name, self)
        self._creating.cleanups.end(self)

    def grant(self, **fields: Any) -> tuple[int, int]:
        """Ask for a row that is this process's to fill; returns (row, incarnation).
        Raises whatever forbids it.
        """
        aside.refuseOwn()
        if not self._creating.cleanups.awaitDone(_UNDONE_SECONDS):
            raise BrokerUnavailable("the background thread stands still")
        self._client.awaitLater()
        self._question = fields
        deadline = clock.now() + _BROUGHT_SECONDS
        try:
            while (granted := self._client.request("create", **fields)[0])["row"] == LATER:
                if clock.now() > deadline:
                    raise HolderSilent(
                        f"whether {self._name!r} exists is not known before a process that "
                        "may have its memory says so"
                    )
                clock.sleep(_BROUGHT_PAUSE_SECONDS)
        except HolderSilent:
            self._question = None  # nothing was granted
            raise
        except BrokerUnavailable:
            self._isUnanswered = True  # whether it was granted will show
            raise
        except MuninnError:
            self._question = None
            raise
        self._granted = granted["row"], granted["incarnation"]
        return self._granted

    def commit(self, descriptors: Sequence[Descriptor]) -> None:
        """CREATING → LIVE; memory without a name goes along as a descriptor."""
        assert self._granted is not None
        row, incarnation = self._granted
        self._mayBeLive = True
        try:
            self._client.request("commit", descriptors, row=row, incarnation=incarnation)
        except BrokerUnavailable:
            self._isUnanswered = True
            raise

    def end(self) -> None:
        """All is done, and its result is somebody's."""
        self._isOver = True

    def giveUp(self) -> None:
        """Take back whatever was granted. The error that led here is the one that
        counts; a broker that is not there hears it later.
        """
        if self._isOver or self._question is None:
            return
        if self._isUnanswered:
            # a broker that did not answer for the time that a call may take is not
            # waited for as long again
            self.undo()
            return
        try:
            if self._granted is None:
                again, _ = self._client.request("create", **self._question)
                self._granted = again["row"], again["incarnation"]
            row, incarnation = self._granted
            self._client.request("abandon", row=row, incarnation=incarnation)
            if self._mayBeLive:
                self._client.request("free", row=row, incarnation=incarnation)
        except BrokerUnavailable:
            self.undo()
        except MuninnError:
            pass  # it is another's, or gone
        self._isOver = True

    def undo(self) -> bool:
        """Let the background thread take back what may have been granted: the maker was
        cut short, or has no broker to ask.
        """
        if not self._isOver and self._question is not None:
            if self._granted is None:
                self._client.later({"op": "create", **self._question})
            else:
                # No grant of this process is asked for before that was asked, so it can
                # not be of what the program shares since.
                row, incarnation = self._granted
                for op in ("abandon", "free") if self._mayBeLive else ("abandon",):
                    self._client.later({"op": op, "row": row, "incarnation": incarnation})
        self._isOver = True
        self._creating.leave(self._name, self)
        return True


def _midst(name: str) -> str:
    return (
        f"this thread was interrupted while it is creating {_shown(name)}, or calls this "
        "in the midst of that"
    )


def _shown(name: str) -> str:
    return repr(name.removeprefix(INTERNAL_PREFIX))
