"""Steps: the writebacks of this process, each of which takes a buffer to its next
generation and changes one window of it.

The other windows that this process has promoted differ in nothing, so they *follow*: from
then on they are of the next generation too. A window that is promoted at that moment may
have its bytes from before the step, and be known only after it; it follows the last steps
when it is known.

A step is taken once it is published. Before, it would be too soon: if the access failed,
the writer that repairs the buffer would publish other bytes by the same number. So there
is a moment at which the buffer is of the next generation and the other windows are not,
and another writeback waits for its end (`areFollowed`) before it compares the two.

Private to the process, like the windows.
"""

from __future__ import annotations

import _thread
import weakref
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from muninn.system import clock, green
from muninn.system.cleanups import Cleanup
from muninn.system.deadlines import deadlineOf, remaining
from muninn.transfer.dirty import Range

if TYPE_CHECKING:
    from muninn.session.openbuffer import OpenBuffer

_LOOK_SECONDS = 0.001
#: How many steps a window may miss while it is promoted. If it misses more, its writeback
#: is refused as if another process had written.
_MOST_MISSED = 64


class Followed:
    """The generation that a promoted window is of."""

    __slots__ = ("__weakref__", "generation", "window")

    def __init__(self, window: Range, generation: int) -> None:
        self.window, self.generation = window, generation


class _Step(NamedTuple):
    generation: int
    written: Range

    def lead(self, followed: Followed) -> None:
        isOfIt = followed.generation == self.generation
        if isOfIt and not followed.window.overlaps(self.written):
            followed.generation += 2


class Publication:
    """A writeback, from before its publication until the other windows have followed.

    Attributes
    ----------
    block
        Refers to what the `with` statement has entered: nothing once it is left, however
        that was (`system/cleanups.py`).
    """

    __slots__ = ("block", "thread")

    def __init__(self) -> None:
        self.thread = green.identity()
        self.block: weakref.ref[Cleanup] | None = None

    def begun(self) -> Cleanup:
        """To be entered at once, around all of it."""
        made = Cleanup()
        self.block = weakref.ref(made)
        return made

    @property
    def isOver(self) -> bool:
        return self.block is None or self.block() is None


class Steps:
    """The steps of one buffer in this process, and the windows that follow."""

    def __init__(self) -> None:
        self._changing = _thread.RLock()
        self._followed = weakref.WeakSet[Followed]()
        self._past = deque[_Step](maxlen=_MOST_MISSED)
        self._publication: Publication | None = None

    def follow(self, window: Range, generation: int) -> Followed:
        """A window is promoted, with its bytes of that generation."""
        followed = Followed(window, generation)
        with self._changing:
            for step in self._past:
                step.lead(followed)
            self._followed.add(followed)
        return followed

    def announce(self, publication: Publication) -> None:
        """It is about to publish. Called inside the access, where no other one can be: a
        writeback that waits for it has the access then.
        """
        self._publication = publication

    def take(self, own: Followed) -> None:
        """A window was written back and published: the others follow."""
        with self._changing:
            step = _Step(own.generation, own.window)
            self._past.append(step)
            own.generation += 2
            for each in list(self._followed):
                step.lead(each)

    def areFollowed(self, seconds: float) -> bool:
        """Wait until the other windows have followed what another thread has published.
        A signal handler does not wait for the thread that it interrupts.
        """
        deadline = deadlineOf(seconds)
        while True:
            last = self._publication
            if last is None or last.isOver or last.thread == green.identity():
                return True
            if (left := remaining(deadline)) is not None and left <= 0:
                return False
            clock.sleep(_LOOK_SECONDS)


#: By open buffer.
_steps: weakref.WeakKeyDictionary[OpenBuffer, Steps] = weakref.WeakKeyDictionary()


def stepsOf(base: OpenBuffer) -> Steps:
    """The steps of a buffer."""
    return _steps.setdefault(base, Steps())
