"""A making: one creation's talk with the broker, from the grant to the commit, which leaves nothing half done behind.

A creation may be interrupted between any two bytecodes: while its question is under way, say, so that nobody here knows what was
granted. What is asked is noted before it is asked, and `giveUp` takes back whatever can have come of it: the same grant is asked for
again, which returns the same row, and that is given back. Should that be cut short too, the end of this object leaves it to the
background thread. Meanwhile the name is taken in this process: the broker takes a second request of one process for the first one
repeated, so threads of a process are told apart here.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from muninn.errors import BrokerUnavailable, BufferExists, MuninnError

if TYPE_CHECKING:
    from muninn.broker.client import Client

#: The names that this process is creating now, and by which makings.
Creating = dict[str, "weakref.ref[Making]"]


class _Steps:
    """How far a making has come, kept apart from it for its end."""

    __slots__ = ("granted", "isOver", "mayBeLive", "question")

    def __init__(self) -> None:
        self.question: dict[str, Any] | None = None
        self.granted: tuple[int, int] | None = None
        self.mayBeLive = False
        self.isOver = False


class Making:
    """What one creation has asked for, and not yet brought to its end."""

    __slots__ = ("__weakref__", "_client", "_creating", "_name", "_steps")

    def __init__(self, client: Client, creating: Creating, name: str) -> None:
        self._client = client
        self._creating = creating
        self._name = name
        self._steps = _Steps()
        weakref.finalize(self, _finish, client, self._steps, creating, name).atexit = False

    def takeName(self) -> None:
        """Raises `BufferExists` while another thread of this process is creating it."""
        own = weakref.ref(self)
        found = self._creating.setdefault(self._name, own)
        if found() is None:  # its maker was cut short, and is gone
            self._creating.pop(self._name, None)
            found = self._creating.setdefault(self._name, own)
        if found() is not self:
            raise BufferExists(f"another thread of this process is creating {self._name!r}")

    def leaveName(self) -> None:
        """Again, or of a name that was not taken, is fine."""
        found = self._creating.get(self._name)
        if found is not None and found() is self:
            self._creating.pop(self._name, None)

    def grant(self, **fields: Any) -> tuple[int, int]:
        """Ask for a row that is this process's to fill; returns (row, incarnation). Raises whatever forbids it."""
        steps = self._steps
        self._client.awaitLater()
        steps.question = fields
        try:
            granted, _ = self._client.request("create", **fields)
        except BrokerUnavailable:
            raise  # whether it was granted will show
        except MuninnError:
            steps.question = None
            raise
        steps.granted = granted["row"], granted["incarnation"]
        return steps.granted

    def commit(self, descriptors: tuple[int, ...]) -> None:
        """CREATING → LIVE; memory without a name goes along as a descriptor."""
        assert self._steps.granted is not None
        row, incarnation = self._steps.granted
        self._steps.mayBeLive = True
        self._client.request("commit", descriptors, row=row, incarnation=incarnation)

    def end(self) -> None:
        """All is done, and its result is somebody's."""
        self._steps.isOver = True

    def giveUp(self) -> None:
        """Take back whatever was granted. The error that led here is the one that counts; a broker that is not there hears it later."""
        steps = self._steps
        if steps.isOver or steps.question is None:
            return
        try:
            if steps.granted is None:
                again, _ = self._client.request("create", **steps.question)
                steps.granted = again["row"], again["incarnation"]
            row, incarnation = steps.granted
            self._client.request("abandon", row=row, incarnation=incarnation)
            if steps.mayBeLive:
                self._client.request("free", row=row, incarnation=incarnation)
        except BrokerUnavailable:
            return
        except MuninnError:
            pass  # it is another's, or gone
        steps.isOver = True


def _finish(client: Client, steps: _Steps, creating: Creating, name: str) -> None:
    """At the end of a making that was cut short: let the background thread take back what may have been granted."""
    found = creating.get(name)
    if found is not None and found() is None:
        creating.pop(name, None)
    if steps.isOver or steps.question is None:
        return
    if steps.granted is None:
        client.later({"op": "create", **steps.question})
        return
    # Not freed: when this is heard, what is live may be what the program has shared since.
    client.later({"op": "abandon", "row": steps.granted[0], "incarnation": steps.granted[1]})
