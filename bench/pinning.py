"""What a process that pins host memory costs a neighbour on the same GPU: the neighbour
launches kernels and allocates memory without a pause, and says the longest of each.

The memory is pinned as by Muninn, in pieces with rests; in the same pieces without the
rests, which shows what they are worth; and in one call, as before there were pieces.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import psutil

from bench.driver import GIB, IS_REHEARSAL, MIB, title
from bench.harness import Options, Peer, Row, seconds
from muninn.devices.cuda import CudaDevice
from muninn.devices.cuda.pace import USUAL_BOUNDS, PieceBounds

_MOST_BYTES = 64 * GIB
_PAGE_BYTES = 4096
_ALONE_SECONDS = 5.0

#: By phase ("pinned", "unpinned"): the seconds of it, and of the neighbour's longest
#: launch and allocation meanwhile.
Phases = dict[str, dict[str, float]]


def pinning(options: Options) -> list[Row]:
    """A neighbour's longest launch while host memory is pinned and unpinned."""
    sizeBytes = _sizeOf(options)
    ways = {
        "in pieces": USUAL_BOUNDS,
        "in pieces without rests": USUAL_BOUNDS._replace(restShare=0.0),
        "in one call": PieceBounds(sizeBytes, sizeBytes, _PAGE_BYTES),
    }
    devices = {way: CudaDevice(pieceBounds=bounds) for way, bounds in ways.items()}
    neighbour = Peer("launchAndAllocate")
    neighbour.line()
    alone: list[dict[str, float]] = []
    found: dict[str, list[Phases]] = {way: [] for way in ways}
    counts: dict[str, int] = {}
    aloneSeconds = 0.2 if IS_REHEARSAL or options.quick else _ALONE_SECONDS
    with _touched(sizeBytes) as address:
        for _ in range(options.pick(2, 1)):
            alone.append(_beside(neighbour, functools.partial(time.sleep, aloneSeconds)))
            for way, each in devices.items():
                phases, counts[way] = _measured(neighbour, each, address, sizeBytes)
                found[way].append(phases)
    neighbour.end()
    return _rows(title(sizeBytes), alone, found, counts)


def _sizeOf(options: Options) -> int:
    if options.pinnedBytes:
        return options.pinnedBytes
    if IS_REHEARSAL or options.quick:
        return 256 * MIB
    return min(_MOST_BYTES, psutil.virtual_memory().available // 2 // GIB * GIB)


@contextmanager
def _touched(sizeBytes: int) -> Iterator[int]:
    """The address of shared memory whose pages are there and mapped, as a buffer's."""
    descriptor = os.memfd_create("pinning")
    try:
        os.posix_fallocate(descriptor, 0, sizeBytes)
        memory = mmap.mmap(descriptor, sizeBytes)
    finally:
        os.close(descriptor)
    view = np.frombuffer(memory, np.uint8)
    view[::_PAGE_BYTES] = 1
    yield ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _measured(
    neighbour: Peer, device: CudaDevice, address: int, sizeBytes: int
) -> tuple[Phases, int]:
    """Both phases, and the number of pieces."""
    pieces: list[int] = []
    registration = device.registerHost(address, _PAGE_BYTES, True)  # what is made only once
    _unpin(registration.closeThen)
    made: list[Callable[[Callable[[], object]], None]] = []

    def pin() -> None:
        made.append(device.registerHost(address, sizeBytes, True, pieces.append).closeThen)

    phases = {
        "pinned": _beside(neighbour, pin),
        "unpinned": _beside(neighbour, lambda: _unpin(made.pop())),
    }
    if sum(pieces) != sizeBytes:
        raise RuntimeError(f"{sum(pieces)} of {sizeBytes} bytes were pinned")
    return phases, len(pieces)


def _unpin(closeThen: Callable[[Callable[[], object]], None]) -> None:
    unpinned = threading.Event()
    closeThen(unpinned.set)
    if not unpinned.wait(300):
        raise TimeoutError("the memory is not given back")


def _beside(neighbour: Peer, action: Callable[[], object]) -> dict[str, float]:
    neighbour.ask()
    took = seconds(action)
    longest = neighbour.ask()
    return {"took": took, "launch": longest["launch"], "allocation": longest["allocation"]}


def _rows(
    size: str,
    alone: list[dict[str, float]],
    found: dict[str, list[Phases]],
    counts: dict[str, int],
) -> list[Row]:
    rows: list[Row] = []

    def row(what: str, values: list[float], note: str = "", isLimited: bool = False) -> None:
        limit, goal = (0.2, 0.05) if isLimited else (None, None)
        rows.append(Row(what, "s", values, [], "", limit, goal, note))

    for way, rounds in found.items():
        isOurs, note = way == "in pieces", f"calls of the driver: {counts[way]}"
        for phase in ("pinned", "unpinned"):
            isLimited = isOurs and phase == "pinned"
            beside = "" if isLimited else "beside: "
            what = f"{size} are {phase} {way}"
            row(
                f"{beside}a neighbour's longest launch while {what}",
                [max(each[phase]["launch"] for each in rounds)],
                note,
                isLimited,
            )
            row(
                f"beside: a neighbour's longest allocation while {what}",
                [max(each[phase]["allocation"] for each in rounds)],
            )
            row(f"beside: {what}: all of it", [each[phase]["took"] for each in rounds])
    for what in ("launch", "allocation"):
        row(f"beside: a neighbour's longest {what} alone", [max(each[what] for each in alone)])
    return rows
