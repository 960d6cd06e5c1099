"""The replacement: the one word that says which two rows a broker is exchanging under
one name.

A publication changes two state words: the new row's from CREATING to LIVE, and the old
row's from LIVE to REPLACED. The broker writes both rows into this word before the first
change, and empties it after the second. If the broker dies in between, the word stays,
and its successor reads it once it has fenced. Nothing else happens in the domain
between the two changes, because the broker alone changes rows, one step at a time.

The broker's epoch is in the word, and each successor raises it, so that the CAS of a
deposed broker fails: it can not begin a replacement after its successor has looked.
"""

from __future__ import annotations

from typing import NamedTuple

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.rows import Deposed
from muninn.system import atomics

_OLD, _NEW, _EPOCH = layout.REPLACEMENT_OLD, layout.REPLACEMENT_NEW, layout.REPLACEMENT_EPOCH


class Exchange(NamedTuple):
    """The row that has a name, and the row that takes it."""

    old: int
    new: int


class Replacement:
    """The replacement's word of a control block."""

    def __init__(self, block: ControlBlock) -> None:
        self._address = block.replacementAddress
        self._maxRow = block.geometry.maxBuffers

    def read(self) -> Exchange | None:
        """The exchange that was begun and not finished. A word that names no rows of
        the table is damaged, and counts as none.
        """
        # SYNC replacement: pairs with Replacement._change. The reader has fenced, so no
        # predecessor changes the word or the rows any more.
        word = int(atomics.loadAcquire64(self._address))
        old, new = _OLD.of(word) - 1, _NEW.of(word) - 1
        isInRange = 0 <= old < self._maxRow and 0 <= new < self._maxRow and old != new
        return Exchange(old, new) if isInRange else None

    def begin(self, epoch: int, exchange: Exchange) -> None:
        """Note the exchange, for the broker of `epoch`. Raises `Deposed`."""
        self._change(epoch, _OLD.put(exchange.old + 1) | _NEW.put(exchange.new + 1))

    def end(self, epoch: int) -> None:
        """The exchange is finished, or will not be made. Raises `Deposed`."""
        self._change(epoch, 0)

    def _change(self, epoch: int, rows: int) -> None:
        word = int(atomics.loadAcquire64(self._address))
        # SYNC replacement: pairs with Replacement.read. The word is stored before the
        # first row is changed, and emptied after the second. SYNC epoch: pairs with
        # RowTable.fence.
        if (
            _EPOCH.of(word) > epoch
            or atomics.casSeqCst64(self._address, word, _EPOCH.put(epoch) | rows) != word
        ):
            raise Deposed
