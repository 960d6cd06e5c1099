"""Claims: words in shared memory that one member at a time owns, and that survive their owner's death.

A claim is 32 bits {contended, slot generation, slot+1}, so a waiter knows whom it waits for and can ask whether that one is
*proven* dead; noticed is not enough, since another thread of a dying process may still be writing. The writer's right to a buffer
and `muninn.Lock` are claims. They belong to processes.

Locks and turns take them in C (`cshim/owners.c`), together with what this process remembers of them, and in the order in which waiters
came. `acquire` and `release` here are the same word without both, for a member that is played by somebody else: tests.
"""

from __future__ import annotations

from collections.abc import Callable

from muninn.control import atomics, layout
from muninn.control.deadlines import deadlineOf, sleepNs
from muninn.control.members import CLAIM_GENERATION_MASK, MemberKey

_SLOT_MASK = 0xFFF
_GENERATION_SHIFT, _GENERATION_MASK = 12, CLAIM_GENERATION_MASK
_CONTENDED = 1 << 31
#: The owner of a claim that a dead member left: a slot that no table has, so it is nobody's that lives.
_DEAD_OWNER = layout.MAX_MEMBERS_LIMIT + 1
assert _DEAD_OWNER == _SLOT_MASK
#: How long a waiter sleeps before it looks at its owner again; the reclaiming broker wakes it sooner.
_CHECK_NS = 50_000_000


def claimWord(key: MemberKey) -> int:
    """What the word says while `key` owns it."""
    return (key.generation & _GENERATION_MASK) << _GENERATION_SHIFT | (key.slot + 1)


def ownerOf(word: int) -> tuple[int, int] | None:
    """(slot, generation bits) of the owner, or None."""
    slot = (word & _SLOT_MASK) - 1
    return None if slot < 0 else (slot, word >> _GENERATION_SHIFT & _GENERATION_MASK)


def belongsTo(word: int, key: MemberKey) -> bool:
    return ownerOf(word) == (key.slot, key.generation & _GENERATION_MASK)


def acquire(address: int, key: MemberKey, isDead: Callable[[int, int], bool], timeout: float | None) -> bool | None:
    """Own the claim.

    Parameters
    ----------
    isDead
        Whether the owner (slot, generation bits) is proven dead.
    timeout
        Seconds; None waits as long as the owner lives.

    Returns
    -------
    bool or None
        True: owned. False: owned, taken over from an owner that died, or from an acquisition of this process that was interrupted (the
        caller holds the lock that keeps its threads apart, so nobody else can have it here). None: the time ran out.
    """
    mine = claimWord(key)
    if atomics.casSeqCst32(address, 0, mine) == 0:
        return True
    deadline = deadlineOf(timeout)
    while True:
        word = int(atomics.loadAcquire32(address))
        owner = ownerOf(word)
        if belongsTo(word, key):
            return False
        if owner is None or isDead(*owner):
            # SYNC claim: pairs with release; what the last owner wrote is visible. A waiter may have been lost with its wake, so
            # contention is kept.
            if atomics.casSeqCst32(address, word, mine | word & _CONTENDED) == word:
                return owner is None
            continue
        remainingNs = sleepNs(deadline, _CHECK_NS)
        if remainingNs <= 0:
            return None
        if word & _CONTENDED or atomics.casSeqCst32(address, word, word | _CONTENDED) == word:
            atomics.futexWait32(address, word | _CONTENDED, remainingNs)


def awaitRelease(address: int, isDead: Callable[[int, int], bool], timeout: float | None) -> bool:
    """Wait until nobody who lives owns the claim, without wanting it; False when somebody still does after `timeout` seconds."""
    deadline = deadlineOf(timeout)
    while True:
        word = int(atomics.loadAcquire32(address))
        owner = ownerOf(word)
        if owner is None or isDead(*owner):
            return True
        remainingNs = sleepNs(deadline, _CHECK_NS)
        if remainingNs <= 0:
            return False
        if word & _CONTENDED or atomics.casSeqCst32(address, word, word | _CONTENDED) == word:
            atomics.futexWait32(address, word | _CONTENDED, remainingNs)


def release(address: int) -> None:
    """Give the claim up and wake who waits."""
    # SYNC claim: pairs with acquire.
    if atomics.exchangeSeqCst32(address, 0) & _CONTENDED:
        atomics.futexWake32(address, atomics.FUTEX_ALL)


def markDead(address: int, key: MemberKey) -> None:
    """Let a claim of `key`, whose death is proven, say that nobody who lives owns it, and make the waiters look at it.

    A claim that nobody wants stays as it is for ever, and the bits of the owner's generation come again after 2^19 members of that slot.
    """
    while belongsTo(word := int(atomics.loadAcquire32(address)), key):
        # SYNC claim: pairs with acquire, and with the same in cshim/owners.c. Bounded: it is marked contended once.
        if atomics.casSeqCst32(address, word, word & _CONTENDED | _DEAD_OWNER) == word:
            break
    atomics.futexWake32(address, atomics.FUTEX_ALL)
