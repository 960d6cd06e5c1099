"""Streams of emulated GPUs: a worker each, and the default stream, which has none and
does its work before the call returns.

Nothing here is shared between processes; what crosses them does so in the callables of
fences.
"""

from __future__ import annotations

import itertools
import weakref
from abc import abstractmethod
from collections.abc import Callable

from muninn.devices.port import OnReached, Ready, Stream
from muninn.devices.worker import Item, StreamWorker, awaitReady
from muninn.interop.streams import DEFAULT_HANDLES

#: Small integers: nothing that a CUDA library could take for a pointer to its own
#: stream.
_HANDLES = itertools.count(max(DEFAULT_HANDLES) + 1)


class HostStream(Stream):
    """What a stream of an emulated GPU can do. `enqueue` is the one way in."""

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
        """The port's `recordFence`. It is told of an error instead of raising it, so
        that whoever waits for the fence is told.
        """
        self.enqueue(onReached)

    def delay(self, ready: Ready) -> None:
        """The port's `delayStream`."""
        self.query()
        self.enqueue(lambda error: awaitReady(ready) if error is None else None)


class DefaultStream(HostStream):
    """The default stream: work is done before the call returns, and its errors are
    raised by it.
    """

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
        self._worker = StreamWorker(f"muninn-stream-{self.handle}")
        # Not a method of the stream worker: an error that was raised holds its
        # catcher's frames, and they may hold the stream.
        self._finalizer = weakref.finalize(self, self._worker.items.put, None)
        self._finalizer.atexit = False
        _workers[self.handle] = self

    def checkOpen(self) -> None:
        self._worker.checkOpen()

    def enqueue(self, item: Item) -> None:
        self._worker.put(item)

    def synchronize(self, timeout: float | None = None) -> None:
        self._worker.checkOpen()
        self._worker.wait(timeout)

    def isFinished(self, seconds: float) -> bool:
        """Whether everything submitted is over after so long, whatever came of it; also
        of a stream that was closed.
        """
        return not self._worker.awaitFinished(seconds)

    def query(self) -> bool:
        self._worker.checkOpen()
        return self._worker.isIdle()

    def close(self) -> None:
        self._worker.shut()
        self._finalizer()
