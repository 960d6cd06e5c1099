"""The view: what the user chose to see, and in which order. It never changes; a key makes
a new one of it (`keys.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from muninn.cli.top.buffers import Buffers
from muninn.cli.top.options import UPWARD
from muninn.service.readings import Column

PANELS = ("buffers", "processes")


@dataclass(frozen=True, slots=True)
class View:
    """What is shown.

    Attributes
    ----------
    filter
        Only what has this text in its name, its tenant or a holder, in any case.
    isTyping
        Whether keys go into the filter.
    position
        The line that is chosen.
    chosen
        The row and incarnation of the buffer there; the choice follows it.
    isReversed
        Whether the order is turned around.
    """

    panel: str = "buffers"
    sort: str = "size"
    isReversed: bool = False
    group: str = "none"
    filter: str = ""
    isTyping: bool = False
    position: int = 0
    chosen: tuple[int, int] | None = None
    isPaused: bool = False
    isHelp: bool = False
    hasDetails: bool = True
    interval: float = 2.0


class Group(NamedTuple):
    """The heading of a group of buffers, and their sums."""

    title: str
    buffers: int
    sizeBytes: int
    publications: float


#: A heading, or the place of a buffer in `Buffers`.
Line = Group | int


def linesOf(buffers: Buffers, view: View, processOf: Callable[[int], str]) -> list[Line]:
    """The lines of the table, in order.

    Parameters
    ----------
    processOf
        Returns the title of the process in a slot.
    """
    order = _sorted(buffers, view, processOf)
    if view.group == "none":
        return [*order]
    members = dict[str, list[int]]()
    for number in order:
        for title in _titles(buffers, number, view.group, processOf):
            members.setdefault(title, []).append(number)
    lines = list[Line]()
    for title in sorted(members):
        numbers = members[title]
        lines.append(
            Group(
                title,
                len(numbers),
                int(buffers.sizeBytes[numbers].sum()),
                float(buffers.publications[numbers].sum()),
            )
        )
        lines += numbers
    return lines


def _titles(
    buffers: Buffers, number: int, group: str, processOf: Callable[[int], str]
) -> Sequence[str]:
    """The groups of which a buffer is: one, or one for each process that holds it."""
    buffer = buffers.one(number)
    if group == "process":
        slots = buffers.slots.get(buffer.key[0], ())
        return list(dict.fromkeys(map(processOf, slots))) or ["no process"]
    if group == "gpu":
        return [f"GPU {buffer.gpus}" if buffer.gpus else "host memory"]
    return [buffer.tenant if group == "tenant" else buffer.mode]


def _matching(buffers: Buffers, wanted: str, processOf: Callable[[int], str]) -> list[int]:
    """The buffers with this text in their name, their tenant, or the pid and program of a
    process that holds them.
    """
    rows, index, names = buffers.reading.rows, buffers.index, buffers.names
    slots = {slot for found in buffers.slots.values() for slot in found}
    meant = {slot for slot in slots if wanted in processOf(slot).casefold()}
    held = {row for row, found in buffers.slots.items() if not meant.isdisjoint(found)}
    isTenant = [wanted in tenant.casefold() for tenant in rows.tenants]
    places = zip(rows.tenant[index].tolist(), rows.number[index].tolist(), names, strict=True)
    return [
        at
        for at, (tenant, row, name) in enumerate(places)
        if wanted in name.casefold() or isTenant[tenant] or row in held
    ]


def _sorted(buffers: Buffers, view: View, processOf: Callable[[int], str]) -> list[int]:
    rows, index = buffers.reading.rows, buffers.index
    wanted = view.filter.casefold()
    shown = _matching(buffers, wanted, processOf) if wanted else [*range(len(buffers))]
    # Buffers that are alike in it are in the order of their names.
    byName = np.array(sorted(shown, key=buffers.names.__getitem__), np.int64)
    if view.sort == "name":
        return _places(byName[::-1] if view.isReversed else byName)
    keys = {
        "size": buffers.sizeBytes,
        "holders": rows.holders[index],
        "rate": buffers.publications,
        "age": -rows.createdMs[index],
        "tenant": rows.tenant[index],
        "gpu": rows.gpu[index],
    }[view.sort][byName]
    isDownward = (view.sort not in UPWARD) != view.isReversed
    order = np.argsort(-keys if isDownward else keys, kind="stable")
    return _places(byName[order])


def _places(numbers: Column) -> list[int]:
    return [*map(int, numbers)]


def whereIs(view: View, lines: Sequence[Line], buffers: Buffers) -> int:
    """Where the chosen line is now: at its buffer, if that is still there."""
    here = min(max(0, view.position), max(0, len(lines) - 1))
    number = None if view.chosen is None else buffers.find(view.chosen)
    if number is None or (lines and lines[here] == number):
        return here
    return lines.index(number) if number in lines else here
