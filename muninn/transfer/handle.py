"""`Transfer`: a copy between two places that its caller can follow, wait for, stop, and
bound by a deadline.

One thread runs a transfer, and any thread may look at it. The runner asks between two
windows whether it is to stop, so a transfer stops within the windows that a GPU has
been given. All of it is private to the process.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, NamedTuple, TypeVar

from muninn.arguments import timeoutOf
from muninn.config.sizes import asText
from muninn.errors import TransferCancelled
from muninn.observe import spans
from muninn.observe.progressbar import expect
from muninn.sync.asyncwait import waited
from muninn.system import aside, clock, markup
from muninn.system.deadlines import deadlineOf, remaining, shown
from muninn.system.forks import Origin
from muninn.system.green import Condition
from muninn.transfer.records import Record
from muninn.transfer.routes import Choice
from muninn.transfer.states import NEXT, State
from muninn.transfer.tiers import Place

Result = TypeVar("Result")
_INHERITED = "the transfer belongs to the parent process: a fork copies no threads"


class Report(NamedTuple):
    """What a transfer has done.

    Attributes
    ----------
    source, target
        The places, as text: ``"host"``, ``"GPU 1"``.
    route, reason, note
        The way, why it was taken, and more about that for people.
    sizeBytes, seconds
        How many bytes there were, and how long they were on their way.
    """

    source: str
    target: str
    route: str
    reason: str
    note: str
    sizeBytes: int
    seconds: float

    def _repr_html_(self) -> str:
        return markup.card("Report", {**_facts(self), "size": asText(self.sizeBytes)})


def _facts(shown: Any) -> dict[str, object]:
    """What a transfer and the report of one state in the same words."""
    way = f"{shown.source} → {shown.target}"
    return {
        "copy": way,
        "route": f"{shown.route} ({shown.reason})" if shown.route else "not chosen yet",
        "because": shown.note or None,
        "state": getattr(shown, "state", None),
        "took": f"{shown.seconds * 1e3:.1f} ms" if shown.seconds else None,
    }


def _doneOf(doneBytes: int, sizeBytes: int) -> str:
    return f"{asText(doneBytes)} of {asText(sizeBytes)}"


class Transfer(Generic[Result]):
    """A copy between two places.

    Parameters
    ----------
    timeout
        Seconds from now after which it stops; None lets it take as long as it takes.
    progress
        Called by the runner with the bytes that have arrived since the last call. An
        exception that it raises ends the transfer.

    bufferId
        The name of the buffer whose bytes they are, for the log.

    Attributes
    ----------
    span
        While it runs.
    source, target
        The places.
    sizeBytes, doneBytes
        How many bytes there are, and how many have arrived.
    """

    def __init__(
        self,
        source: Place,
        target: Place,
        sizeBytes: int,
        timeout: float | None = None,
        progress: Callable[[int], object] | None = None,
        bufferId: str = "",
    ) -> None:
        self._bufferId = bufferId
        self.span: spans.Span | spans.Nothing = spans.NOTHING
        self.source, self.target, self.sizeBytes = source, target, sizeBytes
        self.doneBytes = 0
        self._timeout, self._deadline = timeout, deadlineOf(timeout)
        self._progress = progress
        expect(progress, sizeBytes)
        self._changed = Condition()
        self._state = State.QUEUED
        self._isToStop = False
        self._choice: Choice | None = None
        self._sentAt = self._arrivedAt = 0.0
        self._error: BaseException | None = None
        self._result: Result | None = None
        self._origin = Origin(_INHERITED, "Start it in the child")

    # --- for all threads ---------------------------------------------------------------

    @property
    def state(self) -> str:
        """``"queued"``, ``"running"``, ``"stopping"``, and at its end ``"done"``,
        ``"failed"``, ``"cancelled"`` or ``"overdue"``.
        """
        return self._state.value

    @property
    def route(self) -> str | None:
        """``"local"``, ``"p2p"``, ``"staged"``, ``"upload"`` or ``"download"``; None
        until it was chosen.
        """
        return None if self._choice is None else self._choice.route.value

    @property
    def reason(self) -> str | None:
        """Why this route, as a word such as ``"peerAccess"``."""
        return None if self._choice is None else self._choice.reason.value

    @property
    def note(self) -> str:
        """More about the reason, for people."""
        return "" if self._choice is None else self._choice.note

    @property
    def seconds(self) -> float:
        """How long its bytes have been on their way, or were. Memory was made, and other
        processes waited for, before.
        """
        if not self._sentAt:
            return 0.0
        return (self._arrivedAt or clock.now()) - self._sentAt

    def cancel(self) -> None:
        """Let it stop soon. Does nothing once it has ended."""
        self._origin.require()
        with self._changed.lock:
            self._isToStop = True
            if self._state is State.QUEUED:
                self._go(State.CANCELLED)
            elif self._state is State.RUNNING:
                self._go(State.STOPPING)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, however it does; returns whether it has."""
        return self._awaitEnd(timeoutOf("wait", timeout))

    def _awaitEnd(self, timeout: float | None) -> bool:
        self._origin.require()
        deadline = deadlineOf(timeout)
        with self._changed.lock:
            while NEXT[self._state]:
                left = remaining(deadline)
                if left is not None and left <= 0:
                    return False
                aside.refuseOwn()
                self._changed.wait(left)
        return True

    def result(self, timeout: float | None = None) -> Result:
        """Wait for its end; returns what it made.

        Raises
        ------
        TimeoutError
            It has not ended within `timeout`, or its own deadline has passed.
        TransferCancelled
        """
        if not self._awaitEnd(timeoutOf("result", timeout)):
            raise TimeoutError(f"{self} has not ended within {shown(timeout)}")
        if self._error is not None:
            try:
                raise self._error
            finally:
                bare(self._error)
        if self._state is State.CANCELLED:
            raise TransferCancelled(f"{self} was cancelled")
        if self._state is State.OVERDUE:
            raise TimeoutError(f"{self} has not ended within {shown(self._timeout)}")
        result: Any = self._result
        return result  # type: ignore[no-any-return]

    def report(self) -> Report:
        """What it has done so far."""
        return Report(
            str(self.source),
            str(self.target),
            self.route or "",
            self.reason or "",
            self.note,
            self.sizeBytes,
            self.seconds,
        )

    def __await__(self) -> Generator[Any, None, Result]:
        """A task that is cancelled while it awaits the transfer cancels the transfer."""

        def untilDone(cancelled: Any) -> Result:
            self.wait(None)
            return self.result(0)

        return waited(untilDone, self.cancel).__await__()

    def __repr__(self) -> str:
        way = f" {self.route} ({self.reason})" if self._choice else ""
        return (
            f"<Transfer {self.source} → {self.target}{way}: {self.doneBytes} of {self.sizeBytes} "
            f"bytes, {self.state}>"
        )

    __str__ = __repr__

    def _repr_html_(self) -> str:
        done, size = self.doneBytes, self.sizeBytes
        return markup.card("Transfer", _facts(self), markup.bar(done, size, _doneOf(done, size)))

    # --- for the runner ------------------------------------------------------------------

    def begin(self) -> bool:
        """Go on to run; False if it is not to any more."""
        with self._changed.lock:
            if self._state is not State.QUEUED:
                return False
            if self._isOverdue():
                self._go(State.OVERDUE)
                return False
            self._go(State.RUNNING)
            return True

    def choose(self, choice: Choice) -> None:
        self._choice = choice

    def record(self) -> Record:
        """What is the same for all transfers of its bytes by its way. It was chosen."""
        choice: Choice = self._choice  # type: ignore[assignment]  # by now
        return Record(self.source, self.target, choice, self.sizeBytes, self._bufferId)

    def send(self) -> None:
        """The first of its bytes go now."""
        self._sentAt = clock.now()

    def arrive(self) -> None:
        """No byte is on its way any more."""
        self._arrivedAt = clock.now()

    def told(self, sizeBytes: int) -> None:
        """So many more bytes have arrived. Raises `Stop` if it is to stop."""
        self.doneBytes += sizeBytes
        if self._progress is not None:
            self._progress(sizeBytes)
        self.check()

    def check(self) -> None:
        """Raise `Stop` if it is to stop."""
        if self._isToStop or self._isOverdue():
            with self._changed.lock:
                if self._state is State.RUNNING:
                    self._go(State.STOPPING)
            raise Stop

    def checkCancelled(self) -> None:
        """Raise `Stop` if it was cancelled, for a wait that has the deadline itself."""
        if self._isToStop:
            raise Stop

    @property
    def secondsLeft(self) -> float | None:
        """Until its deadline; None: it has none."""
        return remaining(self._deadline)

    def end(self, result: Result) -> None:
        """It is done, also if it was told to stop meanwhile."""
        with self._changed.lock:
            self._result = result
            self._go(State.DONE)

    def fail(self, error: BaseException) -> None:
        """It has ended without a result. The error that it keeps keeps no frames, because
        those keep memory.
        """
        with self._changed.lock:
            if not NEXT[self._state]:
                return  # an interruption came as it was done
            if isinstance(error, Stop):
                self._go(State.CANCELLED if self._isToStop else State.OVERDUE)
            elif isinstance(error, TimeoutError) and self._isOverdue():
                self._error = bare(error)  # it says what it was waiting for
                self._go(State.OVERDUE)
            else:
                self._error = bare(error)
                self._go(State.FAILED)

    def _isOverdue(self) -> bool:
        return self._deadline is not None and clock.now() >= self._deadline

    def _go(self, state: State) -> None:
        assert state in NEXT[self._state], f"{self._state} → {state}"
        self._state = state
        self._changed.notifyAll()


def bare(error: BaseException) -> BaseException:
    """An error, and those behind it, without the frames that they came through."""
    seen, behind = set[int](), [error]
    while behind:
        each = behind.pop()
        if id(each) not in seen:
            seen.add(id(each))
            each.__traceback__ = None
            behind += [other for other in (each.__cause__, each.__context__) if other is not None]
    return error


class Stop(Exception):
    """Ends the runner of a transfer that is to stop; no caller sees it."""
