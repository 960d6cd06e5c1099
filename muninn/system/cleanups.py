"""Cleanups: if a block does not come to its end, the background thread undoes what it
began.

A block that an exception ends undoes what it began. A second exception, such as another
Ctrl-C, may end this undoing at any bytecode, the first included. The objects in the
frames do not show that: a traceback keeps them alive for as long as any object keeps
the traceback, as notebooks do. But the interpreter drops its reference to the object
that a `with` statement has entered as soon as it leaves the block. So:

1. `begin` makes a `Cleanup` for a block, to which only the `with` statement has a
   reference, and registers the work.
2. A block that comes to its end calls `end`, and nothing is left to undo.
3. Otherwise the `Cleanup` is destroyed when the interpreter leaves the block. The
   callback of a weak reference, which is `deque.append` itself, so that no bytecode
   runs, puts the work on a queue.
4. The callback of a second weak reference wakes the background thread, which no signal
   reaches. That thread undoes the work on the queue.
"""

from __future__ import annotations

import _thread
import weakref
from collections import deque
from collections.abc import Callable
from typing import Protocol

from muninn.system import clock

_LOOK_SECONDS = 0.001


class Work(Protocol):
    """Work that an exception may cut short."""

    def undo(self) -> bool:
        """Undo what was begun. Returns False if that can not be done yet. Called on the
        background thread, perhaps once more after it was done.
        """


class Cleanup(_thread.RLock):  # type: ignore[misc]  # it may be inherited from, whatever typeshed says
    """One block. It is a lock because a lock is entered and left in C, so no Python
    frame keeps a reference to it.
    """

    __slots__ = ()


class _Remnant(weakref.ref[Cleanup]):
    """What is left of a cleanup whose block did not come to its end."""

    __slots__ = ("waker", "work")
    work: Work
    #: Another reference to the cleanup, whose callback comes after this one's.
    waker: object


class Cleanups:
    """The cleanups of one membership. `wake` wakes the background thread."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._open: dict[int, _Remnant] = {}
        self._left: deque[_Remnant] = deque()

    def begin(self, work: Work) -> Cleanup:
        """Return the object that the `with` statement enters. The caller must keep no
        other reference to it.
        """
        made = Cleanup()
        # Callbacks for one object run in the reverse order of their creation.
        waker = weakref.ref(made, self._onLeft)
        remnant = _Remnant(made, self._left.append)
        remnant.work, remnant.waker = work, waker
        self._open[id(work)] = remnant
        return made

    def end(self, work: Work) -> None:
        """Say that nothing is left to undo. If the block is interrupted before this
        call, `Work.undo` follows.
        """
        self._open.pop(id(work), None)

    def isUnderWay(self, work: Work) -> bool:
        """Whether its block has not been left."""
        remnant = self._open.get(id(work))
        return remnant is not None and remnant() is not None

    def run(self) -> bool:
        """Undo the work that was cut short. Returns False if some of it can not be
        undone yet. For the background thread.
        """
        isDone = True
        for _ in range(len(self._left)):
            remnant = self._left[0]
            self._left.rotate(-1)
            if remnant.work.undo():
                self._open.pop(id(remnant.work), None)
                self._left.remove(remnant)
            else:
                isDone = False
        return isDone

    def awaitDone(self, seconds: float) -> bool:
        """Wait until nothing is left to undo. Returns False if something still is,
        after so long. Must not be called on the background thread.
        """
        deadline = clock.now() + seconds
        while self._left:
            if clock.now() > deadline:
                return False
            self._wake()
            clock.sleep(_LOOK_SECONDS)
        return True

    def _onLeft(self, _: object) -> None:
        self._wake()
