"""The rows about seeing: what a scrape takes, and what counting costs those who count."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Callable

import numpy as np

import muninn
from bench.harness import Options, Peer, Row, microseconds, newDomain, quantile, seconds
from bench.opens import exchangeOurs

_PORT = 29618
_COUNTERS = "MUNINN_COUNTERS"


def scraping(options: Options) -> list[Row]:
    """A scrape by HTTP, in a domain of many buffers and members. The members are real
    ones; but for the one that serves they are forks of one process, which take little
    memory and time to start.
    """
    buffers, members = options.pick(10_000, 300), options.pick(200, 6)
    newDomain()
    os.environ["MUNINN_METRICS_PORT"] = str(_PORT)
    serving = Peer("broker")
    serving.line()
    del os.environ["MUNINN_METRICS_PORT"]
    for number in range(buffers):
        muninn.share(b"x" * 128, name=f"buffer{number}", tenant=f"team{number % 20}").close()
    crowd = Peer("forkMembers", members - 2, buffers, 50)
    crowd.line()

    def scrape() -> float:
        took = seconds(lambda: urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/metrics").read())
        return took * 1e3

    scrape()
    times = [scrape() for _ in range(options.pick(101, 5))]
    there = len(muninn.domainInfo()["members"])
    crowd.end()
    for number in range(buffers):
        muninn.free(f"buffer{number}")
    serving.end()
    what = f"scrape at {buffers} buffers, {there} members"
    return [
        Row(
            f"{what}, p50", "ms", [quantile(times, 0.5)], [], "", 50.0, 20.0, f"{len(times)} times"
        ),
        Row(f"{what}, p95", "ms", [quantile(times, 0.95)], [], "", None, None),
    ]


def counting(options: Options) -> list[Row]:
    """Counters on beside off, in domains in turn: the processes on both sides count, or
    none does.
    """
    rows = []
    rounds = options.pick(31, 3)
    for what, measure in (
        ("64 KiB there and back, counters on", _exchanged),
        ("open of what this process has open, counters on", _opened),
        ("open + close, counters on", _openedAndClosed),
    ):
        on, off = [], []
        for number in range(rounds + 1):
            # Which is first changes: the second finds warmer caches.
            for isOn in (True, False) if number % 2 else (False, True):
                took = _with(isOn, measure, options)
                if number:  # the first round warms up
                    (on if isOn else off).append(took)
        rows.append(Row(what, "µs", on, off, "counters off", 1.02, 1.005))
    return rows


def _with(isOn: bool, measure: Callable[[Options], float], options: Options) -> float:
    os.environ[_COUNTERS] = "true" if isOn else "false"
    try:
        newDomain()
        return measure(options)
    finally:
        del os.environ[_COUNTERS]


def _exchanged(options: Options) -> float:
    payload, out = np.ones(1 << 16, np.uint8), np.empty(1 << 16, np.uint8)
    return exchangeOurs(options.pick(3000, 100), payload, out)


def _opened(options: Options) -> float:
    with muninn.array("kept", 8, "u1"):
        took = microseconds(lambda: muninn.open("kept"), options.pick(20_000, 100))
    muninn.free("kept")
    return took


def _openedAndClosed(options: Options) -> float:
    muninn.array("kept", 8, "u1").close()
    took = microseconds(lambda: muninn.open("kept").close(), options.pick(3000, 100))
    muninn.free("kept")
    return took
