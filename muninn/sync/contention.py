"""Contention: how a thread waits for the processes that hold a lock or are inside an
access.

*For an owner.* The word of the owner lock names the member that a waiter waits for. The
waiter sleeps on the word, wakes at intervals, and asks whether that member is confirmed
dead. This module takes no lock: the C part compares the word again (`cshim/owners.c`),
so a stale read of it costs one more sleep.

*For readers.* A reader first marks the lease of its process as reading and changes the
row's word of readers, and *afterwards* looks at the owner lock. A writer first takes
the owner lock, and afterwards looks for readers. So if both come at once, at least one
sees the other, and the reader steps back.

The writer sleeps on the word of readers, which each reader changes when it leaves. The
work that a reader gave its stream has a ticket before the access ends, and the writer
waits for the ticket. When a reader dies, the broker clears its leases once the death is
confirmed. Until then the writer waits; a stale read of the word costs it one sleep of
at most `_CHECK_NS`.

No thread waits for itself: a thread that is writing is refused before it waits.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from muninn.control import layout, leases, ownerlock
from muninn.errors import WriterDied
from muninn.system import aside, atomics
from muninn.system.deadlines import deadlineOf, sleepNs
from muninn.system.green import sleepOn

if TYPE_CHECKING:
    from muninn.session.openbuffer import OpenBuffer

#: How long a thread sleeps before it looks again at the owner, or at the leases of the
#: readers. The broker that reclaims a dead owner wakes it sooner. The broker that
#: clears the leases of a dead reader does not change the word.
_CHECK_NS = 50_000_000


class OwnerWait(Enum):
    """How a wait for the owner of a lock has ended."""

    OWNER_DEAD = auto()  #: the owner is confirmed dead
    TRY_AGAIN = auto()
    TIME_OVER = auto()  #: the deadline has passed; the thread has not slept


def ownerLockAddress(openBuffer: OpenBuffer) -> int:
    """The address of the owner lock of an open buffer."""
    return openBuffer.tables.block.rowAddress(openBuffer.row) + layout.ROW_OWNER_LOCK_OFFSET


def awaitOwner(openBuffer: OpenBuffer, deadline: float | None, word: int) -> OwnerWait:
    """Wait between two attempts to take an owner lock that has read `word`."""
    owner = ownerlock.ownerOf(word)
    isOwn = ownerlock.belongsTo(word, openBuffer.tables.key)
    if owner is not None and not isOwn and openBuffer.tables.isDead(*owner):
        return OwnerWait.OWNER_DEAD
    # A free lock may be kept for a successor, which may have died. So every thread that
    # asks, also with a try-lock, waits until the successor has come or is passed over.
    remainingNs = sleepNs(deadline, _CHECK_NS) if owner is not None else layout.SUCCESSOR_NS
    if remainingNs <= 0:
        return OwnerWait.TIME_OVER
    if owner is not None:
        aside.refuseOwn()
    # SYNC claim: pairs with releaseAs. The word is compared as the thread falls asleep,
    # and its last owner wakes the sleepers if the word says that a thread waits.
    sleepOn(ownerLockAddress(openBuffer), word, remainingNs)
    return OwnerWait.TRY_AGAIN


def ownerShown(openBuffer: OpenBuffer, word: int) -> str:
    """The owner in `word`, the value of an owner lock, for a message."""
    isOwn = ownerlock.belongsTo(word, openBuffer.tables.key)
    return f"another {'thread' if isOwn else 'process'}"


def holderOf(openBuffer: OpenBuffer) -> str:
    """The process that has the owner lock of an open buffer at this moment, for people."""
    # SYNC claim: pairs with takeFrom. Nothing is done with the answer.
    word = int(atomics.loadAcquire32(ownerLockAddress(openBuffer)))
    owner, members = ownerlock.ownerOf(word), openBuffer.tables.members
    if owner is None:
        return "nobody"
    if openBuffer.tables.isDead(*owner):
        return "a process that has died"
    pid, program = members.identity(owner[0]).pid, members.program(owner[0])
    return f"{program} ({pid})"


def writerIsDead(openBuffer: OpenBuffer) -> bool:
    """Whether no living process is writing: the owner lock is free, or names a member
    that is confirmed dead.
    """
    owner = ownerlock.ownerOf(int(atomics.loadAcquire32(ownerLockAddress(openBuffer))))
    return owner is None or openBuffer.tables.isDead(*owner)


def writerDied(openBuffer: OpenBuffer) -> WriterDied:
    """The error of a reader that finds half-written bytes."""
    return WriterDied(f"a writer of {openBuffer.description.name!r} died or gave up half way")


def refuseOwnWriter(openBuffer: OpenBuffer) -> None:
    """Called before a wait for writers: raise if this thread would wait for itself."""
    if openBuffer.isWriting():
        raise RuntimeError(
            f"this thread is writing {openBuffer.description.name!r}: the view of its write access "
            "has the bytes that it has written so far"
        )


def awaitReaders(openBuffer: OpenBuffer, timeout: float | None) -> bool:
    """Wait until no process is inside a read access; False when one still is after
    `timeout` seconds. The caller has the owner lock.
    """
    tables, deadline = openBuffer.tables, deadlineOf(timeout)
    word = tables.block.rowAddress(openBuffer.row) + layout.ROW_READERS_OFFSET
    while True:
        # SYNC reading: pairs with beginReading; the owner lock was taken before.
        seen = int(atomics.loadSeqCst32(word))
        if not seen or not leases.readersOf(tables.block, openBuffer.row, openBuffer.incarnation):
            # With 0 in the word, later writers need not look at the leases. SYNC
            # reading: pairs with beginReading. A reader that began meanwhile has
            # changed the word, and the CAS fails.
            if seen:
                atomics.casSeqCst32(word, seen, 0)
            return True
        remainingNs = sleepNs(deadline, _CHECK_NS)
        if remainingNs <= 0:
            return False
        aside.refuseOwn()
        # SYNC readers: pairs with endReading. The count is compared as the thread falls
        # asleep.
        sleepOn(word, seen, remainingNs)
