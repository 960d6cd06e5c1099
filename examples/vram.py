"""Two processes, one GPU: a producer's kernels write frames into VRAM and a consumer's
read them there, fenced, without a host copy.

`python examples/vram.py [FRAMES] [MIB]` starts both, and shows which calls of the
driver they made while they exchanged frames. Needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import given
import numpy as np

import muninn
from muninn.kernels import launch

#: The driver's calls that move bytes.
COPIES = ("cuMemcpy",)


def recorded() -> Counter[str]:
    """Count the driver's calls of this process from now on: Muninn's and Numba's go
    through the same bindings.
    """
    from cuda.bindings import driver

    calls: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            calls[name] += 1
            return function(*arguments)

        run.__name__ = name
        return run

    for name in dir(driver):
        if name.startswith("cu") and name[2:3].isupper() and callable(getattr(driver, name)):
            setattr(driver, name, counting(name, getattr(driver, name)))
    return calls


def produce(names: list[str], frames: int, words: int) -> dict[str, Any]:
    """Write frame after frame; each time the consumer has taken the last one."""
    from numba import cuda

    frame = muninn.MuninnBuffer(
        words * 8, mode="fastMode", name=names[0], access="readWrite", lifetime="lastClose"
    )
    taken = muninn.array(names[1], 1, np.int64, lifetime="lastClose")
    stream = cuda.stream()
    calls: Counter[str] = Counter()
    for number in range(frames + 1):
        if number == 1:
            calls = recorded()  # The first frame compiles the kernel.
        with frame.write(stream=stream) as view:
            launch.launch("fillPattern", view.view(np.uint64), number, stream=stream)
        known = taken.waitNext(60, after=2 * number)
        assert known == 2 * (number + 1)
    return dict(calls)


def consume(names: list[str], frames: int, words: int) -> dict[str, Any]:
    """Check frame after frame on the GPU; only the count of wrong elements leaves it,
    at the end.
    """
    from numba import cuda

    frame, taken = (muninn.open(name, access="readWrite", timeout=60) for name in names)
    wrong, stream = cuda.to_device(np.zeros(1, np.uint64)), cuda.stream()
    calls: Counter[str] = Counter()
    started = 0.0
    for number in range(frames + 1):
        frame.waitNext(60, after=2 * number)
        if number == 1:
            calls, started = recorded(), time.perf_counter()
        with frame.read(stream=stream) as view:
            launch.launch("countMismatches", view.view(np.uint64), number, wrong, stream=stream)
        with taken.write() as view:
            view[0] = number
    stream.synchronize()
    seconds = time.perf_counter() - started
    seen = dict(calls)
    # This raises if the producer died before its kernels had written the frame.
    frame.wait(None)
    return {"calls": seen, "wrong": int(wrong.copy_to_host()[0]), "seconds": seconds}


def answersOf(frames: int, words: int) -> dict[str, Any]:
    """The last answers of both processes. This fails when one of them fails, because
    the other waits for it.
    """
    numbers = [f"example/vram-{os.getpid()}", str(frames), str(words)]
    sides = {
        side: subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, side, *numbers],
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in ("produce", "consume")
    }
    until = time.monotonic() + 300
    try:
        while any(process.poll() is None for process in sides.values()):
            for process in sides.values():
                if process.poll() or time.monotonic() > until:
                    raise subprocess.CalledProcessError(process.returncode or 1, process.args)
            time.sleep(0.01)
        return {side: json.loads(process.communicate()[0]) for side, process in sides.items()}
    finally:
        for process in sides.values():
            process.kill()
            process.wait()


def side(name: str, prefix: str, frames: str, words: str) -> None:
    """One of the two processes."""
    answer = {"produce": produce, "consume": consume}[name](
        [f"{prefix}/frame", f"{prefix}/taken"], int(frames), int(words)
    )
    print(json.dumps(answer))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "frames",
        metavar="FRAMES",
        type=given.count,
        nargs="?",
        default=200,
        help="how many (default: %(default)s)",
    )
    parser.add_argument(
        "mib",
        metavar="MIB",
        type=given.count,
        nargs="?",
        default=64,
        help="the size of each (default: %(default)s)",
    )
    arguments = parser.parse_args()
    frames, mib = arguments.frames, arguments.mib
    words = mib << 17
    with muninn.MuninnBuffer(4096, mode="fastMode") as probe:
        transport, reason = probe.describe()["transport"], probe.describe()["transportReason"]
        if transport == "memfd":
            print(
                "this machine has no GPU that a driver shows: there is nothing to see here",
                file=sys.stderr,
            )
            return 2
    print(f"{frames} frames of {mib} MiB in VRAM, by {transport} ({reason})")
    answers = answersOf(frames, words)
    consumed, copies = answers["consume"], 0
    for name, calls in (("producer", answers["produce"]), ("consumer", consumed["calls"])):
        copies += sum(count for call, count in calls.items() if call.startswith(COPIES))
        often = ", ".join(
            f"{call} {count}" for call, count in sorted(calls.items()) if count >= frames
        )
        print(f"{name}: {often}")
    rate = frames * mib / 1024 / consumed["seconds"]
    wrong = consumed["wrong"]
    print(
        f"copies in either process: {copies}; elements that were not the producer's: {wrong}; "
        f"{rate:.1f} GiB/s through both kernels"
    )
    return 0 if copies == 0 and wrong == 0 else 1


if __name__ == "__main__":
    if sys.argv[1:2] in (["produce"], ["consume"]):
        given.run(lambda: side(*sys.argv[1:]))
    given.run(main)
