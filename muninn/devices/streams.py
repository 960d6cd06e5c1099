"""Streams of pretended GPUs: a thread each, started with the first work, and the default stream, which has none and works at once.

A stream and its worker share a `Lane`. An idle worker holds no reference to it, so a stream that is dropped is collected, its
lane ends with what was submitted, and its thread with the lane. Threads are daemons: a process never waits for a stream at its
exit. Nothing here is shared between processes; what crosses them does so in the callables of fences.
"""

from __future__ import annotations

import itertools
import os
import weakref
from abc import abstractmethod
from collections.abc import Callable
from types import TracebackType

from muninn.devices.port import READY_SLICE_SECONDS, OnReached, Ready, Stream
from muninn.errors import DeviceUnavailable, InvalidArgument
from muninn.interop.streams import DEFAULT_HANDLES
from muninn.system import aside, atomics, threads
from muninn.system.deadlines import deadlineOf, remaining
from muninn.system.green import Condition, SimpleQueue
from muninn.system.threads import AnyThread

#: One piece of work; it is given the stream's error, and decides what that means to it.
Item = Callable[[BaseException | None], object]
#: Work with its lane and its number there, and whether it could fail by itself; None ends the worker.
Items = SimpleQueue["tuple[Lane, int, Item, bool] | None"]
#: Small integers: nothing that a CUDA library could take for a pointer to its own stream.
_HANDLES = itertools.count(max(DEFAULT_HANDLES) + 1)


class HostStream(Stream):
    """What a stream of a pretended GPU can do. `enqueue` is the one way in."""

    def checkOpen(self) -> None:
        """`InvalidArgument` once it was closed."""

    @abstractmethod
    def enqueue(self, item: Item) -> None:
        """Run `item` after everything before it, also when the stream has failed."""

    def check(self) -> None:
        self.query()

    def submit(self, work: Callable[[], object]) -> None:
        self.query()
        self.enqueue(lambda error: work() if error is None else None)

    def recordFence(self, onReached: OnReached) -> None:
        """The port's `recordFence`. It is told of an error instead of raising it, so that whoever waits for the fence is told."""
        self.enqueue(onReached)

    def delay(self, ready: Ready) -> None:
        """The port's `delayStream`."""
        self.query()
        self.enqueue(lambda error: awaitReady(ready) if error is None else None)


class DefaultStream(HostStream):
    """The default stream: work is done before the call returns, and its errors are raised by it."""

    handle = 0
    isSynchronous = True

    def __init__(self, gpu: int) -> None:
        self.gpu = gpu

    def enqueue(self, item: Item) -> None:
        item(None)

    def synchronize(self, timeout: float | None = None) -> None:
        """Nothing is ever pending."""

    def query(self) -> bool:
        return True

    def close(self) -> None:
        """It belongs to the GPU, as CUDA's does."""


#: Those of this process, by the handles by which they may be named.
_workers: weakref.WeakValueDictionary[int, WorkerStream] = weakref.WeakValueDictionary()


def workerOf(handle: int) -> WorkerStream | None:
    """The stream that has the handle; None: it is none of a thread's of this process."""
    return _workers.get(handle)


class WorkerStream(HostStream):
    """A stream with a thread of its own."""

    def __init__(self, gpu: int) -> None:
        self.gpu = gpu
        self.handle = next(_HANDLES)
        self._lane = Lane(f"muninn-stream-{self.handle}")
        # Not a method of the lane: an error that was raised holds its catcher's frames, and they may hold the stream.
        self._finalizer = weakref.finalize(self, self._lane.items.put, None)
        self._finalizer.atexit = False
        _workers[self.handle] = self

    def checkOpen(self) -> None:
        self._lane.checkOpen()

    def enqueue(self, item: Item) -> None:
        self._lane.put(item)

    def synchronize(self, timeout: float | None = None) -> None:
        self._lane.checkOpen()
        self._lane.wait(timeout)

    def isFinished(self, seconds: float) -> bool:
        """Whether everything submitted is over after so long, whatever came of it; also of a stream that was closed."""
        return not self._lane.awaitFinished(seconds)

    def query(self) -> bool:
        self._lane.checkOpen()
        return self._lane.isIdle()

    def close(self) -> None:
        self._lane.shut()
        self._finalizer()


class Lane:
    """The work of one stream: a queue, two counts, and the first error.

    Parameters
    ----------
    begin
        What its thread does first.
    """

    def __init__(self, name: str, begin: Callable[[], object] | None = None) -> None:
        self._name, self._begin = name, begin
        self._pid = os.getpid()
        #: Work with its lane, so that an idle worker holds none; None ends the worker after what came before.
        # Not a list under the condition: the garbage collector puts at any point of any thread, and this put is made for that.
        self.items: Items = SimpleQueue()
        self._changed = Condition()
        self._submitted = self._finished = self._doubts = 0
        self._error: BaseException | None = None
        self._trace: TracebackType | None = None
        #: An error that somebody was told, and the last piece of work that was submitted before that.
        self._told: tuple[BaseException | None, int] = (None, 0)
        self._tellings = 0
        self._thread: AnyThread | None = None
        self.worker = 0  # that thread
        self._shut = False

    def put(self, item: Item, isDoubtful: bool = True) -> None:
        """Give the worker `item`, which fails by itself, if it is doubtful, or else only if the stream has failed."""
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
            raise TimeoutError(f"{pending} operations of the stream are still pending after {timeout} s")
        self._raise()

    def awaitFinished(self, timeout: float | None) -> int:
        """Wait for what it was given so far; returns how much of it is not done after `timeout` seconds."""
        self._check()
        if atomics.threadId() == self.worker:
            raise InvalidArgument("a stream's own work waits for the stream", "Synchronize from outside")
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
        if os.getpid() == self._pid:  # in a forked child the lock may be held by a thread that is not there
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

    def isSure(self) -> bool:
        """Whether nothing that was given to the worker so far can fail any more, or has failed."""
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
        """Go on as if nothing had failed: somebody has been told. What was submitted before that comes behind the failure all the same."""
        with self._changed:
            if self._error is not None:
                self._told = self._error, self._submitted
                self._tellings += 1
            self._error = self._trace = None

    def tellings(self) -> int:
        """How many errors were told and forgotten."""
        return self._tellings

    def toldSince(self, tellings: int) -> BaseException | None:
        """The last error that was told when more of them have been by now."""
        with self._changed:
            return self._told[0] if self._tellings != tellings else None

    def errorOf(self, number: int) -> BaseException | None:
        """What stands in the way of that piece of work."""
        with self._changed:
            told, until = self._told
            return self._error or (told if number <= until else None)

    def endWith(self, item: Item) -> bool:
        """`item` is the last that the worker does, after all that it was given; False: there is no worker, for it was given nothing.

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
            raise error.with_traceback(self._trace)  # else each raise would add its frames to the last one's

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise DeviceUnavailable("the stream belongs to the parent process: a fork copies no threads", "Create a stream in the child")


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
    lane, number, item, isDoubtful = queued
    lane.worker = atomics.threadId()
    error: BaseException | None = None
    try:
        item(lane.errorOf(number))
    except BaseException as raised:  # a SystemExit too: a thread has nobody else to tell
        error = raised
    del queued, item  # what the work held is released before anybody is told that it is done
    lane.finish(error, isDoubtful)
    error = None  # its traceback holds this frame
    return True


def awaitReady(ready: Ready) -> None:
    # Bounded by `ready`, which raises when the peer that it waits for has died.
    while not ready(READY_SLICE_SECONDS):
        pass
