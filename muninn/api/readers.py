"""Readers: the turns of kernels that read a buffer, and how a writer waits for them.

Who is inside a reader's turn says so in this process's lease, and looks for a writer *afterwards*; a writer has the claim, and looks for
readers afterwards. So at least one of two that come at once sees the other: then the reader steps back. What a turn gave its stream has
a ticket before the turn ends, and is waited for by that. A reader that died is out of the way once its lease is cleared, which is done
when its death is proven.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from muninn.control import atomics, claims, layout, leases
from muninn.control.deadlines import deadlineOf, remaining, sleepNs

if TYPE_CHECKING:
    from muninn.api.membership import Membership

#: How long a writer sleeps before it looks at the leases again: those of the dead are cleared without a word.
_CHECK_NS = 50_000_000


class Readers:
    """The readers of one buffer: those of this process, and whether there are any at all."""

    __slots__ = ("_changing", "_claimAddress", "_incarnation", "_leaseIndex", "_membership", "_row", "_turns", "_word")

    def __init__(self, membership: Membership, row: int, incarnation: int, leaseIndex: int) -> None:
        self._membership, self._row, self._incarnation, self._leaseIndex = membership, row, incarnation, leaseIndex
        address = membership.block.rowAddress(row)
        self._word, self._claimAddress = address + layout.ROW_READERS_OFFSET, address + layout.ROW_CLAIM_OFFSET
        self._changing = threading.Lock()
        self._turns: Counter[int] = Counter()  # by thread

    def isOne(self) -> bool:
        """Whether this thread is inside a reader's turn."""
        return threading.get_ident() in self._turns

    def enter(self, timeout: float | None) -> bool:
        """Begin a turn of this thread, once nobody is inside a writer's; False when somebody still is after `timeout` seconds."""
        deadline = deadlineOf(timeout)
        membership, thread = self._membership, threading.get_ident()
        while True:
            isNested = self._begin(thread)  # then a writer that has the claim waits for this thread
            # SYNC reading: pairs with awaitNone; the lease says "reading", and only then the claim is looked at.
            owner = claims.ownerOf(int(atomics.loadSeqCst32(self._claimAddress)))
            if isNested or owner is None or membership.isDead(*owner):
                return True
            self.leave(thread)
            if not claims.awaitRelease(self._claimAddress, membership.isDead, remaining(deadline)):
                return False

    def leave(self, thread: int) -> None:
        """End a turn that a thread began. What it gave its stream has a ticket by now."""
        with self._changing:
            self._take(thread)
            if not self._turns:
                self._membership.leaseTable.setReading(self._leaseIndex, False)
        self._change()
        if atomics.loadSeqCst32(self._claimAddress):
            atomics.futexWake32(self._word, atomics.FUTEX_ALL)

    def handOn(self, thread: int, other: int) -> None:
        """Let a turn that a thread began be another's, by which it is ended."""
        with self._changing:
            self._take(thread)
            self._turns[other] += 1

    def _take(self, thread: int) -> None:
        self._turns[thread] -= 1
        if self._turns[thread] <= 0:
            del self._turns[thread]

    def awaitNone(self, timeout: float | None) -> bool:
        """Wait until nobody is inside a reader's turn; False when somebody still is after `timeout` seconds. The caller has the claim."""
        deadline = deadlineOf(timeout)
        while True:
            # SYNC reading: pairs with enter; the claim was taken before.
            seen = int(atomics.loadSeqCst32(self._word))
            if not seen or not leases.readersOf(self._membership.block, self._membership.members, self._row, self._incarnation):
                return True
            remainingNs = sleepNs(deadline, _CHECK_NS)
            if remainingNs <= 0:
                return False
            atomics.futexWait32(self._word, seen, remainingNs)

    def isAny(self, notOf: int = 0) -> bool:
        """Whether any thread of this process, save one, is inside."""
        return any(thread != notOf for thread in list(self._turns))

    def _begin(self, thread: int) -> bool:
        """Say that a thread is inside; returns whether it was before."""
        with self._changing:
            wasInside = self._turns[thread] > 0
            if not self._turns:
                if not atomics.loadAcquire32(self._word):
                    self._change()
                self._membership.leaseTable.setReading(self._leaseIndex, True)
            self._turns[thread] += 1
            return wasInside

    def _change(self) -> None:
        """Another value, and never 0, which says that nobody ever read."""
        while int(atomics.fetchAddAcqRel32(self._word, 1)) + 1 & 0xFFFFFFFF == 0:
            pass
