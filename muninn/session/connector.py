"""The connector: how a member connects to the present broker, and exchanges one message
with it.

A connection is made for one epoch, and begins with a hello that carries the member's
pidfd. The member's first hello to a broker also brings the descriptors of the memory
without a name that the member has open; a long list follows in further messages. Before
a member connects it looks at the election: it waits until the broker has announced its
epoch, and stands for election when the broker is suspected dead or stalled. A stale
read of the election word costs one attempt: the socket of an earlier epoch answers no
more.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from muninn.control.election import Term
from muninn.control.members import MemberKey
from muninn.errors import BrokerUnavailable, DescriptorsExhausted
from muninn.session.clientcontext import ClientContext
from muninn.session.connections import Line, Lines
from muninn.session.stalldetector import StallDetector
from muninn.system import atomics, clock, descriptors, green
from muninn.system.atomics import SPIN_NS
from muninn.system.descriptors import Descriptor
from muninn.wire import messages, requests
from muninn.wire.messages import Message

#: How often a thread that waits for an answer looks whether another term has begun. The
#: background thread ends the waits of the other threads then, but not its own.
_LOOK_SECONDS = 0.1


class BrokerLost(Exception):
    """This broker will not answer: look which process is broker now."""


class Connector:
    """Makes connections to the broker, and talks on them.

    Attributes
    ----------
    isForked
        Whether this is the copy in a forked child, which sends nothing: a signal
        handler may have forked in the middle of a request.
    """

    def __init__(self, context: ClientContext, lines: Lines) -> None:
        self._context = context
        self._lines = lines
        self.isForked = False

    def open(self, stall: StallDetector, deadline: float) -> Line:
        """A line to the present broker, which the caller uses alone."""
        self._requireParent()
        term = self._context.election.term()
        line = self._lines.take(term.epoch)
        if line is not None:
            return line
        self._awaitBroker(term, stall)
        try:
            connection = descriptors.unixSocket()
        except OSError as error:
            raise DescriptorsExhausted(
                f"no descriptor is left for a socket: {error.strerror}"
            ) from error
        line = self._lines.made(connection, term.epoch)
        try:
            self._requireParent()  # a signal handler may have forked since
            connection.connect(self._context.paths.socketPath(term.epoch))
            self._hello(line, stall, deadline)
            line.isGreeted = True
        except OSError as error:
            # The broker is gone, or its queue of connections is full. A broker that
            # accepts no connections does not advance its heartbeat either.
            line.close()
            self._deposeIfStalled(term, stall)
            raise BrokerLost from error
        except BaseException:
            line.close()  # the next request on it would come without a hello
            raise
        # Only now (see the head of `connections.py`): the background thread, which did not
        # count on this line yet, may have given back its own meanwhile.
        if (idle := self._lines.take(term.epoch)) is not None:
            line.close()
            return idle
        return line

    def _requireParent(self) -> None:
        if self.isForked:
            raise BrokerUnavailable(
                "this process was forked while it was asking", "Ask again: it joins anew"
            )

    def _awaitBroker(self, term: Term, stall: StallDetector) -> None:
        """Return if the socket of `term` listens. Otherwise stand for election or wait,
        as the state of the broker demands, and raise `BrokerLost`.
        """
        context = self._context
        if term.slot == context.key.slot:
            context.campaign(term)  # this process is elected, and its thread will serve
            raise BrokerLost
        if term.slot is None or context.members.isSuspectedDead(
            MemberKey(term.slot, context.members.state(term.slot)[1])
        ):
            context.campaign(term)
            raise BrokerLost
        ready = context.election.readyEpoch()
        if ready < term.epoch:
            self._deposeIfStalled(term, stall)
            context.election.awaitReady(ready, int(stall.remaining() * 1e9))
            raise BrokerLost

    def _deposeIfStalled(self, term: Term, stall: StallDetector) -> None:
        if stall.isStalled():
            self._context.campaign(term)

    def _hello(self, line: Line, stall: StallDetector, deadline: float) -> None:
        context = self._context
        pidfd = atomics.pidfdOpen(os.getpid())
        if pidfd.number < 0:
            raise DescriptorsExhausted(
                f"no descriptor is left for a pidfd: {os.strerror(-pidfd.number)}"
            )
        held: list[tuple[tuple[int, int], Descriptor]] = []
        try:
            held = [] if self._lines.isAnyGreeted(line.epoch) else context.allocations()
            batch, rest = held[: requests.FULL_BATCH], held[requests.FULL_BATCH :]
            hello = {
                "op": "hello",
                "slot": context.key.slot,
                "generation": context.key.generation,
                "nonce": context.nonce,
            }
            self._bring(line, hello, batch, (pidfd,), stall, deadline)
            while len(batch) == requests.FULL_BATCH:
                batch, rest = rest[: requests.FULL_BATCH], rest[requests.FULL_BATCH :]
                self._bring(line, {"op": "bring"}, batch, (), stall, deadline)
        finally:
            messages.closeAll([pidfd, *(descriptor for _, descriptor in held)])

    def _bring(
        self,
        line: Line,
        message: Message,
        batch: list[tuple[tuple[int, int], Descriptor]],
        first: tuple[Descriptor, ...],
        stall: StallDetector,
        deadline: float,
    ) -> None:
        message["allocations"] = [list(pair) for pair, _ in batch]
        descriptors = (*first, *(descriptor for _, descriptor in batch))
        requests.raiseFailure(self.exchange(line, message, descriptors, stall, deadline)[0])

    def exchange(
        self,
        line: Line,
        message: Message,
        descriptors: Sequence[Descriptor],
        stall: StallDetector,
        deadline: float,
    ) -> tuple[Message, list[Descriptor]]:
        """Send a message, and wait for the answer as long as the broker's heartbeat
        moves. After any error the caller closes the line.
        """
        term = self._context.election.term()
        connection = line.connection
        spinNs = SPIN_NS  # a broker that is awake answers sooner than this thread would wake up
        try:
            messages.send(connection, message, descriptors)
            stall.isStalled()
            while result := green.awaitReadable(
                connection.fileno(), spinNs, int(min(stall.remaining(), _LOOK_SECONDS) * 1e9)
            ):
                if (
                    result not in (-errno.ETIMEDOUT, -errno.EINTR)
                    or self._context.election.epoch() != line.epoch
                    or clock.now() >= deadline
                ):
                    raise BrokerLost
                self._deposeIfStalled(term, stall)
                spinNs = 0
            answer = messages.receive(connection)
        except (OSError, ValueError) as error:  # ended, or closed by `Lines.disconnect`
            raise BrokerLost from error
        if answer is None:
            raise BrokerLost
        return answer
