"""Promotion, comparison and writeback, beside the copies of the driver that they consist
of.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import muninn
from bench.driver import GIB, IS_REHEARSAL, MIB, device, title
from bench.harness import Options, Row, alternated, newDomain
from muninn.kernels import launch

#: Speeds as shares of the peer's, from which the ratios of times follow.
_MUST, _GO, _MUST_COMPARED, _GO_COMPARED = 1 / 0.95, 1 / 0.99, 1 / 0.95, 1 / 1.03
_MUST_BACK, _GO_BACK = 0.3, 0.15
#: One slice of so many is dirty.
_DIRTY = 10
_SLICE_BYTES = 64 << 10


def promoting(options: Options) -> list[Row]:
    newDomain()
    sizeBytes = 32 * MIB if IS_REHEARSAL or options.quick else GIB
    rounds = options.pick(15, 3)
    array = np.ones(sizeBytes, np.uint8)
    buffer = muninn.share(array, "big", access="readWrite")
    base, size, stream = buffer.open(), title(sizeBytes), muninn.createStream(0)

    def promoted() -> float:
        begun = time.perf_counter()
        with buffer.promote(stream=stream, track=True):
            return time.perf_counter() - begun

    with device().allocate(0, sizeBytes) as bare:
        pinned = alternated(
            rounds,
            promoted,
            lambda: _seconds(stream, lambda: _copy(bare.address, base, sizeBytes, stream)),
        )
    launch.requireKernels()  # as a program has that marks by its own kernels
    back = alternated(rounds, lambda: _writtenBack(buffer, stream), promoted)
    part = f"writeback of {100 // _DIRTY} % of {size}"
    rows = [
        Row(f"promotion of {size}", "ms", *pinned, "pinned copy", _MUST, _GO),
        Row(part, "ms", *back, "promotion", _MUST_BACK, _GO_BACK),
        *_compared(4 * sizeBytes, rounds, stream),
        *_passes(buffer, rounds, stream),
    ]
    buffer.free()
    return rows


def _copy(target: int, source: int, sizeBytes: int, stream: Any) -> None:
    # By the port, since the memory was pinned in pieces.
    device().copy(target, source, sizeBytes, stream, isMapped=True)


def _seconds(stream: Any, work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    stream.synchronize()
    return time.perf_counter() - begun


def _writtenBack(buffer: muninn.MuninnBuffer, stream: Any) -> float:
    with buffer.promote(stream=stream, track=True) as scratch:
        for offset in range(0, scratch.nbytes, _DIRTY * _SLICE_BYTES):
            scratch.markDirty(offset, 1)
        begun = time.perf_counter()
        scratch.writeback()
        return time.perf_counter() - begun


def _compared(sizeBytes: int, rounds: int, stream: Any) -> list[Row]:
    words = sizeBytes // 8
    window, shadow, copy = (
        muninn.array(f"w{number}", words, np.uint64, mode="fastMode") for number in range(3)
    )
    sliceWords = _SLICE_BYTES // 8
    flags = muninn.array("flags", words // sliceWords + 1, np.uint8, mode="fastMode")
    given = [each.deviceArray() for each in (window, shadow)]
    seen = flags.deviceArray()

    def compared() -> float:
        return _seconds(
            stream,
            lambda: launch.launch("compareSlices", *given, sliceWords, seen, stream=stream),
        )

    def copied() -> float:
        return _seconds(stream, lambda: _copy(copy.open(), window.open(), sizeBytes, stream))

    ours, peer = alternated(rounds, compared, copied)
    for each in (window, shadow, copy, flags):
        each.free()
    what = f"compare 2 × {title(sizeBytes)} in VRAM"
    return [Row(what, "ms", ours, peer, "copy within the GPU", _MUST_COMPARED, _GO_COMPARED)]


def _passes(buffer: muninn.MuninnBuffer, rounds: int, stream: Any) -> list[Row]:
    """A kernel that reads the window: where it is promoted, and where it is mapped."""
    result = muninn.array("result", 1, np.uint64, mode="fastMode").deviceArray()

    def read(array: Any) -> float:
        return _seconds(stream, lambda: launch.launch("readSum", array, result, stream=stream))

    mapped = buffer.deviceArray(0, dtype=np.uint64)
    with buffer.promote(stream=stream, track=True) as scratch:
        inVram = scratch.deviceArray(dtype=np.uint64)
        ours, peer = alternated(rounds, lambda: read(inVram), lambda: read(mapped))
        assert scratch.transfer is not None
        saved = float(np.median(peer) - np.median(ours)) / 1e3
        passes = scratch.transfer.seconds / saved if saved > 0 else float("inf")
    what = f"beside: a kernel reads {title(buffer.nbytes)}, promoted"
    note = f"promotion pays from {passes:.1f} passes on"
    return [Row(what, "ms", ours, peer, "mapped", None, None, note)]
