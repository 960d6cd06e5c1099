"""The buffers that the live view lists: one for each array, bundle and promoted window.
The parts of a bundle on several GPUs count as the bundle's, and locks are no buffers.

Their names are read only when a row has a new buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from muninn.cli.listing import windowText
from muninn.cli.output import printable
from muninn.cli.top.rates import Rates
from muninn.control import layout
from muninn.service.readings import Column, Reading
from muninn.session.windownames import WindowPlace

_LISTED = (layout.ROW_KIND_ARRAY, layout.ROW_KIND_BUNDLE, layout.ROW_KIND_WINDOW)
_INCARNATION_BITS = layout.ROW_INCARNATION.bits
_KINDS = {layout.ROW_KIND_BUNDLE: "bundle", layout.ROW_KIND_WINDOW: "window"}


class Buffer(NamedTuple):
    """One buffer at one moment.

    Attributes
    ----------
    key
        Its row and incarnation.
    state
        ``active``: a process holds it; ``idle``; ``revoked``: some lease on it is;
        ``ending``: only its holders use it.
    writer
        The slot of the member that may write it now; -1: none.
    """

    key: tuple[int, int]
    name: str
    kind: str
    mode: str
    gpus: str
    sizeBytes: int
    state: str
    holders: int
    writer: int
    isAwaited: bool
    generation: int
    publications: float
    tenant: str
    ageMs: int


@dataclass(frozen=True, slots=True)
class Buffers:
    """The buffers of a reading, a column for each field, in the order of their rows.

    Attributes
    ----------
    index
        Where they are in the rows of the reading.
    sizeBytes
        With the parts of a bundle.
    slots
        The slots of the members that hold each, by its row.
    revoked
        The rows of which a lease is revoked.
    partGpus
        The GPUs of the parts of a bundle, by its row.
    """

    reading: Reading
    index: Column
    names: list[str]
    sizeBytes: Column
    publications: NDArray[np.float64]
    slots: dict[int, list[int]]
    revoked: frozenset[int]
    partGpus: dict[int, list[int]]

    def __len__(self) -> int:
        return len(self.index)

    def one(self, number: int) -> Buffer:
        """The buffer at that place."""
        rows, at = self.reading.rows, int(self.index[number])
        row = int(rows.number[at])
        gpus = {int(rows.gpu[at]), *self.partGpus.get(row, ())} - {-1}
        return Buffer(
            (row, int(rows.incarnation[at])),
            self.names[number],
            _KINDS.get(int(rows.kind[at]), "array"),
            "fastMode" if rows.isFast[at] else "bigMode",
            ",".join(map(str, sorted(gpus))),
            int(self.sizeBytes[number]),
            self.stateOf(number),
            int(rows.holders[at]),
            int(rows.writer[at]),
            bool(rows.isAwaited[at]),
            int(rows.generation[at]),
            float(self.publications[number]),
            rows.tenants[int(rows.tenant[at])],
            max(0, self.reading.atMs - int(rows.createdMs[at])),
        )

    def stateOf(self, number: int) -> str:
        rows, at = self.reading.rows, int(self.index[number])
        if rows.isOver[at]:
            return "ending"
        if int(rows.number[at]) in self.revoked:
            return "revoked"
        return "active" if rows.holders[at] else "idle"

    def find(self, key: tuple[int, int]) -> int | None:
        """The place of the buffer with this row and incarnation."""
        rows = self.reading.rows
        isIt = (rows.number[self.index] == key[0]) & (rows.incarnation[self.index] == key[1])
        return int(isIt.argmax()) if isIt.any() else None


class Names:
    """The names of the rows, kept from reading to reading.

    Parameters
    ----------
    read
        Returns the names of rows.
    """

    def __init__(self, read: Callable[[Column], list[str]]) -> None:
        self._read = read
        self._identity = 0
        self._keys: Column = np.zeros(0, np.int64)
        self._names: list[str] = []

    def of(self, reading: Reading) -> list[str]:
        """The names of all rows of a reading, printable. That of a window says of which
        buffer it is, and that of its flags is empty.
        """
        rows = reading.rows
        keys = rows.number << _INCARNATION_BITS | rows.incarnation
        if reading.identity == self._identity and np.array_equal(keys, self._keys):
            return self._names
        known = dict(zip(self._keys.tolist(), self._names, strict=True))
        if reading.identity != self._identity:
            known = {}
        isNew = np.array([key not in known for key in keys.tolist()], dtype=bool)
        found = dict(zip(keys[isNew].tolist(), self._read(rows.number[isNew]), strict=False))
        plain = {**known, **found}
        for key, name in found.items():
            plain[key] = _shown(name, plain)
        self._identity, self._keys = reading.identity, keys
        self._names = [plain.get(key, "") for key in keys.tolist()]
        return self._names


def _shown(name: str, names: dict[int, str]) -> str:
    place = WindowPlace.of(name)
    if place is None:
        return printable(name)
    if place.isFlags:
        return ""
    base = names.get(place.row << _INCARNATION_BITS | place.incarnation, "gone")
    return windowText(printable(base), place.offset, place.sizeBytes)


def buffersOf(reading: Reading, rates: Rates, names: Sequence[str]) -> Buffers:
    """What a reading lists."""
    rows = reading.rows
    isNamed = np.array([bool(name) for name in names], dtype=bool)
    index = np.flatnonzero(np.isin(rows.kind, _LISTED) & isNamed)
    sizes, partGpus = rows.sizeBytes.copy(), dict[int, list[int]]()
    if len(parts := np.flatnonzero(rows.kind == layout.ROW_KIND_PART)):
        at = {row: where for where, row in enumerate(rows.number.tolist())}
        for part in parts.tolist():
            head = int(rows.head[part])
            partGpus.setdefault(head, []).append(int(rows.gpu[part]))
            if head in at:
                sizes[at[head]] += rows.sizeBytes[part]
    slots = dict[int, list[int]]()
    for row, slot in zip(reading.held.row.tolist(), reading.held.slot.tolist(), strict=True):
        if slot not in (found := slots.setdefault(row, [])):
            found.append(slot)
    return Buffers(
        reading,
        index,
        [names[at] for at in index.tolist()],
        sizes[index],
        rates.publications[index],
        slots,
        frozenset(reading.held.row[reading.held.reason != 0].tolist()),
        partGpus,
    )
