"""Forks: locks that a fork leaves whole.

A fork copies one thread, and every lock as it is: what another thread held is held for ever in the child, and what it was importing is half
imported there. So locks that outlive a membership are `Guard`s, which are new in a child unless the thread that forked has them; and a fork
waits, for a bounded time, until no other thread is inside one that `isWhole`. All else that a fork may cut belongs to a membership, and a
child begins with none.
"""

from __future__ import annotations

import _thread
import os
import weakref

#: How long a fork waits for another thread's import or join. Afterwards the child has to do without what was being loaded.
_WHOLE_SECONDS = 2.0

_guards: weakref.WeakSet[Guard] = weakref.WeakSet()


class Guard(_thread.RLock):  # type: ignore[misc]  # it may be inherited from, whatever typeshed says
    """A re-entrant lock of the process.

    It is the C class, so that its ends are C: a handler of a signal may raise at the first bytecode of an `__exit__` in Python, and the
    lock would stay taken.

    Parameters
    ----------
    isWhole
        Whether a fork waits until no other thread is inside.
    """

    def __init__(self, isWhole: bool = False) -> None:
        self._isWhole = isWhole
        self._forking = False
        _guards.add(self)

    def beforeFork(self) -> None:
        if self._isWhole and self.acquire(timeout=_WHOLE_SECONDS):
            self._forking = True  # written and read by who has the lock

    def afterFork(self) -> None:
        """In the parent, and in the child if this thread has the lock."""
        if self._is_owned() and self._forking:  # type: ignore[attr-defined]
            self._forking = False
            self.release()

    def afterForkInChild(self) -> None:
        self.afterFork()
        if not self._is_owned():  # type: ignore[attr-defined]
            self._at_fork_reinit()  # type: ignore[attr-defined]
            self._forking = False


def _each(step: str) -> None:
    for guard in list(_guards):
        getattr(guard, step)()


os.register_at_fork(
    before=lambda: _each("beforeFork"), after_in_parent=lambda: _each("afterFork"), after_in_child=lambda: _each("afterForkInChild")
)
