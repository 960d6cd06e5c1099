"""Watching another member's robust word, without missing anything.

The word is {owner died:1 | waiters:1 | thread id:30}; the kernel sets the first bit when the owner's thread ends, and wakes one
waiter if the second bit is set. A watcher arms the word (sets the waiters bit), asks whether there is still a reason to sleep, and
sleeps only while the word is as it armed it. Whoever gives it another reason clears the bit and wakes all, so a watcher that was
between the question and the sleep finds the word changed and does not fall asleep, unless a third one has armed it again just then:
so no sleep is longer than a second, and what was missed is seen then.
"""

from __future__ import annotations

from collections.abc import Callable

from muninn.control import atomics

_OWNER_DIED = 0x40000000
_WAITERS = 0x80000000
_LONGEST_NS = 1_000_000_000


def watch(address: int, mustLook: Callable[[], bool], timeoutNs: int) -> None:
    """Sleep until the owner of the word dies, `disturb` is called, or the bound is reached. Returns at once when `mustLook`."""
    word = int(atomics.loadAcquire32(address))
    if word == 0 or word & _OWNER_DIED:
        return
    # SYNC watch: pairs with disturb and with the kernel's exit_robust_list.
    if not word & _WAITERS and atomics.casSeqCst32(address, word, word | _WAITERS) != word:
        return
    if mustLook():
        return
    atomics.futexWait32(address, word | _WAITERS, min(timeoutNs, _LONGEST_NS))
    if atomics.loadAcquire32(address) & _OWNER_DIED:
        atomics.futexWake32(address, atomics.FUTEX_ALL)  # the kernel woke one of us


def disturb(address: int) -> None:
    """Make every watcher look around. Called after what they are to see was stored."""
    word = int(atomics.loadAcquire32(address))
    while word & _WAITERS and (found := int(atomics.casSeqCst32(address, word, word & ~_WAITERS))) != word:
        word = found
    atomics.futexWake32(address, atomics.FUTEX_ALL)
