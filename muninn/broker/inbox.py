"""The inbox: requests of the broker's own process to the thread that serves.

Only that thread changes the directory. Python runs signal handlers on the main thread,
between any two bytecodes; an exception that a handler raises, or a request that it
makes, must not meet a change that is half done. A thread puts its request into the
inbox and waits for the answer. If the thread is interrupted, the request is abandoned:
it is either never served, or served to its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from muninn.control.rows import Deposed
from muninn.errors import BrokerUnavailable, DescriptorsExhausted
from muninn.system import descriptors
from muninn.system.descriptors import Descriptor, OwnEvent
from muninn.system.latch import Latch
from muninn.wire import messages
from muninn.wire.messages import Message


class Asked:
    """One request, and its answer once it is there. The inbox owns the descriptors in
    the request, and the asking thread those in the answer.
    """

    __slots__ = ("_done", "_error", "_isAbandoned", "_reply", "descriptors", "message", "received")

    def __init__(self, message: Message, descriptors: list[Descriptor]) -> None:
        self.message = message
        self.descriptors = descriptors
        self.received: list[Descriptor] = []
        self._reply: Message | None = None
        self._error: BaseException | None = None
        self._isAbandoned = False
        self._done = Latch()

    def answer(self, reply: Message, received: list[Descriptor]) -> None:
        self._reply, self.received = reply, received
        self._end()

    def fail(self, error: BaseException) -> None:
        """End the request with an error, unless it has an answer already."""
        if not self._done.isSet():
            self._error = error
            self._end()

    def _end(self) -> None:
        self._done.set()
        if self._isAbandoned:
            self._drop()

    def isAbandoned(self) -> bool:
        """Whether no thread waits for the answer any more. Then a request that was not
        served yet need not be served.
        """
        return self._isAbandoned

    def disconnect(self) -> None:
        self._isAbandoned = True
        if self._done.isSet():
            self._drop()

    def _drop(self) -> None:
        """Close the descriptors of the answer. The asking thread and the thread that
        serves may both be here: each removes a descriptor before it closes it.
        """
        while self.received:
            messages.closeAll([self.received.pop()])

    def awaited(self, seconds: float) -> tuple[Message, list[Descriptor]]:
        if not self._done.wait(seconds):
            raise BrokerUnavailable(
                f"this process's own broker did not answer within {seconds:.3g} s"
            )
        if self._error is not None:
            try:
                raise self._error
            finally:
                # The traceback refers to this frame, and through it to everything that
                # the caller has open: a reference cycle would keep leases for a while.
                self._error = None
        assert self._reply is not None
        return self._reply, self.received


class Inbox:
    """The requests to one broker's term, in the order in which they came. `wakeFd` is
    an eventfd for which the thread that serves waits.
    """

    def __init__(self, wakeFd: int) -> None:
        self._wake = OwnEvent(wakeFd)
        self._waiting: deque[Asked] = deque()
        self._taken: Asked | None = None
        self._isShut = False

    def ask(
        self, message: Message, descriptors: list[Descriptor], seconds: float
    ) -> tuple[Message, list[Descriptor]]:
        """Put a request in, and wait for its answer. Raises `Deposed` when the term has
        ended, and the error that the request fails with.
        """
        asked = Asked(message, descriptors)
        try:
            self._waiting.append(asked)
            self._wake.set()  # if this is lost, the thread sees the request within a step
            if self._isShut:
                self.refuse()
            return asked.awaited(seconds)
        except BaseException:
            asked.disconnect()
            raise

    def take(self) -> Asked | None:
        """The next request that a thread waits for."""
        while self._waiting:
            # Until the inbox is shut, only the thread that serves takes from it.
            asked = self._waiting.popleft()
            if not asked.isAbandoned():
                self._taken = asked
                return asked
            messages.closeAll(asked.descriptors)
        return None

    def isEmpty(self) -> bool:
        return not self._waiting

    def shut(self) -> None:
        """The term has ended: requests that wait, and requests that come from now on,
        fail with `Deposed`, so that their threads look which member is broker now.
        """
        self._isShut = True
        self.refuse()
        if self._taken is not None:
            # This matters in a forked child; elsewhere the request has its answer.
            self._taken.fail(Deposed())

    def refuse(self) -> None:
        while self._waiting:
            try:
                asked = self._waiting.popleft()
            except IndexError:  # another thread refuses too
                return
            messages.closeAll(asked.descriptors)
            asked.fail(Deposed())


def duplicated(borrowed: Iterable[int | Descriptor]) -> list[Descriptor]:
    """New descriptors of the same, all or none."""
    try:
        return [descriptors.duplicate(each) for each in borrowed]
    except OSError as error:
        raise DescriptorsExhausted(
            f"a descriptor can not be duplicated: {error.strerror}"
        ) from error
