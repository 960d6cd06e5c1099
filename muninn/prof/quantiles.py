"""Quantiles: what is said of many samples.

Samples come in rounds. A round has its own p50 and p95, and the median over the rounds
counts: a moment in which another program had the processor spoils one round, and not
the figure. All are seconds, and all functions are pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

P50, P95 = 0.5, 0.95


class Figures(NamedTuple):
    """The quantiles of some samples, in seconds, and how many samples there were."""

    p50: float
    p95: float
    samples: int


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest value that is not below `part` of the values, for 0 <= `part` <= 1.

    Raises `ValueError` if there is no value.
    """
    if not values:
        raise ValueError("no value has no quantile")
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def figuresOf(rounds: Sequence[Sequence[float]]) -> Figures:
    """The medians, over the rounds that have samples, of their p50 and p95.

    Raises `ValueError` if there is no sample.
    """
    filled = [each for each in rounds if each]
    if not filled:
        raise ValueError("no sample was taken")
    return Figures(
        statistics.median(quantile(each, P50) for each in filled),
        statistics.median(quantile(each, P95) for each in filled),
        sum(map(len, filled)),
    )
