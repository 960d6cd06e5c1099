"""Streams of real GPUs, and the host's part in them.

What the host has to do in a stream (work of `submit`, fences that are told to the layer
above, waits for other processes) is done by a thread per stream, the stream's stream
worker, and not by the driver's callbacks: those run Python on the driver's thread, stop
all streams while they wait for the interpreter, and are not called at all once a kernel
has failed. The stream worker waits for an event that was recorded in the stream; a
stream that must wait for the stream worker waits for a word in pinned memory, its gate.

Fences between GPUs need no host at all: `recordFence` lets the stream write a word of
shared memory, and `delayStream` lets a stream of another process wait for it
(`cuStreamWriteValue64`, `cuStreamWaitValue64`). Interprocess events would do the same
until a recorder is killed: its event pends for ever, with every stream and every
context that waits for it (seen on an H100, driver 580). A word can be written by
whoever proves the death.
"""

from __future__ import annotations

import _thread
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.driver import DriverError, call, refuseCaptured, typed
from muninn.devices.cuda.events import Events
from muninn.devices.cuda.gpu import Entered
from muninn.devices.cuda.hostparts import (
    HostParts,
    StreamEnd,
    emptying,
    endingWait,
    filling,
    retire,
)
from muninn.devices.cuda.semaphores import WAITS
from muninn.devices.cuda.staging import Pieces, cut
from muninn.devices.port import FenceWord, OnReached, Ready, Stream
from muninn.devices.worker import Item, StreamWorker, awaitReady
from muninn.errors import InvalidArgument
from muninn.interop.streams import PER_THREAD_HANDLE
from muninn.system import aside, atomics, clock
from muninn.system.deadlines import deadlineOf

_REACHED = int(cu.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_GEQ)
_POLL_SECONDS = 0.0002


class CudaStream(Stream):
    """A stream of the driver: our own, another library's, or a default one.

    A closed one is never shown to the driver, which would not answer an error: it dies
    of a SIGSEGV (seen on an H100, driver 580).

    Parameters
    ----------
    isOwned
        Whether it is destroyed when this object goes. A stream that is somebody else's
        can not be made anew: an error of the host's part in it is told once, and does
        not stay.
    isDefault
        Whether it is a default stream, which is everybody's and is never closed.
    """

    def __init__(
        self,
        gpu: int,
        handle: int,
        events: Events,
        host: HostParts,
        *,
        isOwned: bool,
        isDefault: bool = False,
    ) -> None:
        self.gpu, self.handle, self.isOwned, self._isDefault = gpu, handle, isOwned, isDefault
        self._events, self._staging = events, host.staging
        self._thread = atomics.threadId() if handle == PER_THREAD_HANDLE else None
        self._worker = StreamWorker(f"muninn-stream-{gpu}-{handle:x}", driver.leaveCaptures)
        self._submitting = _thread.RLock()
        self._semaphore = host.semaphores.take()
        #: At most one pair; a list, because the finalizer must not hold the stream.
        self._pieces: list[Pieces] = []
        end = StreamEnd(
            events.context, handle if isOwned else 0, host, self._semaphore, self._pieces
        )
        self._finalizer = weakref.finalize(self, retire, self._worker, end)
        self._finalizer.atexit = False

    # --- the port --------------------------------------------------------------------

    def submit(self, work: Callable[[], object]) -> None:
        self.check()
        events = self._events
        with self._submission():
            event = events.record(self.handle)

            def part() -> None:
                events.wait(event)
                work()

            self._awaitHost(lambda error: part() if error is None else None)

    def recordFence(self, onReached: OnReached, word: FenceWord | None) -> bool:
        """The port's `recordFence`."""
        events = self._events
        with self._submission():
            # What can fail comes before the word is in the stream: it can not be taken
            # back, and must not come when it is another's.
            self._worker.start()
            event = events.take()
            isCompletedByDevice = word is not None and self._worker.isCompletedByDevice()
            if word is not None:
                # By default a memory barrier comes with it: what the stream wrote is
                # visible before the word (cuda.h).
                call(cu.cuStreamWriteValue64, self.handle, word.address, word.value, 0)
            call(cu.cuEventRecord, event, self.handle)

            def item(error: BaseException | None) -> None:
                failure = error
                try:
                    events.wait(event)
                except BaseException as raised:
                    failure = failure or raised
                    raise
                finally:
                    onReached(failure)

            self._worker.put(item, isDoubtful=False)
        return isCompletedByDevice

    def delay(self, ready: Ready, word: FenceWord | None) -> None:
        """The port's `delayStream`."""
        self.check()
        events = self._events
        with self._submission():
            if word is None:
                self._awaitHost(lambda error: awaitReady(ready) if error is None else None)
                return
            self._worker.start()
            passed = events.take()

            def item(error: BaseException | None) -> None:
                try:
                    if error is None:
                        awaitReady(ready)
                finally:
                    # Whoever gave `ready` holds the word by it. It may be another's,
                    # and begin at 0 again, once the GPU has passed it.
                    events.wait(passed)

            wait = WAITS.begin()
            try:
                call(cu.cuStreamWaitValue64, self.handle, word.address, word.value, _REACHED)
                call(cu.cuEventRecord, passed, self.handle)
                self._worker.put(endingWait(item, wait))
            except BaseException:
                wait.end()
                raise

    def copy(
        self, target: int, source: int, parts: list[tuple[int, int]], keepAlive: object
    ) -> None:
        """Copy (offset, bytes) between addresses that the driver knows; `keepAlive` is
        dropped behind it.
        """
        self.check()
        with self._submission():
            for offset, sizeBytes in parts:
                call(cu.cuMemcpyAsync, target + offset, source + offset, sizeBytes, self.handle)
            if keepAlive is not None:
                self._holdUntil([self._events.record(self.handle)], keepAlive)

    def copyIn(
        self, target: int, source: int, parts: list[tuple[int, int]], keepAlive: object
    ) -> None:
        """The same of host memory that the driver does not know, to where it does. It
        is read when the stream comes to it.
        """
        self.check()
        # the events of the copies from the pieces that are not known to be over
        under: deque[Any] = deque()
        with self._submission():
            # what the stream has come to; the stream worker knows only its own
            before: Any = self._events.record(self.handle)
            try:
                for (offset, sizeBytes), piece in zip(cut(parts), self._inRotation(), strict=False):
                    before = under.popleft() if len(under) == 2 else before
                    # In a stream that has failed too: the GPU's part can not be called
                    # off, and copies what is there.
                    self._awaitHost(
                        filling(self._events, before, piece, source + offset, sizeBytes),
                        isDoubtful=False,
                    )
                    before = None
                    call(cu.cuMemcpyAsync, target + offset, piece, sizeBytes, self.handle)
                    under.append(self._events.record(self.handle))
            finally:
                self._holdUntil(list(under), keepAlive)

    def copyOut(
        self, target: int, source: int, parts: list[tuple[int, int]], keepAlive: object
    ) -> None:
        """The same the other way round. It is written when the stream comes to it, and
        the stream goes on behind that.
        """
        self.check()
        events, numbers = self._events, deque[int]()
        with self._submission():
            try:
                for (offset, sizeBytes), piece in zip(cut(parts), self._inRotation(), strict=False):
                    if len(numbers) == 2:
                        self._await(numbers.popleft())
                    call(cu.cuMemcpyAsync, piece, source + offset, sizeBytes, self.handle)
                    emptied = emptying(
                        events,
                        events.record(self.handle),
                        target + offset,
                        piece,
                        sizeBytes,
                        keepAlive,
                    )
                    numbers.append(self._promiseHost(emptied, isDoubtful=False))
            finally:
                if numbers:
                    self._await(numbers[-1])

    # --- the host's part -------------------------------------------------------------

    def _awaitHost(self, item: Item, isDoubtful: bool = True) -> None:
        """Let the stream wait here until the stream worker has done `item`."""
        self._await(self._promiseHost(item, isDoubtful))

    def _promiseHost(self, item: Item, isDoubtful: bool = True) -> int:
        """Give `item` to the stream worker; returns the number that the gate is opened
        to behind it.
        """
        semaphore, number = self._semaphore, self._semaphore.ask()

        def opening(error: BaseException | None) -> None:
            try:
                item(error)
            finally:
                semaphore.open(number)  # the GPU is never left waiting

        wait = WAITS.begin()
        try:
            self._worker.put(endingWait(opening, wait), isDoubtful)
        except BaseException:
            wait.end()
            raise
        return number

    def _await(self, number: int) -> None:
        call(cu.cuStreamWaitValue64, self.handle, self._semaphore.deviceAddress, number, _REACHED)

    def _holdUntil(self, reached: list[Any], held: object) -> None:
        """Keep `held`, and let the stream worker go no further, until these events are
        reached.
        """
        events = self._events

        def item(error: BaseException | None, kept: object = held) -> None:
            for event in reached:
                events.wait(event)

        self._worker.put(item, isDoubtful=False)

    def _inRotation(self) -> Iterator[int]:
        """The two pieces, without an end."""
        if not self._pieces:
            self._pieces.append(self._staging.take())
        return itertools.cycle(self._pieces[0])

    @contextmanager
    def _submission(self) -> Iterator[None]:
        """What is put into the stream and into its stream worker comes in one order.

        Raises `InvalidArgument` once it was closed, and while it is captured: what is
        submitted then is not done, but written down for a graph, and an event in it
        could not be asked for.
        """
        with self._submitting, Entered(self._events.context):
            self.checkOpen()
            refuseCaptured(self.handle)
            yield

    def checkOpen(self) -> None:
        """`InvalidArgument` once it was closed, and to a thread to which its handle
        means another stream.
        """
        self._worker.checkOpen()
        if self._thread is not None and self._thread != atomics.threadId():
            raise InvalidArgument(
                "this is the per-thread default stream of another thread",
                "Use a stream of muninn.createStream",
            )

    def errorCursor(self) -> int:
        return self._worker.errorCursor()

    def errorSince(self, errorCursor: int) -> BaseException | None:
        return self._worker.toldSince(errorCursor)

    def isOpen(self) -> bool:
        return self._worker.isOpen()

    def __cuda_stream__(self) -> tuple[int, int]:
        """(version of the protocol, handle): what cuda.core, Numba, CuPy and PyTorch
        take a stream by.
        """
        self.checkOpen()
        return 0, self.handle

    def isQuiet(self) -> bool:
        """Whether the host has nothing to do in it."""
        return self._worker.error is None and self._worker.isIdle()

    def synchronize(self, timeout: float | None = None) -> None:
        deadline = deadlineOf(timeout)
        self.checkOpen()
        with self._toldOnce():
            self._worker.wait(timeout)
        if aside.isOwn() and not self.query():
            raise aside.refusal()
        if deadline is None:
            with Entered(self._events.context), driver.BeyondCaptures():
                self._typed(lambda: call(cu.cuStreamSynchronize, self.handle))
            return
        while not self.query():
            if clock.now() >= deadline:
                raise TimeoutError(f"work of the stream is still pending after {timeout} s")
            clock.sleep(_POLL_SECONDS)

    def query(self) -> bool:
        self.checkOpen()
        with self._toldOnce():
            if not self._worker.isIdle():
                return False
        with Entered(self._events.context), driver.BeyondCaptures():
            try:
                call(cu.cuStreamQuery, self.handle)
            except DriverError as error:
                if error.code == "NOT_READY":
                    return False
                raise typed(error, "the GPU's work failed") from error
        return True

    def check(self) -> None:
        """Raise the stream's error, if its host part failed; the GPU's own is told by
        the driver.
        """
        driver.guard()
        with self._toldOnce():
            self._worker.check()

    @contextmanager
    def _toldOnce(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if error is self._worker.error and not self.isOwned:
                self._worker.forgetError()
            raise

    def close(self) -> None:
        if not self._isDefault and not driver.isForked():
            with self._submitting:  # whoever is about to use the handle has done so
                self._worker.shut()
            self._finalizer()

    def _typed(self, use: Callable[[], object]) -> None:
        try:
            use()
        except DriverError as error:
            raise typed(error, "the GPU's work failed") from error
