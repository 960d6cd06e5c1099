"""Latches: set once, and waited for by any number of threads of this process."""

from __future__ import annotations

from muninn.system import atomics
from muninn.system.atomics import SPIN_NS
from muninn.system.deadlines import deadlineOf, sleepNs
from muninn.system.green import sleepOn

#: The kernel may deliver a signal to another thread than the main thread, which runs
#: the handler. So the main thread must wake by itself from time to time.
_SLICE_NS = 50_000_000


class Latch:
    """Set once, and waited for by any number of threads.

    It is no `threading.Event`: if a signal handler waited for the event for which its
    own thread is just waiting, it would find the event's lock taken.
    """

    __slots__ = ("_address", "_word")

    def __init__(self) -> None:
        self._word, self._address = atomics.privateWord()

    def set(self) -> None:
        # SYNC latch: pairs with Latch.wait. This thread's earlier stores are visible to
        # each thread that waited.
        atomics.storeRelease64(self._address, 1)
        atomics.futexWake32(self._address, atomics.FUTEX_ALL)

    def isSet(self) -> bool:
        return bool(atomics.loadAcquire64(self._address))

    def wait(self, seconds: float | None) -> bool:
        """Wait for at most so long, or for ever if `seconds` is None. Returns whether
        the latch is set. On the main thread, signal handlers run meanwhile.
        """
        if atomics.spinWhile64(self._address, 0, SPIN_NS):
            return True
        deadline = deadlineOf(seconds)
        while not atomics.loadAcquire64(self._address):
            if (ns := sleepNs(deadline, _SLICE_NS)) <= 0:
                return False
            # The futex is the low half of the word: all machines that Muninn runs on
            # are little-endian. SYNC latch: pairs with Latch.set. The kernel compares
            # the word as the thread falls asleep.
            sleepOn(self._address, 0, ns)
        return True
