"""The registry: one object for each row, found for as long as another object keeps it.

Private to the process. Two threads, or a thread and a handler that interrupts it, may
make an object for the same row at the same time; one step decides which of them stays.
"""

from __future__ import annotations

import weakref
from _weakref import _remove_dead_weakref  # type: ignore[attr-defined]
from typing import TypeVar, cast

_Kept = TypeVar("_Kept")


class Registry(weakref.WeakValueDictionary[tuple[int, int], _Kept]):
    """The objects that exist, one for each (row, incarnation)."""

    def keepFirst(self, pair: tuple[int, int], value: _Kept) -> _Kept:
        """The object of `pair`: `value`, if there is none yet.

        One step decides, so that there are never two, neither of two threads nor of a
        thread and a handler that interrupts it.
        """
        wanted = weakref.KeyedRef(value, self._remove, pair)  # type: ignore[attr-defined]
        while (found := self.data.setdefault(pair, wanted)()) is None:  # type: ignore[attr-defined]
            _remove_dead_weakref(self.data, pair)  # type: ignore[attr-defined]
        return cast(_Kept, found)
