"""The broker: the one member that changes the directory, for one epoch.

It runs on its member's background thread, one `step` at a time, and is asked through a socket by other members and through its inbox
by its own process. Between steps it may be deposed at any moment: it looks at the election word before each request, and what it changes
is fenced (`rows.py`), so a request that was half served when its term ended has either happened or not. It keeps nothing that its
successor could not find in the control block, save the descriptors in the vault, which their holders bring again.
"""

from __future__ import annotations

import _thread
import contextlib
import os
from collections.abc import Callable, Sequence

from muninn.broker import deathwatch
from muninn.broker.admission import Admission
from muninn.broker.catalog import Catalog, Usage
from muninn.broker.deathwatch import Death, DeathWatch
from muninn.broker.directory import Directory
from muninn.broker.inbox import Inbox, duplicated
from muninn.broker.journal import Journal, dropCopies
from muninn.broker.limits import Limits
from muninn.broker.maintenance import SWEEP_SECONDS, Upkeep
from muninn.broker.reclaiming import Reclaimer
from muninn.broker.sessions import SenderGone, Session
from muninn.control import layout, leases
from muninn.control.block import BlockLost, ControlBlock
from muninn.control.drain import Drain
from muninn.control.election import Election, Term
from muninn.control.members import MemberKey, MemberTable, pidOf
from muninn.control.rows import Deposed
from muninn.errors import (
    BufferFreed,
    ControlBlockInvalid,
    DomainDraining,
    InvalidArgument,
    MuninnError,
    OwnerDied,
    PermissionDenied,
    ProtocolViolation,
)
from muninn.system import aside, atomics, ownership
from muninn.system.descriptors import Descriptor, OwnEvent, OwnPoll, OwnSocket, Socket, unixSocket
from muninn.system.logs import Log
from muninn.terms import asMode
from muninn.wire import messages, requests
from muninn.wire.messages import Message

_log = Log("muninn.broker")
#: How many steps with something to serve may come before a piece of upkeep; a busy broker knows no other.
_SERVED_FIRST = 16
_ROWS_A_BEAT = 1024


class Broker:
    """A broker's term, from election to deposition. Writing to `wakeFd`, an eventfd of the member's, ends a step.

    Raises
    ------
    BlockLost
        Nobody finds the control block any more; where its directory went too, there is no place for a journal.
    """

    def __init__(
        self, block: ControlBlock, members: MemberTable, election: Election, term: Term, own: MemberKey, limits: Limits, wakeFd: int,
        abler: Callable[[], int | None] = lambda: None,
    ) -> None:  # fmt: skip
        if not block.restoreNames():
            raise BlockLost
        self._block = block
        self._members = members
        self._election = election
        self._term = term
        self._drain = Drain(block)
        self._own = Session(None, own)
        self._lock = _thread.RLock()
        self._inbox = Inbox(wakeFd)
        self._thread = 0  # the one that serves
        self._isServing = False
        self._sessions: dict[int, Session] = {}
        self._served = 0  # steps since the last piece of upkeep
        self._wakeFd, self._wake = wakeFd, OwnEvent(wakeFd)
        self._listener: OwnSocket | None = None
        dropCopies(block.places)  # first of all: it may be the room that everything else needs
        self._journal = Journal(block.places, term.epoch)
        try:
            self._epoll = OwnPoll()
        except OSError:
            self._journal.close()
            raise
        self._directory = Directory(block, members, term.epoch, self._journal, lambda rows: Catalog(rows, limits))
        self._deathWatch = DeathWatch(members, lambda pidfd: self._epoll.register(pidfd, once=True), self._epoll.unregister)
        self._reclaimer = Reclaimer(block, members, self._directory, self._deathWatch.forget)
        self._admission = Admission(members, election, term, own, wakeFd, self._deathWatch.economize, abler)
        self._upkeep = Upkeep(block, term.epoch, own, self._directory, self._deathWatch, self._reclaimer, self._journal, self._mayStillCome)
        self._handlers: dict[str, Callable[[Session, Message, list[Descriptor]], tuple[Message, tuple[int, ...]]]] = {
            op: getattr(self, f"_on{op.capitalize()}") for op in requests.REQUESTS
        }

    # --- the term ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Fence the predecessors, listen, and say so. What they left half done follows while requests are served already."""
        self._directory.fence()
        path = self._block.places.socketPath(self._term.epoch)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = unixSocket()
        self._listener = OwnSocket(listener)
        listener.bind(path)
        ownership.requireMade(path, self._block.places.uid, 0o600)
        listener.listen(256)
        self._epoll.register(self._listener.number)
        self._epoll.register(self._wakeFd)
        self._directory.vault.open(self._block.places.hatchPath(self._term.epoch), self._block.places.uid)
        self._election.announce(self._term.epoch)
        self._journal.note("begin", epoch=self._term.epoch)
        self._upkeep.takeOver()

    def isDeposed(self) -> bool:
        return self._election.term() != self._term

    def step(self, timeoutSeconds: float) -> None:
        """Wait for something to do, at most so long, and do it. Raises `Deposed` when the term has ended."""
        timeoutSeconds = min(timeoutSeconds, deathwatch.RETRY_SECONDS if self._deathWatch.suspects() else SWEEP_SECONDS)
        mayWait = not self._upkeep.isPending() and self._inbox.isEmpty()
        seconds = min(timeoutSeconds, self._upkeep.untilDeadline()) if mayWait else 0
        events = self._epoll.wait(seconds, self._wake, self._listener)
        with self._lock:
            self._thread, self._isServing = atomics.threadId(), True
            try:
                self._serveEvents(events)
            except Deposed:
                if self.isDeposed() or self._journal.hindrance is None:
                    raise
                raise self._journal.hindrance from None
            self._isServing = False  # an exception ends the term

    def _serveEvents(self, descriptors: list[int]) -> None:
        self._beat()
        self._serveInbox()
        for descriptor in descriptors:
            self._handle(descriptor)
        for pidfd in self._deathWatch.suspects():
            self._pidfdEnded(pidfd)
        self._served += 1
        if not descriptors or self._served > _SERVED_FIRST:
            self._doUpkeep()

    def _serveInbox(self) -> None:
        """Answer what this process asks. What it asks meanwhile has its turn after the other members."""
        for _ in range(_SERVED_FIRST):
            if (asked := self._inbox.take()) is None:
                return
            try:
                reply, lent = self._reply(self._own, asked.message, asked.descriptors)
                asked.answer(reply, duplicated(lent))
            except Exception as error:
                asked.fail(error)
                if isinstance(error, Deposed | BlockLost):
                    raise

    def _beat(self) -> None:
        """Show that this broker moves. Raises `Deposed` when nobody looks any more, and where this process can not go on."""
        if self.isDeposed() or self._journal.isHindered():
            raise Deposed
        self._election.beat()

    def _doUpkeep(self) -> None:
        self._served = 0
        try:
            self._upkeep.endLifetimes()
            self._upkeep.workOnce()
        except Deposed:
            if self.isDeposed():
                raise
            _log.error("a row of the control block carries an epoch that has not come yet; run `python -m muninn doctor`")

    def close(self) -> None:
        """Let go of everything that belongs to the term. Nothing shared is touched: it is the successor's."""
        self._inbox.shut()
        with self._lock:
            for session in list(self._sessions.values()):
                self._drop(session)
            for part in (self._listener, self._deathWatch, self._directory.vault, self._journal, self._admission, self._epoll):
                if part is not None:
                    part.close()
            with contextlib.suppress(FileNotFoundError, PermissionError):  # this process may be another uid by now
                os.unlink(self._block.places.socketPath(self._term.epoch))

    def closeInChild(self) -> None:
        """In a forked child, without a thread that serves: whoever waits for an answer is to know, and what descriptors are left go."""
        self._inbox.shut()
        for part in (*self._sessions.values(), self._listener, self._admission, self._epoll):
            if part is not None:
                part.close()
        for holder in (self._journal, self._directory.vault, self._deathWatch):
            holder.closeInChild()

    def bequeath(self) -> list[tuple[tuple[int, int], Descriptor]]:
        """The descriptors in the vault, which are the caller's from now on: to bring to the successor, or to die with."""
        with self._lock:
            return self._directory.vault.takeAll()

    def inherit(self, allocations: list[tuple[tuple[int, int], Descriptor]]) -> None:
        """Keep descriptors that this member still has of an earlier term."""
        self._directory.keep([pair for pair, _ in allocations], [descriptor for _, descriptor in allocations])
        self._upkeep.collectLost()

    def _handle(self, descriptor: int) -> None:
        if (session := self._sessions.get(descriptor)) is not None:
            (self._serve if session.isOurs() else self._drop)(session)
        elif descriptor == self._wakeFd and self._wake.isOurs():
            with contextlib.suppress(BlockingIOError):  # one wake-up may be seen twice, the second time empty
                os.eventfd_read(self._wakeFd)
        elif self._listener is not None and descriptor == self._listener.checked():
            self._accept(self._listener.socket)
        elif self._deathWatch.owns(descriptor):
            self._pidfdEnded(descriptor)

    def _pidfdEnded(self, pidfd: int) -> None:
        death = self._deathWatch.confirm(pidfd)
        if death is Death.CONFIRMED:
            self._reclaimer.begin(self._deathWatch.memberOf(pidfd))
        if death is not Death.SUSPECTED:
            self._upkeep.settleUnheld()

    # --- connections -------------------------------------------------------------------------------------------------

    def _accept(self, listener: Socket) -> None:
        connection = self._admission.admit(listener)
        if connection is not None:
            self._sessions[connection.fileno()] = Session(connection)
            self._epoll.register(connection.fileno())

    def _drop(self, session: Session) -> None:
        """End a connection. Its member's death, if it is one, is the pidfd's to prove."""
        if session.connection is not None:
            self._sessions.pop(session.connection.fileno(), None)
            if session.isOurs():
                self._epoll.unregister(session.connection.fileno())
            session.close()
        if session.key is not None and self._deathWatch.disconnected(session.key):
            self._upkeep.sweepSoon()

    def _serve(self, session: Session) -> None:
        assert session.connection is not None
        try:
            try:
                received = messages.receive(session.connection, messages.MAX_DESCRIPTORS)
            except BlockingIOError:
                return  # the event was that of a descriptor of the same number which this step has closed
            if received is None:
                self._drop(session)
                if session.key is None:
                    self._upkeep.sweepSoon()  # it died before its hello, so nobody has its pidfd
                else:
                    self._deathWatch.suspect(session.key)
                return
            reply, descriptors = self._reply(session, *received)
            messages.send(session.connection, reply, descriptors)
        except MuninnError as error:
            # Bytes that are no request: this peer does not speak our language, so it is told once and let go.
            (_log.info if isinstance(error, SenderGone) else _log.warning)("dropped a connection: %s", error)
            with contextlib.suppress(OSError):
                messages.send(session.connection, requests.failure(error))
            self._drop(session)
        except OSError as error:
            # The member is gone, or does not read its answers; it will connect again if it lives.
            _log.info("dropped a connection: %s", error)
            self._drop(session)
        except (Deposed, BlockLost):
            raise
        except Exception as error:
            # A request that no check refused and no handler can serve. It must not go from broker to broker, and end the term of each.
            _log.exception("dropped a connection")
            with contextlib.suppress(OSError):
                messages.send(
                    session.connection, requests.failure(ProtocolViolation(f"the broker could not serve this: {type(error).__name__}"))
                )
            self._drop(session)

    def _reply(self, session: Session, message: Message, descriptors: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        """The answer to one request; a typed error of the request is an answer too."""
        try:
            request = requests.checked(message)
            if session is not self._own and session.key is not None and not self._members.isCurrent(session.key):
                # Nobody would ever take back what is granted now.
                raise SenderGone(f"member slot {session.key.slot} was given back")
            return self._handlers[request["op"]](session, request, descriptors)
        except (MuninnError, PermissionError) as error:
            if isinstance(error, ProtocolViolation):
                raise
            answer = self._journal.hinder(error)
            if self._journal.hindrance is not None:
                raise Deposed from None  # a limit of this process's own is no answer: whoever asks, asks the successor
            return requests.failure(answer), ()
        except Deposed:
            if self.isDeposed():
                raise
            # Not ours to change, and nobody else's either: the word is damaged.
            return requests.failure(ControlBlockInvalid("a row carries an epoch that has not come yet")), ()
        finally:
            messages.closeAll(descriptors)  # a handler empties the list of those that it keeps

    def lacks(self, name: str) -> bool:
        """Whether nobody has the name, or is creating it. For any thread; False says little."""
        return self._directory.lacks(name) and not self.isDeposed()  # last: what a successor has granted since is not known here

    def ask(self, message: Message, descriptors: Sequence[Descriptor], seconds: float) -> tuple[Message, list[Descriptor]]:
        """A request of the broker's own process, from any of its threads; the descriptors in the answer are the caller's.

        Raises `Deposed` when the term has ended, `BrokerUnavailable` when a finalizer asks in the middle of what this thread serves.
        """
        if self._thread != atomics.threadId():
            return self._inbox.ask(message, duplicated(descriptors), seconds)
        if self._isServing:
            raise aside.refusal()
        reply, lent = self.execute(message, duplicated(descriptors))
        return reply, duplicated(lent)

    def execute(self, message: Message, descriptors: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        """The same, served here and now, on the thread that serves; the descriptors in the answer are borrowed."""
        with self._lock:
            if self._epoll.number < 0:
                raise Deposed
            if self.isDeposed():
                # The thread that serves does not know yet, and until it does this process has no other broker to ask.
                self._wake.set()
                raise Deposed
            knownEnd = self._directory.catalog.nextDeadline()
            reply = self._reply(self._own, message, descriptors)
            if self._directory.catalog.nextDeadline() != knownEnd or (
                self._upkeep.snapshot.isDue() and not self._upkeep.snapshot.isUnderWay()
            ):
                self._wake.set()  # the thread that serves sleeps until the first lifetime that it knew of
            return reply

    # --- requests ----------------------------------------------------------------------------------------------------

    def _onHello(self, session: Session, message: Message, descriptors: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        key = MemberKey(message["slot"], message["generation"])
        if not 0 <= key.slot < self._members.count:
            raise ProtocolViolation(f"there is no member slot {key.slot}")
        # Its death can come between any two looks: what the descriptor names is read once, and the slot's owner after its nonce.
        pid = pidOf(descriptors[0].number) if descriptors else None
        isKnown = self._members.identity(key.slot).nonce == message["nonce"]
        if not self._members.isCurrent(key):
            raise SenderGone(f"member slot {key.slot} was given back")
        if isKnown and pid == -1:
            self._upkeep.sweepSoon()
            raise SenderGone(f"the member of slot {key.slot} died before its hello was read")
        if not isKnown or pid is None or not self._members.isPidOf(pid, key):
            raise ProtocolViolation(f"hello does not match member slot {key.slot}")
        requests.allocationsOf(message, descriptors[1:])  # before anything is believed
        session.key = key
        self._deathWatch.greeted(key, descriptors.pop(0))
        self._onBring(session, message, descriptors)
        return {"epoch": self._term.epoch}, ()

    def _onBring(self, session: Session, message: Message, descriptors: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        session.member()
        pairs = requests.allocationsOf(message, descriptors)
        session.bringsMore = len(pairs) >= requests.FULL_BATCH
        self._directory.keep(pairs, descriptors)
        self._upkeep.collectLostOnce()
        return {}, ()

    def _onCreate(self, session: Session, message: Message, _: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        if not self._block.hasName():
            raise BlockLost  # nobody else would ever find what is made now
        if (why := self._drain.reason()) is not None:
            raise DomainDraining(f"the domain is draining: {why}" if why else "the domain is draining")
        mode = asMode(message["mode"])
        if not 0 <= message["sizeBytes"] < 1 << 62 or (message["sizeBytes"] == 0 and not message["name"].startswith("\x01")):
            raise InvalidArgument(f"a buffer of {message['sizeBytes']} bytes can not be")
        for field, most in (("name", layout.MAX_NAME_BYTES), ("tenant", layout.MAX_TENANT_BYTES)):
            if not 0 < len(message[field].encode(errors="replace")) <= most:
                raise InvalidArgument(f"a {field} of {len(message[field])} characters can not be")
        usage = Usage(message["name"], message["tenant"], mode, message["gpu"], message["sizeBytes"], message["deadlineMs"])
        if self._upkeep.mayBeBrought(message["name"]):
            return {"row": requests.LATER, "incarnation": 0}, ()
        row, incarnation = self._directory.grant(session.member(), usage, message["gpuCapacityBytes"])
        return {"row": row, "incarnation": incarnation}, ()

    def _onCommit(self, session: Session, message: Message, descriptors: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        row, incarnation = self._named(message)
        descriptor = descriptors.pop(0) if descriptors else None
        self._directory.commit(session.member(), row, incarnation, descriptor)
        return {}, ()

    def _onAbandon(self, session: Session, message: Message, _: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        self._directory.abandon(session.member(), *self._named(message))
        return {}, ()

    def _onFind(self, session: Session, message: Message, _: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        session.member()
        found = self._directory.find(message["name"])
        return ({}, ()) if found is None else ({"row": found[0], "incarnation": found[1], "live": found[2]}, ())

    def _onFetch(self, session: Session, message: Message, _: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        session.member()
        row, incarnation = self._named(message)
        descriptor = self._directory.vault.get(row, incarnation)
        if descriptor is not None:
            return {"found": True}, (descriptor,)
        if self._directory.rows.isLive(row, incarnation) and self._mayStillCome():
            return {"found": False}, ()
        self._upkeep.collectLost()  # whoever is told that it is gone may make it anew at once
        raise OwnerDied(f"nobody holds the memory of row {row}.{incarnation} any more")

    def _mayStillCome(self) -> bool:
        """After a takeover: whether somebody, a holder or the broker before, has not brought this broker yet all that it may have."""
        greeted = {session.key for session in self._sessions.values() if not session.bringsMore}
        return any(key not in greeted and not self._members.isNoticedDead(key) for key in self._members.live() if key != self._own.key)

    def _onFree(self, session: Session, message: Message, _: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        session.member()
        self._directory.free(*self._named(message))
        return {}, ()

    def _onRecall(self, session: Session, message: Message, _: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        """The owner of memory that is shared where it lies takes it back."""
        key = session.member()
        row, incarnation = self._named(message)
        if self._directory.rows.state(row).creator != key.slot or self._directory.rows.needsDescriptor(row):
            raise PermissionDenied(f"row {row}.{incarnation} is not lent by slot {key.slot}")
        self._directory.ownerGone(row)
        return {}, ()

    def _onSettle(self, session: Session, message: Message, _: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        session.member()
        row, incarnation = self._named(message)
        if self._directory.rows.state(row).incarnation == incarnation:
            self._directory.settle(row)
        return {}, ()

    def _onEvict(self, session: Session, message: Message, _: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        session.member()
        reason = message["reason"] if message["reason"] in leases.REVOCATION_REASONS[1:] else "evicted"
        rows, revoked = 0, 0
        for number, row in enumerate(self._directory.rows.inState(layout.ROW_LIVE)):
            if number % _ROWS_A_BEAT == 0:
                self._beat()
            if self._directory.isCalled(row, message["name"], message["tenant"]):
                rows, revoked = rows + 1, revoked + self._directory.revoke(row, reason, message["pid"])
        return {"revoked": revoked, "buffers": rows}, ()

    def _onDrain(self, session: Session, message: Message, _: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        session.member()
        self._drain.set(self._term.epoch, message["on"], message["reason"])
        _log.info("draining %s", f"on: {message['reason'] or 'no reason given'}" if message["on"] else "off")
        return {"holds": sum(leases.heldBy(self._block, self._members, key.slot) for key in self._members.there())}, ()

    def _onYield(self, session: Session, message: Message, _: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        """A member that stays takes over politely. Its request was the last one of this term."""
        key = session.member()
        if key == self._own.key or self._members.identity(self._own.member().slot).flags & layout.MEMBER_FLAG_PREFERRED:
            return {"yielded": False}, ()
        return {"yielded": self._election.replace(self._term, key.slot) is not None}, ()

    def _onLeave(self, session: Session, _: Message, __: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        key = session.member()
        self._reclaimer.leave(key, isBroker=key == self._own.key)
        self._upkeep.settleUnheld()
        return {}, ()

    def _onPing(self, _: Session, __: Message, ___: list[Descriptor]) -> tuple[Message, tuple[int, ...]]:
        return {"epoch": self._term.epoch}, ()

    def _named(self, message: Message) -> tuple[int, int]:
        row, incarnation = message["row"], message["incarnation"]
        if not self._directory.exists(row, incarnation):
            raise BufferFreed(f"row {row}.{incarnation} is not there any more")
        return row, incarnation
