"""The deferred free: gives memory back behind the work that may still use it.

Unmapping memory that a kernel uses ends the whole context with ILLEGAL_ADDRESS, and the
driver does not wait by itself. Whoever closes may hold locks, may be the garbage
collector, and may be what the kernel waits for. So a thread of its own waits for every
context of this process that Muninn knows, since host memory and peers' memory are used
by all GPUs, and then disposes. What it has not come to when the process ends, the
kernel gives back.

There are two ways to wait for a context (both seen on an H200). To free a page of host
memory, which the driver does behind all that the context was given, stops whoever
launches, copies or allocates meanwhile: it is done when no stream waits for anything
but the GPU. cuCtxSynchronize stops nobody, and breaks the capture of any stream of that
context: it is what is left when some stream always waits. What is freed then may not
need the driver's lock for long either: VMM memory does not; the rest is kept for a
quiet moment.
"""

from __future__ import annotations

import _thread
import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.driver import DriverError, call
from muninn.devices.cuda.gpu import Entered
from muninn.devices.cuda.semaphores import WAITS
from muninn.system import clock, threads
from muninn.system.green import SimpleQueue
from muninn.system.latch import Latch
from muninn.system.logs import Log
from muninn.system.pages import PAGE_BYTES
from muninn.system.threads import AnyThread

_log = Log("muninn.devices")
_AGAIN_SECONDS, _ERROR_PAUSE_SECONDS = 0.05, 1.0
#: How long it looks for a moment at which no stream waits.
_QUIET_BOUND_SECONDS = 2.0
#: What another thread's capture answers, which will end.
_CAPTURING = frozenset(("STREAM_CAPTURE_UNSUPPORTED", "STREAM_CAPTURE_IMPLICIT"))


class _Deferred(NamedTuple):
    """What is to be disposed of. `locks`: by a call that waits for the GPU with the
    driver's lock. `isMark`: once all before it was.
    """

    dispose: Callable[[], object]
    isBehindWork: bool
    locks: bool
    isMark: bool = False


class DeferredFree:
    """One thread, started before there is anything that it could be needed for.

    Parameters
    ----------
    contexts
        The contexts in which this process may have given GPUs work, by their ids.
    """

    def __init__(self, contexts: Callable[[], dict[int, Any]]) -> None:
        self._contexts = contexts
        #: A page in each context, to be freed: at that time there may be no memory left
        #: to make one.
        self._pages: dict[int, int] = {}
        #: Contexts that were destroyed or have failed.
        self._over: set[int] = set()
        #: Put by finalizers, at any point of any thread: nothing but this queue is made
        #: for that.
        self._deferred: SimpleQueue[_Deferred] = SimpleQueue()
        self._starting = _thread.RLock()
        self._thread: AnyThread | None = None

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._starting:
            if self._thread is None:
                self._thread = threads.start(self._run, "muninn-deferred free")

    def defer(self, dispose: Callable[[], object], locks: bool = True) -> None:
        """Call `dispose` once what the GPUs were given so far is done. Takes no lock;
        `start` was called before.

        `locks`: it frees memory in a way that waits for the GPU once more, with the
        driver's lock.
        """
        if not driver.isForked():
            self._deferred.put(_Deferred(dispose, True, locks))

    def drain(self, seconds: float, isBehindWork: bool = False) -> bool:
        """Wait until everything reclaimed so far was given back, and if wanted all work
        is done; False when that takes longer.
        """
        reached = Latch()
        self.start()
        self._deferred.put(_Deferred(reached.set, isBehindWork, False, isMark=not isBehindWork))
        return reached.wait(seconds)

    def _run(self) -> None:
        driver.leaveCaptures()
        while True:
            batch = [self._deferred.get()]
            while not self._deferred.empty():
                batch.append(self._deferred.get())
            try:
                self._dispose(batch)
            except Exception:
                # The thread must live: others' memory is given back by it too.
                _log.exception("device memory was not given back, and is tried again")
                clock.sleep(_ERROR_PAUSE_SECONDS)
            while batch:  # and it holds nothing, until the next one, that it has disposed of
                self._deferred.put(batch.pop(0))

    def _dispose(self, batch: list[_Deferred]) -> None:
        """Wait for the work that may use it, and dispose of it. What has to be tried
        again stays in the batch.
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
            _disposeNow(batch)
            return
        with WAITS.none(_QUIET_BOUND_SECONDS) as isQuiet:
            if isQuiet:
                contexts = {
                    number: each
                    for number, each in contexts.items()
                    if not self._awaitByPage(number, each)
                }
                if not contexts:
                    _disposeNow(batch)
                    return
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
            _disposeNow(batch)
            batch += kept

    def _isThere(self, contextId: int, context: Any) -> bool:
        """Whether a context is neither destroyed nor failed. To free the memory of a
        destroyed one in it ends the process.
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

    def _awaitByPage(self, contextId: int, context: Any) -> bool:
        """Wait until a context has done what it was given; False where that can not be."""
        try:
            with Entered(context):
                if contextId not in self._pages:
                    self._pages[contextId] = _page()
                call(cu.cuMemFreeHost, self._pages.pop(contextId))
                with contextlib.suppress(DriverError):  # the next time is another chance
                    self._pages[contextId] = _page()
        except DriverError as error:
            _log.debug("no page of host memory to wait by: %s", error)
            return False
        return True

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


def _page() -> int:
    return int(call(cu.cuMemHostAlloc, PAGE_BYTES, cu.CU_MEMHOSTALLOC_PORTABLE))


def _disposeNow(batch: list[_Deferred]) -> None:
    while batch:
        try:
            batch.pop(0).dispose()
        except DriverError as error:
            _log.warning("device memory was not given back: %s", error)
        except Exception:
            _log.exception("device memory was not given back")
