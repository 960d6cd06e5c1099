"""The other processes of the benchmarks: `python -m bench.parts FUNCTION
'[ARGUMENTS]'`. Each reads and writes lines of JSON.
"""

from __future__ import annotations

import gc
import json
import select
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from muninn.prof.parts import broker as broker
from muninn.prof.parts import echo as echo
from muninn.prof.parts import say as say

#: The pause of a worker between two requests.
_THINKING_SECONDS = 0.001


def idle(name: str) -> None:
    """Join, open the buffer if there is a name, and stay."""
    import muninn

    kept = muninn.open(name) if name else muninn.domainInfo()
    say(True)
    for _ in sys.stdin:
        say(bool(kept))


def echoPyshmem(prefix: str, rounds: int) -> None:
    """The same with pyshmem."""
    import numpy as np
    import pyshmem

    request, answer = pyshmem.open(f"{prefix}q"), pyshmem.open(f"{prefix}a")
    out = np.empty(1 << 16, np.uint8)
    known = request.count
    say(True)
    for _ in range(rounds):
        answer.write(request.read_after(known, timeout=30, out=out))
        known = request.last_read_count


def streamShared(name: str, rounds: int) -> None:
    """Read the shared buffer `rounds` times when told; say the seconds of each."""
    import numpy as np

    import muninn

    _stream(muninn.open(name).array.view(np.float64), rounds)


def streamPrivate(sizeBytes: int, rounds: int, isHuge: bool) -> None:
    """Read private memory of that size the same way, with huge pages where the kernel
    gives them, or without.
    """
    import mmap

    import numpy as np

    memory = mmap.mmap(-1, sizeBytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE if isHuge else mmap.MADV_NOHUGEPAGE)
    array = np.frombuffer(memory, np.float64)
    array[:] = 1.0
    _stream(array, rounds)


def _stream(array: Any, rounds: int) -> None:
    flat = array.reshape(-1)
    flat.sum()
    say(True)
    for _ in sys.stdin:
        durations = []
        for _ in range(rounds):
            started = time.perf_counter()
            flat.sum()
            durations.append(time.perf_counter() - started)
        say(durations)


def memory(withMuninn: bool) -> None:
    """Bytes of this process with numpy, and with Muninn, joined and one buffer open."""
    import numpy as np
    import psutil

    kept: list[Any] = [np.ones(1)]
    if withMuninn:
        import muninn

        kept.append(muninn.open("one"))
        kept.append(kept[-1].array.sum())
    gc.collect()
    info = psutil.Process().memory_full_info()
    say({"rss": info.rss, "uss": info.uss, "pss": info.pss})


def openTimes(name: str, repeats: int) -> None:
    """When told: the median time of open + close in a joined process, in µs."""
    import muninn
    from bench.harness import microseconds

    muninn.domainInfo()
    say(True)
    for _ in sys.stdin:
        say(microseconds(lambda: muninn.open(name).close(), repeats))


def shareTimes(repeats: int) -> None:
    """When told: the median time of share + free of a small name, in µs."""
    import muninn
    from bench.harness import microseconds

    muninn.domainInfo()
    say(True)
    for _ in sys.stdin:
        say(microseconds(lambda: muninn.share(b"x" * 64, name="again").free(), repeats))


def awaitName(name: str) -> None:
    """Wait for a name that does not come."""
    import muninn

    muninn.domainInfo()
    say(True)
    muninn.open(name, timeout=3600)


def shareVram(name: str, sizeBytes: int) -> None:
    """Share a buffer in VRAM, and stay."""
    import muninn

    kept = muninn.MuninnBuffer(sizeBytes, mode="fastMode", name=name, access="readWrite")
    say(kept.open() > 0)
    for _ in sys.stdin:
        say(bool(kept))


def openVram(name: str, rounds: int) -> None:
    """Milliseconds of each open of that buffer, up to the pointer that kernels take;
    and the driver's part in as many further opens.
    """
    import muninn
    from bench.driver import timedDriver

    muninn.open(name).open()  # makes the context and all else that a process makes once

    def openings(now: Callable[[], float]) -> list[float]:
        took = []
        for _ in range(rounds):
            started = now()
            buffer = muninn.open(name)
            buffer.open()
            took.append((now() - started) * 1e3)
            buffer.close()
            _giveBack()
        return took

    whole = openings(time.perf_counter)
    with timedDriver() as spent:
        say([whole, openings(lambda: spent[0])])


def openBig(name: str, rounds: int) -> None:
    """Milliseconds of each open of a buffer in host memory."""
    import muninn

    muninn.domainInfo()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        buffer = muninn.open(name)
        times.append((time.perf_counter() - started) * 1e3)
        buffer.close()
    say(times)


def followVersions(name: str) -> None:
    """Open each newer version of a bundle as soon as it is there; say when that was, by
    the clock that all processes share.
    """
    import muninn

    bundle = muninn.openBundle(name)
    say(True)
    while True:
        bundle.waitNewer()
        newer = muninn.openBundle(name)
        opened = time.perf_counter()
        bundle.close()
        bundle = newer
        say(opened)


def attachBundle(name: str, rounds: int, isInVram: bool) -> None:
    """Milliseconds of each open of a bundle, up to all of its arrays; and for VRAM the
    driver's part in as many further opens.
    """
    import muninn

    def attachings(now: Callable[[], float]) -> list[float]:
        took = []
        for _ in range(rounds):
            started = now()
            bundle = muninn.openBundle(name)
            arrays = [bundle[key] for key in bundle]
            took.append((now() - started) * 1e3)
            del arrays
            bundle.close()
            if isInVram:
                _giveBack()
        return took

    muninn.openBundle(name).close()  # makes what a process makes once
    whole = attachings(time.perf_counter)
    if not isInVram:
        say([whole, []])
        return
    from bench.driver import timedDriver

    with timedDriver() as spent:
        say([whole, attachings(lambda: spent[0])])


def launchAndAllocate() -> None:
    """Launch a kernel and wait for it, and allocate and free memory of the GPU, again and
    again from one line to the next; say then the longest seconds of each.
    """
    import numpy as np
    from cuda.bindings import driver as cu
    from numba import cuda

    import muninn
    from muninn.devices.cuda.driver import call
    from muninn.devices.cuda.gpu import Gpu
    from muninn.kernels import launch

    muninn.domainInfo()
    source, result = cuda.to_device(np.ones(512, np.uint64)), cuda.to_device(np.zeros(1, np.uint64))
    gpu = Gpu(0)
    properties = gpu.allocationProperties()

    def launched() -> None:
        launch.launch("readSum", source, result)
        call(cu.cuStreamSynchronize, 0)

    def allocated() -> None:
        call(cu.cuMemRelease, call(cu.cuMemCreate, gpu.granuleBytes, properties, 0))

    for _ in range(10):
        launched()
        allocated()
    gc.disable()
    say(True)
    while sys.stdin.readline():
        say(True)
        longest = {"launch": 0.0, "allocation": 0.0}
        while not select.select([sys.stdin], [], [], 0)[0]:
            for name, action in (("launch", launched), ("allocation", allocated)):
                started = time.perf_counter()
                action()
                longest[name] = max(longest[name], time.perf_counter() - started)
        sys.stdin.readline()
        say(longest)


def serveVersions(name: str) -> None:
    """Serve requests from one line to the next, each by the newest version of a bundle;
    say then how long they took. The pause between two requests keeps several workers
    from waiting for each other's processor.
    """
    import numpy as np

    import muninn

    follower = muninn.followBundle(name, ahead=True)
    last, changes = -1, 0

    def request(number: int) -> None:
        nonlocal last, changes
        bundle = follower.newest()
        version = int(np.asarray(bundle["version"]))
        if not (np.asarray(bundle[f"tensor{number % (len(bundle) - 1)}"]) == version).all():
            raise ValueError(f"a tensor is not of version {version}")
        changes += version != last
        last = version

    request(0)
    say(True)
    while sys.stdin.readline():
        took: list[float] = []
        errors: list[str] = []
        before = changes
        while not select.select([sys.stdin], [], [], _THINKING_SECONDS)[0]:
            started = time.perf_counter()
            try:
                request(len(took))
            except (muninn.errors.MuninnError, OSError, ValueError) as error:
                errors.append(repr(error))
            took.append((time.perf_counter() - started) * 1e3)
        sys.stdin.readline()
        median = statistics.median(took)
        say(
            {
                "requests": len(took),
                "failed": len(errors),
                "errors": sorted(set(errors)),
                "median": median,
                "slowest": max(took),
                "slow": sum(each > median + 1 for each in took),
                "changes": changes - before,
            }
        )


def _giveBack() -> None:
    """Wait until closed memory is unmapped, so that the next open maps it again."""
    from bench.driver import device

    device().memoryInfo(0)


def openTorch(pickled: str) -> None:
    """Milliseconds of rebuilding a tensor that `torch.multiprocessing` sent."""
    import pickle

    import torch

    torch.empty(1, device="cuda")
    rebuild, arguments = pickle.loads(bytes.fromhex(pickled))
    started = time.perf_counter()
    tensor = rebuild(*arguments)
    torch.cuda.synchronize()
    say((time.perf_counter() - started) * 1e3)
    del tensor


def answerTickets(exchanges: int) -> None:
    """Answer each ticket of `there` by one of `back`, stream to stream."""
    import muninn
    from bench.driver import device, lastTicket, spinUntil

    there, back = (muninn.open(name, access="readWrite") for name in ("there", "back"))
    stream = device().createStream(0)
    back.open()
    say(True)
    for wanted in range(1, exchanges + 1):
        spinUntil(lambda wanted=wanted: lastTicket(there) >= wanted)
        there.wait(stream, wanted)
        back.signal(stream)
    stream.synchronize(30)


def answerEvents(exchanges: int, raw: str) -> None:
    """The same with bare interprocess events."""
    import ctypes

    from cuda.bindings import driver as cu

    import muninn
    from bench.driver import openEvent, spinUntil
    from muninn.devices.cuda.driver import call, initialise

    initialise()
    call(cu.cuCtxSetCurrent, call(cu.cuDevicePrimaryCtxRetain, 0))
    event = call(
        cu.cuEventCreate,
        int(cu.CUevent_flags.CU_EVENT_INTERPROCESS) | int(cu.CUevent_flags.CU_EVENT_DISABLE_TIMING),
    )
    theirs, stream = openEvent(raw), call(cu.cuStreamCreate, 1)
    shown = muninn.open("counters", access="readWrite").array
    say(ctypes.string_at(call(cu.cuIpcGetEventHandle, event).getPtr(), 64).hex())
    for wanted in range(1, exchanges + 1):
        spinUntil(lambda wanted=wanted: int(shown[0]) >= wanted)
        call(cu.cuStreamWaitEvent, stream, theirs, 0)
        call(cu.cuEventRecord, event, stream)
        shown[1] = wanted
    call(cu.cuStreamSynchronize, stream)


def forkMembers(count: int, buffers: int, held: int) -> None:
    """Fork so many members, each of which holds some of the buffers; end them when the
    input ends.
    """
    import os
    import signal

    import muninn

    ready, told = os.pipe()
    members = []
    for number in range(count):
        if (member := os.fork()) == 0:
            first = number * 37
            kept = [muninn.open(f"buffer{(first + each) % buffers}") for each in range(held)]
            os.write(told, b"x")
            signal.pause()
            os._exit(len(kept))
        members.append(member)
    left = count
    while left:
        left -= len(os.read(ready, left))
    say(True)
    for _ in sys.stdin:
        say(True)
    for member in members:
        os.kill(member, signal.SIGKILL)
        os.waitpid(member, 0)


if __name__ == "__main__":
    globals()[sys.argv[1]](*json.loads(sys.argv[2]))
