"""The broker: one member's term, from its election to its deposition.

A broker works on its member's background thread, one `step` at a time. Other members
ask it through its socket (`server.py`), its own process asks it through its inbox
(`inbox.py`), and `handlers/` says what each request does. The broker keeps in its
private memory only what its successor finds in the control block, or receives from the
members again. So a death of the broker loses nothing.

Takeover. A member that notices the end of the broker, by the robust word of its slot or
by a heartbeat that stands still, replaces the election word {epoch, slot} by one CAS
(`control/election.py`); one member wins. The winner's thread makes a Broker, which
begins its term in this order:

1. It removes the copies that its predecessors did not finish, and opens the journal of
   its epoch.
2. It fences: it raises the epoch of all rows, and from then on each CAS of a
   predecessor fails (`control/rows.py`). It finishes the exchange of two versions of a
   name, if its predecessor died in the middle of one (`succession.py`).
3. It listens at the socket of its epoch, opens the descriptor server, and announces the
   epoch. Members connect, and bring the descriptors of memory that has no name.
4. While it serves already, it finishes what its predecessors left half done, a piece at
   a time (`maintenance.py`).

Each of these steps is idempotent, so the next successor repeats them when this broker
dies in between. A broker may be deposed at any moment. It reads the election word
before each request; a stale read there costs one request, whose changes the fence
refuses: such a request has either happened or not.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Sequence
from functools import partial

from muninn.broker import deathwatch
from muninn.broker.catalog import Catalog
from muninn.broker.deathwatch import Death, DeathWatch
from muninn.broker.directory import Directory
from muninn.broker.handlers.context import Answer, TermContext
from muninn.broker.handlers.table import HANDLERS
from muninn.broker.inbox import Inbox, duplicated
from muninn.broker.journal import Journal, dropCopies
from muninn.broker.maintenance import SWEEP_SECONDS, Maintenance
from muninn.broker.policy.admission import Admission
from muninn.broker.policy.limits import Limits
from muninn.broker.reclaiming import Reclaimer
from muninn.broker.server import Server
from muninn.broker.sessions import SenderGone, Session
from muninn.control.block import BlockLost, ControlBlock
from muninn.control.drain import Drain
from muninn.control.election import Election, Term
from muninn.control.members import MemberKey, MemberTable
from muninn.control.rows import Deposed
from muninn.errors import ControlBlockInvalid, MuninnError, ProtocolViolation
from muninn.observe import spans
from muninn.system import aside, atomics
from muninn.system.descriptors import Descriptor, Socket
from muninn.system.logs import Log
from muninn.wire import messages, requests
from muninn.wire.messages import Message

_log = Log("muninn.broker")
#: After how many steps with requests a broker does a piece of maintenance. A broker
#: that is always busy would otherwise never do any.
_SERVED_FIRST = 16
_DAMAGED = "a row of the control block is of an epoch to come: run `python -m muninn doctor`"


class Broker:
    """A broker's term, from election to deposition. A write to `wakeFd`, an eventfd of
    the member, ends the wait of a step.

    Raises
    ------
    BlockLost
        The control block was removed from `/dev/shm`. If its directory was removed too,
        there is no place for a journal.
    """

    def __init__(
        self,
        block: ControlBlock,
        members: MemberTable,
        election: Election,
        term: Term,
        own: MemberKey,
        limits: Limits,
        wakeFd: int,
        abler: Callable[[], int | None] = lambda: None,
    ) -> None:
        if not block.restoreNames():
            raise BlockLost
        self._block = block
        self._members = members
        self._election = election
        self._term = term
        self._own = Session(None, own)
        self._lock = _thread.RLock()
        self._inbox = Inbox(wakeFd)
        self._thread = 0  # the thread that serves
        self._isServing = False
        self._served = 0  # steps since the last piece of maintenance
        # This comes first: it may free the memory that everything else needs.
        dropCopies(block.paths)
        self._journal = Journal(block.paths, term.epoch)
        try:
            self._server = Server(block.paths.socketPath(term.epoch), block.paths.uid, wakeFd, self)
        except OSError:
            self._journal.close()
            raise
        self._directory = Directory(
            block, members, term.epoch, self._journal, lambda rows: Catalog(rows, limits)
        )
        self._deathWatch = DeathWatch(members, self._server.watch, self._server.unwatch)
        self._reclaimer = Reclaimer(block, members, self._directory, self._deathWatch.forget)
        self._admission = Admission(
            members, election, term, own, wakeFd, self._deathWatch.economize, abler
        )
        self._maintenance = Maintenance(
            block,
            term.epoch,
            own,
            self._directory,
            self._deathWatch,
            self._reclaimer,
            self._journal,
            self._mayStillBring,
        )
        context = TermContext(
            block,
            members,
            election,
            term,
            self._own,
            Drain(block),
            self._directory,
            self._deathWatch,
            self._reclaimer,
            self._maintenance,
            self._beat,
            self._mayStillBring,
        )
        self._handlers: dict[str, Callable[[Session, Message, list[Descriptor]], Answer]] = {
            op: partial(handler, context) for op, handler in HANDLERS.items()
        }

    # --- the term --------------------------------------------------------------------

    def start(self) -> None:
        """Fence the predecessors, listen, and announce the epoch. The broker finishes
        what its predecessors left half done while it serves already.
        """
        self._directory.fence()
        self._finishSuccession()
        self._server.listen()
        self._directory.descriptorStore.open(
            self._block.paths.descriptorServerPath(self._term.epoch), self._block.paths.uid
        )
        self._election.announce(self._term.epoch)
        self._journal.note("begin", epoch=self._term.epoch)
        self._maintenance.takeOver()

    def _finishSuccession(self) -> None:
        """Finish the exchange of two versions that a predecessor has begun. No request
        is answered before.
        """
        try:
            self._directory.succession.finishLeft()
        except Deposed:
            if self.isDeposed():
                raise
            _log.error(_DAMAGED)

    def isDeposed(self) -> bool:
        return self._election.term() != self._term

    def step(self, timeoutSeconds: float) -> None:
        """Wait for something to do, at most `timeoutSeconds`, and do it. Raises
        `Deposed` when the term has ended.
        """
        timeoutSeconds = min(
            timeoutSeconds,
            deathwatch.RETRY_SECONDS if self._deathWatch.suspects() else SWEEP_SECONDS,
        )
        mayWait = not self._maintenance.isPending() and self._inbox.isEmpty()
        seconds = min(timeoutSeconds, self._maintenance.untilDeadline()) if mayWait else 0
        events = self._server.wait(seconds)
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
            if not self._server.handle(descriptor) and self._deathWatch.owns(descriptor):
                self._pidfdEnded(descriptor)
        for pidfd in self._deathWatch.suspects():
            self._pidfdEnded(pidfd)
        self._served += 1
        if not descriptors or self._served > _SERVED_FIRST:
            self._doMaintenance()

    def _serveInbox(self) -> None:
        """Answer the requests of this process. Requests that come meanwhile are served
        after those of the other members.
        """
        for _ in range(_SERVED_FIRST):
            if (asked := self._inbox.take()) is None:
                return
            try:
                reply, lent = self.reply(self._own, asked.message, asked.descriptors)
                asked.answer(reply, duplicated(lent))
            except Exception as error:
                asked.fail(error)
                if isinstance(error, Deposed | BlockLost):
                    raise

    def _beat(self) -> None:
        """Advance the heartbeat. Raises `Deposed` when the term has ended, or when this
        process can not go on.
        """
        if self.isDeposed() or self._journal.isHindered():
            raise Deposed
        self._election.beat()

    def _doMaintenance(self) -> None:
        self._served = 0
        try:
            self._maintenance.endLifetimes()
            self._maintenance.workOnce()
        except Deposed:
            if self.isDeposed():
                raise
            _log.error(_DAMAGED)

    def close(self) -> None:
        """Release everything of the term that is private to this process. Shared memory
        is not touched, since it is the successor's now.
        """
        self._inbox.shut()
        with self._lock:
            self._server.endConnections()
            for part in (
                self._deathWatch,
                self._directory.descriptorStore,
                self._journal,
                self._admission,
            ):
                part.close()
            self._server.close()

    def closeInChild(self) -> None:
        """In a forked child, which has no thread that serves: refuse the requests that
        wait for an answer, and close the child's copies of the descriptors.
        """
        self._inbox.shut()
        self._server.closeInChild()
        self._admission.close()
        for holder in (self._journal, self._directory.descriptorStore, self._deathWatch):
            holder.closeInChild()

    def handOver(self) -> list[tuple[tuple[int, int], Descriptor]]:
        """The descriptors in the descriptor store. The caller owns them from now on,
        and brings them to the successor.
        """
        with self._lock:
            return self._directory.descriptorStore.takeAll()

    def inherit(self, allocations: list[tuple[tuple[int, int], Descriptor]]) -> None:
        """Keep descriptors that this member still has from an earlier term."""
        self._directory.descriptorStore.keep(
            self._directory.rows,
            [pair for pair, _ in allocations],
            [descriptor for _, descriptor in allocations],
        )
        self._maintenance.collectLost()

    def _pidfdEnded(self, pidfd: int) -> None:
        death = self._deathWatch.confirm(pidfd)
        if death is Death.CONFIRMED:
            self._reclaimer.begin(self._deathWatch.memberOf(pidfd))
        if death is not Death.SUSPECTED:
            self._maintenance.tryReclaimUnheld()

    # --- for the server --------------------------------------------------------------

    def admit(self, listener: Socket) -> Socket | None:
        return self._admission.admit(listener)

    def disconnected(self, session: Session) -> None:
        if session.key is not None and self._deathWatch.disconnected(session.key):
            self._maintenance.sweepSoon()

    def hungUp(self, session: Session) -> None:
        if session.key is None:
            # It died before its hello, so this broker has no pidfd of it.
            self._maintenance.sweepSoon()
        else:
            self._deathWatch.suspect(session.key)

    def reply(self, session: Session, message: Message, descriptors: list[Descriptor]) -> Answer:
        """The answer to one request; a typed error of the request is an answer too."""
        try:
            request = requests.checked(message)
            if (
                session is not self._own
                and session.key is not None
                and not self._members.isCurrent(session.key)
            ):
                # No broker would ever reclaim a row that is granted now.
                raise SenderGone(f"member slot {session.key.slot} was given back")
            with spans.handling(request["op"], request.pop(requests.TRACE, None)):
                return self._handlers[request["op"]](session, request, descriptors)
        except (MuninnError, PermissionError) as error:
            if isinstance(error, ProtocolViolation):
                raise
            answer = self._journal.hinder(error)
            if self._journal.hindrance is not None:
                # A limit of this process alone is no answer: the member asks the
                # successor.
                raise Deposed from None
            return requests.failure(answer), ()
        except Deposed:
            if self.isDeposed():
                raise
            # No broker could change this word, since it is damaged.
            return requests.failure(
                ControlBlockInvalid("a row carries an epoch that has not come yet")
            ), ()
        finally:
            messages.closeAll(descriptors)  # a handler removes those that it keeps from the list

    # --- for this process ------------------------------------------------------------

    def lacks(self, name: str) -> bool:
        """Whether no row has the name, also none that is being created. Any thread may
        call this. If it returns False, a request must find out.
        """
        # The election word is read last: a successor may have granted the name since.
        return self._directory.lacks(name) and not self.isDeposed()

    def ask(
        self, message: Message, descriptors: Sequence[Descriptor], seconds: float
    ) -> tuple[Message, list[Descriptor]]:
        """Answer a request of the broker's own process, from any of its threads. The
        caller owns the descriptors in the answer.

        Raises `Deposed` when the term has ended, and `BrokerUnavailable` when a
        finalizer asks while this thread is serving another request.
        """
        if self._thread != atomics.threadId():
            return self._inbox.ask(message, duplicated(descriptors), seconds)
        if self._isServing:
            raise aside.refusal()
        reply, lent = self.execute(message, duplicated(descriptors))
        return reply, duplicated(lent)

    def execute(self, message: Message, descriptors: list[Descriptor]) -> Answer:
        """The same on the thread that serves, which serves the request at once. The
        descriptors in the answer are borrowed.
        """
        with self._lock:
            if self._server.isClosed():
                raise Deposed
            if self.isDeposed():
                # The thread that serves does not know this yet. Until it does, this
                # process asks no other broker.
                self._server.wake()
                raise Deposed
            knownEnd = self._directory.catalog.nextDeadline()
            reply = self.reply(self._own, message, descriptors)
            if self._directory.catalog.nextDeadline() != knownEnd or (
                self._maintenance.snapshot.isDue() and not self._maintenance.snapshot.isUnderWay()
            ):
                # The thread that serves sleeps until the first deadline that it knew.
                self._server.wake()
            return reply

    def _mayStillBring(self) -> bool:
        """After a takeover: whether a living member has not yet brought all the memory
        that it may have, because it has it open or was the broker before.
        """
        connected = {
            session.key for session in self._server.sessions.values() if not session.bringsMore
        }
        return any(
            key not in connected and not self._members.isSuspectedDead(key)
            for key in self._members.live()
            if key != self._own.key
        )
