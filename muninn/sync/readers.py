"""Readers: how a writer waits for those who are inside a read access.

Who is inside a read access says so in this process's lease, and looks for a writer
*afterwards*; a writer has the owner lock, and looks for readers afterwards. So at least
one of two that come at once sees the other: then the reader steps back
(`cshim/owners.c`). What an access gave its stream has a ticket before the access ends,
and is waited for by that. A reader that died is out of the way once its lease is
cleared, which is done when its death is proven.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muninn.control import layout, leases
from muninn.system import aside, atomics
from muninn.system.deadlines import deadlineOf, sleepNs
from muninn.system.green import sleepOn

if TYPE_CHECKING:
    from muninn.session.openbuffer import OpenBuffer

#: How long a writer sleeps before it looks at the leases again: those of the dead are
#: cleared without a word.
_CHECK_NS = 50_000_000


def awaitNone(openBuffer: OpenBuffer, timeout: float | None) -> bool:
    """Wait until nobody is inside a read access; False when somebody still is after
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
            # So that writers need not look again before somebody has read. Who has
            # begun meanwhile has changed the word.
            if seen:
                atomics.casSeqCst32(word, seen, 0)
            return True
        remainingNs = sleepNs(deadline, _CHECK_NS)
        if remainingNs <= 0:
            return False
        aside.refuseOwn()
        sleepOn(word, seen, remainingNs)
