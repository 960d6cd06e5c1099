"""Timing: how long something takes, alone or in turn with something else.

A figure of a busy machine means little alone. So the operation and its limit are
measured in turn, and a moment of unrest meets both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from muninn.system import atomics, clock

Value = TypeVar("Value")
#: One sample: does something and gives the seconds that count.
Sample = Callable[[], float]
_FEWEST, _MOST = 3, 2000


class Samples(NamedTuple):
    """The seconds of an operation and of its limit, by rounds."""

    ours: list[list[float]]
    limit: list[list[float]]


def seconds(action: Callable[[], object]) -> float:
    """How long one call takes."""
    started = clock.now()
    action()
    return clock.now() - started


def timed(action: Callable[[], object]) -> Sample:
    """The whole of a call as a sample."""

    def sample() -> float:
        started = atomics.monotonicNs()
        action()
        elapsedNs: int = atomics.monotonicNs() - started
        return elapsedNs / 1e9

    return sample


def microseconds(action: Callable[[], object], repeats: int) -> float:
    """The median duration of `action`, in µs."""
    sample = timed(action)
    return statistics.median(sample() for _ in range(repeats)) * 1e6


def alternated(rounds: int, ours: Sample, peer: Sample) -> tuple[list[float], list[float]]:
    """The milliseconds of both, one after the other."""
    for _ in range(2):
        ours(), peer()
    pairs = [(ours() * 1e3, peer() * 1e3) for _ in range(rounds)]
    return [mine for mine, _ in pairs], [other for _, other in pairs]


def sampled(ours: Sample, limit: Sample, budgetSeconds: float, rounds: int) -> Samples:
    """Samples of both in turn. Half of the time goes to each, and a round has at least
    three samples of each, however long these take.
    """
    for _ in range(2):
        ours(), limit()
    share = budgetSeconds / rounds / 2
    taken = Samples([], [])
    for _ in range(rounds):
        taken.ours.append(repeated(ours, share))
        taken.limit.append(repeated(limit, share))
    return taken


def repeated(sample: Callable[[], Value], shareSeconds: float) -> list[Value]:
    """What the calls give that fit into the time; at least three."""
    ends, values = clock.now() + shareSeconds, list[Value]()
    while len(values) < _FEWEST or (len(values) < _MOST and clock.now() < ends):
        values.append(sample())
    return values
