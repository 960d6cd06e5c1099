"""A public call that is interrupted, and what all such calls share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

WORDS = 16
OWN = "mine-"
BOUND_SECONDS = 5.0


class Call(NamedTuple):
    """One public call.

    Attributes
    ----------
    act
        The call, of the kit.
    prepare
        Makes the kit; a call without one may be a newcomer's first.
    ends
        Whether it ends the buffer or lock in its kit, so that a second call may find
        that freed.
    isWhole
        Whether the program's own bytecodes in `act` are interrupted too: a ``with``
        statement holds on to what it entered.
    stays
        The name that there is after the call, however it ends, of the kit.
    mend
        Repairs the kit: the interrupted call may have left it half written.
    """

    act: Callable[[Any], Any]
    prepare: Callable[[], Any] | None = None
    ends: bool = False
    isWhole: bool = False
    stays: Callable[[Any], str] | None = None
    mend: Callable[[Any], None] | None = None


def values() -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.full(WORDS, 7.0)
