"""The reaper: gives memory back behind the work that may still use it.

Unmapping memory that a kernel uses ends the whole context with ILLEGAL_ADDRESS, and the driver does not wait by itself. Whoever
closes may hold locks, may be the garbage collector, and may be what the kernel waits for. So a thread of its own waits for every
context of this process that Muninn knows, since host memory and peers' memory are used by all GPUs, and then disposes. What it has not
come to when the process ends, the kernel gives back.

It waits by freeing a page of host memory, which the driver does behind all that a context was given. cuCtxSynchronize would do the
same, and break the capture of any stream of that context (both seen on an H200).
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.driver import DriverError, call
from muninn.devices.cuda.gpu import Entered

_log = logging.getLogger("muninn.devices")
_PAGE_BYTES = 4096
_AGAIN_SECONDS = 0.05
#: What passes; any other answer is that of a context that runs nothing any more, whose memory goes all the same.
_PASSES = frozenset(("OUT_OF_MEMORY", "OPERATING_SYSTEM", "STREAM_CAPTURE_UNSUPPORTED", "STREAM_CAPTURE_IMPLICIT"))


class _Remains(NamedTuple):
    dispose: Callable[[], object]
    isBehindWork: bool


class Reaper:
    """One thread, started before there is anything that it could be needed for.

    Parameters
    ----------
    contexts
        The contexts in which this process may have given GPUs work.
    """

    def __init__(self, contexts: Callable[[], Iterable[Any]]) -> None:
        self._contexts = contexts
        #: Put by finalizers, at any point of any thread: nothing but this queue is made for that.
        self._remains: queue.SimpleQueue[_Remains] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="muninn-reaper", daemon=True)
                self._thread.start()

    def bury(self, dispose: Callable[[], object], isBehindWork: bool = True) -> None:
        """Call `dispose` once what the GPUs were given so far is done. Takes no lock; `start` was called before."""
        if driver.isForked():
            return
        self._remains.put(_Remains(dispose, isBehindWork))

    def drain(self, seconds: float, isBehindWork: bool = False) -> bool:
        """Wait until everything buried so far was given back, and if wanted all work is done; False when that takes longer."""
        reached = threading.Event()
        self.start()
        self.bury(reached.set, isBehindWork)
        return reached.wait(seconds)

    def _run(self) -> None:
        driver.leaveCaptures()
        while True:
            first = self._remains.get()
            batch = [first]
            while not self._remains.empty():
                batch.append(self._remains.get())
            if any(remains.isBehindWork for remains in batch):
                for context in self._contexts():
                    _await(context)
            while batch:
                _dispose(batch.pop(0).dispose)
            del first  # else it would hold, until the next one, what it has disposed of


def _await(context: Any) -> None:
    """Wait until a context has done what it was given."""
    while True:
        try:
            with Entered(context):
                call(cu.cuMemFreeHost, call(cu.cuMemHostAlloc, _PAGE_BYTES, cu.CU_MEMHOSTALLOC_PORTABLE))
            return
        except DriverError as error:
            if error.code not in _PASSES:
                _log.warning("a context of the GPUs runs nothing any more: %s", error)
                return
        time.sleep(_AGAIN_SECONDS)


def _dispose(dispose: Callable[[], object]) -> None:
    try:
        dispose()
    except DriverError as error:
        _log.warning("device memory was not given back: %s", error)
    except Exception:
        # The thread must live: others' memory is given back by it too.
        _log.exception("device memory was not given back")
