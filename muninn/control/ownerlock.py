"""Claims: words in shared memory that one member at a time owns, and that survive their
owner's death.

A claim is 32 bits {contended, slot generation, slot+1}, so a waiter knows whom it waits
for and can ask whether that one is *proven* dead; noticed is not enough, since another
thread of a dying process may still be writing. The writer's right to a buffer and
`muninn.Lock` are claims. They belong to processes.

Locks and accesses take them in C (`cshim/owners.c`), together with what this process
remembers of them, and in the order in which waiters came. Here is what the word says,
and what the broker does to a dead owner's.
"""

from __future__ import annotations

from muninn.control import layout
from muninn.control.members import MemberKey
from muninn.system import atomics

_SLOT_MASK, _CONTENDED = layout.OWNER_SLOT.mask, layout.OWNER_CONTENDED.mask
_GENERATION_SHIFT, _GENERATION_MASK = layout.OWNER_GENERATION.shift, layout.OWNER_GENERATION.top


def ownerLockWord(key: MemberKey) -> int:
    """What the word says while `key` owns it."""
    return (key.generation & _GENERATION_MASK) << _GENERATION_SHIFT | (key.slot + 1)


def ownerOf(word: int) -> tuple[int, int] | None:
    """(slot, generation bits) of the owner, or None."""
    slot = (word & _SLOT_MASK) - 1
    return None if slot < 0 else (slot, word >> _GENERATION_SHIFT & _GENERATION_MASK)


def belongsTo(word: int, key: MemberKey) -> bool:
    return ownerOf(word) == (key.slot, key.generation & _GENERATION_MASK)


def markDead(address: int, key: MemberKey) -> None:
    """Let an owner lock of `key`, whose death is proven, say that nobody who lives owns
    it, and make the waiters look at it.

    A claim that nobody wants stays as it is for ever, and the bits of the owner's
    generation come again after 2^19 members of that slot.
    """
    while belongsTo(word := int(atomics.loadAcquire32(address)), key):
        # SYNC claim: pairs with takeFrom. Bounded: it is marked contended once.
        if atomics.casSeqCst32(address, word, word & _CONTENDED | layout.OWNER_DEAD) == word:
            break
    atomics.futexWake32(address, atomics.FUTEX_ALL)
