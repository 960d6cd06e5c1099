"""Forks: locks that are whole after a fork, and how a child knows that it is one.

A fork copies one thread, and every lock as it is. A lock that another thread held is
held for ever in the child, and a module that another thread was importing is half
imported there. So a lock that outlives a membership belongs to a `Guard`, which has a
new lock in a child. A fork waits, for a bounded time, until no other thread is inside a
guard that `isWhole`. Everything else that a fork may cut in half belongs to a
membership, and a child begins with none.
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

from muninn.errors import DeviceUnavailable
from muninn.system import atomics
from muninn.system.pages import PAGE_BYTES

#: How long a fork waits for another thread's import or join. After that, the child does
#: without the modules that were being loaded.
_WHOLE_SECONDS = 2.0
#: The end of a fork, by whether the forking thread got the lock: True releases it. The
#: wait for a lock may have been in vain.
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
        To be entered at once: ``with guard.lock:``. A child has another lock. If a
        signal handler forks inside the block, the frame goes on in the child, and
        leaves the lock that it has entered.
    """

    def __init__(self, isWhole: bool = False) -> None:
        self.lock = _thread.RLock()
        # A fork makes one call of C before, and one after. In a Python function, a
        # signal handler could run between any two bytecodes. It could raise, and leave
        # the lock taken for ever; or it could fork, and a count kept by hand would be
        # wrong.
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
    """A number that only this process has: the kernel sets it to zero in a forked
    child.
    """

    def __init__(self, nonce: int) -> None:
        self._word = ctypes.c_uint64.from_address(atomics.mappedWipedOnFork(PAGE_BYTES))
        self._word.value = nonce

    def isWiped(self) -> bool:
        return self._word.value == 0


class Origin:
    """The process that has made an object which its forked children can not use.

    Parameters
    ----------
    reason, fix
        The error for a child.
    """

    __slots__ = ("_fix", "_pid", "_reason")

    def __init__(self, reason: str, fix: str) -> None:
        self._pid, self._reason, self._fix = os.getpid(), reason, fix

    def isHere(self) -> bool:
        return os.getpid() == self._pid

    def require(self) -> None:
        """Raise `DeviceUnavailable` in a forked child."""
        if not self.isHere():
            raise DeviceUnavailable(self._reason, self._fix)
