"""Latches: set once, and waited for by any number of threads of this process."""

from __future__ import annotations

from muninn.system import atomics
from muninn.system.atomics import SPIN_NS
from muninn.system.deadlines import deadlineOf, sleepNs
from muninn.system.green import sleepOn

#: A signal may be delivered to another thread than the one that runs its handler, which
#: then has to wake by itself to do so.
_SLICE_NS = 50_000_000


class Latch:
    """Set once, and waited for by any number of threads.

    Not `threading.Event`: a signal handler that waits for what its thread is just
    waiting for would find the event's lock taken.
    """

    __slots__ = ("_address", "_word")

    def __init__(self) -> None:
        self._word, self._address = atomics.privateWord()

    def set(self) -> None:
        # SYNC latch: pairs with Latch.wait; what its setter did before is there for
        # a thread that was waiting.
        atomics.storeRelease64(self._address, 1)
        atomics.futexWake32(self._address, atomics.FUTEX_ALL)

    def isSet(self) -> bool:
        return bool(atomics.loadAcquire64(self._address))

    def wait(self, seconds: float | None) -> bool:
        """Wait at most so long, or for ever; returns whether it is set. Signal handlers
        run meanwhile, on the main thread.
        """
        if atomics.spinWhile64(self._address, 0, SPIN_NS):
            return True
        deadline = deadlineOf(seconds)
        while not atomics.loadAcquire64(self._address):
            if (ns := sleepNs(deadline, _SLICE_NS)) <= 0:
                return False
            # its low half, on the little-endian machines that there are SYNC latch:
            # pairs with Latch.set. The word is compared as the thread falls asleep.
            sleepOn(self._address, 0, ns)
        return True
