"""One array, two GPUs: the ways from one to the other, with their reasons and speeds.

`python examples/routes.py [MIB]` shares an array on GPU 0 and opens it for GPU 1 by each
route: the one that Muninn chooses, straight over the link, by way of the host, and
mapped, which copies nothing. Where there are fewer than two GPUs it emulates them.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any, NamedTuple

import given
import numpy as np

import muninn
from muninn.kernels import launch

ROUNDS = 3
SOURCE, TARGET = 0, 1
NAME = f"example/routes-{os.getpid()}"


class Row(NamedTuple):
    """A way that was tried. It has no seconds if it can not be."""

    asked: str
    route: str
    reason: str
    seconds: float | None
    isRight: bool


def emulateWhereNeeded() -> str:
    """Emulate two GPUs if the machine has fewer. Returns a sentence about the GPUs."""
    seen = given.twoGpus()
    gpus = [gpu["name"] for gpu in seen["gpus"]]
    if len(gpus) >= 2:
        return f"{gpus[SOURCE]} and {gpus[TARGET]}, by the back-end {seen['backend']}."
    return (
        f"This machine shows {len(gpus)} GPU{'s' * (len(gpus) != 1)}, so two are emulated in host "
        "memory (MUNINN_DEVICE=host MUNINN_HOST_GPUS=2): the figures are those of memcpy."
    )


def copied(asked: str, content: np.ndarray[Any, Any]) -> Row:
    """Open the buffer for the other GPU by a route, and compare what arrived."""
    route: Any = None if asked == "-" else asked
    best, isRight = None, True
    for _ in range(ROUNDS):
        try:
            with muninn.open(NAME, targetGpu=TARGET, route=route) as there:
                isRight = isRight and np.array_equal(there.read(), content)
                transfer = there.transfer
        except muninn.errors.TopologyNotPeerable as error:
            return Row(asked, "none", error.reason, None, True)
        assert transfer is not None, "it is on another GPU"
        if best is None or transfer.seconds < best.seconds:
            best = transfer
    assert best is not None
    reason = f"{best.reason}{f': {best.note}' if best.note else ''}"
    return Row(asked, str(best.route), reason, best.seconds, isRight)


def mapped(content: np.ndarray[Any, Any]) -> Row:
    """Let a kernel of the other GPU read the buffer where it is."""
    total = muninn.share(np.zeros(1, np.uint64), mode="fastMode", preferredGpu=TARGET)
    stream = muninn.createStream(TARGET)
    best = None
    try:
        with muninn.open(NAME, targetGpu=TARGET, route="mapped") as there:
            for _ in range(ROUNDS + 1):  # the first one compiles the kernel
                begun = time.perf_counter()
                launch.launch("readSum", there.deviceArray(), total.deviceArray(), stream=stream)
                stream.synchronize()
                seconds = time.perf_counter() - begun
                best = seconds if best is None else min(best, seconds)
    except (muninn.errors.TopologyNotPeerable, muninn.errors.DeviceUnavailable) as error:
        return Row("mapped", "none", error.reason, None, True)
    expected = content.sum(dtype=np.uint64) * np.uint64(ROUNDS + 1)
    return Row("mapped", "mapped", "read by a kernel", best, bool(total.read()[0] == expected))


def verdict(rows: list[Row]) -> str:
    """Which of the two ways of a copy is the faster one."""
    speeds = {row.asked: row.seconds for row in rows}
    p2p, staged = speeds["p2p"], speeds["staged"]
    if p2p is None or staged is None:
        return "There is no way over the link, so Muninn copies by way of the host."
    if p2p <= staged:
        return f"P2P outperforms staged: it is {staged / p2p:.2f} times as fast."
    return (
        f"Staged outperforms P2P here: it is {p2p / staged:.2f} times as fast. Where the link is "
        "measured to be a tenth slower, Muninn leaves it alone (peerSlower)."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "mib",
        metavar="MIB",
        type=given.count,
        nargs="?",
        default=256,
        help="the size of the array (default: %(default)s)",
    )
    arguments = parser.parse_args()
    print(emulateWhereNeeded(), flush=True)
    content = np.arange(arguments.mib << 17, dtype=np.uint64)
    with muninn.share(
        content,
        NAME,
        "fastMode",
        preferredGpu=SOURCE,
        lifetime="lastClose",  # otherwise it would stay while any process is in the domain
    ) as shared:
        rows = [*(copied(asked, content) for asked in ("-", "p2p", "staged")), mapped(content)]
        sizeBytes = shared.nbytes
    print(f"{arguments.mib} MiB from GPU {SOURCE} to GPU {TARGET}, the best of {ROUNDS}:")
    print(f"{'ASKED':8}{'ROUTE':8}{'MS':>10}{'GB/S':>8}  BYTES  REASON")
    for row in rows:
        figures = f"{'-':>10}{'-':>8}  {'-':5}"
        if row.seconds is not None:
            speed = sizeBytes / row.seconds / 1e9
            isRight = "right" if row.isRight else "WRONG"
            figures = f"{row.seconds * 1e3:>10.3f}{speed:>8.1f}  {isRight}"
        print(f"{row.asked:8}{row.route:8}{figures}  {row.reason}")
    print(verdict(rows))
    return 0 if all(row.isRight for row in rows) else 1


if __name__ == "__main__":
    given.run(main)
