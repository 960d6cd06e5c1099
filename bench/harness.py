"""The parts that every measurement shares: rounds, medians, peer processes, and a
domain of its own.

A figure of a busy machine means little alone, so every row is a ratio. A round measures
Muninn and the peer one after the other, and gives one ratio. The table shows the median
of the ratios, with the smallest and the largest.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parent.parent


class Row(NamedTuple):
    """One line of the table. `ours` and `peer` are in `unit`. `limit` and `goal` bound
    the ratio; in a row without a peer they bound `ours`.
    """

    what: str
    unit: str
    ours: list[float]
    peer: list[float]
    peerName: str
    limit: float | None
    goal: float | None
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        return (
            [mine / other for mine, other in zip(self.ours, self.peer, strict=True)]
            if self.peer
            else []
        )

    @property
    def compared(self) -> float:
        """The figure that `limit` and `goal` bound."""
        return statistics.median(self.ratios or self.ours)

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return "beside"
        if self.goal is not None and self.compared <= self.goal:
            return "goal"
        return "ok" if self.compared <= self.limit else "SHORT"


class Options(NamedTuple):
    """How much is measured.

    Attributes
    ----------
    pinnedBytes
        How much host memory is pinned beside a neighbour; 0: what the machine allows.
    """

    quick: bool
    pinnedBytes: int = 0

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full


def microseconds(action: Callable[[], object], repeats: int) -> float:
    """The median duration of `action`, in µs."""
    durations = []
    for _ in range(repeats):
        started = time.perf_counter_ns()
        action()
        durations.append(time.perf_counter_ns() - started)
    return statistics.median(durations) / 1e3


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def writingSeconds(arrays: Sequence[np.ndarray]) -> float:
    """The seconds in which the bytes of arrays are written to a new file in `/dev/shm`."""
    path = Path("/dev/shm") / f"muninn-{os.getuid()}-bench-file-{os.getpid()}"
    try:
        with path.open("wb", buffering=0) as written:
            return seconds(lambda: [_writeAll(written, memoryview(array)) for array in arrays])
    finally:
        path.unlink(missing_ok=True)


def _writeAll(file: io.FileIO, left: memoryview) -> None:
    while left:
        left = left[file.write(left) :]


def alternated(
    rounds: int, ours: Callable[[], float], peer: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """The milliseconds of both, which give seconds, one after the other."""
    for _ in range(2):
        ours(), peer()
    pairs = [(ours() * 1e3, peer() * 1e3) for _ in range(rounds)]
    return [mine for mine, _ in pairs], [other for _, other in pairs]


def quantile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def newDomain() -> str:
    """Leave the present domain, and choose a fresh one for this process and the
    processes that it starts.
    """
    from muninn.session import membership

    if membership._current is not None:
        membership.current().leave()
    os.environ["MUNINN_DOMAIN"] = f"bench-{secrets.token_hex(4)}"
    return os.environ["MUNINN_DOMAIN"]


def environment() -> dict[str, str]:
    """For child processes: the checkout is importable, and compiled modules are kept as
    they would be on a user's machine.
    """
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]),
    }


class Peer:
    """Another Python process that runs `bench.parts:function(*arguments)` and talks in
    lines of JSON.
    """

    def __init__(self, function: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.parts", function, json.dumps(arguments)],
            cwd=ROOT,
            env=environment(),
            text=True,
            bufsize=1,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self.process.pid

    def line(self) -> Any:
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            raise RuntimeError(
                f"{self.process.args!r:.200} ended with status {self.process.wait()}"
            )
        return json.loads(text)

    def say(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")

    def ask(self) -> Any:
        self.say()
        return self.line()

    def end(self, kill: bool = False) -> None:
        if kill:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.wait()
