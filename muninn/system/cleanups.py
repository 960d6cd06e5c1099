"""Cleanups: what a `with` statement alone keeps, so that the end of its block is
noticed whatever interrupts it.

A block that an exception ends undoes what it began, and the next exception, a second
Ctrl-C, may end that at any bytecode, the first one included. The objects in the frames
tell nothing: a traceback keeps them for as long as somebody keeps the traceback, as
notebooks do. But the interpreter lets go of what a `with` statement entered as soon as
its block is left. So an `Cleanup` ends with its block, and the callback of a reference
to it, `deque.append` itself, hands what is left to the background thread, which no
signal reaches.
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
    """What may be cut short."""

    def undo(self) -> bool:
        """Undo what was begun; False: it can not be done yet. Called on the background
        thread, perhaps again after it was done.
        """


class Cleanup(_thread.RLock):  # type: ignore[misc]  # it may be inherited from, whatever typeshed says
    """One block. It is a lock because that is entered and left in C: no frame of its
    own would keep it.
    """

    __slots__ = ()


class _Remnant(weakref.ref[Cleanup]):
    """What is left of a cleanup that never came to its end."""

    __slots__ = ("waker", "work")
    work: Work
    #: Another reference to the cleanup, whose callback comes after this one's.
    waker: object


class Cleanups:
    """Those of one membership. `wake` makes the background thread look around."""

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._open: dict[int, _Remnant] = {}
        self._left: deque[_Remnant] = deque()

    def begin(self, work: Work) -> Cleanup:
        """What the `with` statement enters, and nothing else keeps."""
        made = Cleanup()
        # the callbacks of one object are called the last one first
        waker = weakref.ref(made, self._onLeft)
        remnant = _Remnant(made, self._left.append)
        remnant.work, remnant.waker = work, waker
        self._open[id(work)] = remnant
        return made

    def end(self, work: Work) -> None:
        """Nothing of it is to be undone. Whoever is interrupted before this, or does
        not come to it, is followed by `Work.undo`.
        """
        self._open.pop(id(work), None)

    def isUnderWay(self, work: Work) -> bool:
        """Whether its block has not been left."""
        remnant = self._open.get(id(work))
        return remnant is not None and remnant() is not None

    def run(self) -> bool:
        """Undo what was cut short; False when some of it can not be undone yet. For the
        background thread.
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
        """Wait until nothing is left to be undone; False when something still is after
        so long. Not on the background thread.
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
