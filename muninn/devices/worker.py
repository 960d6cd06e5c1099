"""The worker of a stream: a thread that does the host's work in one stream, one piece
after the other.

Both back-ends use it: an emulated stream is nothing else, and a real one gives it what
the host has to do between two pieces of the GPU's work. The thread starts with the
first piece. An idle worker holds no reference to the stream, so a stream that is
dropped is collected; its worker then does what was submitted, and its thread ends.
Threads are daemons: a process never waits for a stream at its exit. Only this process
reads and writes what is here, and nothing of it survives the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType

from muninn.devices.port import READY_SLICE_SECONDS, Ready
from muninn.errors import DeviceUnavailable, InvalidArgument
from muninn.system import aside, atomics, threads
from muninn.system.deadlines import deadlineOf, remaining
from muninn.system.green import Condition, SimpleQueue
from muninn.system.threads import AnyThread

#: One piece of work; it is given the stream's error, and decides what that means to it.
Item = Callable[[BaseException | None], object]
#: Work with its stream worker and its number there, and whether it could fail by
#: itself; None ends the worker.
Items = SimpleQueue["tuple[StreamWorker, int, Item, bool] | None"]


class StreamWorker:
    """The work of one stream: a queue, two counts, and the first error.

    Parameters
    ----------
    begin
        What its thread does first.
    """

    def __init__(self, name: str, begin: Callable[[], object] | None = None) -> None:
        self._name, self._begin = name, begin
        self._pid = os.getpid()
        #: Work with its stream worker, so that an idle worker holds none; None ends the
        #: worker after what came before.
        # Not a list under the condition: the garbage collector puts at any point of any
        # thread, and this put is made for that.
        self.items: Items = SimpleQueue()
        self._changed = Condition()
        self._submitted = self._finished = self._doubts = 0
        self._error: BaseException | None = None
        self._trace: TracebackType | None = None
        #: An error that somebody was told, and the last piece of work that was
        #: submitted before that.
        self._told: tuple[BaseException | None, int] = (None, 0)
        self._errorCursor = 0
        self._thread: AnyThread | None = None
        self.worker = 0  # that thread
        self._shut = False

    def put(self, item: Item, isDoubtful: bool = True) -> None:
        """Give the worker `item`, which fails by itself, if it is doubtful, or else
        only if the stream has failed.
        """
        self._check()
        with self._changed:
            self.checkOpen()
            self.start()
            self._submitted += 1
            self._doubts += isDoubtful
            self.items.put((self, self._submitted, item, isDoubtful))

    def start(self) -> None:
        """Have the worker, for who must not fail later for want of a thread."""
        if self._thread is not None:
            return
        with self._changed:
            if self._thread is None:
                items, begin = self.items, self._begin
                self._thread = threads.start(lambda: _work(items, begin), self._name)

    def wait(self, timeout: float | None) -> None:
        """Wait for what it was given so far, and raise its error."""
        if pending := self.awaitFinished(timeout):
            raise TimeoutError(
                f"{pending} operations of the stream are still pending after {timeout} s"
            )
        self._raise()

    def awaitFinished(self, timeout: float | None) -> int:
        """Wait for what it was given so far; returns how much of it is not done after
        `timeout` seconds.
        """
        self._check()
        if atomics.threadId() == self.worker:
            raise InvalidArgument(
                "a stream's own work waits for the stream", "Synchronize from outside"
            )
        deadline = deadlineOf(timeout)
        with self._changed:
            target = self._submitted
            while self._finished < target:
                left = remaining(deadline)
                if left is not None and left <= 0:
                    return target - self._finished
                aside.refuseOwn()
                self._changed.wait(left)
        return 0

    def isIdle(self) -> bool:
        self._check()
        idle = self._finished == self._submitted
        self._raise()  # after the look: what has finished has told its error
        return idle

    def checkOpen(self) -> None:
        """Refuse what the stream is asked for once it was closed."""
        if self._shut:
            raise InvalidArgument("the stream was closed", "Create another one")

    def isOpen(self) -> bool:
        return not self._shut

    def shut(self) -> None:
        """Refuse more work."""
        # in a forked child the lock may be held by a thread that is not there
        if os.getpid() == self._pid:
            with self._changed:
                self._shut = True

    def finish(self, error: BaseException | None, wasDoubtful: bool) -> None:
        """One piece of work is done; the first error stays."""
        with self._changed:
            if error is not None and self._error is None:
                self._error, self._trace = error, error.__traceback__
            self._finished += 1
            self._doubts -= wasDoubtful
            self._changed.notifyAll()

    def isCompletedByDevice(self) -> bool:
        """Whether nothing that was given to the worker so far can fail any more, or has
        failed.
        """
        with self._changed:
            return self._error is None and not self._doubts

    @property
    def error(self) -> BaseException | None:
        return self._error

    def check(self) -> None:
        """Raise the error, if there is one, and `DeviceUnavailable` in a forked child."""
        self._check()
        self._raise()

    def forgetError(self) -> None:
        """Go on as if nothing had failed: somebody has been told. What was submitted
        before that comes behind the failure all the same.
        """
        with self._changed:
            if self._error is not None:
                self._told = self._error, self._submitted
                self._errorCursor += 1
            self._error = self._trace = None

    def errorCursor(self) -> int:
        """How many errors were told and forgotten."""
        return self._errorCursor

    def toldSince(self, errorCursor: int) -> BaseException | None:
        """The last error that was told when more of them have been by now."""
        with self._changed:
            return self._told[0] if self._errorCursor != errorCursor else None

    def errorOf(self, number: int) -> BaseException | None:
        """What stands in the way of that piece of work."""
        with self._changed:
            told, until = self._told
            return self._error or (told if number <= until else None)

    def endWith(self, item: Item) -> bool:
        """`item` is the last that the worker does, after all that it was given; False:
        there is no worker, for it was given nothing.

        Takes no lock: the collector calls it.
        """
        if self._thread is None:
            return False
        self.items.put((self, self._submitted + 1, item, False))
        self.items.put(None)
        return True

    def _raise(self) -> None:
        error = self._error
        if error is not None:
            # else each raise would add its frames to the last one's
            raise error.with_traceback(self._trace)

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise DeviceUnavailable(
                "the stream belongs to the parent process: a fork copies no threads",
                "Create a stream in the child",
            )


def _work(items: Items, begin: Callable[[], object] | None) -> None:
    if begin is not None:
        begin()
    while _runNext(items):
        pass


def _runNext(items: Items) -> bool:
    # A function of its own: its locals are gone while the worker waits.
    queued = items.get()
    if queued is None:
        return False
    worker, number, item, isDoubtful = queued
    worker.worker = atomics.threadId()
    error: BaseException | None = None
    try:
        item(worker.errorOf(number))
    except BaseException as raised:  # a SystemExit too: a thread has nobody else to tell
        error = raised
    del queued, item  # what the work held is released before anybody is told that it is done
    worker.finish(error, isDoubtful)
    error = None  # its traceback holds this frame
    return True


def awaitReady(ready: Ready) -> None:
    # Bounded by `ready`, which raises when the peer that it waits for has died.
    while not ready(READY_SLICE_SECONDS):
        pass
