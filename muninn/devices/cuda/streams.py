"""Streams of real GPUs, and the host's part in them.

A thread per stream, the stream worker, does the host's part of the stream: work of
`submit`, reports of fences to the layer above, waits for other processes. The driver's
callbacks can not do that: they run Python on the driver's thread, stop all streams
while they wait for the interpreter, and are not called at all once a kernel has failed.
The stream worker waits for an event that was recorded in the stream. A stream that must
wait for the stream worker waits for a word in pinned memory, its host semaphore.

Fences between GPUs need no host at all. `recordFence` lets the stream write a word of
shared memory, and `delayStream` lets a stream of another process wait for it
(`cuStreamWriteValue64`, `cuStreamWaitValue64`). Interprocess events would do the same,
until the process that recorded one is killed: its event stays pending for ever, and so
does every stream and every context that waits for it (seen on an H100, driver 580). A
word can be written by the broker that confirms the death.
"""

from __future__ import annotations

import _thread
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.driver import DriverError, call, refuseCaptured, typed, typedDriver
from muninn.devices.cuda.events import EventMark, Events
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
from muninn.devices.port import FenceWord, Mark, OnReached, Ready, Stream
from muninn.devices.worker import Item, StreamWorker, awaitReady
from muninn.errors import InvalidArgument
from muninn.interop.streams import PER_THREAD_HANDLE
from muninn.system import aside, atomics, clock
from muninn.system.deadlines import deadlineOf, shown

_REACHED = int(cu.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_GEQ)
_POLL_SECONDS, _FAILED = 0.0002, "the GPU's work failed"


class CudaStream(Stream):
    """A stream of the driver: our own, another library's, or a default one.

    The handle of a closed stream never reaches the driver, which would not answer an
    error, but die of a SIGSEGV (seen on an H100, driver 580).

    Parameters
    ----------
    isOwned
        Whether the stream is destroyed with this object. A stream of another library
        can not be made anew: an error of the host's part in it is raised once, and does
        not stay.
    isDefault
        Whether it is a default stream, which all libraries use and no one closes.
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
        #: At most one pair. The finalizer, which must not refer to the stream, has it too.
        self._pieces: list[Pieces] = []
        ended = handle if isOwned else 0
        end = StreamEnd(events.context, ended, host, self._semaphore, self._pieces)
        self._finalizer = weakref.finalize(self, retire, self._worker, end)
        self._finalizer.atexit = False

    # --- the port --------------------------------------------------------------------

    def submit(self, work: Callable[[], object]) -> None:
        self.check()
        with self._submission():
            events, event = self._events, self._events.record(self.handle)

            def part() -> None:
                events.wait(event)
                work()

            self._awaitHost(lambda error: part() if error is None else None)

    def recordFence(self, onReached: OnReached, word: FenceWord | None) -> bool:
        """The port's `recordFence`."""
        # SYNC fence: pairs with Tickets._seen. The GPU writes the word after the
        # earlier writes of the stream.
        events = self._events
        with self._submission():
            # All steps that can fail come before the write of the word is in the
            # stream: it can not be taken back, and by the time that it is done the word
            # could be another ticket's.
            self._worker.start()
            event = events.take()
            isCompletedByDevice = word is not None and self._worker.isCompletedByDevice()
            if word is not None:
                # By default it is also a memory barrier: earlier writes of the stream
                # are visible before the word (cuda.h).
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
        # SYNC fence: pairs with Tickets.raiseFence. The GPU goes on once the word has
        # reached the ticket.
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
                    # `ready` keeps the word, so it is held until the GPU has passed the
                    # word, which may be another buffer's afterwards and begin at 0
                    # again.
                    events.wait(passed)

            wait = WAITS.begin()
            try:
                call(cu.cuStreamWaitValue64, self.handle, word.address, word.value, _REACHED)
                call(cu.cuEventRecord, passed, self.handle)
                self._worker.put(endingWait(item, wait))
            except BaseException:
                wait.end()
                raise

    def submitCalls(self, calls: Callable[[int], object], keepAlive: object) -> None:
        """Let `calls` give the driver work for the stream, by its handle, that makes no
        caller wait. `keepAlive` is dropped after the work.
        """
        self.check()
        with self._submission():
            calls(self.handle)
            if keepAlive is not None:
                self._holdUntil([self._events.record(self.handle)], keepAlive)

    def copyIn(
        self, target: int, source: int, parts: Iterable[tuple[int, int]], keepAlive: object
    ) -> None:
        """Copy from host memory that the driver does not know. The memory is read when
        the stream comes to the copy.
        """
        self.check()
        under: deque[Any] = deque()  # the events of copies that may not be over
        with self._submission():
            # The event of the earlier work of the stream, for which the stream worker
            # waits first.
            before: Any = self._events.record(self.handle)
            try:
                for (offset, sizeBytes), piece in zip(cut(parts), self._inRotation(), strict=False):
                    before = under.popleft() if len(under) == 2 else before
                    # Also in a stream that has failed: the GPU's part can not be
                    # cancelled, and copies the bytes that are in the piece.
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
        self, target: int, source: int, parts: Iterable[tuple[int, int]], keepAlive: object
    ) -> None:
        """Copy to host memory that the driver does not know. The memory is written when
        the stream comes to the copy, and the stream goes on after that.
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

    def mark(self) -> Mark:
        with typedDriver("no mark can be made"), self._submission():
            return EventMark(self._events, self._events.record(self.handle))

    def follow(self, mark: Mark) -> None:
        if not isinstance(mark, EventMark):
            raise InvalidArgument(f"{type(mark).__name__} is a mark of another back-end")
        with typedDriver("the stream can not wait"), self._submission():
            call(cu.cuStreamWaitEvent, self.handle, mark.event, 0)

    # --- the host's part -------------------------------------------------------------

    def _awaitHost(self, item: Item, isDoubtful: bool = True) -> None:
        """Let the stream wait here until the stream worker has done `item`."""
        self._await(self._promiseHost(item, isDoubtful))

    def _promiseHost(self, item: Item, isDoubtful: bool = True) -> int:
        """Give `item` to the stream worker; returns the number that the host semaphore
        gets after it.
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
        # SYNC semaphore: pairs with HostSemaphore.open. The host's writes are visible
        # to the stream that goes on.
        call(cu.cuStreamWaitValue64, self.handle, self._semaphore.deviceAddress, number, _REACHED)

    def _holdUntil(self, reached: list[Any], held: object) -> None:
        """Keep `held`, and let the stream worker do no more work, until these events
        are reached.
        """
        events = self._events

        def item(error: BaseException | None, kept: object = held) -> None:
            for event in reached:
                events.wait(event)

        self._worker.put(item, isDoubtful=False)

    def _inRotation(self) -> Iterator[int]:
        """The two pieces of pinned memory alternately, without an end."""
        if not self._pieces:
            self._pieces.append(self._staging.take())
        return itertools.cycle(self._pieces[0])

    @contextmanager
    def _submission(self) -> Iterator[None]:
        """Keep other submissions out, so that the stream and its stream worker get
        their parts in the same order.

        Raises `InvalidArgument` once the stream was closed, and while it is captured:
        the driver then records work for a graph instead of doing it, and no event in it
        could be waited for.
        """
        with self._submitting, Entered(self._events.context):
            self.checkOpen()
            refuseCaptured(self.handle)
            yield

    def checkOpen(self) -> None:
        """`InvalidArgument` once it was closed, and in a thread in which its handle
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
        """(version of the protocol, handle), by which cuda.core, Numba, CuPy and
        PyTorch take a stream.
        """
        self.checkOpen()
        return 0, self.handle

    def isQuiet(self) -> bool:
        """Whether the host has nothing to do in the stream."""
        return self._worker.error is None and self._worker.isIdle()

    def synchronize(self, timeout: float | None = None) -> None:
        deadline = deadlineOf(timeout)
        self.checkOpen()
        with self._toldOnce():
            self._worker.wait(timeout)
        if aside.isOwn() and not self.query():
            raise aside.refusal()
        if deadline is None:
            with Entered(self._events.context), driver.BeyondCaptures(), typedDriver(_FAILED):
                call(cu.cuStreamSynchronize, self.handle)
            return
        while not self.query():
            if clock.now() >= deadline:
                raise TimeoutError(f"work of the stream is still pending after {shown(timeout)}")
            clock.sleep(_POLL_SECONDS)

    def settle(self) -> None:
        self._worker.settle()
        if driver.isForked():
            return
        # The handle may be no stream any more, or another one on this thread.
        isIt = self._worker.isOpen() and self._thread in (None, atomics.threadId())
        wait = (cu.cuStreamSynchronize, self.handle) if isIt else (cu.cuCtxSynchronize,)
        # A GPU that has failed is at work no more.
        with suppress(DriverError), Entered(self._events.context), driver.BeyondCaptures():
            call(*wait)

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
                raise typed(error, _FAILED) from error
        return True

    def check(self) -> None:
        """Raise the stream's error, if the host's part in it failed. The driver raises
        errors of the GPU.
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
            with self._submitting:  # wait for a thread that is using the handle
                self._worker.shut()
            self._finalizer()
