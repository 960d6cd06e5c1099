"""Forks: locks that a fork leaves whole, and how a child knows that it is one.

A fork copies one thread, and every lock as it is: what another thread held is held for
ever in the child, and what it was importing is half imported there. So locks that
outlive a membership are of `Guard`s, which have a new one in a child; and a fork waits,
for a bounded time, until no other thread is inside one that `isWhole`. All else that a
fork may cut belongs to a membership, and a child begins with none.
"""

from __future__ import annotations

import _thread
import ctypes
import operator
import os
from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import Any

from muninn.system import atomics
from muninn.system.pages import PAGE_BYTES

#: How long a fork waits for another thread's import or join. Afterwards the child has
#: to do without what was being loaded.
_WHOLE_SECONDS = 2.0
#: What a fork does with a lock when it is over, by whether its thread has it: it may
#: have waited in vain.
_ENDS: dict[bool, Callable[[Any], object]] = {True: operator.methodcaller("release"), False: bool}


class Guard:
    """A re-entrant lock of the process, which keeps it to its end.

    Parameters
    ----------
    isWhole
        Whether a fork waits until no other thread is inside.

    Attributes
    ----------
    lock
        To be entered at once: ``with guard.lock:``. A child has another one. A frame of
        the parent's that goes on in the child, because a handler forked inside the
        block and returns there, leaves the one that it has entered.
    """

    def __init__(self, isWhole: bool = False) -> None:
        self.lock = _thread.RLock()
        # What a fork does is one call of C, once before and once after. A handler of a
        # signal may run between any two bytecodes of a Python function, raise, and
        # leave the lock taken for ever; or fork itself, so what is counted by hand is
        # counted twice.
        renewals = map(
            setattr, repeat(self), repeat("lock"), map(operator.call, repeat(_thread.RLock))
        )
        os.register_at_fork(after_in_child=partial(next, renewals))
        if isWhole:
            locks = map(operator.attrgetter("lock"), repeat(self))
            take = map(operator.methodcaller("acquire", True, _WHOLE_SECONDS), locks)
            ends = map(_ENDS.__getitem__, map(operator.methodcaller("_is_owned"), locks))
            os.register_at_fork(
                before=partial(next, take),
                after_in_parent=partial(next, map(operator.call, ends, locks)),
            )


class Identity:
    """A number that is this process's alone: the kernel wipes it in a forked child."""

    def __init__(self, nonce: int) -> None:
        self._word = ctypes.c_uint64.from_address(atomics.mappedWipedOnFork(PAGE_BYTES))
        self._word.value = nonce

    def isWiped(self) -> bool:
        return self._word.value == 0
