"""Kept: what this process keeps for its next copy or window, and the background thread
that gives it back when nobody came for it.

Private to the process. The lists are changed by calls of C, each of which is one step,
and under no lock: a signal handler could come in the midst, and wait for the broker,
whose thread looks after what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Watch:
    """Whether the background thread is to look now and then.

    Parameters
    ----------
    lookSoon
        Called when there is a first thing to look after.

    Attributes
    ----------
    isOn
        Whether it is to look again.
    """

    def __init__(self, lookSoon: Callable[[], object]) -> None:
        self._lookSoon = lookSoon
        self.isOn = False

    def begin(self) -> None:
        """Something is kept."""
        wasOn, self.isOn = self.isOn, True
        if not wasOn:
            self._lookSoon()

    def end(self, isAny: Callable[[], bool]) -> None:
        """Nothing is kept: perhaps it is in use, and `begin` is called then. It is looked
        once more after that was noted: another thread may have kept something since the
        look, and found that it is looked after.
        """
        self.isOn = False
        if isAny():
            self.isOn = True


class Kept(Generic[Item]):
    """The things of one kind that are kept."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._items: list[Item] = []

    def __bool__(self) -> bool:
        return bool(self._items)

    def __iter__(self) -> Iterator[Item]:
        """Those of this moment; another call may take one of them."""
        return iter(list(self._items))

    def add(self, item: Item) -> None:
        self._items.append(item)
        self._watch.begin()

    def hasTaken(self, item: Item) -> bool:
        """Whether this call has taken it out, and no other one was faster."""
        try:
            self._items.remove(item)
        except ValueError:
            return False
        return True

    def clear(self) -> None:
        self._items.clear()
