"""Leaving: how a membership ends while its process goes on, or as its exit handlers
run.

A polite end saves the others the work of a death, and every step of it may be skipped
by one. The order is: threads come out of their accesses, leases are given back, the
office goes to another member, the broker is told good-bye and takes the slot back, the
thread ends, and the last member withdraws the control block. The lock file is closed
last: that drops every byte lock of this process on it.
"""

from __future__ import annotations

import contextlib
import os
import threading

from muninn.control.lockfile import LockFile
from muninn.errors import BrokerUnavailable, MuninnError
from muninn.session.client import Client
from muninn.session.credentials import isDisplaced
from muninn.session.departure import Departure, keepPromises
from muninn.session.entry import Entry, retire
from muninn.session.openbuffers import OpenBuffers
from muninn.session.role import BrokerRole
from muninn.session.standing import Standing
from muninn.session.tables import Tables
from muninn.session.worker import Worker
from muninn.system import clock
from muninn.system.forks import Guard
from muninn.system.logs import Log

_log = Log("muninn.member")
LEAVE_BOUND_SECONDS = 5.0
#: Held while this process joins or leaves a domain.
changing = Guard(isWhole=True)


class Leaving:
    """The end of one membership."""

    def __init__(
        self,
        tables: Tables,
        standing: Standing,
        departure: Departure,
        lockFile: LockFile,
        role: BrokerRole,
        client: Client,
        openBuffers: OpenBuffers,
        worker: Worker,
    ) -> None:
        self._tables = tables
        self._standing = standing
        self._departure = departure
        self._lockFile = lockFile
        self._role = role
        self._client = client
        self._openBuffers = openBuffers
        self._worker = worker

    def leave(self) -> None:
        """Say good-bye: close what is open, hand the broker's office on, give the slot
        back. Everything in it may be skipped by a death. While a thread is inside an
        access, holds a lock or creates, or a GPU is at work, nothing is given back
        before the process ends.
        """
        # who joins anew waits: closing the lock file drops every byte lock of this
        # process on it
        with changing.lock:
            if self._standing.isStale() or self._hasMovedOut():
                return
            self._departure.begin()
            try:
                self._openBuffers.owners.depart(True)
                self._leave()
            finally:
                self._openBuffers.owners.depart(False)
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
        role.isPreferred = False  # or our thread would ask for the office back
        term = tables.election.term()
        if term.slot == tables.key.slot and tables.members.othersAlive(tables.key):
            # First the office, then good-bye as anybody else: so the successor gets
            # what the descriptor store holds.
            role.handOverUntil = clock.now() + 2 * tables.settings.control.takeoverMs / 1000
            tables.election.replace(term, tables.members.preferredOther(tables.key))
            self._worker.wake()
        if not isAtRest:
            # Good-bye says that all is done. A death says so too, and is proven when it
            # has come.
            say = _log.info if openBuffers.isInside() else _log.warning
            say(
                "threads or GPUs are at work for this process: it does not leave %s before it ends",
                tables.paths.domain,
            )
            with contextlib.suppress(MuninnError):
                # answered by the successor, once it has what the descriptor store held
                self._client.request("ping")
            return
        # Whoever is broker, we ourselves perhaps, takes the slot back. No other could
        # while this process lives: its death is not proven.
        standing.isLeaving = True
        with tables.leaseLock:
            # before the slot is another's: an interruption may come at any point
            standing.hasLeft = True
            openBuffers.owners.end()
        with contextlib.suppress(MuninnError):
            self._client.request("leave")
        term = tables.election.term()
        standing.isStopping = True
        if term.slot == tables.key.slot:
            tables.election.replace(term, tables.members.preferredOther(tables.key))
        self._worker.wake()
        self._worker.thread.join(LEAVE_BOUND_SECONDS)
        with contextlib.suppress(MuninnError):
            self.retire()
        self._close()

    def _keepPromises(self) -> bool:
        openBuffers = self._openBuffers
        return keepPromises(
            openBuffers.gpus, self._tables.settings.devices.ipcGraceMs / 1000, openBuffers.isAtWork
        )

    def retire(self) -> None:
        """Withdraw the control block, if we are the last and nothing is shared."""
        tables = self._tables
        retire(Entry(tables.block, tables.members, tables.key), tables.rows)

    def abandon(self) -> None:
        """This process's next membership is in another block. The lock file goes first:
        closing it later would free the next one's slot.

        Raises `BrokerUnavailable` while threads of this process are at work in the
        block that is lost.
        """
        self._worker.thread.join(LEAVE_BOUND_SECONDS)
        if self._openBuffers.isInside():
            where = f"the control block of {self._tables.paths.domain!r} that was removed"
            raise BrokerUnavailable(
                f"threads of this process have accesses or locks in {where}", "End those first"
            )
        self._close()

    def _close(self) -> None:
        self._role.handover.drop()
        self._client.close()
        self._lockFile.close()

    def moveOut(self) -> None:
        """Give up the membership of another uid. Raises `BrokerUnavailable` while
        threads are at work in it.
        """
        tables, departure = self._tables, self._departure
        departure.begin()
        try:
            if not departure.awaitOutside(self._openBuffers.isInside, threading.current_thread()):
                raise BrokerUnavailable(
                    f"this process joined as uid {tables.paths.uid}, is uid {os.geteuid()} "
                    "now, and has turns or locks in "
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
        """At the end: whether there was another uid's membership, which can tell
        nobody. Its death gives up what is not given up here.
        """
        uid = self._tables.paths.uid
        if isDisplaced(uid):
            with contextlib.suppress(MuninnError):
                self.moveOut()
        return isDisplaced(uid)
