"""Leaving: how a membership ends while its process goes on, or as its exit handlers
run.

Leaving saves the other members the work of reclaiming a dead one. The process may die
before any of these steps; the broker then reclaims what is left:

1. The departure begins (`departure.py`): from now on no thread begins an access, takes
   a lock or creates a buffer. The process waits a moment for the threads that are
   inside, and for the work of its GPUs that others wait for. If either goes on, the
   process gives nothing back; the broker reclaims everything when the process ends.
2. The process gives all its leases back.
3. If the process is the broker and other members live, it gives the election word to a
   successor. This comes before the good-bye, so that the successor receives the
   descriptors that this broker had.
4. The process asks the broker to `leave`. The broker takes the slot back. No other
   process may, since this one is alive and its death is therefore not confirmed.
5. The background thread ends.
6. The last member withdraws the control block (`entry.py`).
7. The process closes the lock file. This comes last, because the close drops every byte
   lock that the process has on the file.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

from muninn.errors import BrokerUnavailable, MuninnError
from muninn.observe import events
from muninn.observe.counters import counting
from muninn.session.credentials import isDisplaced
from muninn.session.departure import keepPromises
from muninn.session.entry import Entry, retire
from muninn.system import clock
from muninn.system.forks import Guard
from muninn.system.logs import Log

if TYPE_CHECKING:
    from muninn.control.election import Term
    from muninn.control.lockfile import LockFile
    from muninn.session.openbuffers import OpenBuffers
    from muninn.session.role import BrokerRole
    from muninn.session.services import Services
    from muninn.session.standing import Standing
    from muninn.session.worker import Worker

_log = Log("muninn.member")
LEAVE_BOUND_SECONDS = 5.0
#: Held while this process joins or leaves a domain.
changing = Guard(isWhole=True)


class Leaving:
    """The end of one membership."""

    def __init__(
        self,
        standing: Standing,
        lockFile: LockFile,
        role: BrokerRole,
        openBuffers: OpenBuffers,
        worker: Worker,
        services: Services,
    ) -> None:
        self._standing = standing
        self._lockFile = lockFile
        self._role = role
        self._openBuffers = openBuffers
        self._worker = worker
        self._services = services
        context = openBuffers.context
        self._tables, self._departure, self._client = (
            context.tables,
            context.departure,
            context.client,
        )

    def leave(self) -> None:
        """Leave the domain: close the open buffers, let another member become broker,
        give the slot back. While a thread is inside an access, holds a lock or creates,
        or a GPU is at work, nothing is given back before the process ends.
        """
        # A thread that joins again waits for this lock: closing the lock file would
        # drop the byte lock of its new slot as well.
        with changing.lock:
            if self._standing.isStale() or self._hasMovedOut():
                return
            try:
                self._departure.begin()
                self._leave()
            finally:
                self._departure.end()

    def _leave(self) -> None:
        tables, standing, role, openBuffers = (
            self._tables,
            self._standing,
            self._role,
            self._openBuffers,
        )
        isAtRest = (
            self._departure.awaitOutside(openBuffers.isInside, self._worker.thread)
            and self._keepPromises()
        )
        if isAtRest:
            openBuffers.closeAll()
        # Otherwise the background thread would ask to become broker again.
        role.isPreferred = False
        term = tables.election.term()
        if term.slot == tables.key.slot and tables.members.othersAlive(tables.key):
            # The election word goes first, and the good-bye second, as for any other
            # member: so the successor receives the descriptors in the descriptor store.
            role.handOverUntil = clock.now() + 2 * tables.settings.control.takeoverMs / 1000
            self._handOver(term)
            self._worker.wake()
        if not isAtRest:
            # A good-bye would say that this process is done with everything. Its death
            # will say so, once it is confirmed.
            _log.info(
                "threads or GPUs are at work for this process: it does not leave %s before it ends",
                tables.paths.domain,
            )
            with contextlib.suppress(MuninnError):
                # The successor answers once it has the descriptors of the descriptor
                # store.
                self._client.request("ping")
            return
        # The broker, which may be this very process, takes the slot back. No other
        # process may: this one is alive, so its death is not confirmed.
        standing.isLeaving = True
        self._services.end()
        with tables.leaseLock:
            # Before the slot is another process's: an interruption may come anywhere.
            standing.hasLeft = True
            openBuffers.owners.end()
        with contextlib.suppress(MuninnError):
            self._client.request("leave")
        term = tables.election.term()
        standing.isStopping = True
        if term.slot == tables.key.slot:
            self._handOver(term)
        self._worker.wake()
        self._worker.thread.join(LEAVE_BOUND_SECONDS)
        with contextlib.suppress(MuninnError):
            self.retire()
        self._close()

    def _handOver(self, term: Term) -> None:
        tables = self._tables
        successor = tables.members.preferredOther(tables.key)
        # The last process of a domain has nobody to hand over to.
        isLast = not tables.members.othersAlive(tables.key)
        if tables.election.replace(term, successor) is not None and not isLast:
            events.say("handover", term=term.epoch, reason="its process leaves")

    def _keepPromises(self) -> bool:
        openBuffers = self._openBuffers
        return keepPromises(
            openBuffers.gpus, self._tables.settings.devices.ipcGraceMs / 1000, openBuffers.isAtWork
        )

    def retire(self) -> None:
        """Withdraw the control block, if this is the last member and nothing is shared."""
        tables = self._tables
        retire(Entry(tables.block, tables.members, tables.key), tables.rows)

    def abandon(self) -> None:
        """Give up a membership whose control block is lost: the next membership of this
        process is in another block. The lock file is closed before that one begins; a
        later close would drop the byte lock of its slot.

        Raises `BrokerUnavailable` while threads of this process are at work in the
        lost block.
        """
        self._worker.thread.join(LEAVE_BOUND_SECONDS)
        if self._openBuffers.isInside():
            where = f"the control block of {self._tables.paths.domain!r} that was removed"
            raise BrokerUnavailable(
                f"threads of this process have accesses or locks in {where}", "End those first"
            )
        self._close()

    def _close(self) -> None:
        self._services.end()
        counting.leave(self._tables)
        self._role.handover.drop()
        self._client.close()
        self._lockFile.close()

    def moveOut(self) -> None:
        """Give up a membership that began under another uid. Raises `BrokerUnavailable`
        while threads are at work in it.
        """
        tables, departure = self._tables, self._departure
        try:
            departure.begin()
            if not departure.awaitOutside(self._openBuffers.isInside, threading.current_thread()):
                raise BrokerUnavailable(
                    f"this process joined as uid {tables.paths.uid}, is uid {os.geteuid()} "
                    "now, and has accesses or locks in "
                    f"{tables.paths.domain!r}",
                    "End those first",
                )
            with tables.leaseLock:
                self._standing.hasLeft = self._standing.isStopping = True
                self._openBuffers.owners.end()
            tables.members.disown()
            self._worker.wake()
            self.abandon()
        finally:
            departure.end()

    def _hasMovedOut(self) -> bool:
        """At the end: whether the membership began under another uid, and can therefore
        reach no broker. The broker reclaims its leases and locks after the process's
        death.
        """
        uid = self._tables.paths.uid
        if isDisplaced(uid):
            with contextlib.suppress(MuninnError):
                self.moveOut()
        return isDisplaced(uid)
