"""The background thread of a membership.

The thread holds the robust word of the member's slot. When the thread ends, the kernel
marks that word and wakes the other members. The mark says that the whole process is
suspected dead, so no error may end this thread.

The thread repeats these steps:

1. It checks that its process still has its slot.
2. It closes the connections to brokers of earlier epochs.
3. It renews the leases that are to be renewed.
4. If its process is the elected broker, it serves until the term ends (`role.py`).
5. If there is no broker, or the broker is suspected dead, it stands for election.
6. Otherwise it says hello to the broker, tells it of released buffers, and undoes what
   signal handlers have interrupted. Then it sleeps on the broker's robust word until
   the broker dies, a renewal is due, or another thread of the process wakes it.

While it serves, it does the work of steps 3 and 6 between two steps of the broker.
"""

from __future__ import annotations

import ctypes
from enum import Enum, auto
from typing import TYPE_CHECKING

from muninn.control import layout
from muninn.control.election import Term
from muninn.control.lockfile import LockFile
from muninn.control.members import MemberKey
from muninn.errors import BrokerUnavailable, DomainChanged, MuninnError
from muninn.session.credentials import isAstray, isDisplaced, standAside
from muninn.session.departure import stayWhile
from muninn.session.openbuffers import OpenBuffers
from muninn.session.role import BrokerRole
from muninn.session.stalldetector import RETRY_SECONDS
from muninn.session.standing import JOIN_BOUND_SECONDS, Standing
from muninn.session.unclaimed import LOOK_SECONDS
from muninn.session.wakeup import Wakeup
from muninn.system import atomics, clock, threads
from muninn.system.aside import markOwn
from muninn.system.latch import Latch
from muninn.system.logs import Log
from muninn.system.threads import AnyThread, NoThread

if TYPE_CHECKING:
    from muninn.broker.broker import Broker

_log = Log("muninn.member")
#: How many buffers that its own process released a broker tries to reclaim between two
#: steps. In each step it serves the other members and advances its heartbeat.
_RECLAIMED_PER_STEP = 32
_LONGEST_SLEEP_SECONDS = 60.0
_RESIGNED_PAUSE_SECONDS = 0.05


class Told(Enum):
    """Whether the broker was told everything that it must know."""

    ALL = auto()
    NOT_ALL = auto()  #: the thread tells the rest later
    NO_ANSWER = auto()


class Worker:
    """The background thread of one membership."""

    def __init__(
        self,
        standing: Standing,
        lockFile: LockFile,
        wakeup: Wakeup,
        role: BrokerRole,
        openBuffers: OpenBuffers,
    ) -> None:
        self._standing = standing
        self._lockFile = lockFile
        self._wakeup = wakeup
        self._role = role
        self._openBuffers = openBuffers
        self._tables, self._client = openBuffers.tables, openBuffers.context.client
        self._entered = Latch()
        self._failure: BaseException | None = None
        # The pause before the next attempt to connect: none after the first that fails,
        # which often only waited for a new broker.
        self._unansweredSeconds = 0.0
        self.robustList = ctypes.create_string_buffer(atomics.robustListBytes())
        self.thread: AnyThread = NoThread()

    def wake(self) -> None:
        """End the thread's sleep, so that it repeats its steps."""
        self._wakeup.wake()

    def begin(self) -> None:
        """Start the thread."""
        self.thread = threads.start(self._run, "muninn")

    def awaitEntry(self) -> None:
        """Wait until the thread has entered the slot. If that takes too long, give the
        slot back and raise `BrokerUnavailable`.
        """
        if not self._entered.wait(JOIN_BOUND_SECONDS) or self._failure is not None:
            tables = self._tables
            tables.members.release(tables.key, layout.MEMBER_CLAIMING)
            self._lockFile.close()
            reason = self._failure or "its thread did not start"
            raise BrokerUnavailable(
                f"this process could not join {tables.paths.domain!r}: {reason}"
            )

    def enter(self) -> None:
        """Make the calling thread the one whose end the kernel reports, and the slot
        LIVE.
        """
        try:
            self._role.threadId = atomics.threadId()
            members, key = self._tables.members, self._tables.key
            robustWord = members.robustAddress(key.slot)
            # Clear the mark that the slot's last member left. No process watches a slot
            # that is not LIVE. SYNC robust: pairs with MemberReader.isSuspectedDead.
            # The word is empty, and then the kernel holds it for this thread, before
            # the slot says LIVE.
            atomics.exchangeSeqCst32(robustWord, 0)
            atomics.checked(
                atomics.robustHold(ctypes.addressof(self.robustList), robustWord), "the robust list"
            )
            members.enter(key)
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._entered.set()

    def _run(self) -> None:
        markOwn()
        self.enter()
        while not self._standing.isStopping:
            try:
                self._step()
            except MuninnError as error:
                # After the slot was given back, the broker refuses requests that were
                # still under way; no thread waits for their answers.
                if not self._standing.isLeaving:
                    _log.error("the background thread goes on after: %s", error)
                clock.sleep(_RESIGNED_PAUSE_SECONDS)
            except Exception:
                # The end of this thread would tell the others that the process is dead.
                # An error, such as having no descriptor left, is no reason for that.
                _log.exception("the background thread goes on")
                clock.sleep(_RESIGNED_PAUSE_SECONDS)
        if self._standing.isLost:
            stayWhile(self._openBuffers.isInside, self._openBuffers.owners)
            self._lockFile.close()

    def _step(self) -> None:
        tables, role = self._tables, self._role
        self._wakeup.watcher.look()
        self.requireSlot()
        if isAstray(tables.paths.uid):
            standAside(tables.election, tables.key.slot, role.candidacy.successor())
        term = tables.election.term()
        self._client.disconnect(term.epoch)
        self._openBuffers.renewAll()
        if term.slot == tables.key.slot:
            role.serve(term, self._openBuffers.allocations, self._stepAsBroker)
        elif term.slot is None or tables.members.isSuspectedDead(
            MemberKey(term.slot, tables.members.state(term.slot)[1])
        ):
            role.campaign(term)
        else:
            role.candidacy.measureSometimes()
            self._follow(term)

    def _stepAsBroker(self, broker: Broker) -> None:
        seconds = self._untilRenewal()
        while not self._standing.isStopping and not isDisplaced(self._tables.paths.uid):
            broker.step(0.0 if self._openBuffers.context.releases.hasReleased() else seconds)
            self.requireSlot()
            self._openBuffers.renewAll()
            self._openBuffers.context.releases.tryReclaimReleased(_RECLAIMED_PER_STEP)
            seconds = self._untilRenewal() if self._undo() else _RESIGNED_PAUSE_SECONDS
            self._client.askLater()

    def requireSlot(self) -> None:
        """Make sure that this process still has its slot's byte lock. Raises
        `DomainChanged` if another process has it; then this process joins again.
        """
        try:
            self._lockFile.restore()
        except DomainChanged:
            self._role.loseBlock()
            raise

    def _follow(self, term: Term) -> None:
        told = Told.ALL if self._standing.isLeaving else self._syncWithBroker(term)
        assert term.slot is not None
        if told is Told.NO_ANSWER:
            seconds = self._unansweredSeconds
            self._unansweredSeconds = min(2 * seconds + RETRY_SECONDS, _RESIGNED_PAUSE_SECONDS)
            if not seconds:
                return
        else:
            seconds = self._untilRenewal() if told is Told.ALL else _RESIGNED_PAUSE_SECONDS
            self._unansweredSeconds = 0.0
        self._wakeup.watcher.sleep(term.slot, term.word(), int(seconds * 1e9))

    def _syncWithBroker(self, term: Term) -> Told:
        """Say hello to the broker of `term`, and tell it everything that it must know."""
        members, key, role = self._tables.members, self._tables.key, self._role
        if not self._client.connect():
            return Told.NO_ANSWER
        if role.handover and self._client.isConnected(term.epoch):
            role.handover.drop()
        if (
            role.isPreferred
            and not members.identity(term.slot or 0).flags & layout.MEMBER_FLAG_PREFERRED
        ):
            self._client.once("yield", slot=key.slot, generation=key.generation)
        isAll = (
            self._openBuffers.context.releases.tryReclaimReleased()
            and self._client.askLater()
            and self._undo()
            and self._client.isConnected(term.epoch)
        )
        return Told.ALL if isAll else Told.NOT_ALL

    def _undo(self) -> bool:
        """Undo the work that was interrupted; False when some of it can not be undone
        yet.
        """
        return self._openBuffers.creating.cleanups.run() and self._openBuffers.gpus.signalling.run()

    def _untilRenewal(self) -> float:
        openBuffers = self._openBuffers
        isAny = bool(openBuffers.context.unclaimed.memories) or openBuffers.gpus.hasIdle()
        return min(
            LOOK_SECONDS if isAny else _LONGEST_SLEEP_SECONDS,
            self._tables.ttlMs / 3000,
        )
