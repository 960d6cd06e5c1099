"""Streams of real GPUs, and the host's part in them.

What the host has to do in a stream (work of `submit`, fences that are told to the layer above, waits for other processes) is done by
a thread per stream, the stream's lane, and not by the driver's callbacks: those run Python on the driver's thread, stop all streams
while they wait for the interpreter, and are not called at all once a kernel has failed. The lane waits for an event that was
recorded in the stream; a stream that must wait for the lane waits for a word in pinned memory, its gate.

Fences between GPUs need no host at all: `recordFence` lets the stream write a word of shared memory, and `delayStream` lets a stream
of another process wait for it (`cuStreamWriteValue64`, `cuStreamWaitValue64`). Interprocess events would do the same until a recorder
is killed: its event pends for ever, with every stream and every context that waits for it (seen on an H100, driver 580). A word can be
written by whoever proves the death.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cuda.bindings import driver as cu

from muninn.control import atomics
from muninn.devices.cuda import driver
from muninn.devices.cuda.driver import DriverError, call, typed
from muninn.devices.cuda.gpu import Entered
from muninn.devices.port import FenceWord, OnReached, Ready, Stream
from muninn.devices.streams import Item, Lane, awaitReady
from muninn.errors import InvalidArgument

_EVENT_FLAGS = int(cu.CUevent_flags.CU_EVENT_DISABLE_TIMING) | int(cu.CUevent_flags.CU_EVENT_BLOCKING_SYNC)
_REACHED = int(cu.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_GEQ)
_NOT_CAPTURED = int(cu.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE)
_POLL_SECONDS = 0.0002
_WORD_BYTES = 8
_PAGE_WORDS = 512


class Gate:
    """A word in pinned host memory at which one stream after another waits for the host, and how far it was opened.

    Its numbers go on from stream to stream: one that has ended for the host may still be on its way to a number that was reached.
    """

    def __init__(self, host: int, device: int) -> None:
        self._host, self.deviceAddress = host, device
        self._asked = 0
        atomics.storeRelease64(host, 0)

    def ask(self) -> int:
        """The number that the stream waits for next."""
        self._asked += 1
        return self._asked

    def open(self, number: int) -> None:
        """SYNC gate: pairs with the stream that waits for `number`; what the host did comes before. Numbers only grow: one thread opens."""
        atomics.storeRelease64(self._host, number)


class Gates:
    """Gates that no stream has. Their memory is a primary context's, which lasts, and all contexts reach it.

    Parameters
    ----------
    home
        Enters such a context.
    """

    def __init__(self, home: Callable[[], Entered]) -> None:
        self._home = home
        self._free: list[Gate] = []
        self._changing = threading.Lock()

    def take(self) -> Gate:
        with self._changing:
            if not self._free:
                with self._home(), driver.beyondCaptures():
                    flags = cu.CU_MEMHOSTALLOC_PORTABLE | cu.CU_MEMHOSTALLOC_DEVICEMAP
                    host = int(call(cu.cuMemHostAlloc, _PAGE_WORDS * _WORD_BYTES, flags))
                    device = int(call(cu.cuMemHostGetDevicePointer, host, 0))
                self._free += [Gate(host + at * _WORD_BYTES, device + at * _WORD_BYTES) for at in range(_PAGE_WORDS)]
            return self._free.pop()

    def giveBack(self, gate: Gate) -> None:
        self._free.append(gate)  # one step: lanes do it


class Events:
    """Events of one context, to be used again and again."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self._free: list[Any] = []

    def record(self, handle: int) -> Any:
        """An event recorded in a stream of this context, which the caller has entered."""
        try:
            event = self._free.pop()
        except IndexError:
            event = call(cu.cuEventCreate, _EVENT_FLAGS)
        call(cu.cuEventRecord, event, handle)
        return event

    def wait(self, event: Any) -> None:
        """Block until the event is reached; raises what the GPU failed with."""
        with Entered(self.context):
            try:
                call(cu.cuEventSynchronize, event)
            except DriverError as error:
                raise typed(error, "the GPU's work failed") from error
        self._free.append(event)


class CudaStream(Stream):
    """A stream of the driver: our own, another library's, or a default one.

    A closed one is never shown to the driver, which would not answer an error: it dies of a SIGSEGV (seen on an H100, driver 580).

    Parameters
    ----------
    isOwned
        Whether it is destroyed when this object goes. A stream that is somebody else's can not be made anew: an error of the host's
        part in it is told once, and does not stay.
    isDefault
        Whether it is a default stream, which is everybody's and is never closed.
    """

    def __init__(self, gpu: int, handle: int, events: Events, gates: Gates, *, isOwned: bool, isDefault: bool = False) -> None:
        self.gpu, self.handle, self.isOwned, self._isDefault = gpu, handle, isOwned, isDefault
        self._events = events
        self._lane = Lane(f"muninn-stream-{gpu}-{handle:x}", driver.leaveCaptures)
        self._submitting = threading.Lock()
        self._gate = gates.take()
        self._finalizer = weakref.finalize(self, _retire, self._lane, _End(events.context, handle if isOwned else 0, gates, self._gate))
        self._finalizer.atexit = False

    # --- the port ----------------------------------------------------------------------------------------------------

    def submit(self, work: Callable[[], object]) -> None:
        self.check()
        events, gate = self._events, self._gate
        with self._submission():
            event, number = events.record(self.handle), gate.ask()

            def part() -> None:
                events.wait(event)
                work()

            self._lane.put(_then(part, lambda: gate.open(number)))
            call(cu.cuStreamWaitValue64, self.handle, gate.deviceAddress, number, _REACHED)

    def recordFence(self, onReached: OnReached, word: FenceWord | None) -> bool:
        """The port's `recordFence`."""
        events = self._events
        with self._submission():
            isSure = word is not None and self._lane.isSure()
            if word is not None:
                # By default a memory barrier comes with it: what the stream wrote is visible before the word (cuda.h).
                call(cu.cuStreamWriteValue64, self.handle, word.address, word.value, 0)
            event = events.record(self.handle)

            def item(error: BaseException | None) -> None:
                failure = error
                try:
                    events.wait(event)
                except BaseException as raised:
                    failure = failure or raised
                    raise
                finally:
                    onReached(failure)

            self._lane.put(item, isDoubtful=False)
        return isSure

    def delay(self, ready: Ready, word: FenceWord | None) -> None:
        """The port's `delayStream`."""
        self.check()
        gate, events = self._gate, self._events
        with self._submission():
            if word is not None:
                call(cu.cuStreamWaitValue64, self.handle, word.address, word.value, _REACHED)
                # Whoever gave `ready` holds the word by it. It may be another's, and begin at 0 again, once the GPU has passed it.
                passed = events.record(self.handle)
                self._lane.put(_then(lambda: awaitReady(ready), lambda: events.wait(passed)))
                return
            number = gate.ask()
            self._lane.put(_then(lambda: awaitReady(ready), lambda: gate.open(number)))
            call(cu.cuStreamWaitValue64, self.handle, gate.deviceAddress, number, _REACHED)

    def copy(self, target: int, source: int, parts: list[tuple[int, int]], keepAlive: object) -> None:
        """Copy (offset, bytes) between addresses that the driver knows; `keepAlive` is dropped behind it."""
        self.check()
        events = self._events
        with self._submission():
            for offset, sizeBytes in parts:
                call(cu.cuMemcpyAsync, target + offset, source + offset, sizeBytes, self.handle)
            if keepAlive is not None:
                event = events.record(self.handle)

                def item(error: BaseException | None, held: object = keepAlive) -> None:
                    events.wait(event)

                self._lane.put(item, isDoubtful=False)

    @contextmanager
    def _submission(self) -> Iterator[None]:
        """What is put into the stream and into its lane comes in one order.

        Raises `InvalidArgument` once it was closed, and while it is captured: what is submitted then is not done, but written down for a
        graph, and an event in it could not be asked for.
        """
        with self._submitting, Entered(self._events.context):
            self._lane.checkOpen()
            try:
                isCaptured = int(call(cu.cuStreamIsCapturing, self.handle)) != _NOT_CAPTURED
            except DriverError as error:
                if error.code != "STREAM_CAPTURE_IMPLICIT":
                    raise
                isCaptured = True
            if isCaptured:
                raise InvalidArgument(
                    f"stream {self.handle:#x} is being captured for a graph", "Fence before the capture, or around the launch of the graph"
                )
            yield

    def checkOpen(self) -> None:
        """`InvalidArgument` once it was closed."""
        self._lane.checkOpen()

    def isOpen(self) -> bool:
        return self._lane.isOpen()

    def __cuda_stream__(self) -> tuple[int, int]:
        """(version of the protocol, handle): what cuda.core, Numba, CuPy and PyTorch take a stream by."""
        self.checkOpen()
        return 0, self.handle

    def isQuiet(self) -> bool:
        """Whether the host has nothing to do in it."""
        return self._lane.error is None and self._lane.isIdle()

    def synchronize(self, timeout: float | None = None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        self._lane.checkOpen()
        with self._toldOnce():
            self._lane.wait(timeout)
        if deadline is None:
            with Entered(self._events.context), driver.beyondCaptures():
                self._typed(lambda: call(cu.cuStreamSynchronize, self.handle))
            return
        while not self.query():
            if time.monotonic() >= deadline:
                raise TimeoutError(f"work of the stream is still pending after {timeout} s")
            time.sleep(_POLL_SECONDS)

    def query(self) -> bool:
        self._lane.checkOpen()
        with self._toldOnce():
            if not self._lane.isIdle():
                return False
        with Entered(self._events.context), driver.beyondCaptures():
            try:
                call(cu.cuStreamQuery, self.handle)
            except DriverError as error:
                if error.code == "NOT_READY":
                    return False
                raise typed(error, "the GPU's work failed") from error
        return True

    def check(self) -> None:
        """Raise the stream's error, if its host part failed; the GPU's own is told by the driver."""
        driver.guard()
        with self._toldOnce():
            self._lane.check()

    @contextmanager
    def _toldOnce(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if error is self._lane.error and not self.isOwned:
                self._lane.forgetError()
            raise

    def close(self) -> None:
        if not self._isDefault and not driver.isForked():
            with self._submitting:  # whoever is about to use the handle has done so
                self._lane.shut()
            self._finalizer()

    def _typed(self, use: Callable[[], object]) -> None:
        try:
            use()
        except DriverError as error:
            raise typed(error, "the GPU's work failed") from error


def _then(part: Callable[[], object], afterwards: Callable[[], object]) -> Item:
    """A part of the host, unless the stream has failed, and what follows in any case: the GPU is never left waiting."""

    def item(error: BaseException | None) -> None:
        try:
            if error is None:
                part()
        finally:
            afterwards()

    return item


class _End:
    """The last item of a lane: the stream goes, and its gate is another's."""

    def __init__(self, context: Any, handle: int, gates: Gates, gate: Gate) -> None:
        self._context, self._handle, self._gates, self._gate = context, handle, gates, gate

    def __call__(self, error: BaseException | None) -> None:
        if self._handle:
            with Entered(self._context):
                call(cu.cuStreamSynchronize, self._handle)  # it may still wait at the gate
        self.atOnce()

    def atOnce(self) -> None:
        """For a stream in which the host had nothing to do; the driver finishes what it was given."""
        if self._handle:
            with Entered(self._context):
                call(cu.cuStreamDestroy, self._handle)
        self._gates.giveBack(self._gate)


def _retire(lane: Lane, end: _End) -> None:
    """The stream object is gone: what it was given is still done. Called by the collector, at any point of any thread."""
    if not driver.isForked() and not lane.endWith(end):
        end.atOnce()
