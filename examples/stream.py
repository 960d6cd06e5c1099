"""Demo A: one bigMode buffer as large as the host allows, and several processes whose kernels stream it at once.

`python examples/stream.py [GIB] [PROCESSES] [ROUNDS]`. The default size is 60 % of the memory that is free. Each process maps the whole
buffer once, reads all of it by kernels in every round, and compares the sum with what was written. Needs a GPU.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

import muninn
from muninn.kernels import launch

#: Words that one process fills at a time, to know the sum of all of them.
_PART = 1 << 24


def stream(rounds: int) -> dict[str, Any]:
    """One reader: milliseconds of opening and of mapping, and GB/s of each round. It begins when its parent says so."""
    from cuda.bindings import driver as cu
    from numba import cuda

    started = time.perf_counter()
    opened = muninn.open("all")
    openMs = (time.perf_counter() - started) * 1e3
    started = time.perf_counter()
    view = opened.deviceArray()
    mapSeconds = time.perf_counter() - started
    result = cuda.to_device(np.zeros(1, np.uint64))
    launch.launch("readSum", view[:512], result)
    cu.cuCtxSynchronize()
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    rates, sums = [], []
    for _ in range(rounds):
        result.copy_to_device(np.zeros(1, np.uint64))
        started = time.perf_counter()
        launch.launch("readSum", view, result)
        cu.cuCtxSynchronize()
        rates.append(opened.nbytes / (time.perf_counter() - started) / 1e9)
        sums.append(int(result.copy_to_host()[0]))
    return {"openMs": openMs, "mapSeconds": mapSeconds, "rates": rates, "sums": sums}


def main() -> int:
    import psutil

    gib, processes, rounds = (float(argument) for argument in (*sys.argv[1:4], *("0", "3", "3")[len(sys.argv[1:4]) :]))
    sizeBytes = int(gib * (1 << 30)) or int(psutil.virtual_memory().available * 0.6)
    words = sizeBytes // 8
    os.environ.setdefault("MUNINN_DOMAIN", f"stream-{secrets.token_hex(4)}")
    with muninn.MuninnBuffer(4096, mode="fastMode") as probe:
        if probe.describe()["transport"] == "memfd":
            print("this machine has no GPU that a driver shows: there is nothing to see here", file=sys.stderr)
            return 2
    started = time.perf_counter()
    buffer = muninn.array("all", words, np.uint64)
    part = np.arange(_PART, dtype=np.uint64)
    for first in range(0, words, _PART):
        buffer.array[first : first + _PART] = part[: min(_PART, words - first)]
    whole, rest = divmod(words, _PART)
    expected = (whole * (_PART * (_PART - 1) // 2) + rest * (rest - 1) // 2) & ((1 << 64) - 1)
    print(f"{words * 8 / (1 << 30):.1f} GiB of host memory, made and filled in {time.perf_counter() - started:.1f} s")
    readers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "read", str(int(rounds))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(int(processes))
    ]
    for reader in readers:
        assert reader.stdout is not None and reader.stdout.readline() == '"ready"\n'
    for reader in readers:
        assert reader.stdin is not None
        reader.stdin.write("\n")
        reader.stdin.flush()
    answers = [json.loads(reader.communicate(timeout=500)[0]) for reader in readers]
    buffer.free()
    rates = [rate for answer in answers for rate in answer["rates"]]
    right = all(each == expected for answer in answers for each in answer["sums"])
    openMs, mapped = (statistics.median(answer[key] for answer in answers) for key in ("openMs", "mapSeconds"))
    print(f"{len(readers)} processes: opened in {openMs:.2f} ms, mapped for kernels in {mapped:.1f} s each")
    spread = f"{min(rates):.1f} to {max(rates):.1f} GB/s a process"
    print(
        f"streamed at once, {int(rounds)} rounds: {spread}, {sum(rates) / rounds:.1f} GB/s together; sums {'right' if right else 'WRONG'}"
    )
    return 0 if right else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["read"]:
        print(json.dumps(stream(int(sys.argv[2]))))
        sys.exit(0)
    sys.exit(main())
