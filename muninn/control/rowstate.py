"""The state word of a row: in which state the row is, which member creates it, in which
term it was changed and for which incarnation.

The broker alone changes the word, by CAS. The epoch in it fences a deposed broker: a
successor raises the epoch of all words first (`RowTable.fence`). The incarnation tells
a row's buffer from all that had the row before.
"""

from __future__ import annotations

from typing import NamedTuple

from muninn.control import layout

_STATE_MASK = layout.ROW_STATE.mask
_CREATOR_SHIFT, _CREATOR_MASK = layout.ROW_CREATOR.shift, layout.ROW_CREATOR.top
_EPOCH_SHIFT, _EPOCH_MASK = layout.ROW_EPOCH.shift, layout.ROW_EPOCH.top
_INCARNATION_SHIFT, _INCARNATION_MASK = layout.ROW_INCARNATION.shift, layout.ROW_INCARNATION.top
MAX_EPOCH = layout.ROW_EPOCH.top
MAX_INCARNATION = layout.ROW_INCARNATION.top
#: The states in which a row takes memory.
TAKING = (layout.ROW_LIVE, layout.ROW_PROBING, layout.ROW_DYING, layout.ROW_REPLACED)


class RowState(NamedTuple):
    """The state word of a row, taken apart."""

    state: int
    creator: int
    epoch: int
    incarnation: int

    @staticmethod
    def of(word: int) -> RowState:
        return RowState(
            word & _STATE_MASK,
            word >> _CREATOR_SHIFT & _CREATOR_MASK,
            word >> _EPOCH_SHIFT & _EPOCH_MASK,
            word >> _INCARNATION_SHIFT & _INCARNATION_MASK,
        )

    def word(self) -> int:
        return (
            self.state
            | self.creator << _CREATOR_SHIFT
            | self.epoch << _EPOCH_SHIFT
            | self.incarnation << _INCARNATION_SHIFT
        )


def liveWord(incarnation: int) -> tuple[int, int]:
    """(mask, value) of the state words of that incarnation while it is live."""
    mask = _STATE_MASK | _INCARNATION_MASK << _INCARNATION_SHIFT
    return mask, layout.ROW_LIVE | incarnation << _INCARNATION_SHIFT
