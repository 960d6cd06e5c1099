"""The queue of promotions: which windows wait for room, and which of them gets it first.

A process whose window finds no room asks again every few milliseconds. Without an order
among them a small window would overtake a large one for ever, and a hint of priority
would mean nothing. So the broker remembers who has asked: the highest priority goes
first, and of one priority the one that asked first. A window waits only behind those
that want the same room: another tenant's, which waits for its own tenant's budget, is
not in its way.

A window for which there is no room now would hold back all others, perhaps for ever. So
those for which there is room overtake it, but not always: of five seconds of its wait
they overtake it in the first one only. In the other four what ends on the GPU is left
for it. So windows that are shorter than that do not keep it out, and no other one waits
for it longer than that. Only the first of such windows holds others back.

Private memory of the broker. A window that nobody has asked for again for a moment is
forgotten: its process gave up, was stopped, or is dead. A new broker begins with an
empty queue, which the next requests fill.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from muninn.broker.policy.usage import Usage
from muninn.system import clock

#: After so long a window that was not asked for again holds nobody back.
FORGOTTEN_SECONDS = 0.25
#: A window without room lets others overtake it for so long, and holds them back for so
#: long, by turns. The latter is less than the default timeout of a promotion.
OVERTAKEN_SECONDS, HOLDING_SECONDS = 1.0, 4.0


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
    """A window must wait. The text says for what.

    Attributes
    ----------
    short
        Whose budget has no room: "gpu", "tenant", or none: it waits for a place or for its
        turn.
    """

    def __init__(self, why: str, short: str = "") -> None:
        super().__init__(why)
        self.short = short


class _Waiter(NamedTuple):
    rank: int
    arrival: int
    usage: Usage
    #: Whether it waits for room in the budget of its tenant only.
    isOfTenant: bool
    sinceSeconds: float
    seenSeconds: float

    @property
    def place(self) -> tuple[int, int]:
        return -self.rank, self.arrival

    def isInTheWay(self, wanted: Usage) -> bool:
        """Whether it wants the same room."""
        mine = self.usage
        return mine.gpu == wanted.gpu and (not self.isOfTenant or mine.tenant == wanted.tenant)

    def isHolding(self) -> bool:
        """Whether it holds others back although there is no room for it."""
        waited = self.seenSeconds - self.sinceSeconds
        return waited % (OVERTAKEN_SECONDS + HOLDING_SECONDS) >= OVERTAKEN_SECONDS


class PromotionQueue:
    """The windows that wait, by their names."""

    def __init__(self) -> None:
        self._waiting: dict[str, _Waiter] = {}
        self._arrivals = 0

    def ahead(self, wanted: Usage, asking: Asking, hasRoom: Callable[[Usage], bool]) -> int:
        """How many windows get room before this one. `hasRoom` says for which of them there
        is room now.
        """
        self._forget()
        known = self._waiting.get(wanted.name)
        place = (-asking.rank, self._arrivals + 1 if known is None else known.arrival)
        before = [
            each
            for name, each in self._waiting.items()
            if each.place < place and name != wanted.name and each.isInTheWay(wanted)
        ]
        without = [each for each in before if not hasRoom(each.usage)]
        first = min(without, key=lambda each: each.place, default=None)
        return len(before) - len(without) + (first is not None and first.isHolding())

    def wait(self, wanted: Usage, asking: Asking, isOfTenant: bool) -> None:
        """It is not granted now."""
        if not asking.isWaiting:
            return
        self._forget()
        now, known = clock.now(), self._waiting.get(wanted.name)
        if known is None:
            self._arrivals += 1
        arrival, since = (
            (self._arrivals, now) if known is None else (known.arrival, known.sinceSeconds)
        )
        self._waiting[wanted.name] = _Waiter(asking.rank, arrival, wanted, isOfTenant, since, now)

    def _forget(self) -> None:
        oldest = clock.now() - FORGOTTEN_SECONDS
        self._waiting = {
            name: each for name, each in self._waiting.items() if each.seenSeconds > oldest
        }

    def leave(self, wanted: Usage) -> None:
        """It has its room."""
        self._waiting.pop(wanted.name, None)
