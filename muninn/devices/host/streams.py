"""Streams of emulated GPUs: one worker for each, except the default stream, which does
its work before the call returns.

Nothing here is shared between processes. The callables of fences write the words that
other processes read.
"""

from __future__ import annotations

import itertools
import weakref
from abc import abstractmethod
from collections.abc import Callable

from muninn.devices.port import Mark, OnReached, Ready, Stream
from muninn.devices.worker import Item, StreamWorker, awaitReady
from muninn.interop.streams import DEFAULT_HANDLES
from muninn.system.latch import Latch

#: Small integers, so that no CUDA library can take one for a pointer to its own stream.
_HANDLES = itertools.count(max(DEFAULT_HANDLES) + 1)


class HostMark(Mark):
    """A place in a stream, as a flag that the stream sets."""

    def __init__(self) -> None:
        self._reached = Latch()

    def reach(self) -> None:
        self._reached.set()

    def wait(self, isNear: bool = False) -> None:
        self._reached.wait(None)

    def close(self) -> None:
        """There is nothing to give back."""


class HostStream(Stream):
    """A stream of an emulated GPU. All work goes through `enqueue`."""

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

    def mark(self) -> Mark:
        mark = HostMark()
        self.enqueue(lambda error: mark.reach())
        return mark

    def follow(self, mark: Mark) -> None:
        self.enqueue(lambda error: mark.wait())

    def recordFence(self, onReached: OnReached) -> None:
        """The port's `recordFence`. `onReached` gets an error of the stream, so that
        the processes that wait for the fence learn of it; this call does not raise it.
        """
        self.enqueue(onReached)

    def delay(self, ready: Ready) -> None:
        """The port's `delayStream`."""
        self.query()
        self.enqueue(lambda error: awaitReady(ready) if error is None else None)


class DefaultStream(HostStream):
    """The default stream: each call does its work before it returns, and raises its
    error.
    """

    handle = 0
    isSynchronous = True

    def __init__(self, gpu: int) -> None:
        self.gpu = gpu

    def enqueue(self, item: Item) -> None:
        item(None)

    def synchronize(self, timeout: float | None = None) -> None:
        """Nothing is ever pending."""

    def settle(self) -> None:
        """Nothing is ever pending."""

    def query(self) -> bool:
        return True

    def close(self) -> None:
        """Does nothing: the default stream belongs to the GPU, as CUDA's does."""


#: The streams of this process, by their handles.
_workers: weakref.WeakValueDictionary[int, WorkerStream] = weakref.WeakValueDictionary()


def workerOf(handle: int) -> WorkerStream | None:
    """The stream of this process that has the handle, or None."""
    return _workers.get(handle)


class WorkerStream(HostStream):
    """A stream with a thread of its own, its worker."""

    def __init__(self, gpu: int) -> None:
        self.gpu = gpu
        self.handle = next(_HANDLES)
        self.worker = StreamWorker(f"muninn-stream-{self.handle}")
        # Not a method of the stream worker, which refers to the last error: that refers
        # to the frames that caught it, and they may refer to the stream.
        self._finalizer = weakref.finalize(self, self.worker.items.put, None)
        self._finalizer.atexit = False
        _workers[self.handle] = self

    def checkOpen(self) -> None:
        self.worker.checkOpen()

    def enqueue(self, item: Item) -> None:
        self.worker.put(item)

    def synchronize(self, timeout: float | None = None) -> None:
        self.worker.checkOpen()
        self.worker.wait(timeout)

    def settle(self) -> None:
        self.worker.settle()

    def query(self) -> bool:
        self.worker.checkOpen()
        return self.worker.isIdle()

    def close(self) -> None:
        self.worker.shut()
        self._finalizer()
