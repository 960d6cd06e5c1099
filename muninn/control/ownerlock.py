"""Owner locks: words in shared memory that one member at a time owns, and that survive
their owner's death.

An owner lock is 32 bits {contended, slot generation, slot+1}. So a waiter knows which
member it waits for, and can ask whether that member is *confirmed* dead. *Suspected*
is not enough, since another thread of a dying process may still be writing. The right
to write a buffer and `muninn.Lock` are owner locks. A lock belongs to a process.

A locker takes the word in C (`cshim/owners.c`), together with the record that this
process keeps of it, in the order in which the waiters came. This module has the meaning
of the word, and the broker's part: it CASes the word of a dead owner to OWNER_DEAD and
wakes the waiters, and the next owner learns that it recovered the lock. A stale read of
the word costs a waiter one more sleep.
"""

from __future__ import annotations

from muninn.control import layout
from muninn.control.members import MemberKey
from muninn.system import atomics

_SLOT_MASK, _CONTENDED = layout.OWNER_SLOT.mask, layout.OWNER_CONTENDED.mask
_GENERATION_SHIFT, _GENERATION_MASK = layout.OWNER_GENERATION.shift, layout.OWNER_GENERATION.top


def ownerLockWord(key: MemberKey) -> int:
    """The value of the word while `key` owns it."""
    return (key.generation & _GENERATION_MASK) << _GENERATION_SHIFT | (key.slot + 1)


def ownerOf(word: int) -> tuple[int, int] | None:
    """(slot, generation bits) of the owner, or None."""
    slot = (word & _SLOT_MASK) - 1
    return None if slot < 0 else (slot, word >> _GENERATION_SHIFT & _GENERATION_MASK)


def belongsTo(word: int, key: MemberKey) -> bool:
    return ownerOf(word) == (key.slot, key.generation & _GENERATION_MASK)


def markDead(address: int, key: MemberKey) -> None:
    """Mark an owner lock of `key`, whose death is confirmed: it says from now on that
    its owner is dead. Wake the waiters.

    Without the mark, a lock for which no process waits would name the dead owner for
    ever, and the bits of the generation come again after 2^19 members of that slot.
    """
    while belongsTo(word := int(atomics.loadAcquire32(address)), key):
        # SYNC claim: pairs with takeFrom. Bounded: the word changes once at most, when
        # a waiter sets the contended bit.
        if atomics.casSeqCst32(address, word, word & _CONTENDED | layout.OWNER_DEAD) == word:
            break
    atomics.futexWake32(address, atomics.FUTEX_ALL)
