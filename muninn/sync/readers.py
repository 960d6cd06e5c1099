"""Readers: how a writer waits for the processes that are inside a read access.

A reader first marks the lease of its process as reading and changes the row's word of
readers, and *afterwards* looks at the owner lock. A writer first takes the owner lock,
and afterwards looks for readers. So if both come at once, at least one sees the other,
and the reader steps back (`cshim/owners.c`).

The writer sleeps on the word of readers, which each reader changes when it leaves. The
work that a reader gave its stream has a ticket before the access ends, and the writer
waits for the ticket. When a reader dies, the broker clears its leases once the death is
confirmed. Until then the writer waits; a stale read of the word costs it one sleep of
at most `_CHECK_NS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muninn.control import layout, leases
from muninn.system import aside, atomics
from muninn.system.deadlines import deadlineOf, sleepNs
from muninn.system.green import sleepOn

if TYPE_CHECKING:
    from muninn.session.openbuffer import OpenBuffer

#: How long a writer sleeps before it looks at the leases again: the broker that clears
#: those of a dead member does not change the word.
_CHECK_NS = 50_000_000


def awaitNone(openBuffer: OpenBuffer, timeout: float | None) -> bool:
    """Wait until no process is inside a read access; False when one still is after
    `timeout` seconds. The caller has the owner lock.
    """
    tables, deadline = openBuffer.tables, deadlineOf(timeout)
    word = tables.block.rowAddress(openBuffer.row) + layout.ROW_READERS_OFFSET
    while True:
        # SYNC reading: pairs with beginReading; the owner lock was taken before.
        seen = int(atomics.loadSeqCst32(word))
        if not seen or not leases.readersOf(
            tables.block, tables.members, openBuffer.row, openBuffer.incarnation
        ):
            # With 0 in the word, later writers need not look at the leases. A reader
            # that began meanwhile has changed the word, and the CAS fails.
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
