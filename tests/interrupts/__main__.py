"""Interrupt every public call: `make interrupts`, or a sample of it in the tests.

For each role, call and kind of interruption: each bytecode that an undisturbed call
executes, at its first pass and at its last.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import NamedTuple

from failpoints import player

from interrupts import calls, stage
from interrupts.stage import KINDS, ROLES, USUAL_KINDS, Stage, Trial
from interrupts.tracing import Position
from muninn.control import layout
from muninn.devices.topology import probing
from muninn.storage import segments

_JOBS = 2
_CHUNK_BYTES = 16 << 10
#: The number of failures of one set that are shown in full.
_SHOWN = 3
_LINES = 16


class Set(NamedTuple):
    """The trials of one call in one role."""

    role: str
    call: str
    kinds: tuple[str, ...]
    sample: int | None
    stride: int
    seed: int
    most: int


class Result(NamedTuple):
    """The results of one kind of interruption in a set."""

    role: str
    call: str
    kind: str
    bytecodes: int
    trials: int
    passedBy: int
    failures: list[tuple[Trial, list[str]]]
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 when nothing was wrong after any interruption."""
    parser = argparse.ArgumentParser(prog="interrupts", description=__doc__)
    parser.add_argument(
        "--call",
        action="append",
        choices=list(calls.CALLS),
        help="only this call; more than once for several",
    )
    parser.add_argument("--role", action="append", choices=ROLES, help="only in this role")
    parser.add_argument(
        "--kind", action="append", choices=KINDS, help="only this kind of interruption"
    )
    parser.add_argument(
        "--stride",
        type=int,
        default=1,
        help="only each n-th of the bytecodes, from one that the seed chooses",
    )
    parser.add_argument(
        "--sample",
        type=int,
        help="only so many bytecodes of each call, role and kind, chosen by the seed",
    )
    parser.add_argument("--seed", type=int, default=20261128)
    parser.add_argument(
        "--most", type=int, default=20, help="give a call, role and kind up after so many failures"
    )
    parser.add_argument("--jobs", type=int, default=_JOBS)
    options = parser.parse_args(arguments)
    _prepare()
    kinds = tuple(options.kind or USUAL_KINDS)
    sets = [
        Set(role, call, kinds, options.sample, options.stride, options.seed, options.most)
        for role in options.role or ROLES
        for call in options.call or calls.CALLS
        if role != "newcomer" or calls.CALLS[call].prepare is None
    ]
    # shuffled, so that the long sets are not all at the end
    random.Random(options.seed).shuffle(sets)
    results = list(_performAll(sets, options.jobs))
    failures = _report(results)
    print(
        f"trials: {sum(result.trials for result in results)}  failures: {failures}  seed: {options.seed}"
    )
    return 1 if failures or not results else 0


def _prepare() -> None:
    """Prepare the process from which all others are forked: every module, small tables,
    segments of several chunks, and links about which little is asked.
    """
    player.importAll()
    layout.ROW_CHUNK = 32
    probing._VERIFIED_BYTES = probing._FIRST_BYTES = 64 << 10
    probing._MEASURED_BYTES = 1 << 20
    segments.CHUNK_BYTES = _CHUNK_BYTES
    player.BOUND_SECONDS = stage.WATCHDOG_SECONDS + 2
    logging.basicConfig(level=logging.WARNING)


def _performAll(sets: list[Set], jobs: int) -> Iterator[Result]:
    if jobs <= 1:
        for each in sets:
            yield from _shown(performSet(each))
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        for future in as_completed([pool.submit(performSet, each) for each in sets]):
            yield from _shown(future.result())


def _shown(results: list[Result]) -> list[Result]:
    for result in results:
        for trial, wrong in result.failures[:_SHOWN]:
            print(
                f"FAILED {result.role} {trial.call} {trial.kind}: at {trial.place}, pass {trial.hit}",
                flush=True,
            )
            for each in wrong:
                said, _, log = each.strip().partition("--- its stderr ---")
                for part in (said, "\n".join(log.splitlines()[:_LINES])):
                    print(
                        "".join(f"    {line}\n" for line in part.strip().splitlines()[-_LINES:]),
                        end="",
                        flush=True,
                    )
    return results


def performSet(wanted: Set) -> list[Result]:
    """Perform the trials of one call in one role, on a new stage after each failure."""
    results = []
    scene: Stage | None = Stage(wanted.role, wanted.call)
    try:
        passes = scene.rehearse(wanted.call)
        for kind in wanted.kinds:
            began = time.monotonic()
            failures: list[tuple[Trial, list[str]]] = []
            trials = passedBy = 0
            for trial in _chosen(wanted, kind, passes):
                scene = scene or Stage(wanted.role, wanted.call)
                isDone, wrong = _perform(scene, trial)
                trials += 1
                passedBy += not isDone
                if wrong:
                    failures.append((trial, wrong))
                    scene.close(isSound=False)
                    scene = None
                if len(failures) >= wanted.most:
                    break
            results.append(
                Result(
                    wanted.role,
                    wanted.call,
                    kind,
                    len(passes),
                    trials,
                    passedBy,
                    failures,
                    time.monotonic() - began,
                )
            )
        if scene is not None:
            wrong = scene.close(isSound=True)
            if wrong and results:
                results[-1].failures.append((trial, wrong))
            scene = None
    finally:
        if scene is not None:
            scene.close(isSound=False)
    return results


def _chosen(wanted: Set, kind: str, passes: dict[Position, int]) -> list[Trial]:
    """The trials of a set: each place at its first pass and at its last, or a sample of
    these.
    """
    isAnywhere = kind in ("reenter", "raise")
    paths = [
        (place, hit)
        for place, total in passes.items()
        for hit in dict.fromkeys((1, total))
        if isAnywhere or place.mayBeInterrupted()
    ]
    chance = random.Random(f"{wanted.seed} {wanted.role} {wanted.call} {kind}")
    if wanted.sample is not None:
        paths = chance.sample(paths, min(wanted.sample, len(paths)))
    elif wanted.stride > 1:
        paths = paths[chance.randrange(wanted.stride) :: wanted.stride]
    first = chance.randrange(len(calls.REENTRIES))
    return [
        Trial(wanted.call, kind, place, hit, first + number)
        for number, (place, hit) in enumerate(paths)
    ]


def _perform(scene: Stage, trial: Trial) -> tuple[bool, list[str]]:
    try:
        return scene.perform(trial)
    except Exception as error:
        return True, [f"{type(error).__name__}: {error}"]


def _report(results: list[Result]) -> int:
    """Print the table; returns how many failures there were."""
    print(
        f"\n{'call':18} {'role':9} {'kind':8} {'bytecodes':>9} {'trials':>7} {'passed by':>9} {'failures':>8} {'seconds':>8}"
    )
    order = {name: number for number, name in enumerate(calls.CALLS)}
    for result in sorted(
        results,
        key=lambda result: (order[result.call], ROLES.index(result.role), KINDS.index(result.kind)),
    ):
        print(
            f"{result.call:18} {result.role:9} {result.kind:8} {result.bytecodes:9} {result.trials:7} {result.passedBy:9} "
            f"{len(result.failures):8} {result.seconds:8.1f}"
        )
    return sum(len(result.failures) for result in results)


if __name__ == "__main__":
    sys.exit(main())
