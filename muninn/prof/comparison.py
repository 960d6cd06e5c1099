"""Comparison: a run against an older one. Pure functions.

A row regresses if its p50 or its p95 takes longer than before by more than so many
percent. Noise does that too, so the caller measures such a row again, and `better`
keeps the smaller figures: only what is slow each time has regressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from muninn.prof.results import Result


class Change(NamedTuple):
    """A row in both runs.

    Attributes
    ----------
    slower
        Those of `p50` and `p95` that take longer than is allowed.
    """

    old: Result
    new: Result
    slower: tuple[str, ...]

    @property
    def p50Percent(self) -> float:
        return (self.new.p50 / self.old.p50 - 1) * 100

    @property
    def p95Percent(self) -> float:
        return (self.new.p95 / self.old.p95 - 1) * 100

    @property
    def limitPercent(self) -> float:
        """By how much the machine's own limit takes longer."""
        return (self.new.limitP50 / self.old.limitP50 - 1) * 100


class Comparison(NamedTuple):
    """All rows of two runs.

    Attributes
    ----------
    unlike
        Rows of both that can not be compared: (row, why).
    """

    changes: list[Change]
    onlyOld: list[str]
    onlyNew: list[str]
    unlike: list[tuple[str, str]]

    @property
    def regressed(self) -> list[Change]:
        return [each for each in self.changes if each.slower]


def compared(old: Sequence[Result], new: Sequence[Result], withinPercent: float) -> Comparison:
    """What has changed from `old` to `new`."""
    before, after = ({each.row: each for each in side} for side in (old, new))
    changes, unlike = list[Change](), list[tuple[str, str]]()
    for name, result in after.items():
        if name in before:
            if reason := _difference(before[name], result):
                unlike.append((name, reason))
            else:
                changes.append(_change(before[name], result, withinPercent))
    return Comparison(
        changes,
        [name for name in before if name not in after],
        [name for name in after if name not in before],
        unlike,
    )


def better(one: Result, other: Result) -> Result:
    """One row of two runs: the smaller figures of both."""
    return one._replace(
        p50=min(one.p50, other.p50),
        p95=min(one.p95, other.p95),
        limitP50=min(one.limitP50, other.limitP50),
        samples=one.samples + other.samples,
    )


def _change(old: Result, new: Result, withinPercent: float) -> Change:
    allowed = 1 + withinPercent / 100
    slower = [
        name
        for name, before, now in (("p50", old.p50, new.p50), ("p95", old.p95, new.p95))
        if now > before * allowed
    ]
    return Change(old, new, tuple(slower))


def _difference(old: Result, new: Result) -> str:
    """Why two results of a row can not be compared, or ""."""
    if old.device != new.device:
        return f"on {old.device or 'no GPU'} then, on {new.device or 'no GPU'} now"
    if old.sizeBytes != new.sizeBytes:
        return f"{old.sizeBytes} bytes then, {new.sizeBytes} bytes now"
    if old.isQuick != new.isQuick:
        return f"{'with' if old.isQuick else 'without'} --quick then"
    return ""
