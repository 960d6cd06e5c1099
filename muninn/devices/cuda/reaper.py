"""The reaper: gives memory back behind the work that may still use it.

Unmapping memory that a kernel uses ends the whole context with ILLEGAL_ADDRESS, and the driver does not wait by itself. Whoever
closes may hold locks, may be the garbage collector, and may be what the kernel waits for. So a thread of its own waits for the
context and then disposes. What it has not come to when the process ends, the kernel gives back.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.driver import DriverError, call
from muninn.devices.cuda.gpu import Gpu

_log = logging.getLogger("muninn.devices")


class _Remains(NamedTuple):
    gpus: tuple[Gpu, ...]
    dispose: Callable[[], object]


class Reaper:
    """One thread, started before there is anything that it could be needed for."""

    def __init__(self) -> None:
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

    def bury(self, gpus: tuple[Gpu, ...], dispose: Callable[[], object]) -> None:
        """Call `dispose` once what the contexts of `gpus` were given so far is done. Takes no lock; `start` was called before."""
        if driver.isForked():
            return
        self._remains.put(_Remains(gpus, dispose))

    def drain(self, seconds: float) -> bool:
        """Wait until everything buried so far was given back; False when that takes longer."""
        reached = threading.Event()
        self.start()
        self.bury((), reached.set)
        return reached.wait(seconds)

    def _run(self) -> None:
        while True:
            first = self._remains.get()
            batch = [first]
            while not self._remains.empty():
                batch.append(self._remains.get())
            for gpu in dict.fromkeys(gpu for remains in batch for gpu in remains.gpus):
                _await(gpu)
            while batch:
                _dispose(batch.pop(0).dispose)
            del first  # else it would hold, until the next one, what it has disposed of


def _await(gpu: Gpu) -> None:
    try:
        if not gpu.isActive():
            return
        with gpu.entered():
            call(cu.cuCtxSynchronize)
    except DriverError as error:
        # A failed context runs nothing any more; its memory goes all the same.
        _log.warning("GPU %d: %s", gpu.index, error)


def _dispose(dispose: Callable[[], object]) -> None:
    try:
        dispose()
    except DriverError as error:
        _log.warning("device memory was not given back: %s", error)
    except Exception:
        # The thread must live: others' memory is given back by it too.
        _log.exception("device memory was not given back")
