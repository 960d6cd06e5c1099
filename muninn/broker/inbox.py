"""The inbox: what the broker's own process asks of the thread that serves.

The directory is changed on that thread alone: Python runs signal handlers on the main
thread, between any two bytecodes, and what they raise, or ask in their access, must not
meet a change that is half done. Whoever asks puts his question in and waits for the
answer; when he is interrupted the question is abandoned, and either never served or
served to its end.
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
    """One question, and its answer once it is there. The descriptors in it are the
    inbox's, those in the answer the asker's.
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
        """Whoever has an answer already keeps it."""
        if not self._done.isSet():
            self._error = error
            self._end()

    def _end(self) -> None:
        self._done.set()
        if self._isAbandoned:
            self._drop()

    def isAbandoned(self) -> bool:
        """Whether nobody waits for the answer any more: a question that was not served
        yet need not be.
        """
        return self._isAbandoned

    def disconnect(self) -> None:
        self._isAbandoned = True
        if self._done.isSet():
            self._drop()

    def _drop(self) -> None:
        """Close what came with the answer. The asker and the thread that serves may
        both come here: each takes what it closes.
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
                # Its traceback has this frame, and through it whatever the asker has
                # open: a circle would keep leases for a while.
                self._error = None
        assert self._reply is not None
        return self._reply, self.received


class Inbox:
    """The questions of one broker's term, in the order in which they came. `wakeFd` is
    an eventfd that the thread that serves waits for.
    """

    def __init__(self, wakeFd: int) -> None:
        self._wake = OwnEvent(wakeFd)
        self._waiting: deque[Asked] = deque()
        self._taken: Asked | None = None
        self._isShut = False

    def ask(
        self, message: Message, descriptors: list[Descriptor], seconds: float
    ) -> tuple[Message, list[Descriptor]]:
        """Put a question in, and wait for its answer. Raises `Deposed` when the term
        has ended, and whatever the answer is.
        """
        asked = Asked(message, descriptors)
        try:
            self._waiting.append(asked)
            self._wake.set()  # where that is lost, the thread sees it within a step
            if self._isShut:
                self.refuse()
            return asked.awaited(seconds)
        except BaseException:
            asked.disconnect()
            raise

    def take(self) -> Asked | None:
        """The next question that somebody waits for."""
        while self._waiting:
            # only the thread that serves takes, until the inbox is shut
            asked = self._waiting.popleft()
            if not asked.isAbandoned():
                self._taken = asked
                return asked
            messages.closeAll(asked.descriptors)
        return None

    def isEmpty(self) -> bool:
        return not self._waiting

    def shut(self) -> None:
        """The term has ended: who asked, or asks from now on, is to look who is broker
        now.
        """
        self._isShut = True
        self.refuse()
        if self._taken is not None:
            self._taken.fail(Deposed())  # in a forked child; anywhere else it has its answer

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
