"""Perform the scenes: `make failpoints`, or a sample of them in the tests.

Singles: each role, each point that it passes, at its first and at its last pass, before
and after the change, killed and stopped; a copy also in its midst. Pairs: each ordered
pair of a first end and one during the recovery from it; of a player that copies or
promotes only where it passes other points than a client. Repeats: each point of a
client, more often in one domain than any table has rows.
"""

from __future__ import annotations

import argparse
import gc
import logging
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import chain, zip_longest
from multiprocessing import get_context
from typing import NamedTuple

from failpoints import player, points, scenes, windows
from failpoints.player import Deed
from failpoints.scenes import Scene
from muninn.broker import journal, maintenance
from muninn.control import layout

_JOBS = 2
#: Points that no role passes, or not each time, with the situation that leads there.
_UNPASSED = {
    **dict.fromkeys(
        (
            "generations.Generation.begin:exchangeSeqCst64",
            "generations.Generation.publish:futexWake32",
            "generations.Generation.publish:storeRelease64",
        ),
        "locks and accesses are C, in one call (test_owners, ownerlocks.pml); these functions are for callers without an owner: tests that play another member",
    ),
    "tickets.Tickets.abandon:casSeqCst64": "an interruption by a signal (test_owners)",
    "admission.Admission._accepted:accept#2": "no descriptor is left (test_candidacy)",
    "admission.Admission._refuse:send": "no descriptor is left (test_candidacy)",
    "withdrawal.Withdrawal.giveBack:pwrite": "repair (test_repair)",
    "header._openedName:SharedMemory": "the block has lost its own name (test_block)",
    "entry.retire:exchangeSeqCst32#2": "a process joins while the block is withdrawn (test_membership)",
    "shortages.Shortages.tell:fetchAddAcqRel32": "another process has scratch memory (test_shortages)",
    "member.Membership.forgetInChild:storeRelease32": "a member forks (test_freedmemory)",
    "withdrawal.reinstate:pwrite": "a death while the block is withdrawn (test_membership)",
    "server.Server._serve:send#2": "a stranger's bytes (test_hostile)",
    "server.Server._serve:send#3": "an error of the broker's own (test_directory)",
    "connections.Line.callAway:shutdown": "a thread waits for a broker that was deposed (test_takeover)",
    "election.Election.startAt:casSeqCst64": "repair (test_repair)",
    "index.NameIndex._tidy:casSeqCst64": "a tombstone that an earlier broker left (test_index)",
    "journal.Journal._written:ftruncate": "/dev/shm is full (test_journal)",
    "journal.Journal.finishCopy:rename": "a journal that has grown, or a second term (test_maintenance)",
    "folders._isPrivate:chmod": "a umask, or a hand, took bits away (test_folders)",
    "ownership.putRight:chmod": "a chmod, or a death before the umask was undone (test_ownership)",
    "header._openedLink:opened#2": "a chmod that took its user's own bits (test_ownership)",
    "lockfile.LockFile.unlockSlot:byteUnlock": "two claim one slot at once (test_members)",
    "segments.unlink:opened": "a segment of 256 MiB (test_openbuffers)",
    "segments.open_:opened": "a segment that is not what its row says (test_segments)",
    "segments.create:unlink#2": "/dev/shm is full (test_segments)",
    **dict.fromkeys(
        (
            "copies._copyOnHost:copy",
            "driver._hasDescriptorLeft:open",
            "semaphores.HostSemaphore.__init__:storeRelease64",
            "semaphores.HostSemaphore.open:storeRelease64",
            "hostparts.emptying.item:copy",
            "hostparts.filling.item:copy",
            "tickets.Tickets._seen:casSeqCst64",
            "tickets.Tickets.markCompletedByDevice:casSeqCst64",
            "vmm.allocate:fcntl",
        ),
        "real GPUs (tests/cuda)",
    ),
    "counters.Counting.join:fetchAddAcqRel64": "something is counted before the join (test_counters)",
    **dict.fromkeys(
        (
            "members.MemberTable.tellAnswers:storeRelease32",
            "sockets.Sockets._ask:receive",
            "sockets.Sockets._make:unlink",
            "sockets.Sockets.handOn:send",
        ),
        "a port for metrics (test_endpoint)",
    ),
    "leases.LeaseTable.takeAgain:casSeqCst64": "a revoked buffer is opened anew (test_openbuffers)",
    "outlet.Outlet._opened:open": "a file of lines (test_lines)",
    "outlet.Outlet._toStderr:open": "lines on a terminal (test_lines)",
    "outside.openedFile:opened": "a look from outside (test_cliDomains)",
    **dict.fromkeys(
        (
            "listeners._bound:bind",
            "listeners._bound:listen",
            "listeners._unlink:unlink",
            "listeners.ofDomain:unlink",
            "listeners.ofLoopback:bind",
            "listeners.ofLoopback:listen",
        ),
        "`keep --http` (test_web)",
    ),
    "cache._replace:unlink#2": "the disk of the verdicts is full (test_topology)",
    "names.NameWatch.wake:futexWake32": "an asyncio task that is cancelled (test_publishing)",
    "segments._reserveSlice:posix_fallocate": "a kernel that can not populate, or /dev/shm is full (test_segments)",
    "segments._reserveSlice:copy": "a kernel that can not populate, or /dev/shm is full (test_segments)",
    "tickets.Tickets.issue:casSeqCst64": "two signal at once (test_tickets)",
}


class Task(NamedTuple):
    """A scene, and how it is performed."""

    kind: str
    scene: Scene


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 when every scene ended well and none of the points is
    unknown.
    """
    parser = argparse.ArgumentParser(prog="failpoints", description=__doc__)
    parser.add_argument("--seed", type=int, default=20261123, help="of the sample")
    parser.add_argument(
        "--sample", type=int, help="perform so many scenes only, chosen by the seed"
    )
    parser.add_argument("--only", help="perform only the scenes whose description holds this text")
    options = parser.parse_args(arguments)
    _prepare()
    passes = {role: scenes.rehearse(role) for role in scenes.ROLES}
    tasks = [task for task in plan(passes) if not options.only or options.only in describe(task)]
    if options.sample is not None:
        tasks = _sampled(tasks, options.sample, random.Random(options.seed))
    outcomes, failures = _performAll(tasks)
    isComplete = _report(passes, tasks, outcomes, failures, options.seed)
    return 0 if tasks and isComplete and not failures else 1


def _prepare() -> None:
    """Prepare the process from which all players are forked: every module, warm caches,
    small tables, a journal that is copied often, and a broker that often looks for
    deaths without a message.
    """
    player.importAll()
    points.warm()
    maintenance.SWEEP_SECONDS = 0.1
    layout.ROW_CHUNK = 32
    journal.SLACK_BYTES = 2048
    logging.basicConfig(level=logging.WARNING)
    gc.freeze()  # the players collect only what they made


def plan(passes: dict[str, dict[str, int]]) -> list[Task]:
    """All scenes, given how often each role passes each point."""
    tasks = []
    for role, passed in passes.items():
        # A prober does what a copier does, and verifies links besides.
        known = passes["copier"] if role == "prober" else {}
        for point, total in sorted(passed.items()):
            if point in known:
                continue
            for how in scenes.SIGNALS:
                for hit, isBefore in _moments(point, total):
                    tasks.append(Task("single", Scene(role, Deed(point, hit, isBefore, how))))
    # A client and one that copies or promotes do the same but for a few points.
    firsts = {"client": set(passes["client"]), "broker": set(passes["broker"])} | {
        role: passes[role].keys() - passes["client"].keys() for role in windows.PAIRED
    }
    for role, ends in firsts.items():
        second = "successor" if role == "broker" else "broker"
        tasks += [
            Task("pair", Scene(role, Deed(a), Deed(b)))
            for a in sorted(ends)
            for b in sorted(passes[second])
        ]
    tasks += [Task("repeat", Scene("client", Deed(point))) for point in sorted(passes["client"])]
    return tasks


def _moments(point: str, total: int) -> Iterable[tuple[int, bool]]:
    """At which pass of a point, and whether before its change, a player dies or stops. A
    copy of many pieces may end anywhere.
    """
    moments = [(1, True), (1, False), (total, True)]
    if point.endswith(("work:copy", "send:copy")):
        moments += [((total + 1) // 2, False), (total, False)]
    return dict.fromkeys(moments)


def _sampled(tasks: list[Task], count: int, choice: random.Random) -> list[Task]:
    """So many of the scenes, of each role in turn."""
    ofRole: dict[str, list[Task]] = {}
    for task in choice.sample(tasks, len(tasks)):
        ofRole.setdefault(task.scene.role, []).append(task)
    turns = chain.from_iterable(zip_longest(*ofRole.values()))
    return [task for task in turns if task is not None][:count]


def describe(task: Task) -> str:
    return f"{task.kind}: {task.scene}"


def _perform(task: Task) -> tuple[bool, str]:
    """Whether the scene's deeds were done, and the errors after them."""
    signal.alarm(240)  # Only a scene that hangs takes so long.
    try:
        return (scenes.repeat if task.kind == "repeat" else scenes.perform)(task.scene), ""
    except Exception as error:
        return True, f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)


def _performAll(tasks: list[Task]) -> tuple[Counter[str], list[tuple[Task, str]]]:
    outcomes: Counter[str] = Counter()
    failures = []
    shown = time.monotonic()
    with ProcessPoolExecutor(_JOBS, mp_context=get_context("fork")) as pool:
        running = {pool.submit(_perform, task): task for task in tasks}
        for number, future in enumerate(as_completed(running), 1):
            task = running[future]
            happened, wrong = future.result()
            outcomes[f"{task.kind} {'done' if happened else 'passed by'}"] += 1
            if wrong:
                failures.append((task, wrong))
                print(f"FAILED {describe(task)}\n{wrong}", flush=True)
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                print(f"{number} of {len(tasks)} scenes, {len(failures)} failures", flush=True)
    return outcomes, failures


def _report(
    passes: dict[str, dict[str, int]],
    tasks: list[Task],
    outcomes: Counter[str],
    failures: list[tuple[Task, str]],
    seed: int,
) -> bool:
    """Print the result; returns whether each point was passed, or is known not to be."""
    known = {point.name for point in points.allPoints()}
    reached = {point for passed in passes.values() for point in passed}
    print(f"points: {len(known)}, {len(reached)} of them passed by some role")
    for point in sorted(known - reached):
        print(f"  not passed: {point}: {_UNPASSED.get(point, 'NO KNOWN REASON')}")
    for outcome, count in sorted(outcomes.items()):
        print(f"{outcome}: {count}")
    print(f"runs: {len(tasks)}  failures: {len(failures)}  seed: {seed}")
    return known - reached <= _UNPASSED.keys()


if __name__ == "__main__":
    sys.exit(main())
