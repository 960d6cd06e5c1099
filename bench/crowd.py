"""The rows about deaths and crowds: takeover, many buffers and members, idle members,
wake-ups, memory.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import psutil

import muninn
from bench.harness import Options, Peer, Row, newDomain, quantile


def takeover(options: Options) -> list[Row]:
    """SIGKILL of the broker → the first successful operation of another member, in ms."""
    newDomain()
    kills = options.pick(100, 5)
    opened, shared = [], []
    for _ in range(kills):
        owner = Peer("broker")
        assert owner.line() == owner.pid, "the first process is broker"
        with muninn.open("kept"):
            time.sleep(0.02)
        owner.process.kill()
        started = time.perf_counter()
        with muninn.open("kept") as kept:
            opened.append((time.perf_counter() - started) * 1e3)
            muninn.share(b"x", name="next").free()
            shared.append((time.perf_counter() - started) * 1e3)
            kept.free()
        owner.end()
        newDomain()
    return [
        Row(
            "broker killed → open, p50",
            "ms",
            [quantile(opened, 0.5)],
            [],
            "",
            20.0,
            5.0,
            f"{kills} kills",
        ),
        Row("broker killed → open, p99", "ms", [quantile(opened, 0.99)], [], "", 100.0, 20.0),
        Row(
            "broker killed → share + free, p50",
            "ms",
            [quantile(shared, 0.5)],
            [],
            "",
            20.0,
            5.0,
            "needs the new broker",
        ),
        Row(
            "broker killed → share + free, p99", "ms", [quantile(shared, 0.99)], [], "", 100.0, 20.0
        ),
    ]


def crowding(options: Options) -> list[Row]:
    """Open latency in a full domain against that in an empty one."""
    few, many = (
        _openTimes(10, 2, options),
        _openTimes(options.pick(10_000, 300), options.pick(200, 6), options),
    )
    what = f"open + close with {options.pick(10_000, 300)} buffers, {options.pick(200, 6)} members"
    return [Row(what, "µs", many, few, "with 10 and 2", 1.5, 1.1)]


def _openTimes(buffers: int, members: int, options: Options) -> list[float]:
    newDomain()
    kept = [
        muninn.share(np.zeros(16), name=f"buffer{index}") for index in range(min(buffers, 1000))
    ]
    for buffer in kept:
        buffer.close()
    for index in range(len(kept), buffers):
        muninn.share(b"x" * 128, name=f"buffer{index}").close()
    crowd = [Peer("idle", "") for _ in range(members - 2)]
    for peer in crowd:
        peer.line()
    timer = Peer("openTimes", f"buffer{buffers // 2}", options.pick(1000, 100))
    timer.line()
    times = [timer.ask() for _ in range(options.pick(9, 3))]
    for peer in (timer, *crowd):
        peer.end(kill=True)
    for index in range(buffers):
        muninn.open(f"buffer{index}").free()
    return times


def waking(options: Options) -> list[Row]:
    """share + free beside members that sleep, and beside processes that wait for other
    names; the two domains are measured in turn.
    """
    many, waiters = options.pick(100, 6), options.pick(60, 4)
    rows: list[Row] = []
    for part, crowd, few, limit in (
        ("idle", [""] * many, [""] * 2, 1 / 0.9),
        ("awaitName", [f"never{i}" for i in range(waiters)], [], 1 / 0.8),
    ):
        peers, timers = [], []
        for names in (crowd, few):
            newDomain()
            owner = Peer("broker")
            owner.line()
            sleepers = [Peer(part, name) for name in names]
            for sleeper in sleepers:
                sleeper.line()
            timers.append(Peer("shareTimes", options.pick(300, 20)))
            timers[-1].line()
            peers.append([timers[-1], *sleepers, owner])
        sleeping = [psutil.Process(peer.pid) for peer in peers[0][1:-1]]
        time.sleep(0.5)
        used, began = _processorSeconds(sleeping), time.perf_counter()
        times = [[timer.ask() for timer in timers] for _ in range(options.pick(15, 3))]
        share = (_processorSeconds(sleeping) - used) / (time.perf_counter() - began) * 100
        for peer in (*peers[0], *peers[1]):
            peer.end(kill=True)
        what = (
            f"{len(crowd)} idle members" if part == "idle" else f"{len(crowd)} that wait for names"
        )
        beside = "with 2" if part == "idle" else "with none"
        rows.append(
            Row(
                f"share + free with {what}",
                "µs",
                [one for one, _ in times],
                [other for _, other in times],
                beside,
                limit,
                1.0,
            )
        )
        if part == "idle":
            rows.append(
                Row(
                    f"processor time of {what} meanwhile",
                    "%",
                    [round(share, 3)],
                    [],
                    "",
                    2.0,
                    0.0,
                    "of a core, all together",
                )
            )
    return rows


def _processorSeconds(processes: list[psutil.Process]) -> float:
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))


def idling(options: Options) -> list[Row]:
    """Processor time of a member and of the broker that have nothing to do, in % of a
    core.
    """
    newDomain()
    span = options.pick(20, 2)
    owner = Peer("broker")
    owner.line()
    member = Peer("idle", "kept")
    member.line()
    time.sleep(0.5)
    idlers = {
        name: [psutil.Process(peer.pid)]
        for name, peer in (("the broker", owner), ("a member", member))
    }
    before = {name: _processorSeconds(processes) for name, processes in idlers.items()}
    time.sleep(span)
    used = {
        name: round((_processorSeconds(processes) - before[name]) / span * 100, 3)
        for name, processes in idlers.items()
    }
    for peer in (member, owner):
        peer.end(kill=True)
    return [
        Row(f"idle processor time of {name}", "%", [share], [], "", 0.2, 0.0, f"over {span} s")
        for name, share in used.items()
    ]


def memory(options: Options) -> list[Row]:
    """Resident memory that a member adds over numpy, in MiB."""
    newDomain()
    one = muninn.share(np.ones(16), name="one")
    plain, ours = [], []
    for _ in range(options.pick(5, 1)):
        for collected, withMuninn in ((plain, False), (ours, True)):
            peer = Peer("memory", withMuninn)
            collected.append(peer.line()["rss"] / (1 << 20))
            peer.end()
    one.free()
    added = statistics.median(ours) - statistics.median(plain)
    return [
        Row(
            "resident memory that a member adds",
            "MiB",
            [added],
            [],
            "",
            8.0,
            None,
            "over a process with numpy and psutil",
        )
    ]
