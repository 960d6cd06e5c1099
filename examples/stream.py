"""Demo A: one bigMode buffer as large as the host allows, and several processes whose
kernels stream it at once.

`python examples/stream.py [GIB] [PROCESSES] [ROUNDS]`. The default size is nine tenths
of the memory that is free. One process's kernel writes a pattern into all of it; each
of the others maps it once, and its kernels compare every element with the pattern,
round by round. Beside them, in the same run: one process alone, and the GPU's copy
engine, which is as fast as the bus. Needs a GPU, and psutil.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import given
import numpy as np

import muninn
from muninn.kernels import launch

#: The seed of the pattern.
SEED = 20261126
#: How often the buffer is opened and closed for a median.
_OPENS = 101
#: The bytes that the copy engine gets at a time.
_PART_BYTES = 1 << 28


def opening(name: str) -> tuple[float, float]:
    """Milliseconds of the first open of this process, which joins the domain, and the
    median of the next ones.
    """
    took = []
    for _ in range(1 + _OPENS):
        started = time.perf_counter()
        opened = muninn.open(name)
        took.append((time.perf_counter() - started) * 1e3)
        opened.close()
    return took[0], statistics.median(took[1:])


def readByKernels(buffer: muninn.MuninnBuffer, rounds: int) -> tuple[list[float], int]:
    """GB/s of each round, and how many elements differ from the pattern."""
    from numba import cuda

    wrong, rates = cuda.to_device(np.zeros(1, np.uint64)), []
    for _ in range(rounds):
        started = time.perf_counter()
        with buffer.read(stream=None) as view:
            launch.launch("countMismatches", view, SEED, wrong)
        cuda.synchronize()
        rates.append(buffer.nbytes / (time.perf_counter() - started) / 1e9)
    return rates, int(wrong.copy_to_host()[0])


def readByCopies(buffer: muninn.MuninnBuffer) -> float:
    """GB/s of the copy engine, from all of the buffer to one piece of VRAM."""
    from cuda.bindings import driver as cu
    from numba import cuda

    source, piece = buffer.open(), cuda.device_array(_PART_BYTES, np.uint8)
    target = int(piece.__cuda_array_interface__["data"][0])
    started = time.perf_counter()
    for offset in range(0, buffer.nbytes, _PART_BYTES):
        (status,) = cu.cuMemcpyHtoDAsync(
            target, source + offset, min(_PART_BYTES, buffer.nbytes - offset), 0
        )
        assert status == cu.CUresult.CUDA_SUCCESS, status
    cuda.synchronize()
    return buffer.nbytes / (time.perf_counter() - started) / 1e9


def compiled(buffer: muninn.MuninnBuffer) -> None:
    """The first launch of a kernel compiles it; a few elements will do."""
    from numba import cuda

    launch.launch(
        "countMismatches", buffer.deviceArray()[:1], SEED, cuda.to_device(np.zeros(1, np.uint64))
    )
    cuda.synchronize()


def read(name: str, rounds: int) -> dict[str, Any]:
    """One reader. It begins when its parent says so."""
    firstMs, openMs = opening(name)
    opened = muninn.open(name)
    started = time.perf_counter()
    opened.open()
    mapSeconds = time.perf_counter() - started
    compiled(opened)
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    rates, wrong = readByKernels(opened, rounds)
    return {
        "firstMs": firstMs,
        "openMs": openMs,
        "mapSeconds": mapSeconds,
        "rates": rates,
        "wrong": wrong,
    }


def atOnce(name: str, processes: int, rounds: int) -> list[dict[str, Any]]:
    """The answers of so many readers that began together."""
    command = [sys.executable, "-W", "ignore", __file__, "read", name, str(rounds)]
    readers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    try:
        for reader in readers:
            assert reader.stdout is not None
            if reader.stdout.readline() != '"ready"\n':
                raise subprocess.CalledProcessError(reader.wait(), reader.args)
        for reader in readers:
            assert reader.stdin is not None
            reader.stdin.write("\n")
            reader.stdin.flush()
        return [json.loads(reader.communicate(timeout=500)[0]) for reader in readers]
    finally:
        for reader in readers:
            reader.kill()


def freeBytes() -> int:
    """The free bytes of the machine, or of `/dev/shm` if that has fewer."""
    import psutil

    shared = os.statvfs("/dev/shm")
    return min(int(psutil.virtual_memory().available), shared.f_bavail * shared.f_frsize)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "gib",
        metavar="GIB",
        type=given.gib,
        nargs="?",
        help="(default: nine tenths of what is free)",
    )
    parser.add_argument(
        "processes",
        metavar="PROCESSES",
        type=given.count,
        nargs="?",
        default=3,
        help="that read at once (default: %(default)s)",
    )
    parser.add_argument(
        "rounds",
        metavar="ROUNDS",
        type=given.count,
        nargs="?",
        default=3,
        help="of each reader (default: %(default)s)",
    )
    arguments = parser.parse_args()
    processes, rounds = arguments.processes, arguments.rounds
    words = int(freeBytes() * 0.9 if arguments.gib is None else arguments.gib * (1 << 30)) // 8
    name = f"example/stream-{os.getpid()}"
    with muninn.MuninnBuffer(4096, mode="fastMode") as probe:
        if probe.describe()["transport"] == "memfd":
            print(
                "this machine has no GPU that a driver shows: there is nothing to see here",
                file=sys.stderr,
            )
            return 2
    started = time.perf_counter()
    buffer = muninn.array(name, words, np.uint64, lifetime="lastClose")
    try:
        made = time.perf_counter() - started
        with buffer.write(stream=None) as view:
            launch.launch("fillPattern", view, SEED)
        compiled(buffer)
        alone, wrongAlone = readByKernels(buffer, 1)
        copied = readByCopies(buffer)
        answers = atOnce(name, processes, rounds)
    finally:
        buffer.free()
    wrong = wrongAlone + sum(answer["wrong"] for answer in answers)
    rates = [rate for answer in answers for rate in answer["rates"]]
    together = sum(rates) / rounds
    firstMs, openMs, mapped = (
        statistics.median(answer[key] for answer in answers)
        for key in ("firstMs", "openMs", "mapSeconds")
    )
    print(
        f"{words * 8 / (1 << 30):.1f} GiB of host memory, made in {made:.1f} s, filled by a kernel"
    )
    print(
        f"{len(answers)} processes: open p50 {openMs:.3f} ms, the first one, which joins the "
        f"domain, {firstMs:.1f} ms"
    )
    print(f"mapped for kernels in {mapped:.1f} s by each at once")
    print(
        f"streamed at once, {rounds} rounds: {min(rates):.1f} to {max(rates):.1f} GB/s a "
        f"process, {together:.1f} GB/s together"
    )
    print(
        f"beside: one process alone {alone[0]:.1f} GB/s, the copy engine {copied:.1f} GB/s; "
        f"together {together / copied:.2f} of that"
    )
    print(f"elements that were not what was written: {wrong}")
    return 0 if wrong == 0 else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["read"]:
        given.run(lambda: print(json.dumps(read(sys.argv[2], int(sys.argv[3])))))
    given.run(main)
