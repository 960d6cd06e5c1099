"""Membership: this process's place in a domain, and the one background thread that it costs.

The thread holds the slot's robust word, so that the kernel tells the others when it ends; serves as broker while elected; otherwise
sleeps on the broker's robust word until that one dies or leases are to be renewed. Nothing depends on a polite end: `leave` at exit
only saves the broker the work. A forked child finds its identity page wiped and joins anew.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import ctypes
import os
import sys
import weakref
from typing import TYPE_CHECKING

from muninn.broker.candidacy import Candidacy
from muninn.broker.limits import Limits
from muninn.config import Settings, loadSettings
from muninn.control import layout
from muninn.control.block import BlockLost
from muninn.control.election import Election, Term
from muninn.control.index import NameIndex
from muninn.control.leases import LeaseTable
from muninn.control.lockfile import LockFile
from muninn.control.members import MemberKey
from muninn.control.rows import Deposed, RowTable
from muninn.control.watch import Watcher
from muninn.errors import BrokerUnavailable, DomainChanged, MuninnError
from muninn.session.client import Client, Office
from muninn.session.credentials import hasMovedOut, isAstray, isDisplaced, partFrom, requireWhole, standAside
from muninn.session.departure import Departure, awaitPast, keepPromises, stayWhile
from muninn.session.entry import enter, retire
from muninn.session.handover import Allocation, Bequest
from muninn.session.lateimports import load, patiently, settingsToJoin
from muninn.storage.paths import Places
from muninn.system import atomics, clock, green, threads
from muninn.system.aside import Job, markOwn, refuseOwn
from muninn.system.cleanups import Undertakings
from muninn.system.descriptors import OwnEvent
from muninn.system.forks import Guard, Identity
from muninn.system.latch import Latch
from muninn.system.logs import Log
from muninn.system.oserrors import typedErrors
from muninn.system.threads import AnyThread

if TYPE_CHECKING:
    from muninn.broker.broker import Broker
    from muninn.devices.port import Device, Registration
    from muninn.session.openbuffers import Holdings

_log = Log("muninn.member")
#: How long the others wait for a member that is preferred as broker.
_HEAD_START_NS = 5_000_000
#: How many of its own released buffers a broker's process settles between two steps, in which it serves others and beats.
_SETTLED_PER_STEP = 32
_LONGEST_SLEEP_SECONDS = 60.0
_RESIGNED_PAUSE_SECONDS = 0.05
_LEAVE_BOUND_SECONDS = 5.0
_JOIN_BOUND_SECONDS = 10.0


class Membership:
    """One process in one domain.

    Parameters
    ----------
    settings
        Where to join, and with which bounds.
    preferred
        Whether this member stays and should be broker before others.
    """

    isExiting = False  #: whether this process runs its exit handlers: soon no thread will run

    def __init__(self, settings: Settings, preferred: bool = False) -> None:
        self.settings = settings
        self._preferred = preferred
        self.device: Device | None = None
        #: (row, ticket) of what streams of this process have promised and not come to.
        self.promised: set[tuple[int, int]] = set()
        #: By the first row of a chunk: its fence words, for GPUs.
        self.fenceWords: dict[int, Registration] = {}
        self._broker: Broker | None = None
        self._stopping = self._leaving = self._hasLeft = False
        self.departure = Departure()
        #: Tickets that are being issued.
        self.signalling = Undertakings(self.kick)
        self._lost, self._handOverUntil = False, 0.0
        self._bequest = Bequest()
        self._entered = Latch()
        self._failure: BaseException | None = None
        self._ident = 0  # of the thread that the kernel reports the end of
        self.leaseLock = _thread.RLock()
        with contextlib.ExitStack() as undo:
            self._lockFile = LockFile(Places(os.geteuid(), settings.control.domain))  # files are the effective uid's
            undo.callback(self._lockFile.close)
            self._entry = enter(self._lockFile.places, self._lockFile, settings.control, preferred, undo)
            self.block, self.members, self.key = self._entry
            self.places = self.block.places
            self.election = Election(self.block)
            self.rows = RowTable(self.block)
            self.index = NameIndex(self.block)
            self._wake = OwnEvent()
            undo.callback(self._wake.close)
            self._watcher = Watcher(self.block, self.key.slot)
            nonce = self.members.identity(self.key.slot).nonce
            self.identity = Identity(nonce)
            self._candidacy = Candidacy(self.block, self.members, self.key)
            self.leaseTable = LeaseTable(self.block, self.members, self.key)
            self.holdings: Holdings = load().holdings(self)
            control = settings.control
            self.client = Client(
                Office(
                    self.places, self.members, self.election, self.key, nonce, control.takeoverMs, control.requestTimeoutMs,
                    lambda: self._broker, self._campaign, lambda: self._lost, self._allocations, self.kick,
                    self._requireSlot,
                )
            )  # fmt: skip
            self._robustList = ctypes.create_string_buffer(atomics.robustListBytes())
            self._begin()
            undo.pop_all()
        # Not in `leave`: buffers that are still referenced reach the block, and finalizers wake the thread, until the last of them is gone.
        for letGo in (self.block.close, self._wake.close):
            weakref.finalize(self, letGo).atexit = False
        self._awaitEntry()

    def _begin(self) -> None:
        self._thread: AnyThread = threads.start(self._attend, "muninn")

    def _awaitEntry(self) -> None:
        if not self._entered.wait(_JOIN_BOUND_SECONDS) or self._failure is not None:
            self.members.vacate(self.key, layout.MEMBER_CLAIMING)
            self._lockFile.close()
            raise BrokerUnavailable(f"this process could not join {self.places.domain!r}: {self._failure or 'its thread did not start'}")

    # --- what is asked of it ---------------------------------------------------------------------------------------------

    def isStale(self) -> bool:
        """Whether this is a forked child, or the membership has ended: join anew."""
        return self.identity.isWiped() or self._hasLeft or self._lost or (self.isExiting and sys.is_finalizing())

    def requireSame(self, other: Membership, name: str) -> Membership:
        """Itself, or `DomainChanged` for what belongs to another control block: a row means something in its own only."""
        self.requireSameDomain(other, name)
        if other.block.identity != self.block.identity:
            raise DomainChanged(f"{name!r} belongs to a control block of {self.places.stem} that is no more")
        return self

    def requireSameDomain(self, other: Membership, name: str) -> None:
        """The same for what has a name and no bytes: in a later control block it is made anew."""
        if other.places.stem != self.places.stem:
            raise DomainChanged(f"{name!r} belongs to {other.places.stem}, and this process is in {self.places.stem} now")

    def isDead(self, slot: int, generationBits: int) -> bool:
        """Whether a claim's owner (slot, low bits of its generation) is proven dead: never this process, always beyond the table."""
        return slot >= self.members.count or self.members.isOwnerDead(slot, generationBits, self.key)

    def limits(self) -> Limits:
        memory, tenancy = self.settings.memory, self.settings.tenancy
        return Limits(memory.bigModeMaxBytes, memory.fastModeMaxBytes, tenancy.defaultPinnedHostQuota, tenancy.defaultVramQuota)

    # --- the background thread -------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Be what the kernel reports the end of: the calling thread."""
        try:
            self._ident = atomics.threadId()
            robustWord = self.members.robustAddress(self.key.slot)
            atomics.exchangeSeqCst32(robustWord, 0)  # what the slot's last member left; nobody watches a slot that is not LIVE
            atomics.checked(atomics.robustHold(ctypes.addressof(self._robustList), robustWord), "the robust list")
            self.members.enter(self.key)
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._entered.set()

    def _attend(self) -> None:
        markOwn()
        self._enter()
        while not self._stopping:
            try:
                self._attendOnce()
            except MuninnError as error:
                if not self._leaving:  # what was under way when our slot was given back is refused, and nobody waits for it
                    _log.error("the background thread goes on after: %s", error)
                clock.sleep(_RESIGNED_PAUSE_SECONDS)
            except Exception:
                # An end of this thread says to the others that the whole process is dead; no descriptor left, say, is not the end.
                _log.exception("the background thread goes on")
                clock.sleep(_RESIGNED_PAUSE_SECONDS)
        if self._lost:
            stayWhile(self.holdings.isInside, self.holdings.owners)
            self._lockFile.close()

    def _attendOnce(self) -> None:
        self._watcher.look()
        self._requireSlot()
        if isAstray(self):
            standAside(self.election, self.key.slot, self._candidacy.heir())
        term = self.election.term()
        self.client.forsake(term.epoch)
        self.holdings.renewAll()
        if term.slot == self.key.slot:
            self._serve(term)
        elif term.slot is None or self.members.isNoticedDead(MemberKey(term.slot, self.members.state(term.slot)[1])):
            self._campaign(term)
        else:
            self._candidacy.measureSometimes()
            self._follow(term)

    def _serve(self, term: Term) -> None:
        broker: Broker | None = None
        try:
            wakeFd, abler = self._wake.checked(), self._candidacy.abler
            broker = load().broker(self.block, self.members, self.election, term, self.key, self.limits(), wakeFd, abler)
            broker.start()
            broker.inherit([*self._bequest.taken(), *self.holdings.allocations()])  # the others bring theirs with their hello
            self._broker = broker
            seconds = self._untilRenewal()
            while not self._stopping and not isDisplaced(self):
                broker.step(0.0 if self.holdings.hasReleased() else seconds)
                self._requireSlot()
                self.holdings.renewAll()
                self.holdings.settleReleased(_SETTLED_PER_STEP)
                seconds = self._untilRenewal() if self._undo() else _RESIGNED_PAUSE_SECONDS
                self.client.askLater()
        except Deposed:
            _log.info("deposed as broker of epoch %d", term.epoch)
        except BlockLost:
            if not isAstray(self):  # who may not look, or looks elsewhere, finds no name
                self._forsakeBlock()
        except Exception as error:
            # Whatever it is, another member may do better; a broker that can not serve must not sit in office.
            if not isDisplaced(self) and self.election.term() == term:  # who is another uid by now, or deposed, has not failed in office
                self._candidacy.resigned(term, error)
            self._broker = None
            if broker is not None:
                self._bequest.keep(broker.bequeath())
            self.election.replace(term, self._candidacy.heir())
        finally:
            # The bequest first: once there is no broker here, another thread may say hello to the successor, with what we have then.
            if broker is not None:
                self._bequest.keep(broker.bequeath())
            self._broker = None
            if broker is not None:
                broker.close()

    def _requireSlot(self) -> None:
        """Be sure that this process still has what says that it is in its slot. Raises `DomainChanged`, and then it joins anew."""
        try:
            self._lockFile.restore()
        except DomainChanged:
            self._lost = self._stopping = True
            raise

    def _forsakeBlock(self) -> None:
        """Nobody finds this control block any more: join anew at the next call, as whoever is elected next does. What is mapped stays."""
        _log.warning("the control block of %s was removed from /dev/shm: this process joins anew", self.places.domain)
        self._lost = self._stopping = True
        self.election.replace(self.election.term(), None)

    def _follow(self, term: Term) -> None:
        settled: bool | None = True
        if not self._leaving and (settled := self._deal(term)) is None:
            return
        assert term.slot is not None
        seconds = self._untilRenewal() if settled else _RESIGNED_PAUSE_SECONDS
        self._watcher.sleep(term.slot, term.word(), int(seconds * 1e9))

    def _deal(self, term: Term) -> bool | None:
        """Say hello to the broker of `term`, and what it is to know; None when it does not answer, False when it is to be told again."""
        if not self.client.greet():
            return None
        if self._bequest and self.client.hasGreeted(term.epoch):
            self._bequest.drop()
        if self._preferred and not self.members.identity(term.slot or 0).flags & layout.MEMBER_FLAG_PREFERRED:
            self.client.once("yield", slot=self.key.slot, generation=self.key.generation)
        return self.holdings.settleReleased() and self.client.askLater() and self._undo()

    def _undo(self) -> bool:
        """Undo what was cut short; False when some of it can not be undone yet."""
        return self.holdings.creating.undertakings.settle() and self.signalling.settle()

    def _allocations(self) -> list[Allocation]:
        """What this member brings to a new broker: the nameless memory that it has open, and what it kept as broker before."""
        return [*self.holdings.allocations(), *self._bequest.duplicates()]

    def _campaign(self, term: Term) -> None:
        """Stand for the succession of `term`. Called by the background thread, and by any that waits for an answer."""
        if clock.now() < self._handOverUntil:
            self.election.awaitReady(self.election.readyEpoch(), _HEAD_START_NS)  # we are leaving, and others are there
            return
        onThread = atomics.threadId() == self._ident
        if term.slot != self.key.slot:
            if not self._preferred and onThread and self.members.preferredOther(self.key) is not None:
                self.election.awaitReady(self.election.readyEpoch(), _HEAD_START_NS)
            self._candidacy.stand(self.election, term, onThread)

    def kick(self) -> None:
        """Make the background thread look around, and nobody else's. Takes no lock: finalizers call it."""
        self._wake.set()
        self._watcher.kick()

    def _untilRenewal(self) -> float:
        return min(_LONGEST_SLEEP_SECONDS, self.settings.security.leaseTtlMs / 3000)

    # --- the end -----------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Say good-bye: close what is open, hand the broker's office on, give the slot back. Everything in it may be skipped by a death.
        While a thread is inside a turn, holds a lock or creates, or a GPU is at work, nothing is given back before the process ends.
        """
        with _currentLock.lock:  # who joins anew waits: closing the lock file drops every byte lock of this process on it
            if self.isStale() or hasMovedOut(self):
                return
            self.departure.begin()
            try:
                self.holdings.owners.depart(True)
                self._leave()
            finally:
                self.holdings.owners.depart(False)
                self.departure.end()

    def _leave(self) -> None:
        isAtRest = self.departure.awaitOutside(self.holdings.isInside, self._thread) and keepPromises(self)
        if isAtRest:
            self.holdings.closeAll()
        self._preferred = False  # or our thread would ask for the office back
        term = self.election.term()
        if term.slot == self.key.slot and self.members.othersAlive(self.key):
            # First the office, then good-bye as anybody else: so the successor gets what the vault holds.
            self._handOverUntil = clock.now() + 2 * self.settings.control.takeoverMs / 1000
            self.election.replace(term, self.members.preferredOther(self.key))
            self.kick()
        if not isAtRest:
            # Good-bye says that all is done. A death says so too, and is proven when it has come.
            say = _log.info if self.holdings.isInside() else _log.warning
            say("threads or GPUs are at work for this process: it does not leave %s before it ends", self.places.domain)
            with contextlib.suppress(MuninnError):
                self.client.request("ping")  # answered by the successor, once it has what the vault held
            return
        # Whoever is broker, we ourselves perhaps, takes the slot back. No other could while this process lives: its death is not proven.
        self._leaving = True
        with self.leaseLock:
            self._hasLeft = True  # before the slot is another's: an interruption may come at any point
            self.holdings.owners.end()
        with contextlib.suppress(MuninnError):
            self.client.request("leave")
        term = self.election.term()
        self._stopping = True
        if term.slot == self.key.slot:
            self.election.replace(term, self.members.preferredOther(self.key))
        self.kick()
        self._thread.join(_LEAVE_BOUND_SECONDS)
        with contextlib.suppress(MuninnError):
            self._retire()
        self._bequest.drop()
        self.client.close()
        self._lockFile.close()

    def _retire(self) -> None:
        """Withdraw the control block, if we are the last and nothing is shared."""
        retire(self._entry, self.rows)

    def abandon(self) -> None:
        """This process's next membership is in another block. The lock file goes first: closing it later would free the next one's slot.

        Raises `BrokerUnavailable` while threads of this process are at work in the block that is lost.
        """
        self._thread.join(_LEAVE_BOUND_SECONDS)
        if self.holdings.isInside():
            where = f"the control block of {self.places.domain!r} that was removed"
            raise BrokerUnavailable(f"threads of this process have turns or locks in {where}", "End those first")
        self._bequest.drop()
        self.client.close()
        self._lockFile.close()

    def isLost(self) -> bool:
        """Whether nobody finds the control block any more, or another process has the slot."""
        return self._lost

    def forgetInChild(self) -> None:
        """In a forked child: close this process's copies of the parent's descriptors; of what is shared, only say that there is a child."""
        # SYNC forked: pairs with lingering. What this child maps was mapped before.
        atomics.storeRelease32(self.block.forkedAddress, 1)
        broker, self._broker = self._broker, None  # that is the parent's
        self.client.closeInChild()
        if broker is not None:
            broker.closeInChild()
        self._wake.close()
        self._lockFile.close()


_current: Membership | None = None
_currentLock = Guard(isWhole=True)
#: The join that is under way, if one is. Looked up and put in by single steps of C, since a signal handler may come to join as well.
_joining: dict[str, Job[Membership]] = {}


def current() -> Membership:
    """The membership of this process; it joins at the first use, and again after a fork."""
    membership = _current
    if membership is None or membership.isStale() or os.geteuid() != membership.places.uid:
        return _joinNow()
    return membership


def _joinNow(preferred: bool = False) -> Membership:
    """Join on a thread that signals do not reach, and wait for it: one process is one member, and no half of one is ever seen.

    Whoever is interrupted meanwhile leaves the join running; the next call finds it, or its end.
    """
    global _current
    if sys.is_finalizing():
        _current = load().lone(loadSettings() if _current is None else _current.settings)
        return _current
    if _current is not None and not _current.isStale():
        requireWhole(_current)
    refuseOwn()  # the join waits for the background thread of the membership before
    if green.areGreen():
        load()  # here, and not where the locks of imports would have to be met by a real thread and a green one
    job = _joining.setdefault("now", Job(lambda: _joinAside(preferred)))
    if job.isOwn() or (_current is not None and _current.departure.isOwn()):
        raise BrokerUnavailable(
            "a finalizer or a handler ran on the thread that joins or leaves the domain, and can not wait for it",
            "Close buffers before their objects are garbage, and before the program ends",
        )
    membership = job.result(2 * _JOIN_BOUND_SECONDS + _LEAVE_BOUND_SECONDS)
    if membership is None:
        raise BrokerUnavailable("this process could not join in time")
    return membership


def _joinAside(preferred: bool) -> Membership:
    global _current
    try:
        with _currentLock.lock, typedErrors("joining"):
            load()
            if _current is None or partFrom(_current):
                _current = Membership(patiently(settingsToJoin), preferred)
                awaitPast(_current.members, _current.key)
            return _current
    finally:
        _joining.pop("now", None)


def joinPreferred() -> Membership:
    """Join as a member that stays. The process must not be a member yet."""
    membership = _joinNow(preferred=True)
    assert membership._preferred, "joined before as an ordinary member"
    return membership


def isJoined() -> bool:
    """Whether this process is in a domain now."""
    return _current is not None and not _current.isStale()


def isForeign(membership: Membership) -> bool:
    """Whether `membership` is not the one of this process now."""
    return membership is not _current or membership.isStale()


def _leaveAtExit() -> None:
    Membership.isExiting = True
    if _current is not None and not _current.isStale():
        _current.leave()


def _resetInChild() -> None:
    _joining.clear()  # its thread was not forked
    if _current is not None:
        _current.forgetInChild()


atexit.register(_leaveAtExit)
os.register_at_fork(after_in_child=_resetInChild)
