"""Copies between two GPUs, beside the driver's own: straight and by the host, large and
small, one way and both ways at once.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from cuda.bindings import driver as cu

import muninn
from bench.driver import GIB, IS_REHEARSAL, MIB, device, title
from bench.harness import Options, Row, alternated, newDomain
from muninn.devices.cuda.driver import call

#: Speeds, as shares of the peer's, from which the ratios of times follow.
_MUST_P2P, _GO_P2P, _MUST_SMALL, _GO_SMALL = 1 / 0.95, 1 / 0.99, 1 / 0.7, 1 / 0.9
_MUST_STAGED, _GO_STAGED, _MUST_DRIVERS, _GO_DRIVERS = 1 / 0.85, 1 / 0.93, 1 / 1.2, 1 / 1.35
_GPUS = 2
#: So many copies of memory go by pieces, and two more before the measurement.
_FIRST_COPIES = 7


def betweenGpus(options: Options) -> list[Row]:
    """The rows; none on a machine with one GPU."""
    newDomain()
    muninn.domainInfo()
    if device().gpuCount < _GPUS:
        return []
    large = 64 * MIB if IS_REHEARSAL else 2 * GIB
    rounds = options.pick(15, 3)
    return [
        *_straight(large, rounds, _MUST_P2P, _GO_P2P),
        *_straight(MIB, rounds * 5, _MUST_SMALL, _GO_SMALL),
        *_straight(64 << 10, rounds * 5, _MUST_SMALL, _GO_SMALL),
        *_staged(large, rounds),
        *_bothWays(large, rounds),
    ]


class _Pair:
    """A buffer on each of two GPUs, and the driver's view of them."""

    def __init__(self, sizeBytes: int) -> None:
        self.sizeBytes = sizeBytes
        self.near, self.far = (
            muninn.MuninnBuffer(sizeBytes, mode="fastMode", preferredGpu=gpu, access="readWrite")
            for gpu in (0, 1)
        )
        self.addresses = self.near.open(), self.far.open()
        self.contexts = [call(cu.cuDevicePrimaryCtxRetain, gpu) for gpu in (0, 1)]
        self.streams = []
        for context in self.contexts:
            call(cu.cuCtxPushCurrent, context)
            self.streams.append(call(cu.cuStreamCreate, 1))
            call(cu.cuCtxPopCurrent)

    def copied(self, route: str, turned: bool = False) -> float:
        """Seconds of `copyFrom`, from the first GPU to the second one or `turned`."""
        target, source = (self.near, self.far) if turned else (self.far, self.near)
        begun = time.perf_counter()
        target.copyFrom(source, route=route)  # type: ignore[arg-type]  # one of the two
        return time.perf_counter() - begun

    def raw(self, turned: bool = False) -> float:
        """Seconds of the driver's copy between the two."""
        source, target = (1, 0) if turned else (0, 1)
        call(cu.cuCtxPushCurrent, self.contexts[source])
        try:
            begun = time.perf_counter()
            call(
                cu.cuMemcpyPeerAsync,
                self.addresses[target],
                self.contexts[target],
                self.addresses[source],
                self.contexts[source],
                self.sizeBytes,
                self.streams[source],
            )
            call(cu.cuStreamSynchronize, self.streams[source])
            return time.perf_counter() - begun
        finally:
            call(cu.cuCtxPopCurrent)

    def letReach(self) -> None:
        """Give each GPU access to the other's memory, for the driver's copy."""
        for buffer, other in ((self.near, 1), (self.far, 0)):
            source: Any = buffer._checked().memory.source
            source.letReach(other)

    def close(self) -> None:
        for buffer in (self.near, self.far):
            buffer.free()


def _straight(sizeBytes: int, rounds: int, must: float, goal: float) -> list[Row]:
    """p2p: the first copies, which go by pieces, and those of memory that is copied
    often.
    """
    pair, often, reached = _Pair(sizeBytes), _Pair(sizeBytes), _Pair(sizeBytes)
    reached.letReach()
    rows = []
    for _ in range(2 * _FIRST_COPIES):
        often.copied("p2p")
    for what, chosen, times, limits in (
        ("beside: first copies of", pair, min(rounds, _FIRST_COPIES), (None, None)),
        ("p2p of", often, rounds, (must, goal)),
    ):
        ours, peer = alternated(times, lambda chosen=chosen: chosen.copied("p2p"), reached.raw)
        name = f"{what} {_sized(sizeBytes)}"
        rows.append(Row(name, "ms", ours, peer, "cuMemcpyPeerAsync, access set", *limits))
    for each in (pair, often, reached):
        each.close()
    return rows


def _staged(sizeBytes: int, rounds: int) -> list[Row]:
    pair = _Pair(sizeBytes)
    with _Pinned(pair) as pinned:
        rows = []
        for what, peer, limits in (
            ("slower of D2H and H2D", pinned.slower, (_MUST_STAGED, _GO_STAGED)),
            ("cuMemcpyPeerAsync, no access", pair.raw, (_MUST_DRIVERS, _GO_DRIVERS)),
        ):
            ours, theirs = alternated(rounds, lambda: pair.copied("staged"), peer)
            rows.append(Row(f"staged, {_sized(sizeBytes)}", "ms", ours, theirs, what, *limits))
    pair.close()
    return rows


def _bothWays(sizeBytes: int, rounds: int) -> list[Row]:
    """Both directions at once, beside the driver's."""
    one, other = _Pair(sizeBytes), _Pair(sizeBytes)
    raw, rawTurned = _Pair(sizeBytes), _Pair(sizeBytes)
    raw.letReach()
    rawTurned.letReach()
    rows = []
    for route in ("p2p", "staged"):
        ours, theirs = alternated(
            rounds,
            lambda route=route: _together(
                lambda: one.copied(route), lambda: other.copied(route, turned=True)
            ),
            lambda: _together(raw.raw, lambda: rawTurned.raw(turned=True)),
        )
        rows.append(
            Row(
                f"beside: both ways at once, {route}, {_sized(sizeBytes)} each",
                "ms",
                ours,
                theirs,
                "cuMemcpyPeerAsync both ways",
                None,
                None,
            )
        )
    for pair in (one, other, raw, rawTurned):
        pair.close()
    return rows


def _together(*works: Callable[[], object]) -> float:
    threads = [threading.Thread(target=work) for work in works]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun


class _Pinned(ExitStack):
    """Pinned host memory, to and from which the GPUs copy."""

    def __init__(self, pair: _Pair) -> None:
        super().__init__()
        self._pair = pair
        self._bytes = np.frombuffer(mmap.mmap(-1, pair.sizeBytes), np.uint8)
        self._bytes[:] = 1
        self._address = self._bytes.ctypes.data
        # By one call: the driver copies over no seam.
        with device().onGpu(0):
            flags = cu.CU_MEMHOSTREGISTER_PORTABLE
            call(cu.cuMemHostRegister, self._address, pair.sizeBytes, flags)
        self.callback(self._unregister)

    def _unregister(self) -> None:
        with device().onGpu(0):
            call(cu.cuMemHostUnregister, self._address)

    def slower(self) -> float:
        return max(
            self._copied(0, self._address, self._pair.addresses[0]),
            self._copied(1, self._pair.addresses[1], self._address),
        )

    def _copied(self, gpu: int, target: int, source: int) -> float:
        call(cu.cuCtxPushCurrent, self._pair.contexts[gpu])
        try:
            begun = time.perf_counter()
            call(cu.cuMemcpyAsync, target, source, self._pair.sizeBytes, self._pair.streams[gpu])
            call(cu.cuStreamSynchronize, self._pair.streams[gpu])
            return time.perf_counter() - begun
        finally:
            call(cu.cuCtxPopCurrent)


def _sized(sizeBytes: int) -> str:
    return title(sizeBytes) if sizeBytes >= MIB else f"{sizeBytes >> 10} KiB"
