"""Living: what a process has of each row, one of a kind, found for as long as somebody
keeps it.

Private to the process. Threads, and a call and what interrupts it, may want one at the
same time; one step decides whose there is.
"""

from __future__ import annotations

import weakref
from _weakref import _remove_dead_weakref  # type: ignore[attr-defined]
from typing import TypeVar, cast

_Kept = TypeVar("_Kept")


class Registry(weakref.WeakValueDictionary[tuple[int, int], _Kept]):
    """What lives, by (row, incarnation), one each."""

    def keepFirst(self, pair: tuple[int, int], value: _Kept) -> _Kept:
        """What lives under `pair`: `value`, if there is nothing yet.

        One step decides, so that two never live: neither of two threads, nor of a
        thread and what it is interrupted by.
        """
        wanted = weakref.KeyedRef(value, self._remove, pair)  # type: ignore[attr-defined]
        while (found := self.data.setdefault(pair, wanted)()) is None:  # type: ignore[attr-defined]
            _remove_dead_weakref(self.data, pair)  # type: ignore[attr-defined]
        return cast(_Kept, found)
