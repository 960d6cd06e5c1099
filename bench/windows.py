"""Promotion of a window to an emulated GPU, and its comparison, beside the passes over the
same memory that they consist of.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

import numpy as np

import muninn
from bench.harness import Options, Row, alternated, newDomain, seconds
from muninn.kernels import launch

#: Speeds as shares of the peer's, from which the ratios of times follow.
_MUST_PROMOTED, _MUST_COMPARED, _GO = 1 / 0.9, 1 / 0.8, 1.0
_SLICE_BYTES, _WORD_BYTES = 64 << 10, 8


def promoting(options: Options) -> list[Row]:
    os.environ.update(MUNINN_DEVICE="host", MUNINN_HOST_GPUS="1")
    newDomain()
    sizeBytes, rounds = options.pick(256 << 20, 32 << 20), options.pick(25, 3)
    return [_promoted(sizeBytes, rounds), _compared(sizeBytes, rounds)]


def _promoted(sizeBytes: int, rounds: int) -> Row:
    """The way in, beside one copy to the same memory, which the next window gets again:
    other pages are as much as a tenth slower or faster.
    """
    buffer = muninn.share(np.ones(sizeBytes, np.uint8), "big", access="readWrite")
    base, stream = buffer.open(), muninn.createStream(0)

    def promoted() -> float:
        return seconds(lambda: buffer.promote(stream=stream, track=True).close())

    def copied() -> float:
        with buffer.promote(stream=stream, track=True) as scratch:
            return seconds(_call("memcpy", scratch.address, base, sizeBytes))

    times = alternated(rounds, promoted, copied)
    buffer.free()
    what = f"promotion of {sizeBytes >> 20} MiB to an emulated GPU"
    return Row(what, "ms", *times, "memcpy", _MUST_PROMOTED, _GO)


def _compared(sizeBytes: int, rounds: int) -> Row:
    """All slices are equal, so each byte is looked at."""
    words = sizeBytes // _WORD_BYTES
    window, shadow = (
        muninn.array(f"w{number}", words, np.uint64, mode="fastMode") for number in range(2)
    )
    flags, stream = np.zeros(sizeBytes // _SLICE_BYTES, np.uint8), muninn.createStream(0)
    given = window.deviceArray(), shadow.deviceArray(), _SLICE_BYTES // _WORD_BYTES, flags

    def compare() -> None:
        launch.launch("compareSlices", *given, stream=stream)
        stream.synchronize()

    peer = _call("memcmp", window.open(), shadow.open(), sizeBytes)
    times = alternated(rounds, lambda: seconds(compare), lambda: seconds(peer))
    assert not flags.any(), "slices that are equal were marked"
    window.free()
    shadow.free()
    what = f"compare 2 × {sizeBytes >> 20} MiB of an emulated GPU"
    return Row(what, "ms", *times, "memcmp", _MUST_COMPARED, _GO)


def _call(name: str, target: int, source: int, sizeBytes: int) -> Callable[[], object]:
    """A call of the C library."""
    function = getattr(ctypes.CDLL(None), name)
    given = ctypes.c_void_p(target), ctypes.c_void_p(source), ctypes.c_size_t(sizeBytes)
    return lambda: function(*given)
