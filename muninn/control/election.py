"""The election: one word names the broker, and goes up by one epoch with each broker.

A member that suspects the broker dead, or has waited too long for its answer, reads the
word and CASes it whole, from {epoch, slot} to {epoch + 1, its own slot}. Of several
members that do so one wins. The winner raises the epoch of all words that a broker
changes (`rows.py`), opens its journal and its socket, and stores the ready word
(`announce`); members that wait for the socket sleep at that word.

The old broker need not have stopped. Its epoch is in every word that it changes, and
its successor has raised them, so whatever the old one still does fails. A stale read of
the word costs a request to a broker that refuses it, or a CAS that fails.
"""

from __future__ import annotations

from typing import NamedTuple

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.rowstate import MAX_EPOCH
from muninn.errors import TableFull
from muninn.system import atomics
from muninn.system.green import sleepOn

_SLOT_MASK, _EPOCH_SHIFT = layout.ELECTION_SLOT.mask, layout.ELECTION_EPOCH.shift


class Term(NamedTuple):
    """The term of one broker; `slot` is None when no member is broker."""

    epoch: int
    slot: int | None

    def word(self) -> int:
        return self.epoch << _EPOCH_SHIFT | (0 if self.slot is None else self.slot + 1)


class Election:
    """The election word, the ready word and the heartbeat of a control block."""

    def __init__(self, block: ControlBlock) -> None:
        self._block = block
        self._election = block.electionAddress
        self._ready = block.readyAddress
        self._heartbeat = block.heartbeatAddress
        self._slots = block.geometry.maxMembers

    def term(self) -> Term:
        # SYNC elect: pairs with Election.replace. An older word costs a broker one more
        # request, whose changes fail by their epoch.
        word = atomics.loadSeqCst64(self._election)
        slot = (word & _SLOT_MASK) - 1
        return Term(word >> _EPOCH_SHIFT, slot if 0 <= slot < self._slots else None)

    def epoch(self) -> int:
        return int(atomics.loadSeqCst64(self._election)) >> _EPOCH_SHIFT

    def replace(self, old: Term, slot: int | None) -> Term | None:
        """End `old` and begin the next term with `slot`; None when `old` had ended
        already.

        The CAS compares the whole word, so of several members that suspect the same
        death one wins.

        Raises
        ------
        TableFull
            The epochs are used up. Long before, the first process of a domain begins it
            anew (`repair.renew`).
        """
        if old.epoch >= MAX_EPOCH:
            raise TableFull(
                f"this domain has had {old.epoch} brokers, all that its words can count",
                "End all its processes: the next begins anew",
            )
        new = Term(old.epoch + 1, slot)
        # SYNC elect: pairs with Election.term. The deposed broker reads the word before
        # each request that it serves.
        if atomics.casSeqCst64(self._election, old.word(), new.word()) != old.word():
            return None
        # A member that waits for the old term's socket, or watches the old broker, must
        # look again.
        atomics.futexWake32(self._ready, atomics.FUTEX_ALL)
        if old.slot is not None:
            # SYNC watch: pairs with Watcher.sleep, which compares the election word as
            # it falls asleep.
            atomics.futexWake32(
                self._block.memberAddress(old.slot) + layout.MEMBER_ROBUST_OFFSET, atomics.FUTEX_ALL
            )
        return new

    def startAt(self, epoch: int) -> None:
        """Let the terms of a new block begin after the epochs in its rows. No other
        process uses the block yet.
        """
        if self.term().epoch < epoch:
            # SYNC elect: pairs with Election.term. The block has no name yet, so no
            # other process reads the word before.
            atomics.casSeqCst64(self._election, self.term().word(), Term(epoch, None).word())

    def announce(self, epoch: int) -> None:
        """Say that the socket of `epoch` listens. The word never goes down, so a
        deposed broker that comes late changes nothing.
        """
        while (seen := int(atomics.loadAcquire64(self._ready))) < epoch:
            # SYNC ready: pairs with Election.awaitReady; the socket exists before the
            # word says so.
            if atomics.casSeqCst64(self._ready, seen, epoch) == seen:
                break
        atomics.futexWake32(self._ready, atomics.FUTEX_ALL)

    def readyEpoch(self) -> int:
        return int(atomics.loadAcquire64(self._ready))

    def awaitReady(self, seenReady: int, timeoutNs: int) -> None:
        """Wait until the ready word differs from `seenReady`, a broker is elected, or
        the bound is reached.
        """
        # SYNC ready: pairs with Election.announce. The word is compared as the thread
        # falls asleep, so an announcement in between is not missed.
        sleepOn(self._ready, seenReady & 0xFFFFFFFF, timeoutNs)

    def beat(self) -> None:
        """Advance the heartbeat, so that observers see the broker work."""
        # SYNC heartbeat: pairs with Election.heartbeat. Nothing else becomes visible;
        # an observer compares two numbers.
        atomics.fetchAddAcqRel64(self._heartbeat, 1)

    def heartbeat(self) -> int:
        # SYNC heartbeat: pairs with Election.beat. An older number delays a deposition
        # by one look.
        return int(atomics.loadAcquire64(self._heartbeat))
