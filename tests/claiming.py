"""The owner lock of a member that a test plays. It is the shared word only, without the
record of the process and without the queue of the waiters.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from muninn.control.members import MemberKey
from muninn.control.ownerlock import belongsTo, ownerLockWord, ownerOf
from muninn.system import atomics
from muninn.system.deadlines import deadlineOf, sleepNs

_CONTENDED = 1 << 31
_CHECK_NS = 50_000_000


class Acquired(Enum):
    """How an attempt at the owner lock has ended."""

    OWNED = auto()
    #: Owned, taken over from an owner that died, or from an acquisition of this process
    #: that was interrupted. The caller holds the lock that keeps its threads apart, so
    #: no other thread can own it here.
    RECOVERED = auto()
    TIME_OVER = auto()


def acquire(
    address: int, key: MemberKey, isDead: Callable[[int, int], bool], timeout: float | None
) -> Acquired:
    """Acquire the owner lock.

    Parameters
    ----------
    isDead
        Whether the owner (slot, generation bits) is confirmed dead.
    timeout
        Seconds; None waits as long as the owner lives.
    """
    mine = ownerLockWord(key)
    if atomics.casSeqCst32(address, 0, mine) == 0:
        return Acquired.OWNED
    deadline = deadlineOf(timeout)
    while True:
        word = int(atomics.loadAcquire32(address))
        owner = ownerOf(word)
        if belongsTo(word, key):
            return Acquired.RECOVERED
        if owner is None or isDead(*owner):
            # SYNC claim: pairs with release; the words that the last owner wrote are
            # visible. The release may have woken a waiter that died, so the new owner
            # keeps the contention bit.
            if atomics.casSeqCst32(address, word, mine | word & _CONTENDED) == word:
                return Acquired.OWNED if owner is None else Acquired.RECOVERED
            continue
        remainingNs = sleepNs(deadline, _CHECK_NS)
        if remainingNs <= 0:
            return Acquired.TIME_OVER
        if word & _CONTENDED or atomics.casSeqCst32(address, word, word | _CONTENDED) == word:
            atomics.futexWait32(address, word | _CONTENDED, remainingNs)


def release(address: int) -> None:
    """Release the owner lock and wake the waiters."""
    # SYNC claim: pairs with acquire.
    if atomics.exchangeSeqCst32(address, 0) & _CONTENDED:
        atomics.futexWake32(address, atomics.FUTEX_ALL)
