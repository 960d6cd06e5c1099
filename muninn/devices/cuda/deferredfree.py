"""The deferred free: gives memory back after the work that may still use it.

To unmap memory that a kernel uses ends the whole context with ILLEGAL_ADDRESS, and the
driver does not wait by itself. The thread that closes memory can not wait either: it
may hold locks, it may run the garbage collector, and the kernel may wait for it. So a
thread of its own takes the closed memory, waits for every context of this process that
Muninn knows, since all GPUs use host memory and peers' memory, and then disposes of it.
At the end of the process the kernel gives back the rest.

There are two ways to wait for a context (both seen on an H200).

*By a block.* The thread frees a small block of the GPU's memory, which the driver does
after all work of the context. Meanwhile every thread that launches, copies or allocates
is stopped. So the thread does this only while no stream waits for anything but the GPU.
The block is of VRAM as long as there is some, because to allocate a page of host memory
stops the other threads for 1.5 ms each time, and a small block of VRAM for 3 us.

*By synchronizing.* cuCtxSynchronize stops no thread, but it breaks the capture of any
stream of that context. The thread does this when some stream still waits after
`_QUIET_BOUND_SECONDS`. Then it disposes only of memory that does not need the driver's
lock for long, which is VMM memory. It keeps the rest for a quiet moment.

Memory whose disposal takes long is disposed of piece by piece, a turn each (`More`).
Between two turns the driver's locks are free, and waits of streams may begin.
"""

from __future__ import annotations

import _thread
import contextlib
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.driver import DriverError, call
from muninn.devices.cuda.gpu import Entered
from muninn.devices.cuda.semaphores import WAITS
from muninn.system import clock, threads
from muninn.system.green import SimpleQueue
from muninn.system.latch import Latch
from muninn.system.logs import Log
from muninn.system.threads import AnyThread, Once

_log = Log("muninn.devices")
_AGAIN_SECONDS, _ERROR_PAUSE_SECONDS = 0.05, 1.0
#: How long it looks for a moment at which no stream waits.
_QUIET_BOUND_SECONDS = 2.0
#: The driver makes blocks of this size out of a piece of 2 MiB.
_BLOCK_BYTES = 4096
#: The driver's answers while another thread captures a stream, which will end.
_CAPTURING = frozenset(("STREAM_CAPTURE_UNSUPPORTED", "STREAM_CAPTURE_IMPLICIT"))


_Block: TypeAlias = tuple[Callable[..., Any], int]


class More(NamedTuple):
    """Returned by a disposal that has to be called once more, after a rest."""

    restSeconds: float


class _Deferred(NamedTuple):
    """A thing to dispose of. `locks`: the call waits for the GPU with the driver's
    lock. `isMark`: it is disposed of after all that came before it.
    """

    dispose: Callable[[], object]
    isBehindWork: bool
    locks: bool
    isMark: bool = False


class Disposal(Protocol):
    """A disposal that may be deferred any number of times, and is done once."""

    def __call__(self) -> object: ...
    def isDone(self) -> bool: ...


class _End(weakref.ref[Any]):
    """The end of an object that owns memory. Its callback puts it on the queue, in C, so
    no interruption of a finalizer loses it.
    """

    __slots__ = ("dispose", "locks")
    dispose: Disposal
    locks: bool


class DeferredFree:
    """The thread. It is started before the first memory that it could have to free.

    Parameters
    ----------
    contexts
        The contexts in which this process may have given GPUs work, by their ids.
    """

    def __init__(self, contexts: Callable[[], dict[int, Any]]) -> None:
        self._contexts = contexts
        #: A block of each context, to wait by, and the function that frees it. It is made
        #: ahead, because there may be no memory left when it is needed.
        self._blocks: dict[int, _Block] = {}
        #: Contexts that were destroyed or have failed.
        self._over: set[int] = set()
        #: Finalizers put into it at any point of any thread, which only this queue
        #: allows.
        self._deferred: SimpleQueue[_Deferred | _End] = SimpleQueue()
        #: The objects that `deferAtEnd` watches, by the ids of their ends.
        self._ends: dict[int, _End] = {}
        self._starting = _thread.RLock()
        self._thread: AnyThread | None = None
        self._work = Once(self._run)

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._starting:
            if self._thread is None:
                self._thread = threads.start(self._work, "muninn-deferredfree")

    def defer(self, dispose: Callable[[], object], locks: bool = True) -> None:
        """Call `dispose` once the GPUs have done all work that they have now, and again
        as long as it returns `More`. Takes no lock; `start` was called before.

        `locks`: `dispose` frees memory in a way that waits for the GPU once more, with
        the driver's lock.
        """
        if not driver.isForked():
            self._deferred.put(_Deferred(dispose, True, locks))

    def deferAtEnd(self, owner: object, dispose: Disposal, locks: bool = True) -> None:
        """Defer `dispose` at the end of `owner`, unless it is done by then."""
        end = _End(owner, self._deferred.put)
        end.dispose, end.locks = dispose, locks
        self._ends[id(end)] = end

    def drain(self, seconds: float, isBehindWork: bool = False) -> bool:
        """Wait until all that was deferred so far is given back, and if
        `isBehindWork` until the GPUs have done their work; False when that takes longer
        than `seconds`.
        """
        reached = Latch()
        self.start()
        self._deferred.put(_Deferred(reached.set, isBehindWork, False, isMark=not isBehindWork))
        return reached.wait(seconds)

    def _run(self) -> None:
        driver.leaveCaptures()
        for number, each in self._contexts().items():
            if self._isThere(number, each):
                self._makeBlock(number, each)
        # What is left of it is older than what is in the queue, and stays before that. It
        # is empty while the thread waits for the queue, and the thread holds nothing.
        batch: list[_Deferred] = []
        while True:
            if not batch:
                batch += self._taken()
            while not self._deferred.empty():
                batch += self._taken()
            try:
                restSeconds = self._dispose(batch)
            except Exception:
                # The thread must live: it has other memory to give back.
                _log.exception("device memory was not given back, and is tried again")
                restSeconds = _ERROR_PAUSE_SECONDS
            clock.sleep(restSeconds)

    def _taken(self) -> list[_Deferred]:
        """The next of the queue; nothing where it is done already."""
        each = self._deferred.get()
        if isinstance(each, _Deferred):
            return [each]
        self._ends.pop(id(each), None)
        return [] if each.dispose.isDone() else [_Deferred(each.dispose, True, each.locks)]

    def _dispose(self, batch: list[_Deferred]) -> float:
        """Wait for the work that may use the memory, and dispose of it. Memory for
        which the thread has to try again stays in the batch. Returns how long to rest
        before that.
        """
        behind = any(deferred.isBehindWork for deferred in batch)
        contexts = (
            {
                number: each
                for number, each in self._contexts().items()
                if self._isThere(number, each)
            }
            if behind
            else {}
        )
        if not behind and not any(deferred.locks for deferred in batch):
            return _disposeNow(batch)
        with WAITS.none(_QUIET_BOUND_SECONDS) as isQuiet:
            if isQuiet:
                contexts = {
                    number: each
                    for number, each in contexts.items()
                    if not self._awaitByBlock(number, each)
                }
                if not contexts:
                    return _disposeNow(batch)
        for number, each in contexts.items():
            self._awaitBySynchronizing(number, each)
        with WAITS.none(0) as isQuiet:
            kept = (
                []
                if isQuiet
                else [deferred._replace(isBehindWork=False) for deferred in batch if deferred.locks]
            )
            if kept:
                kept += [deferred for deferred in batch if deferred.isMark]
                batch[:] = [
                    deferred for deferred in batch if not deferred.locks and not deferred.isMark
                ]
            restSeconds = _disposeNow(batch)
            batch += kept
            return restSeconds

    def _isThere(self, contextId: int, context: Any) -> bool:
        """Whether a context is neither destroyed nor failed. To free memory in a
        destroyed context ends the process.
        """
        if contextId in self._over:
            return False
        try:
            if int(call(cu.cuCtxGetId, context)) == contextId:
                return True
        except DriverError as error:
            _log.debug("a context of this process's program is no more: %s", error)
        self._over.add(contextId)
        return False

    def _awaitByBlock(self, contextId: int, context: Any) -> bool:
        """Wait until a context has done its work; False where there is no block for it."""
        try:
            with Entered(context):
                if contextId not in self._blocks:
                    self._blocks[contextId] = _made()
                free, block = self._blocks.pop(contextId)
                # Before the other is freed, whose room others would take.
                self._makeBlock(contextId, context)
                call(free, block)
        except DriverError as error:
            _log.debug("no block to wait by: %s", error)
            return False
        return True

    def _makeBlock(self, contextId: int, context: Any) -> None:
        with contextlib.suppress(DriverError), Entered(context):
            self._blocks[contextId] = _made()  # or the next time is another chance

    def _awaitBySynchronizing(self, contextId: int, context: Any) -> None:
        while True:
            try:
                with Entered(context):
                    call(cu.cuCtxSynchronize)
                return
            except DriverError as error:
                if error.code not in _CAPTURING:
                    _log.warning(
                        "a context of the GPUs runs nothing any more, and its memory is given "
                        "back: %s",
                        error,
                    )
                    self._over.add(contextId)
                    return
            clock.sleep(_AGAIN_SECONDS)


def _made() -> _Block:
    """A block of VRAM; a page of host memory where no VRAM is left."""
    try:
        return cu.cuMemFree, int(call(cu.cuMemAlloc, _BLOCK_BYTES))
    except DriverError:
        flags = cu.CU_MEMHOSTALLOC_PORTABLE
        return cu.cuMemFreeHost, int(call(cu.cuMemHostAlloc, _BLOCK_BYTES, flags))


def _disposeNow(batch: list[_Deferred]) -> float:
    """Dispose of a batch. If something has more to dispose of, it stays, and so does
    what came after it and needs the driver's lock or marks the place. Returns how long
    to rest then.
    """
    restSeconds, given = 0.0, batch[:]
    batch.clear()
    while given:
        deferred = given.pop(0)
        if batch and (deferred.locks or deferred.isMark):
            batch.append(deferred._replace(isBehindWork=False))
            continue
        try:
            more = deferred.dispose()
        except DriverError as error:
            _log.warning("device memory was not given back: %s", error)
        except Exception:
            _log.exception("device memory was not given back")
        else:
            if isinstance(more, More):
                restSeconds = more.restSeconds
                batch.append(deferred._replace(isBehindWork=False))
    return restSeconds
