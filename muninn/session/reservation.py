"""A reservation: the requests of one creation to the broker, from the grant to the
commit.

A reservation leaves nothing half done. A signal handler may interrupt the creating
thread between any two bytecodes, for example after the request was sent and before the
answer was stored, so that this process does not know which row was granted. Therefore:

1. The thread takes the name in `Creating`. The broker treats a second request of the
   same process as a repetition of the first, so the process itself must keep its
   threads apart.
2. The thread stores the request, and then sends it.
3. If the creation fails or is interrupted, `giveUp` sends the same request again, and
   the broker returns the same row. `giveUp` then abandons that row, and also frees it
   if the commit may have happened. It does not free a version that replaces another:
   once the commit has happened, the name has no other version. Nor does it free a part,
   which the broker frees with its bundle.
4. If `giveUp` is interrupted too, or no broker answers, the end of the `Cleanup` queues
   the same requests for the background thread (`undo`).
5. Then the name is released.

If the process dies at any point, the broker reclaims the row of the dead creator.

The reservation also knows which thread creates. A signal handler that interrupts that
thread, or a `progress` function that it calls, must not wait for the end of the
creation.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from muninn.errors import (
    BrokerUnavailable,
    BufferExists,
    HolderSilent,
    MuninnError,
    PromotionDenied,
)
from muninn.system import aside, clock, green
from muninn.system.cleanups import Cleanup, Cleanups
from muninn.system.descriptors import Descriptor
from muninn.terms import INTERNAL_PREFIX
from muninn.wire.requests import LATER, QUEUED

if TYPE_CHECKING:
    from muninn.session.client import Client

#: How long a grant waits until interrupted creations are queued to be taken back.
_UNDONE_SECONDS = 10.0
#: The pause between two questions whether a name belongs to memory that a member is yet
#: to bring to a new broker.
_BROUGHT_PAUSE_SECONDS = 0.002


class Creating:
    """The names that this process is creating now, each with its reservation."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self.cleanups = Cleanups(wake)
        self._byName: dict[str, Reservation] = {}
        self._changing = _thread.RLock()

    def take(self, name: str, reservation: Reservation) -> bool:
        """Whether the name belongs to this reservation from now on. An interrupted
        reservation that has ended keeps no name.
        """
        with self._changing:
            if not self.has(name):
                self._byName.pop(name, None)
            return self._byName.setdefault(name, reservation) is reservation

    def leave(self, name: str, reservation: Reservation) -> None:
        """Release the name. A repeated call, or one for a name that was not taken, does
        nothing.
        """
        with self._changing:
            if self._byName.get(name) is reservation:
                self._byName.pop(name, None)

    def has(self, name: str) -> bool:
        """Whether a reservation that is under way has the name."""
        return self._underWay(name) is not None

    def isOwn(self, name: str) -> bool:
        """Whether the calling thread itself is creating the name: this is called by a
        signal handler that interrupted it, or by a function that the creation calls.
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
        """Called before a wait for the name: raises `BrokerUnavailable` when the
        calling thread would wait for itself.
        """
        if self.isOwn(name):
            raise BrokerUnavailable(
                f"{_midst(name)}: a call from there can not wait for the end of it",
                "Use it before or after the call that creates it; a handler of a signal can "
                "note the request",
            )

    def isAny(self) -> bool:
        """Whether any reservation is under way."""
        return any(self.has(name) for name in list(self._byName))


class PromotionQueued(PromotionDenied):
    """A window must wait, and may be granted later.

    Attributes
    ----------
    short
        Whose budget has no room: "gpu", or "tenant" for the tenant's on that GPU. Empty if
        the window waits for a place or for its turn: to give memory back would not help.
    """

    def __init__(self, reason: str, fix: str | None = None, *, short: str = "") -> None:
        super().__init__(reason, fix)
        self.short = short


class Reservation:
    """The request of one creation to the broker, until it has ended.

    Attributes
    ----------
    thread
        The thread that creates.

    Parameters
    ----------
    replaces
        Whether the buffer replaces the one that has its public name.
    isPart
        Whether it is a part of a bundle.
    """

    __slots__ = (
        "_client",
        "_creating",
        "_granted",
        "_isOver",
        "_isPart",
        "_isUnanswered",
        "_mayBeLive",
        "_name",
        "_question",
        "_replaces",
        "thread",
    )

    def __init__(
        self,
        client: Client,
        creating: Creating,
        name: str,
        *,
        replaces: bool = False,
        isPart: bool = False,
    ) -> None:
        self._client = client
        self._creating = creating
        self._name = name
        self._replaces, self._isPart = replaces, isPart
        self.thread = green.identity()
        self._question: dict[str, Any] | None = None
        self._granted: tuple[int, int] | None = None
        self._mayBeLive = False
        self._isOver = self._isUnanswered = False

    def begun(self) -> Cleanup:
        """A context manager around the whole creation. When its body ends in any way,
        it calls `undo`, unless `leaveName` was called.
        """
        return self._creating.cleanups.begin(self)

    def takeName(self) -> None:
        """Take the name in this process. Raises `BufferExists` while another thread of
        this process, or this interrupted thread itself, is creating it.
        """
        if not self._creating.take(self._name, self):
            if self._creating.isOwn(self._name):
                raise BufferExists(_midst(self._name))
            raise BufferExists(f"another thread of this process is creating {_shown(self._name)}")

    def leaveName(self) -> None:
        """Release the name: nothing is left to be undone. A repeated call does nothing."""
        self._creating.leave(self._name, self)
        self._creating.cleanups.end(self)

    def grant(self, **fields: Any) -> tuple[int, int]:
        """Ask for a row that this process is to fill; returns (row, incarnation).
        Raises the broker's reason if it refuses.
        """
        aside.refuseOwn()
        if not self._creating.cleanups.awaitDone(_UNDONE_SECONDS):
            raise BrokerUnavailable("the background thread stands still")
        self._client.awaitLater()
        self._question = fields
        deadline = clock.now() + self._client.broughtSeconds()
        try:
            while (granted := self._client.request("create", **fields)[0])["row"] == LATER:
                if clock.now() > deadline:
                    raise HolderSilent(
                        f"whether {self._name!r} exists is not known before a process that "
                        "may have its memory says so"
                    )
                clock.sleep(_BROUGHT_PAUSE_SECONDS)
            if granted["row"] == QUEUED:
                # No variable of this frame has the error, which has this frame.
                raise PromotionQueued(
                    str(granted.get("reason")), short=str(granted.get("short", ""))
                )
        except HolderSilent:
            self._question = None  # nothing was granted
            raise
        except BrokerUnavailable:
            self._isUnanswered = True  # it is not known whether the row was granted
            raise
        except MuninnError:
            self._question = None
            raise
        self._granted = granted["row"], granted["incarnation"]
        return self._granted

    def commit(self, descriptors: Sequence[Descriptor]) -> None:
        """Ask for CREATING → LIVE. Memory without a name goes along as a descriptor."""
        assert self._granted is not None
        row, incarnation = self._granted
        self._mayBeLive = not self._replaces and not self._isPart
        try:
            self._client.request(
                "commit", descriptors, row=row, incarnation=incarnation, replaces=self._replaces
            )
        except BrokerUnavailable:
            self._isUnanswered = True
            raise

    def end(self) -> None:
        """The creation has succeeded: there is nothing to take back."""
        self._isOver = True

    def giveUp(self) -> None:
        """Abandon the granted row. The error that led here is the one that the caller
        sees, so no other is raised; if no broker answers, the background thread asks
        later.
        """
        if self._isOver or self._question is None:
            return
        if self._isUnanswered:
            # The call has already waited as long as it may for a broker that does not
            # answer: the background thread goes on.
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
            pass  # the row is another process's, or gone
        self._isOver = True

    def undo(self) -> bool:
        """Let the background thread abandon a row that may have been granted, since the
        creating thread was interrupted, or no broker answers it.
        """
        if not self._isOver and self._question is not None:
            if self._granted is None:
                self._client.later({"op": "create", **self._question})
            else:
                # This process asks for no other grant before these requests are done,
                # so they can not hit a buffer that the program shares later.
                row, incarnation = self._granted
                for op in ("abandon", "free") if self._mayBeLive else ("abandon",):
                    self._client.later({"op": op, "row": row, "incarnation": incarnation})
        self._isOver = True
        self._creating.leave(self._name, self)
        return True


def _midst(name: str) -> str:
    return (
        f"this thread was interrupted while it is creating {_shown(name)}, or calls this "
        "from inside the creation"
    )


def _shown(name: str) -> str:
    return repr(name.removeprefix(INTERNAL_PREFIX))
