"""Rates: what happened between two readings, by the clock, and how it went before.

A rate is the difference of two sums by the time between them. So GB/s are bytes that were
moved, and a buffer that is only mapped moves none. A transfer is counted when it ends.
Every publication raises a row's generation word twice.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from muninn.observe.families import FAMILIES
from muninn.service.readings import Reading

#: How many rates of the past are kept: more than the widest graph shows.
KEPT = 240
#: How many of each buffer.
_KEPT_OF_ROW = 32
#: Families that are counted as events.
EVENTS = (
    "opens",
    "promotions",
    "promotionFailures",
    "writebacks",
    "revocations",
    "errors",
    "elections",
    "deaths",
)
ROUTES = tuple(dict.fromkeys(way.partition("/")[0] for way in FAMILIES["transfers"].labels))


class Flow(NamedTuple):
    """How often, and how many bytes: in a second, and since the domain began."""

    perSecond: float
    bytesPerSecond: float
    times: int
    totalBytes: int


class Rates(NamedTuple):
    """What happened between two readings.

    Attributes
    ----------
    seconds
        The time between them; 0: there is only one, and every rate is 0.
    routes
        The transfers by route, without routes that were never taken.
    events
        Other things that are counted, by their family.
    reasons
        The sums of revocations and of errors, by label, without those that are 0.
    publications
        In a second, of each row of the reading.
    moved
        Bytes of transfers in a second, by the slot of the member that moved them.
    """

    seconds: float
    routes: dict[str, Flow]
    events: dict[str, Flow]
    reasons: dict[str, dict[str, int]]
    publications: NDArray[np.float64]
    moved: dict[int, float]


class History:
    """The readings so far.

    Attributes
    ----------
    series
        Rates and sizes of the past, the newest last: ``moved`` and ``route/…`` in bytes a
        second, ``promotions`` and ``publications`` a second, ``tier/…`` in bytes.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._before: Reading | None = None
        self.series: dict[str, deque[float]] = {}
        self._ofRows = np.zeros((0, _KEPT_OF_ROW), np.float32)
        self._incarnations = np.zeros(0, np.int64)

    def add(self, reading: Reading) -> Rates:
        """Compare a reading with the one before, and keep what was found."""
        before = self._before
        if before is not None and before.identity != reading.identity:
            self._begin()  # another control block counts from 0
            before = None
        seconds = 0.0 if before is None else (reading.atMs - before.atMs) / 1e3
        rates = Rates(
            seconds,
            _flows(reading, before, seconds),
            {family: _flow(reading, before, family, seconds) for family in EVENTS},
            {family: _reasons(reading, family) for family in ("revocations", "errors")},
            _publications(reading, before, seconds),
            _moved(reading, before, seconds),
        )
        if seconds > 0:
            self._keep(reading, rates)
        self._before = reading
        return rates

    def _keep(self, reading: Reading, rates: Rates) -> None:
        rows = reading.rows
        values = {f"route/{route}": flow.bytesPerSecond for route, flow in rates.routes.items()}
        values["moved"] = sum(values.values())
        values["promotions"] = rates.events["promotions"].perSecond
        values["publications"] = float(rates.publications.sum())
        for gpu in {-1, *np.unique(rows.gpu).tolist()}:
            tier = "host" if gpu < 0 else f"GPU {gpu}"
            values[f"tier/{tier}"] = float(rows.sizeBytes[rows.gpu == gpu].sum())
        for name, value in values.items():
            self.series.setdefault(name, deque(maxlen=KEPT)).append(value)
        needed = int(rows.number.max(initial=-1)) + 1
        if needed > len(self._incarnations):
            more = needed - len(self._incarnations)
            self._ofRows = np.pad(self._ofRows, ((0, more), (0, 0)))
            self._incarnations = np.pad(self._incarnations, (0, more))
        isNew = self._incarnations[rows.number] != rows.incarnation
        self._ofRows[rows.number[isNew]] = 0
        self._incarnations[rows.number] = rows.incarnation
        self._ofRows[:, :-1] = self._ofRows[:, 1:]
        self._ofRows[:, -1] = 0
        self._ofRows[rows.number, -1] = rates.publications

    def ofRow(self, number: int) -> list[float]:
        """The publications of a row in a second, the newest last."""
        known = number < len(self._ofRows)
        return [float(each) for each in self._ofRows[number]] if known else []


def _flow(reading: Reading, before: Reading | None, family: str, seconds: float) -> Flow:
    return _difference(_sums(reading, family), before and _sums(before, family), seconds)


def _flows(reading: Reading, before: Reading | None, seconds: float) -> dict[str, Flow]:
    found = {}
    for route in ROUTES:
        now = _sums(reading, "transfers", route)
        if now[0]:
            then = before and _sums(before, "transfers", route)
            found[route] = _difference(now, then, seconds)
    return found


def _sums(reading: Reading, family: str, route: str = "") -> tuple[int, int]:
    """(times, bytes) of all labels, or of those of a route."""
    sums = [
        each
        for label, each in reading.counted(family).items()
        if not route or label.partition("/")[0] == route
    ]
    return sum(each["times"] for each in sums), sum(each.get("bytes", 0) for each in sums)


def _difference(now: tuple[int, int], then: tuple[int, int] | None, seconds: float) -> Flow:
    if then is None or seconds <= 0:
        return Flow(0.0, 0.0, *now)
    return Flow((now[0] - then[0]) / seconds, (now[1] - then[1]) / seconds, *now)


def _reasons(reading: Reading, family: str) -> dict[str, int]:
    return {
        label: sums["times"] for label, sums in reading.counted(family).items() if sums["times"]
    }


def _publications(reading: Reading, before: Reading | None, seconds: float) -> NDArray[np.float64]:
    rows = reading.rows
    if before is None or seconds <= 0:
        return np.zeros(len(rows.number))
    size = max(rows.number.max(initial=-1), before.rows.number.max(initial=-1)) + 1
    then, incarnation = np.zeros(size, np.int64), np.full(size, -1)
    then[before.rows.number] = before.rows.generation
    incarnation[before.rows.number] = before.rows.incarnation
    isSame = incarnation[rows.number] == rows.incarnation
    # A buffer that is new has been published since it was created.
    steps = rows.generation - np.where(isSame, then[rows.number], 0)
    return np.maximum(steps, 0) / 2 / seconds


def _moved(reading: Reading, before: Reading | None, seconds: float) -> dict[int, float]:
    if before is None or seconds <= 0:
        return {}
    family = FAMILIES["transfers"]
    end = family.first + len(family.labels) * len(family.amounts)
    of = slice(family.first + family.amounts.index("bytes"), end, len(family.amounts))
    nothing = np.zeros(1, np.uint64)
    return {
        slot: int((cells[of] - before.cellsOf.get(slot, nothing)[of]).sum()) / seconds
        if slot in before.cellsOf
        else int(cells[of].sum()) / seconds
        for slot, cells in reading.cellsOf.items()
    }
