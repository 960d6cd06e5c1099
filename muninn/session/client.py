"""The client: how a member asks whoever is broker now, and gets an answer or an error within a bound of time.

A connection, made anew for each epoch, is begun by a hello that carries the member's pidfd; the first one also brings the descriptors
that it holds. There is one, and more only while several threads ask at once, or one in the middle of its own question (`connections.py`).
An answer that does not come ends in one of three ways: the broker has died (the connection ends: ask its successor), it is busy (its
heartbeat moves: wait on), or it is stuck (the heartbeat stands still for `takeoverMs` on this process's monotonic clock: depose it).
Requests are idempotent, so asking again is safe.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from muninn.control.block import BlockLost
from muninn.control.election import Election, Term
from muninn.control.members import MemberKey, MemberTable
from muninn.control.rows import Deposed
from muninn.errors import BrokerUnavailable, BufferFreed, DescriptorsExhausted, DomainChanged, MuninnError
from muninn.session.connections import Line, Lines
from muninn.storage.paths import Places
from muninn.system import aside, atomics, clock, descriptors, green
from muninn.system.atomics import SPIN_NS
from muninn.system.descriptors import Descriptor
from muninn.system.logs import Log
from muninn.system.oserrors import missingShm
from muninn.wire import messages, requests
from muninn.wire.descriptorserver import HatchClient
from muninn.wire.messages import Message

if TYPE_CHECKING:
    from muninn.broker.broker import Broker

_log = Log("muninn.member")
_RETRY_SECONDS = 0.001
#: How long the background thread leaves a broker alone that has no room, or that it has no descriptor to connect to.
_TURNED_AWAY_SECONDS = 2.0


class Office(NamedTuple):
    """What the client needs of its membership."""

    places: Places
    members: MemberTable
    election: Election
    key: MemberKey
    nonce: int
    takeoverMs: int
    requestTimeoutMs: int
    #: This process's own broker, while it is elected.
    broker: Callable[[], Broker | None]
    #: Ask for the succession of a term.
    campaign: Callable[[Term], None]
    #: Whether this process has to join anew, because nobody finds the control block any more.
    isLost: Callable[[], bool]
    #: ((row, incarnation), descriptor) of the memory held here that has no name.
    allocations: Callable[[], list[tuple[tuple[int, int], Descriptor]]]
    #: Make the background thread look around.
    kick: Callable[[], None] = lambda: None
    #: Raises `DomainChanged` when this process has lost its slot.
    requireSlot: Callable[[], None] = lambda: None


class _Retry(Exception):
    """This broker will not answer; look who is broker now."""


class Patience:
    """How long the broker has been standing still, on this process's clock."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._seen: tuple[int, int, int] | None = None
        self._since = 0.0

    def isOver(self) -> bool:
        """Whether neither epoch, ready word nor heartbeat has moved for `takeoverMs`."""
        election, now = self._office.election, clock.now()
        seen = (election.epoch(), election.readyEpoch(), election.heartbeat())
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since >= self._office.takeoverMs / 1000

    def remaining(self) -> float:
        """Seconds until it would be over, if nothing moved."""
        return max(_RETRY_SECONDS, self._since + self._office.takeoverMs / 1000 - clock.now())


class Client:
    """This member's side of the socket."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._hatch = HatchClient(office.places)
        self._lines = Lines()
        self._greeted = -1
        self._isForked = False
        self._later: deque[Message] = deque()
        self._turnedAwayBy, self._greetAgainAt = -1, 0.0  # the epoch whose broker had no room for this member

    def request(self, op: str, descriptors: Sequence[Descriptor] = (), **fields: object) -> tuple[Message, list[Descriptor]]:
        """Ask, and return the answer and the descriptors in it, which are the caller's.

        Raises
        ------
        BrokerUnavailable
            Nobody answered within `control.requestTimeoutMs`.
        MuninnError
            What the broker answered.
        """
        message: Message = {"op": op, **fields}
        if aside.isOwn():
            # A finalizer, on a thread that others wait for: it must not wait for them.
            if op not in requests.WITHOUT_ANSWER:
                raise aside.refusal()
            self.later(message)
            return {}, []
        if op == "find" and (broker := self._office.broker()) is not None and broker.lacks(str(fields["name"])):
            return {}, []
        deadline = self._deadline()
        patience = Patience(self._office)
        while True:
            self._office.requireSlot()
            try:
                reply, received = self._ask(message, descriptors, patience, deadline)
            except (_Retry, Deposed, BlockLost):
                if self._office.isLost():
                    domain = self._office.places.domain
                    raise DomainChanged(f"the control block of {domain!r} was removed from /dev/shm", "Try again") from None
                if (missing := missingShm()) is not None:
                    raise missing from None  # and with it the sockets
                if clock.now() >= deadline:
                    raise BrokerUnavailable(f"no broker answered {op!r} within {self._office.requestTimeoutMs} ms") from None
                clock.sleep(_RETRY_SECONDS)
                continue
            try:
                requests.answered(op, reply)
            except BaseException:
                messages.closeAll(received)
                raise
            return reply, received

    def free(self, row: int, incarnation: int) -> None:
        """Free a buffer. That somebody else was faster is fine."""
        with contextlib.suppress(BufferFreed):
            self.request("free", row=row, incarnation=incarnation)

    def fetch(self, row: int, incarnation: int) -> Descriptor | None:
        """A descriptor of memory that has no name, the caller's; None when a new broker does not have it yet.

        It says nothing about the row: whoever holds a lease on it looks for himself.

        Raises
        ------
        OwnerDied
            Nobody has it any more.
        BrokerUnavailable, BufferFreed, DescriptorsExhausted
        """
        election = self._office.election
        epoch = election.epoch()
        if self._office.broker() is None and election.readyEpoch() == epoch:
            descriptor = self._hatch.fetch(epoch, row, incarnation)
            if descriptor is not None:
                return descriptor
        reply, descriptors = self.request("fetch", row=row, incarnation=incarnation)
        return descriptors[0] if reply["found"] and descriptors else None

    def once(self, op: str, **fields: object) -> Message | None:
        """Ask the broker of now a single time, and return its answer; None when there is none.

        For the background thread: while it waits it may itself be elected, and then it has to serve and not to ask again.
        """
        try:
            reply, received = self._ask({"op": op, **fields}, (), Patience(self._office), self._deadline())
        except (_Retry, Deposed, BrokerUnavailable):
            return None
        messages.closeAll(received)
        requests.raiseFailure(reply)
        return reply

    def awaitAnswer(self, seconds: float) -> bool:
        """Wait until a broker answers; False when none does within so long. What it does first when its term begins is done then."""
        deadline = clock.now() + seconds
        with contextlib.suppress(MuninnError):
            while not aside.isOwn() and clock.now() < deadline:
                if self.once("ping") is not None:
                    return True
                clock.sleep(_RETRY_SECONDS)
        return False

    def later(self, message: Message) -> None:
        """Let the background thread ask this, once it can; nobody hears the answer. A grant is asked for again, and given back."""
        self._later.append(message)
        self._office.kick()

    def askLater(self) -> bool:
        """Ask what was to be asked later; False when the broker does not answer now. For the background thread."""
        while self._later:
            message = self._later[0]  # it stays until it is done: `awaitLater` looks for it
            try:
                reply = self.once(**message)
            except MuninnError:
                reply = {}  # it is as it was to be, or nobody's any more
            if reply is None:
                return False
            if message["op"] == "create" and reply.get("row", requests.LATER) != requests.LATER:
                self._later.append({"op": "abandon", "row": reply["row"], "incarnation": reply["incarnation"]})
            self._later.popleft()
        return True

    def awaitLater(self) -> None:
        """Before a grant: what is yet to be given back may be the very row that would be granted again.

        Raises
        ------
        BrokerUnavailable, DomainChanged
            And whatever keeps this process from serving, where nobody else could.
        """
        deadline = self._deadline()
        while self._later:
            if clock.now() > deadline:
                raise BrokerUnavailable(f"no broker took back within {self._office.requestTimeoutMs} ms what was not brought to its end")
            self._office.requireSlot()
            self._office.kick()
            if (term := self._office.election.term()).slot is None:
                self._office.campaign(term)  # which tells why nobody serves: what was to be asked later is not asked before somebody does
            clock.sleep(_RETRY_SECONDS)

    def greet(self) -> bool:
        """Connect to the broker of now, if there is no connection yet; False when it does not answer. For the background thread too.

        Where no descriptor is left, here or there, it is not tried again for a while; who asks for something does.
        """
        epoch = self._office.election.epoch()
        self._lines.thin()
        isTurnedAway = epoch == self._turnedAwayBy and clock.now() < self._greetAgainAt
        if isTurnedAway or self._lines.isAny(epoch):
            return True
        try:
            line = self._line(Patience(self._office), self._deadline())
            self._turnedAwayBy = -1
            if self._lines.isAny(epoch, butFor=line):
                line.close()  # another thread has asked meanwhile: a member costs its broker one descriptor, if it can
            else:
                self._lines.giveBack(line)
        except _Retry:
            return False
        except DescriptorsExhausted as error:
            if epoch != self._turnedAwayBy:
                _log.warning("not connected to the broker of epoch %d: %s", epoch, error.reason)
            self._turnedAwayBy, self._greetAgainAt = epoch, clock.now() + _TURNED_AWAY_SECONDS
        return True

    def hasGreeted(self, epoch: int) -> bool:
        """Whether the broker of `epoch`, or of a later one, has what this member brought."""
        return self._greeted >= epoch

    def _deadline(self) -> float:
        return clock.now() + self._office.requestTimeoutMs / 1000

    def forsake(self, epoch: int) -> None:
        """The term of `epoch` has begun: whoever waits for an answer of an earlier one must look again, and what is connected to one is
        closed. Waits no longer than they take to look up.
        """
        self._hatch.forsake(epoch)
        self._lines.forsake(epoch)

    def close(self) -> None:
        self._hatch.close()
        self._lines.close()

    def closeInChild(self) -> None:
        """Close this process's copies of the parent's connections, without ending them, and ask nothing more: a signal handler may have
        forked in the middle of a request, whose answer is the parent's.
        """
        self._isForked = True
        self._hatch.closeInChild()
        self._lines.closeInChild()

    # --- one attempt -------------------------------------------------------------------------------------------------

    def _ask(
        self, message: Message, descriptors: Sequence[Descriptor], patience: Patience, deadline: float
    ) -> tuple[Message, list[Descriptor]]:
        broker = self._office.broker()
        if broker is not None:
            return broker.ask(message, descriptors, max(0.0, deadline - clock.now()))
        line = self._line(patience, deadline)
        try:
            answer = self._exchange(line, message, descriptors, patience, deadline)
        except BaseException:
            line.close()  # whatever else it brings could be taken for the answer to another question
            raise
        self._lines.giveBack(line)
        return answer

    def _line(self, patience: Patience, deadline: float) -> Line:
        """A line to the broker of now, which is the caller's."""
        if self._isForked:
            raise BrokerUnavailable("this process was forked while it was asking", "Ask again: it joins anew")
        term = self._office.election.term()
        line = self._lines.take(term.epoch)
        if line is not None:
            return line
        self._awaitBroker(term, patience)
        try:
            connection = descriptors.unixSocket()
        except OSError as error:
            raise DescriptorsExhausted(f"no descriptor is left for a socket: {error.strerror}") from error
        line = self._lines.made(connection, term.epoch)
        try:
            connection.connect(self._office.places.socketPath(term.epoch))
            self._hello(line, patience, deadline)
            self._greeted = term.epoch
        except OSError as error:
            # Gone, or its queue of connections is full: a broker that does not accept does not beat either.
            line.close()
            self._deposeIfStuck(term, patience)
            raise _Retry from error
        except BaseException:
            line.close()  # whoever uses it next would ask without a hello
            raise
        return line

    def _awaitBroker(self, term: Term, patience: Patience) -> None:
        """Return when the socket of `term` listens; otherwise do what can be done about it, and `_Retry`."""
        office = self._office
        if term.slot == office.key.slot:
            office.campaign(term)  # it is us, and our thread is about to serve
            raise _Retry
        if term.slot is None or office.members.isNoticedDead(MemberKey(term.slot, office.members.state(term.slot)[1])):
            office.campaign(term)
            raise _Retry
        ready = office.election.readyEpoch()
        if ready < term.epoch:
            self._deposeIfStuck(term, patience)
            office.election.awaitReady(ready, int(patience.remaining() * 1e9))
            raise _Retry

    def _deposeIfStuck(self, term: Term, patience: Patience) -> None:
        if patience.isOver():
            self._office.campaign(term)

    def _hello(self, line: Line, patience: Patience, deadline: float) -> None:
        office = self._office
        pidfd = atomics.pidfdOpen(os.getpid())
        if pidfd.number < 0:
            raise DescriptorsExhausted(f"no descriptor is left for a pidfd: {os.strerror(-pidfd.number)}")
        held: list[tuple[tuple[int, int], Descriptor]] = []
        try:
            held = office.allocations() if self._greeted != line.epoch else []
            batch, rest = held[: requests.FULL_BATCH], held[requests.FULL_BATCH :]
            hello = {"op": "hello", "slot": office.key.slot, "generation": office.key.generation, "nonce": office.nonce}
            self._bring(line, hello, batch, (pidfd,), patience, deadline)
            while len(batch) == requests.FULL_BATCH:
                batch, rest = rest[: requests.FULL_BATCH], rest[requests.FULL_BATCH :]
                self._bring(line, {"op": "bring"}, batch, (), patience, deadline)
        finally:
            messages.closeAll([pidfd, *(descriptor for _, descriptor in held)])

    def _bring(
        self,
        line: Line,
        message: Message,
        batch: list[tuple[tuple[int, int], Descriptor]],
        first: tuple[Descriptor, ...],
        patience: Patience,
        deadline: float,
    ) -> None:
        message["allocations"] = [list(pair) for pair, _ in batch]
        descriptors = (*first, *(descriptor for _, descriptor in batch))
        requests.raiseFailure(self._exchange(line, message, descriptors, patience, deadline)[0])

    def _exchange(
        self, line: Line, message: Message, descriptors: Sequence[Descriptor], patience: Patience, deadline: float
    ) -> tuple[Message, list[Descriptor]]:
        """Send, and wait for the answer as long as the broker moves. After any error the line is to be closed."""
        term = self._office.election.term()
        connection = line.connection
        spinNs = SPIN_NS  # a broker that is awake answers sooner than this thread would wake up
        try:
            messages.send(connection, message, descriptors)
            patience.isOver()
            while result := green.awaitReadable(connection.fileno(), spinNs, int(patience.remaining() * 1e9)):
                if result not in (-errno.ETIMEDOUT, -errno.EINTR) or self._office.election.epoch() != line.epoch or clock.now() >= deadline:
                    raise _Retry
                self._deposeIfStuck(term, patience)
                spinNs = 0
            answer = messages.receive(connection)
        except (OSError, ValueError) as error:  # ended, or closed by `forsake`
            raise _Retry from error
        if answer is None:
            raise _Retry
        return answer
