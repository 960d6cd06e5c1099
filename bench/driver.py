"""The parts that the CUDA measurements and their peer processes share: the device, the
driver's time, the sizes, and the waiting.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from cuda.bindings import driver as cu

import muninn
from bench.harness import Options
from muninn.devices.cuda.driver import call

MIB, GIB = 1 << 20, 1 << 30
IS_REHEARSAL = os.environ.get("TEST_DRIVER") == "standin"


def device() -> Any:
    from muninn.session import gpus, membership

    return gpus.deviceOf(membership.current())


def title(sizeBytes: int) -> str:
    return f"{sizeBytes // GIB} GiB" if sizeBytes >= GIB else f"{sizeBytes // MIB} MiB"


def sizesOf(options: Options) -> tuple[int, ...]:
    if IS_REHEARSAL or options.quick:
        return (MIB, 64 * MIB)
    return (MIB, GIB, 16 * GIB)


def inScope(
    rounds: int, ours: Callable[[], float], peer: Callable[[], float]
) -> tuple[list[float], list[float]]:
    ours()
    peer()
    pairs = [(ours(), peer()) for _ in range(rounds)]
    return [mine for mine, _ in pairs], [other for _, other in pairs]


@contextlib.contextmanager
def timedDriver() -> Iterator[list[float]]:
    """Add up the seconds that this thread spends in the driver's calls."""
    spent, own = [0.0], threading.get_ident()
    originals = {
        name: getattr(cu, name)
        for name in dir(cu)
        if name.startswith("cu") and callable(getattr(cu, name))
    }

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                if threading.get_ident() == own:
                    spent[0] += time.perf_counter() - started

        run.__name__ = function.__name__
        return run

    for name, function in originals.items():
        setattr(cu, name, timed(function))
    try:
        yield spent
    finally:
        for name, function in originals.items():
            setattr(cu, name, function)


def lastTicket(buffer: muninn.MuninnBuffer) -> int:
    openBuffer = buffer._openBuffer
    assert openBuffer is not None
    return openBuffer.tickets.last()


def spinUntil(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the other process does not answer")


def openEvent(raw: str) -> Any:
    handle = cu.CUipcEventHandle()
    ctypes.memmove(handle.getPtr(), bytes.fromhex(raw), 64)
    return call(cu.cuIpcOpenEventHandle, handle)
