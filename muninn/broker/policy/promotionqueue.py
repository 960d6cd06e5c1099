"""The queue of promotions: which windows wait for room, and which of them gets it first.

A process whose window finds no room asks again every few milliseconds. Without an order
among them a small window would overtake a large one for ever, and a hint of priority
would mean nothing. So the broker remembers who has asked: the highest priority goes
first, and of one priority the one that asked first. A window waits only behind those
that want the same room: another tenant's, which waits for its own tenant's budget, is
not in its way.

Private memory of the broker. A window that nobody has asked for again for a moment is
forgotten: its process gave up, was stopped, or is dead. A new broker begins with an
empty queue, which the next requests fill.
"""

from __future__ import annotations

from typing import NamedTuple

from muninn.broker.policy.usage import Usage
from muninn.system import clock

#: After so long a window that was not asked for again holds nobody back.
FORGOTTEN_SECONDS = 0.25


class Asking(NamedTuple):
    """How a window is asked for.

    Attributes
    ----------
    rank
        Its priority: higher goes first.
    isWaiting
        Whether its process asks again if there is no room now.
    """

    rank: int
    isWaiting: bool


#: Of what is no window, too.
ONCE = Asking(0, isWaiting=False)


class Queued(Exception):
    """A window must wait although there is room in the budgets: for a place, or for its
    turn. The text says for what.
    """


class _Waiter(NamedTuple):
    rank: int
    arrival: int
    gpu: int
    tenant: str
    #: Whether it waits for room in the budget of its tenant only.
    isOfTenant: bool
    seenSeconds: float

    @property
    def place(self) -> tuple[int, int]:
        return -self.rank, self.arrival


class PromotionQueue:
    """The windows that wait, by their names."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiter] = {}
        self._arrivals = 0

    def ahead(self, wanted: Usage, asking: Asking) -> int:
        """How many windows get room before this one."""
        oldest = clock.now() - FORGOTTEN_SECONDS
        self._waiting = {
            name: each for name, each in self._waiting.items() if each.seenSeconds > oldest
        }
        known = self._waiting.get(wanted.name)
        place = (-asking.rank, self._arrivals + 1 if known is None else known.arrival)
        return sum(
            each.place < place
            and each.gpu == wanted.gpu
            and (not each.isOfTenant or each.tenant == wanted.tenant)
            for name, each in self._waiting.items()
            if name != wanted.name
        )

    def wait(self, wanted: Usage, asking: Asking, isOfTenant: bool) -> None:
        """It found no room now."""
        if not asking.isWaiting:
            return
        known = self._waiting.get(wanted.name)
        if known is None:
            self._arrivals += 1
        arrival = self._arrivals if known is None else known.arrival
        self._waiting[wanted.name] = _Waiter(
            asking.rank, arrival, wanted.gpu, wanted.tenant, isOfTenant, clock.now()
        )

    def leave(self, wanted: Usage) -> None:
        """It has its room."""
        self._waiting.pop(wanted.name, None)
