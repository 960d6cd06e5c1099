"""Host semaphores: words in pinned host memory at which streams wait for the host; and
the count of such waits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cuda.bindings import driver as cu

from muninn.devices.cuda.driver import call
from muninn.devices.cuda.pinned import Pool, pinned
from muninn.system import atomics
from muninn.system.deadlines import deadlineOf, remaining
from muninn.system.green import Condition

_WORD_BYTES = 8
_PAGE_WORDS = 512


class HostSemaphore:
    """A word in pinned host memory with a number that only grows. A stream waits until
    the number is reached, and the host stores it.

    One stream after another uses the word, and its numbers go on from stream to stream:
    a stream that has ended for the host may still wait for a number that was reached.
    """

    def __init__(self, host: int, device: int) -> None:
        self._host, self.deviceAddress = host, device
        self._asked = 0
        atomics.storeRelease64(host, 0)

    def ask(self) -> int:
        """The number that the stream waits for next."""
        self._asked += 1
        return self._asked

    def open(self, number: int) -> None:
        """Let the stream go on that waits for `number`. Numbers only grow: one thread
        opens.
        """
        # SYNC semaphore: pairs with CudaStream._await; the host's work comes before.
        atomics.storeRelease64(self._host, number)


class HostSemaphores(Pool[HostSemaphore]):
    """The host semaphores that no stream uses."""

    def _made(self) -> list[HostSemaphore]:
        host = pinned(_PAGE_WORDS * _WORD_BYTES)
        device = int(call(cu.cuMemHostGetDevicePointer, host, 0))
        return [
            HostSemaphore(host + at * _WORD_BYTES, device + at * _WORD_BYTES)
            for at in range(_PAGE_WORDS)
        ]


class Waits:
    """The waits of this process's streams for the host, or for other processes, that
    are not over.

    A thread that frees memory has the driver's lock until the GPU has done its work
    (seen on an H200). If a stream waits meanwhile, the thread that would end its wait
    may need the same lock. So memory is freed only while there is no wait, and none can
    begin.
    """

    def __init__(self) -> None:
        # Its owner may take the lock again: to free memory runs finalizers of others.
        self._changed = Condition()
        self._pending = 0
        self._isAwaited = False

    def begin(self) -> Wait:
        """Count a wait. Called before the stream is told to wait."""
        with self._changed.lock:
            # A thread in `none` is about to see that there is no wait.
            while self._isAwaited and not self._pending:
                self._changed.wait()
            self._pending += 1
        return Wait(self)

    def _end(self) -> None:
        with self._changed.lock:
            self._pending -= 1
            if not self._pending:
                self._changed.notifyAll()

    @contextlib.contextmanager
    def none(self, seconds: float) -> Iterator[bool]:
        """Keep waits from beginning inside the block, once there are none. Gives False
        where some wait was not over after `seconds`; then waits may begin.
        """
        with self._changed.lock:
            self._isAwaited = True
            try:
                isNone = self._awaitNone(deadlineOf(seconds))
            finally:
                self._isAwaited = False
                self._changed.notifyAll()
            if isNone:
                yield True
                return
        yield False

    def _awaitNone(self, deadline: float | None) -> bool:
        # Not `wait_for`, whose clock a program can replace (`clock.py`).
        while self._pending:
            left = remaining(deadline)
            if not left and left is not None:
                return False
            self._changed.wait(left)
        return True


class Wait:
    """One wait. Several calls of `end` end it once: a thread that was interrupted does
    not know whether the stream worker has the wait already.
    """

    __slots__ = ("_waits",)

    def __init__(self, waits: Waits) -> None:
        self._waits = [waits]

    def end(self) -> None:
        with contextlib.suppress(IndexError):
            self._waits.pop()._end()


#: One for the process, as the driver's lock is.
WAITS = Waits()
