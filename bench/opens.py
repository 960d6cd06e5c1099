"""The rows about the import, opening a buffer, and exchanging data."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import resource_tracker, shared_memory

import numpy as np
import pyshmem

import muninn
from bench.harness import ROOT, Options, Peer, Row, environment, microseconds, newDomain, seconds


def importing(options: Options) -> list[Row]:
    def run(module: str) -> float:
        return (
            seconds(
                lambda: subprocess.run(
                    [sys.executable, "-c", f"import {module}"],
                    check=True,
                    cwd=ROOT,
                    env=environment(),
                )
            )
            * 1e3
        )

    for module in ("muninn", "numpy"):
        run(module)
    rounds = options.pick(25, 5)
    pairs = [(run("muninn"), run("numpy")) for _ in range(rounds)]
    return [
        Row(
            "import muninn, as a process",
            "ms",
            [ours for ours, _ in pairs],
            [peer for _, peer in pairs],
            "import numpy",
            2.0,
            1.5,
        )
    ]


def opening(options: Options) -> list[Row]:
    newDomain()
    repeats, rounds = options.pick(1000, 100), options.pick(9, 3)
    owner = Peer("broker")
    owner.line()
    peerName = f"muninnBench{os.getpid()}"
    stream = pyshmem.create(peerName, shape=(1024,), dtype=np.float64)
    block = shared_memory.SharedMemory(create=True, size=8192)
    firsts, peers, plain, again = [], [], [], []

    def attach() -> None:
        attached = shared_memory.SharedMemory(block.name)
        attached.close()
        # Attaching registers the block too, and the tracker would remove it at the end.
        resource_tracker.unregister(attached._name, "shared_memory")  # type: ignore[attr-defined]

    for _ in range(rounds):
        firsts.append(microseconds(lambda: muninn.open("kept").close(), repeats))
        peers.append(microseconds(lambda: pyshmem.open(peerName).close(), repeats))
        plain.append(microseconds(attach, repeats))
        with muninn.open("kept"):
            again.append(microseconds(lambda: muninn.open("kept"), repeats))
    stream.unlink()
    # `unlink` unregisters the block, and `attach` has done so already.
    resource_tracker.register(block._name, "shared_memory")  # type: ignore[attr-defined]
    block.close()
    block.unlink()
    muninn.open("kept").free()
    owner.end()
    return [
        Row(
            "open + close, first in a joined process",
            "µs",
            firsts,
            peers,
            "pyshmem open + close",
            1.0,
            0.5,
        ),
        Row(
            "open + close, beside", "µs", firsts, plain, "shared_memory attach + close", None, None
        ),
        Row("open of what this process has open", "µs", again, [], "", 10.0, 3.0),
    ]


def exchanging(options: Options) -> list[Row]:
    newDomain()
    rounds, exchanges = options.pick(7, 2), options.pick(2000, 200)
    payload, out = np.ones(1 << 16, np.uint8), np.empty(1 << 16, np.uint8)
    ours, peers, notified = [], [], []
    for scope in range(rounds):
        ours.append(exchangeOurs(exchanges, payload, out))
        peers.append(
            _exchangePyshmem(exchanges, payload, out, f"mb{os.getpid()}{scope}", notify=False)
        )
        notified.append(
            _exchangePyshmem(exchanges, payload, out, f"mn{os.getpid()}{scope}", notify=True)
        )
    return [
        Row("64 KiB there and back, p50", "µs", ours, peers, "pyshmem write/read_after", 0.5, 0.2),
        Row(
            "64 KiB there and back, beside",
            "µs",
            ours,
            notified,
            "pyshmem with notify=True",
            None,
            None,
        ),
    ]


def exchangeOurs(exchanges: int, payload: np.ndarray, out: np.ndarray) -> float:
    """The median time of 64 KiB to another process and back, in µs."""
    request = muninn.share(payload, name="request", access="readWrite")
    answer = muninn.share(payload, name="answer", access="readWrite")
    peer = Peer("echo", exchanges)
    peer.line()
    known = answer.generation

    def exchange() -> None:
        nonlocal known
        with request.write() as view:
            view[:] = payload
        known = answer.waitNext(30, after=known, out=out)

    result = microseconds(exchange, exchanges)
    peer.end()
    request.free()
    answer.free()
    return result


def _exchangePyshmem(
    exchanges: int, payload: np.ndarray, out: np.ndarray, prefix: str, notify: bool
) -> float:
    request = pyshmem.create(f"{prefix}q", shape=payload.shape, dtype=payload.dtype, notify=notify)
    answer = pyshmem.create(f"{prefix}a", shape=payload.shape, dtype=payload.dtype, notify=notify)
    peer = Peer("echoPyshmem", prefix, exchanges)
    peer.line()

    def exchange() -> None:
        known = answer.count
        request.write(payload)
        answer.read_after(known, timeout=30, out=out)

    result = microseconds(exchange, exchanges)
    peer.end()
    request.unlink()
    answer.unlink()
    return result
