"""The client: a member sends a request to the process that is broker now, and gets an
answer or an error within a bounded time.

The client owns the member's connections (`connections.py`, made by `connector.py`) and
the requests that wait for the background thread. All of it is private memory of the
member's process. There is one connection, and there are more only while several threads
ask at once, or while a signal handler asks in the middle of a question of its own
thread.

An answer that does not come ends in one of three ways. The broker has died: the
connection ends, and the client asks the successor. The broker is busy: its heartbeat
moves, and the client goes on waiting. The broker is stuck: its heartbeat stands still
for `takeoverMs` (`stalldetector.py`), and the client starts an election (`role.py`).
Requests are idempotent, so the client may ask again.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence

from muninn.control.block import BlockLost
from muninn.control.rows import Deposed
from muninn.errors import (
    BrokerUnavailable,
    BufferFreed,
    DescriptorsExhausted,
    DomainChanged,
    MuninnError,
)
from muninn.observe import spans
from muninn.session.clientcontext import ClientContext
from muninn.session.connections import Lines
from muninn.session.connector import BrokerLost, Connector
from muninn.session.stalldetector import RETRY_SECONDS, StallDetector
from muninn.system import aside, clock
from muninn.system.descriptors import Descriptor
from muninn.system.logs import Log
from muninn.system.oserrors import missingShm
from muninn.wire import messages, requests
from muninn.wire.descriptorserver import DescriptorClient
from muninn.wire.messages import Message

_log = Log("muninn.member")
#: How long the background thread waits before it connects again, when the broker or
#: this process has no descriptor left for the connection.
_REFUSED_SECONDS = 2.0
#: How long the members have to bring a new broker their memory, at least, and in the time
#: after which one that stands still counts as stuck.
_BROUGHT_SECONDS, _BROUGHT_TAKEOVERS = 1.0, 3


class Client:
    """This member's side of the socket."""

    def __init__(self, context: ClientContext) -> None:
        self._context = context
        self._descriptorServer = DescriptorClient(context.paths)
        self._lines = Lines()
        self._connector = Connector(context, self._lines)
        self._later: deque[Message] = deque()
        # The epoch whose broker had no descriptor left for this member.
        self._refusedBy, self._connectAgainAt = -1, 0.0
        # Looks at the broker from the first attempt of `connect` that fails to the next
        # one that does not.
        self._stall: StallDetector | None = None

    def request(
        self, op: str, descriptors: Sequence[Descriptor] = (), **fields: object
    ) -> tuple[Message, list[Descriptor]]:
        """Send a request, and return the answer and the descriptors in it. The caller
        owns the descriptors.

        Raises
        ------
        BrokerUnavailable
            No broker answered within `control.requestTimeoutMs`.
        DomainChanged
            Another thread has left the domain meanwhile, or the control block was
            removed.
        MuninnError
            The error that the broker answered with.
        """
        message: Message = {"op": op, **fields}
        if aside.isOwn():
            # A finalizer runs on a thread that others wait for: it must not wait.
            if not requests.OPERATIONS[op].mayComeLate:
                raise aside.refusal()
            self.later(message)
            return {}, []
        if (
            op == "find"
            and (broker := self._context.broker()) is not None
            and broker.lacks(str(fields["name"]))
        ):
            return {}, []
        if (parent := spans.traceparent()) is not None:
            message[requests.TRACE] = parent
        try:
            return self._requested(op, message, descriptors)
        except MuninnError:
            # What a broker says of a slot that was given back is no answer.
            self._requireStay(op)
            raise

    def _requireStay(self, op: str) -> None:
        if op != "leave" and self._context.hasLeft():
            domain = self._context.paths.domain
            raise DomainChanged(
                f"this process left {domain!r} while it was asking", "Ask again: it joins anew"
            ) from None

    def _requested(
        self, op: str, message: Message, descriptors: Sequence[Descriptor]
    ) -> tuple[Message, list[Descriptor]]:
        """`request`, of another process."""
        deadline = self._deadline()
        stall = StallDetector(self._context)
        while True:
            self._context.requireSlot()
            try:
                reply, received = self._ask(message, descriptors, stall, deadline)
            except (BrokerLost, Deposed, BlockLost):
                if self._context.isLost():
                    domain = self._context.paths.domain
                    raise DomainChanged(
                        f"the control block of {domain!r} was removed from /dev/shm", "Try again"
                    ) from None
                self._requireStay(op)
                if (missing := missingShm()) is not None:
                    raise missing from None  # /dev/shm is missing, and the sockets with it
                if clock.now() >= deadline:
                    raise BrokerUnavailable(
                        f"no broker answered {op!r} within {self._context.requestTimeoutMs} ms"
                    ) from None
                clock.sleep(RETRY_SECONDS)
                continue
            try:
                requests.answered(op, reply)
            except BaseException:
                messages.closeAll(received)
                raise
            return reply, received

    def find(self, name: str) -> tuple[tuple[int, int] | None, bool]:
        """What the broker knows of a name: (row, incarnation) if the name is live, and
        otherwise whether a process is creating it.
        """
        found, _ = self.request("find", name=name)
        if not found.get("live"):
            return None, bool(found)
        return (found["row"], found["incarnation"]), False

    def free(self, row: int, incarnation: int) -> None:
        """Free a buffer. Nothing is raised if another process was faster."""
        with contextlib.suppress(BufferFreed):
            self.request("free", row=row, incarnation=incarnation)

    def fetch(self, row: int, incarnation: int) -> Descriptor | None:
        """A descriptor of memory that has no name, which the caller owns; None when a
        new broker does not have it yet.

        The answer says nothing about the state of the row: the caller has a lease on
        the row, and reads the state itself.

        Raises
        ------
        OwnerDied
            No process has the memory any more.
        BrokerUnavailable, BufferFreed, DescriptorsExhausted
        """
        election = self._context.election
        epoch = election.epoch()
        if self._context.broker() is None and election.readyEpoch() == epoch:
            descriptor = self._descriptorServer.fetch(epoch, row, incarnation)
            if descriptor is not None:
                return descriptor
        reply, descriptors = self.request("fetch", row=row, incarnation=incarnation)
        return descriptors[0] if reply["found"] and descriptors else None

    def once(self, op: str, **fields: object) -> Message | None:
        """Ask the present broker a single time, and return its answer; None when there
        is no answer.

        For the background thread: while it waits, its own process may be elected, and
        then it must serve instead of asking again.
        """
        try:
            reply, received = self._ask(
                {"op": op, **fields}, (), StallDetector(self._context), self._deadline()
            )
        except (BrokerLost, Deposed, BrokerUnavailable):
            return None
        messages.closeAll(received)
        requests.raiseFailure(reply)
        return reply

    def awaitAnswer(self, seconds: float) -> bool:
        """Wait until a broker answers; False when none answers in this time. An answer
        shows that the broker has done the first steps of its term.
        """
        deadline = clock.now() + seconds
        with contextlib.suppress(MuninnError):
            while not aside.isOwn() and clock.now() < deadline:
                if self.once("ping") is not None:
                    return True
                clock.sleep(RETRY_SECONDS)
        return False

    def later(self, message: Message) -> None:
        """Let the background thread send this request once it can. It drops the answer;
        if the request is a `create`, it abandons the row that was granted.
        """
        self._later.append(message)
        self._context.wake()

    def askLater(self) -> bool:
        """Send the requests that were queued by `later`; False when the broker does not
        answer now. For the background thread.
        """
        while self._later:
            message = self._later[0]  # it stays until it is done, since `awaitLater` looks for it
            try:
                reply = self.once(**message)
            except MuninnError:
                reply = {}  # it is done already, or can not be done any more
            if reply is None:
                return False
            if message["op"] == "create" and reply.get("row", requests.LATER) != requests.LATER:
                self._later.append(
                    {"op": "abandon", "row": reply["row"], "incarnation": reply["incarnation"]}
                )
            self._later.popleft()
        return True

    def awaitLater(self) -> None:
        """Called before a grant: wait until the queued requests are done. One of them
        may give back the very row that the broker would return for the new grant.

        Raises
        ------
        BrokerUnavailable, DomainChanged
            Also the reason why this process can not serve, if no other process can.
        """
        deadline = self._deadline()
        while self._later:
            if clock.now() > deadline:
                raise BrokerUnavailable(
                    f"within {self._context.requestTimeoutMs} ms no broker undid the requests that "
                    "were not brought to their end"
                )
            self._context.requireSlot()
            self._context.wake()
            if (term := self._context.election.term()).slot is None:
                # This raises the reason why no process can serve. The queued requests
                # can not be sent before one does.
                self._context.campaign(term)
            clock.sleep(RETRY_SECONDS)

    def connect(self) -> bool:
        """Connect to the present broker, if there is no connection yet; False when it
        does not answer. The background thread calls this too.

        When either process has no descriptor left, this does not try again for a while.
        A request does not wait for that, and tries to connect at once.
        """
        epoch = self._context.election.epoch()
        self._lines.thin()
        isRefused = epoch == self._refusedBy and clock.now() < self._connectAgainAt
        if isRefused or self.isConnected(epoch):
            self._stall = None
            return True
        self._stall = self._stall or StallDetector(self._context)
        try:
            line = self._connector.open(self._stall, self._deadline())
            self._refusedBy = -1
            self._lines.giveBackUnlessSpare(line)
        except BrokerLost:
            return False
        except DescriptorsExhausted as error:
            if epoch != self._refusedBy:
                _log.warning("not connected to the broker: %s", error.reason)
            self._refusedBy, self._connectAgainAt = epoch, clock.now() + _REFUSED_SECONDS
        self._stall = None
        return True

    def isConnected(self, epoch: int) -> bool:
        """Whether this member is connected to the broker of `epoch` or of a later epoch,
        and has brought it its memory.
        """
        return self._lines.isAnyGreeted(epoch)

    def broughtSeconds(self) -> float:
        """How long the members have to bring a new broker the memory that they have open.
        A member that has not brought it by then stands still.
        """
        return max(_BROUGHT_SECONDS, _BROUGHT_TAKEOVERS * self._context.takeoverMs / 1000)

    def _deadline(self) -> float:
        return clock.now() + self._context.requestTimeoutMs / 1000

    def disconnect(self, epoch: int) -> None:
        """The term of `epoch` has begun. Wake the threads that wait for an answer of an
        earlier broker, so that they ask again, and close the connections to earlier
        brokers. This waits only until these threads have woken.
        """
        self._descriptorServer.disconnect(epoch)
        self._lines.disconnect(epoch)

    def close(self) -> None:
        self._descriptorServer.close()
        self._lines.close()

    def closeInChild(self) -> None:
        """In a forked child: close the child's copies of the parent's connections
        without ending them, and send nothing more. A signal handler may have forked in
        the middle of a request, and the answer belongs to the parent.
        """
        self._connector.isForked = True
        self._descriptorServer.closeInChild()
        self._lines.closeInChild()

    # --- one attempt -----------------------------------------------------------------

    def _ask(
        self,
        message: Message,
        descriptors: Sequence[Descriptor],
        stall: StallDetector,
        deadline: float,
    ) -> tuple[Message, list[Descriptor]]:
        broker = self._context.broker()
        if broker is not None:
            return broker.ask(message, descriptors, max(0.0, deadline - clock.now()))
        line = self._connector.open(stall, deadline)
        try:
            answer = self._connector.exchange(line, message, descriptors, stall, deadline)
        except BaseException:
            # A later packet on it could be taken for the answer to another request.
            line.close()
            self._context.wake()  # it may have been the only one
            raise
        self._lines.giveBack(line)
        return answer
