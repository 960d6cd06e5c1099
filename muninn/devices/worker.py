"""The stream worker: a thread that does the host's work in one stream, one piece after
the other.

Both back-ends use it. A stream of an emulated GPU consists of its worker; a stream of a
real GPU gives its worker the host's work between two pieces of the GPU's work. The
thread starts with the first piece. An idle worker holds no reference to the stream, so
a stream that the program drops is collected; the worker then does the submitted work,
and its thread ends. The threads are daemons: a process never waits for a stream at its
exit. Only this process reads and writes a worker, and nothing of it survives the
process.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from muninn.devices.port import READY_SLICE_SECONDS, Ready
from muninn.errors import InvalidArgument
from muninn.system import aside, atomics, threads
from muninn.system.deadlines import deadlineOf, remaining, shown
from muninn.system.forks import Origin
from muninn.system.green import Condition, SimpleQueue
from muninn.system.threads import AnyThread, Once

#: One piece of work. It is called with the stream's error, or None, and decides what
#: the error means to it.
Item = Callable[[BaseException | None], object]
#: A piece of work with its stream worker, its number there, and whether it can fail by
#: itself; None ends the worker.
Items = SimpleQueue["tuple[StreamWorker, int, Item, bool] | None"]
_INHERITED = "the stream belongs to the parent process: a fork copies no threads"


class StreamWorker:
    """The work of one stream: a queue, two counts, and the first error.

    Parameters
    ----------
    begin
        Called by the thread before the first piece of work.
    """

    def __init__(self, name: str, begin: Callable[[], object] | None = None) -> None:
        self._name = name
        self._origin = Origin(_INHERITED, "Create a stream in the child")
        #: Each piece comes with its stream worker, so that an idle thread refers to
        #: none.
        # Not a list under the condition: the garbage collector may put at any point of
        # any thread, which only this queue allows.
        self.items: Items = SimpleQueue()
        self._changed = Condition()
        self._submitted = self._finished = self._doubts = 0
        self._error: BaseException | None = None
        self._trace: TracebackType | None = None
        #: The error that was raised last, and how much work was submitted before that.
        self._told: tuple[BaseException | None, int] = (None, 0)
        self._errorCursor = 0
        self._thread: AnyThread | None = None
        items = self.items
        #: Two threads would not do the work in its order.
        self._work = Once(lambda: _work(items, begin))
        self.worker = 0  # the id of the thread
        self._shut = False

    def put(self, item: Item, isDoubtful: bool = True) -> None:
        """Give the worker `item`. A doubtful one can fail by itself, the others only
        because the stream has failed.
        """
        self._check()
        with self._changed.lock:
            self.checkOpen()
            self.start()
            self._submitted += 1
            self._doubts += isDoubtful
            self.items.put((self, self._submitted, item, isDoubtful))

    def start(self) -> None:
        """Start the thread, for a caller that must not fail later because no thread can
        be started.
        """
        if self._thread is not None:
            return
        with self._changed.lock:
            if self._thread is None:
                self._thread = threads.start(self._work, self._name)

    def wait(self, timeout: float | None) -> None:
        """Wait for the work that was submitted so far, and raise the stream's error."""
        if pending := self.awaitFinished(timeout):
            raise TimeoutError(
                f"work of the stream is still pending after {shown(timeout)}; operations: {pending}"
            )
        self._raise()

    def awaitFinished(self, timeout: float | None) -> int:
        """Wait for the work that was submitted so far; returns how many pieces of it
        are not done after `timeout` seconds.
        """
        self._check()
        if atomics.threadId() == self.worker:
            raise InvalidArgument(
                "a stream's own work waits for the stream", "Synchronize from outside"
            )
        deadline = deadlineOf(timeout)
        with self._changed.lock:
            target = self._submitted
            while self._finished < target:
                left = remaining(deadline)
                if left is not None and left <= 0:
                    return target - self._finished
                aside.refuseOwn()
                self._changed.wait(left)
        return 0

    def settle(self) -> None:
        """Wait for the work that was submitted so far, whatever comes of it, on any thread
        but the worker's own.
        """
        if not self._origin.isHere() or atomics.threadId() == self.worker:
            return
        with self._changed.lock:
            target = self._submitted
            while self._finished < target:
                self._changed.wait()

    def isIdle(self) -> bool:
        self._check()
        idle = self._finished == self._submitted
        self._raise()  # after the look, so that the errors of finished work are there
        return idle

    def checkOpen(self) -> None:
        """`InvalidArgument` once the stream was closed."""
        if self._shut:
            raise InvalidArgument("the stream was closed", "Create another one")

    def isOpen(self) -> bool:
        return not self._shut

    def shut(self) -> None:
        """Refuse more work."""
        # In a forked child a thread that is not there may hold the lock.
        if self._origin.isHere():
            with self._changed.lock:
                self._shut = True

    def finish(self, error: BaseException | None, wasDoubtful: bool) -> None:
        """Count one piece of work as done. The first error stays."""
        with self._changed.lock:
            if error is not None and self._error is None:
                self._error, self._trace = error, error.__traceback__
            self._finished += 1
            self._doubts -= wasDoubtful
            self._changed.notifyAll()

    def isCompletedByDevice(self) -> bool:
        """Whether no work that was submitted so far has failed, or can still fail."""
        with self._changed.lock:
            return self._error is None and not self._doubts

    @property
    def error(self) -> BaseException | None:
        return self._error

    def check(self) -> None:
        """Raise the error, if there is one, and `DeviceUnavailable` in a forked child."""
        self._check()
        self._raise()

    def forgetError(self) -> None:
        """Go on as if nothing had failed, after the error was raised to a caller. Work
        that was submitted before this still fails with the error.
        """
        with self._changed.lock:
            if self._error is not None:
                self._told = self._error, self._submitted
                self._errorCursor += 1
            self._error = self._trace = None

    def errorCursor(self) -> int:
        """How many errors were raised and forgotten."""
        return self._errorCursor

    def toldSince(self, errorCursor: int) -> BaseException | None:
        """The last error that was raised and forgotten since `errorCursor`; None: there
        was none.
        """
        with self._changed.lock:
            return self._told[0] if self._errorCursor != errorCursor else None

    def errorOf(self, number: int) -> BaseException | None:
        """The error because of which a piece of work can not be done, or None."""
        with self._changed.lock:
            told, until = self._told
            return self._error or (told if number <= until else None)

    def endWith(self, item: Item) -> bool:
        """Let `item` be the last piece of work, after all others. False where there is
        no thread, because nothing was submitted.

        Takes no lock, because the garbage collector calls it.
        """
        if self._thread is None and self._work.take():
            return False
        self.items.put((self, self._submitted + 1, item, False))
        self.items.put(None)
        return True

    def _raise(self) -> None:
        error = self._error
        if error is not None:
            # Otherwise each raise would add its frames to those of the raise before.
            raise error.with_traceback(self._trace)

    def _check(self) -> None:
        self._origin.require()


def _work(items: Items, begin: Callable[[], object] | None) -> None:
    if begin is not None:
        begin()
    while _runNext(items):
        pass


def _runNext(items: Items) -> bool:
    # A function of its own, so that its locals are gone while the worker waits.
    queued = items.get()
    if queued is None:
        return False
    worker, number, item, isDoubtful = queued
    worker.worker = atomics.threadId()
    error: BaseException | None = None
    try:
        item(worker.errorOf(number))
    except BaseException as raised:  # a SystemExit too, which would end this thread only
        error = raised
    del queued, item  # the work's objects are released before it counts as done
    worker.finish(error, isDoubtful)
    error = None  # its traceback holds this frame
    return True


def awaitReady(ready: Ready) -> None:
    # `ready` bounds this loop: it raises when the process that it waits for has died.
    while not ready(READY_SLICE_SECONDS):
        pass
