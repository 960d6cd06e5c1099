"""A victim: a process whose kernels write a shared buffer without a pause. `python -m
tests.crash.worker ROLE NAME CUBIN SEED`.

The kernel is `fillPattern`, which was assembled before, so the process is at work a
moment after its start. It prints "at work" once its first launches are queued, and
never ends by itself. A worker of the role `successor` writes nothing and is not killed:
it prints the state of the buffer and of the domain.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import time
from pathlib import Path

import numpy as np
from cuda.bindings import driver as cu

import muninn
from muninn.devices.cuda.driver import call
from muninn.kernels import references

BOUND_SECONDS = 120
ELEMENTS = 1 << 20
_THREADS, _BLOCKS = 256, 512
#: Launches between two waits: enough to keep the GPU busy, few enough that a kill may
#: come in any of them.
_BATCH = 16


class Kernel:
    """A kernel of a cubin, with the arguments that Numba would give it: an array is
    seven of them.
    """

    def __init__(self, cubin: bytes, name: str) -> None:
        self._library = call(cu.cuLibraryLoadData, cubin, [], [], 0, [], [], 0)
        count = int(call(cu.cuLibraryGetKernelCount, self._library))
        kernels = call(cu.cuLibraryEnumerateKernels, count, self._library)
        self._function = next(
            call(cu.cuKernelGetFunction, kernel)
            for kernel in kernels
            if name.encode() in call(cu.cuKernelGetName, kernel)
        )

    def launch(self, stream: int, address: int, elements: int, seed: int) -> None:
        values = (0, 0, elements, 8, address, elements, 8, seed)
        words = [ctypes.c_uint64(value) for value in values]
        pointers = (ctypes.c_void_p * len(words))(*(ctypes.addressof(word) for word in words))
        call(
            cu.cuLaunchKernel,
            self._function,
            _BLOCKS,
            1,
            1,
            _THREADS,
            1,
            1,
            0,
            stream,
            ctypes.addressof(pointers),
            0,
        )


def opened(role: str, name: str) -> muninn.MuninnBuffer:
    if role in ("owner", "broker", "host"):
        mode = "bigMode" if role == "host" else "fastMode"
        return muninn.MuninnBuffer(
            ELEMENTS * 8, mode=mode, name=name, access="readWrite", lifetime="lastClose"
        )
    if role == "lender":
        from numba import cuda

        return muninn.share(
            cuda.device_array(ELEMENTS, np.uint64),
            name,
            access="readWrite",
            lifetime="lastClose",
            copy=False,
        )
    return muninn.open(name, access="readWrite", timeout=30)


def mismatches(buffer: muninn.MuninnBuffer, seed: int) -> int:
    """How many elements differ from the pattern that every writer writes."""
    wrong = np.zeros(1, np.uint64)
    references.countMismatches(buffer.read().view(np.uint64)[:ELEMENTS], seed, wrong)
    return int(wrong[0])


def inherit(name: str, seed: int) -> None:
    """Check that the buffer is whole. Once all other members are dead, check that this
    process is the only member, and that no buffer is left.
    """
    with muninn.open(name, timeout=30) as buffer:
        wrong = mismatches(buffer, seed)
        print(
            "whole" if wrong == 0 else f"{wrong} elements are not what every writer wrote",
            flush=True,
        )
        sys.stdin.readline()
    deadline = time.monotonic() + BOUND_SECONDS / 2
    while time.monotonic() < deadline:
        members, buffers = muninn.domainInfo()["members"], muninn.listBuffers()
        if len(members) == 1 and not buffers:
            break
        time.sleep(0.01)
    names = [each["name"] for each in buffers]
    print(
        "alone, and nothing is left"
        if len(members) == 1 and not names
        else f"{len(members)} members, {names}",
        flush=True,
    )


def main() -> None:
    role, name, cubin, seed = sys.argv[1:]
    signal.alarm(BOUND_SECONDS)
    if role == "successor":
        inherit(name, int(seed))
        return
    buffer = opened(role, name)
    address = buffer.open()
    call(cu.cuCtxSetCurrent, call(cu.cuDevicePrimaryCtxRetain, 0))
    kernel, stream = (
        Kernel(Path(cubin).read_bytes(), "fillPattern"),
        int(call(cu.cuStreamCreate, 1)),
    )
    said = False
    while True:
        for _ in range(_BATCH):
            kernel.launch(stream, address, ELEMENTS, int(seed))
        if not said:
            print("at work", flush=True)
            said = True
        buffer.signal(stream)
        call(cu.cuStreamSynchronize, stream)


if __name__ == "__main__":
    main()
