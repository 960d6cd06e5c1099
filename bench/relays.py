"""Copies between emulated GPUs, beside the copies of memory that they consist of."""

from __future__ import annotations

import os
import time
from functools import partial

import numpy as np

import muninn
from bench.harness import Options, Row, alternated, newDomain

#: Speeds as shares of the peer's, from which the ratios of times follow.
_MUST, _GO = 1 / 0.8, 1.0


def relaying(options: Options) -> list[Row]:
    """A copy by way of the host, beside two copies one after the other, and a straight
    one beside one.
    """
    os.environ.update(MUNINN_DEVICE="host", MUNINN_HOST_GPUS="2")
    newDomain()
    sizeBytes = options.pick(256 << 20, 32 << 20)
    near, far = (
        muninn.MuninnBuffer(sizeBytes, mode="fastMode", preferredGpu=gpu, access="readWrite")
        for gpu in (0, 1)
    )
    with near.write() as view:
        view[:] = 1
    private = [np.ones(sizeBytes, np.uint8) for _ in range(3)]

    def ours(route: str) -> float:
        begun = time.perf_counter()
        far.copyFrom(near, route=route)  # type: ignore[arg-type]  # one of the two
        return time.perf_counter() - begun

    def copies(count: int) -> float:
        begun = time.perf_counter()
        for number in range(count):
            np.copyto(private[number + 1], private[number])
        return time.perf_counter() - begun

    rows = []
    for route, count in (("staged", 2), ("p2p", 1)):
        times = alternated(options.pick(15, 2), partial(ours, route), partial(copies, count))
        what = f"copy of {sizeBytes >> 20} MiB to another emulated GPU, {route}"
        rows.append(Row(what, "ms", *times, f"{count} × np.copyto", _MUST, _GO))
    near.free()
    far.free()
    return rows
