"""A picture: everything that one frame shows, found at one moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from muninn.cli.top.buffers import Buffers
from muninn.cli.top.people import Person, Usage
from muninn.cli.top.rates import History, Rates
from muninn.cli.top.waiters import Waiter
from muninn.service.readings import Reading


class Tier(NamedTuple):
    """The bytes of one kind of memory.

    Attributes
    ----------
    activeBytes, idleBytes
        What buffers take that some process holds, and that none does.
    emptyBytes
        What new buffers could take; None: nothing tells.
    """

    name: str
    activeBytes: int
    idleBytes: int
    emptyBytes: int | None


class Picture(NamedTuple):
    """One domain at one moment.

    Attributes
    ----------
    people
        The processes, by slot.
    usageOf, waitersOf
        What a process uses, and who of some processes waits: asked for what is on the
        screen only.
    drainReason
        None: the domain does not drain.
    time
        The time of day.
    """

    domain: str
    uid: int
    reading: Reading
    rates: Rates
    history: History
    buffers: Buffers
    people: dict[int, Person]
    tiers: list[Tier]
    usageOf: Callable[[Person], Usage | None]
    waitersOf: Callable[[Iterable[Person]], list[Waiter]]
    drainReason: str | None
    time: str

    def broker(self) -> Person | None:
        """The broker, if it lives."""
        slot = self.reading.brokerSlot
        return None if slot is None else self.people.get(slot)

    def titleOf(self, slot: int) -> str:
        """The process in a slot, for people."""
        person = self.people.get(slot)
        return "a process that is gone" if person is None else person.title


def tiersOf(
    reading: Reading,
    gpus: int,
    hostEmpty: Callable[[], int],
    gpuEmpty: Callable[[int, int], int | None],
) -> list[Tier]:
    """The tiers of a domain: each GPU that there is or that has buffers, and the host.

    Parameters
    ----------
    gpus
        How many GPUs there are.
    hostEmpty, gpuEmpty
        See `Capacity`.
    """
    rows = reading.rows
    isHeld, found = rows.holders > 0, list[Tier]()
    for gpu in sorted({*range(gpus), *np.unique(rows.gpu[rows.gpu >= 0]).tolist()}):
        isThere = rows.gpu == gpu
        active = int(rows.sizeBytes[isThere & isHeld].sum())
        idle = int(rows.sizeBytes[isThere & ~isHeld].sum())
        found.append(Tier(f"GPU {gpu}", active, idle, gpuEmpty(gpu, active + idle)))
    isHost = rows.gpu < 0
    active = int(rows.sizeBytes[isHost & isHeld].sum())
    idle = int(rows.sizeBytes[isHost & ~isHeld].sum())
    found.append(Tier("host", active, idle, hostEmpty()))
    return found
