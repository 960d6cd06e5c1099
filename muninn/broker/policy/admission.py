"""Admission: whether the broker's process has descriptors left for one more member, and
its answer to a member for which it has none.

The broker keeps one descriptor in reserve, so that it can accept the connection of such
a member for as long as the answer takes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
from collections.abc import Callable

from muninn.control.election import Election, Term
from muninn.control.members import MemberKey, MemberTable
from muninn.control.rows import Deposed
from muninn.errors import DescriptorsExhausted
from muninn.observe import events
from muninn.system import descriptors, green
from muninn.system.descriptors import Descriptor, Socket
from muninn.system.logs import Log
from muninn.wire import messages, requests

_log = Log("muninn.broker")
#: How many descriptors serving a hello takes: the member's pidfd, a file of /proc, and
#: one more for the requests that follow.
_PASSING_DESCRIPTORS = 3
#: How long the broker waits for the hello of a member that it refuses, so that the
#: member reads the answer. A hello comes within 0.1 ms of the connection.
_HELLO_MS = 10


class Admission:
    """Which connections one broker accepts.

    Parameters
    ----------
    anyFd
        Some descriptor, which is duplicated to find out whether there are more.
    economize
        Closes the descriptors that are not needed, and returns how many.
    abler
        The slot of a member that could serve all members; None if there is none.
    """

    def __init__(
        self,
        members: MemberTable,
        election: Election,
        term: Term,
        own: MemberKey,
        anyFd: int,
        economize: Callable[[], int],
        abler: Callable[[], int | None],
    ) -> None:
        self._members = members
        self._election = election
        self._term = term
        self._own = own
        self._anyFd = anyFd
        self._economize = economize
        self._abler = abler
        self._reserve: Descriptor | None = None
        self._refill()

    def admit(self, listener: Socket) -> Socket | None:
        """Accept the next connection; returns it if it may stay. Raises `OSError` when
        this process can accept no connection any more.
        """
        try:
            connection = self._accepted(listener)
        except (BlockingIOError, ConnectionAbortedError):
            return None
        try:
            _, uid = messages.peerOf(connection)
            if uid != os.geteuid():
                _log.warning(
                    "refused a connection of uid %d, to whom this domain does not belong", uid
                )
            elif self._hasDescriptors() or (self._economize() and self._hasDescriptors()):
                return connection
            else:
                self._giveWay()
                self._refuse(connection)
        except BaseException:
            connection.close()
            raise
        connection.close()
        self._refill()
        return None

    def _giveWay(self) -> None:
        """Let a member with more descriptors become broker, and raise `Deposed`.
        Returns if there is no such member.
        """
        if (slot := self._abler()) is not None and self._election.replace(
            self._term, slot
        ) is not None:
            reason = (
                "no descriptor is left for another member, and process "
                f"{self._members.identity(slot).pid} ({self._members.program(slot)}) has more"
            )
            events.say("handover", term=self._term.epoch, reason=reason)
            raise Deposed

    def _accepted(self, listener: Socket) -> Socket:
        """The next connection, also when only the descriptor in reserve is left."""
        self._refill()
        try:
            return descriptors.ownSocket(listener.accept())
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or self._reserve is None:
                raise
        self.close()
        return descriptors.ownSocket(listener.accept())

    def _hasDescriptors(self) -> bool:
        """Whether a member could be served whose connection has just been accepted."""
        try:
            taken = [descriptors.duplicate(self._anyFd) for _ in range(_PASSING_DESCRIPTORS)]
        except OSError:
            return False
        messages.closeAll(taken)
        return True

    def _refuse(self, connection: Socket) -> None:
        """Tell a member that no descriptor is left for it."""
        with contextlib.suppress(OSError):
            poll = green.poll()
            poll.register(connection.fileno(), select.POLLIN)
            if poll.poll(_HELLO_MS):
                # A message that is unread when the connection ends would hide the
                # answer. The kernel closes its descriptors, which are not received.
                connection.recv(messages.MAX_MESSAGE_BYTES)
            messages.send(connection, requests.failure(self._exhausted()))

    def _exhausted(self) -> DescriptorsExhausted:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return DescriptorsExhausted(
            f"the broker, process {os.getpid()} ({self._members.program(self._own.slot)}), "
            f"may open {limit} descriptors, and none is left"
            " for another member; no other member could open more",
            "Raise `ulimit -n` of that program, or run `python -m muninn keep` where it is higher",
        )

    def _refill(self) -> None:
        if self._reserve is None:
            with contextlib.suppress(OSError):
                self._reserve = descriptors.duplicate(self._anyFd)

    def close(self) -> None:
        if self._reserve is not None:
            self._reserve.close()
            self._reserve = None
