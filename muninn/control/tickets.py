"""Tickets: the fences of a buffer, as a ring of words.

A member that signals takes a ticket in this order (`issue`). It reads `next`, CASes the
ring slot of the following ticket to its own name and PENDING, and CASes `next` on. When
another member has taken the slot and not moved `next`, it moves `next` for it, and
tries the following ticket. `complete` says that the work before the signal is done; it
raises the fence word, CASes the slot to DONE, and wakes the waiters.

The ring is small. While the older ticket of a slot is pending, the next ticket has to
wait (`awaitFreeTicket`). So a waiter whose slot a later ticket has taken knows that its
own ticket is over. When a member dies, the broker poisons its tickets, and their
waiters wake with an error instead of waiting for ever.

Beside each ring slot stands a fence word for GPUs: the last ticket of that slot whose
work is over. The signaller's GPU may write it from its stream, and a waiter's GPU may
wait until it reaches its ticket, without a CPU between them. The word says "go on". Of
a ticket that is *completed by the device* (the bit `BY_DEVICE`) it also says that the
work succeeded: then any process that looks completes the ticket, should the signaller's
CPU stand still.

A ticket is a number of 64 bits, and a ring slot keeps its lower half. The upper half is
chosen so that the ticket is nearest to `last`. A stale read of a slot costs a waiter
one more sleep, which the word `wake`, read before the slot, ends.
"""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from muninn.control import layout
from muninn.control.members import MemberKey
from muninn.system import aside, atomics, clock
from muninn.system.green import sleepOn

_CHECK_NS = 200_000_000
_STATUS_MASK = layout.TICKET_STATUS.mask
_SLOT_SHIFT, _SLOT_MASK = layout.TICKET_SLOT.shift, layout.TICKET_SLOT.top
_GENERATION_SHIFT, _GENERATION_MASK = layout.TICKET_GENERATION.shift, layout.TICKET_GENERATION.top
_TICKET_SHIFT, _TICKET_MASK = layout.TICKET_NUMBER.shift, layout.TICKET_NUMBER.top
_HALF = 1 << layout.TICKET_NUMBER.bits - 1
_WHOLE_MASK = (1 << 64) - 1
#: The bits in the low half of a slot that name its member and say that its work is not
#: over.
_OPEN_MASK = layout.TICKET_GENERATION.mask | layout.TICKET_SLOT.mask | layout.TICKET_OPEN_BIT


class _Ends(NamedTuple):
    """The state of a ticket of one kind when its work is over, and when its work never
    will be.
    """

    done: int
    poisoned: int


#: By the state before, completed by the device or not.
_ENDS = {
    layout.TICKET_PENDING: _Ends(layout.TICKET_DONE, layout.TICKET_POISONED),
    layout.TICKET_PENDING_BY_DEVICE: _Ends(layout.TICKET_DONE, layout.TICKET_POISONED),
    layout.TICKET_READING: _Ends(layout.TICKET_READ, layout.TICKET_READ),
    layout.TICKET_WRITING: _Ends(layout.TICKET_WRITTEN, layout.TICKET_TORN),
    layout.TICKET_WRITING_BY_DEVICE: _Ends(layout.TICKET_WRITTEN, layout.TICKET_TORN),
}
#: The state of a ticket of a kind for which there is nothing to wait.
DONE_AT_ONCE = {kind: ends.done for kind, ends in _ENDS.items()}
#: For a waiter that only asks whether the ticket is over, all kinds are one.
_SIMPLY = dict.fromkeys(_ENDS, layout.TICKET_PENDING)
_SIMPLY |= {ends.poisoned: layout.TICKET_POISONED for ends in _ENDS.values()}
_SIMPLY |= {ends.done: layout.TICKET_DONE for ends in _ENDS.values()}


class Tickets:
    """The ticket ring of one row, and its fence words."""

    __slots__ = ("_fences", "_lastWriter", "_next", "_ring", "_torn", "_wake")

    def __init__(self, rowAddress: int, fencesAddress: int) -> None:
        self._fences = fencesAddress
        self._ring = rowAddress + layout.ROW_TICKETS_OFFSET
        self._wake = rowAddress + layout.ROW_TICKET_WAKE_OFFSET
        self._next = rowAddress + layout.ROW_TICKET_NEXT_OFFSET
        self._lastWriter = rowAddress + layout.ROW_LAST_WRITER_OFFSET
        self._torn = rowAddress + layout.ROW_TORN_OFFSET

    def last(self) -> int:
        """The last ticket that was issued; 0: none."""
        # SYNC next: pairs with Tickets.abandon and Tickets.issue.
        return int(atomics.loadAcquire64(self._next))

    # --- signal ----------------------------------------------------------------------

    def issue(self, key: MemberKey, status: int = layout.TICKET_PENDING) -> int | None:
        """Reserve the next ticket, PENDING, READING or WRITING. None if the ring's
        oldest ticket is still pending (`awaitFreeTicket`).

        A ticket that is issued as DONE, READ or WRITTEN is never seen open.
        """
        # SYNC next: pairs with Tickets.last.
        while True:
            ticket = self.last() + 1
            address = self._slot(ticket)
            word = self._seen(address)
            if _isIn(word, ticket) or _isBehind(ticket, word):
                # Another member has reserved this ticket, or later ones, and has not
                # moved `next` on. Move it, and try the next ticket.
                atomics.casSeqCst64(self._next, ticket - 1, ticket)
            elif word & layout.TICKET_OPEN_BIT:
                return None
            # SYNC ticket: pairs with Tickets.state; the slot names its member before
            # `next` shows the ticket.
            elif atomics.casSeqCst64(address, word, _ticketWord(ticket, key, status)) == word:
                atomics.casSeqCst64(self._next, ticket - 1, ticket)
                if status in (layout.TICKET_WRITING, layout.TICKET_WRITTEN):
                    _raise(self._lastWriter, ticket)
                return ticket

    def awaitFreeTicket(self, seconds: float) -> bool:
        """Wait until the ring has room for another ticket. Returns False if it has none
        after so long.
        """
        deadline = clock.now() + seconds
        while True:
            # SYNC completion: pairs with Tickets._wakeAll. The word is read before the
            # slot, and compared as the thread falls asleep.
            wake, ticket = atomics.loadAcquire32(self._wake), self.last() + 1
            word = self._seen(self._slot(ticket))
            if not word & layout.TICKET_OPEN_BIT or _isIn(word, ticket) or _isBehind(ticket, word):
                return True
            if (remaining := deadline - clock.now()) <= 0:
                return False
            aside.refuseOwn()
            sleepOn(self._wake, wake, min(_CHECK_NS, int(remaining * 1e9)))

    def markCompletedByDevice(self, ticket: int, key: MemberKey) -> None:
        """Mark the ticket as completed by the device: from now on the GPU's word alone
        says that it is done.
        """
        address = self._slot(ticket)
        word = int(atomics.loadAcquire64(address))
        if _isIn(word, ticket) and word & _OPEN_MASK == _ofMember(key):
            # SYNC byDevice: pairs with Tickets._seen. From here on any process may
            # complete the ticket by its fence word.
            atomics.casSeqCst64(address, word, word | layout.TICKET_BY_DEVICE_BIT)

    def complete(self, ticket: int, key: MemberKey, status: int = layout.TICKET_DONE) -> None:
        """Pending → done, or poisoned if `status` says so, in the states of the
        ticket's kind. Wakes the waiters, GPUs too.
        """
        address = self._slot(ticket)
        if status == layout.TICKET_DONE:
            self.raiseFence(ticket)  # before the slot may become another's
        while _isIn(
            word := int(atomics.loadAcquire64(address)), ticket
        ) and word & _OPEN_MASK == _ofMember(key):
            ends = _ENDS.get(word & _STATUS_MASK, _ENDS[layout.TICKET_PENDING])
            after = ends.done if status == layout.TICKET_DONE else ends.poisoned
            self._sayTorn(ticket, after)
            # SYNC ticket: pairs with Tickets.state. The stream's writes are visible
            # before DONE. Bounded: the word changes once at most, when the ticket is
            # marked as completed by the device.
            if atomics.casSeqCst64(address, word, word & ~_STATUS_MASK | after) == word:
                break
        # The state comes first: the process of a GPU that goes on because of a poisoned
        # ticket can read it.
        self.raiseFence(ticket)
        self._wakeAll()

    def abandon(self, key: MemberKey, meant: Set[int]) -> None:
        """Poison the open tickets of `key` that are not in `meant`, because they will
        not be completed. The member issues no ticket meanwhile.
        """
        for address in self._matching(*self.openOf(key)):
            word = int(atomics.loadAcquire64(address))
            ticket = self._whole(word)
            if word & _OPEN_MASK == _ofMember(key) and ticket not in meant:
                # SYNC next: pairs with Tickets.last. The slot names the ticket before
                # the number shows it.
                atomics.casSeqCst64(self._next, ticket - 1, ticket)
                if word & layout.TICKET_KIND_MASK == layout.TICKET_WRITING:
                    _raise(self._lastWriter, ticket)
                self.complete(ticket, key, layout.TICKET_POISONED)

    # --- wait ------------------------------------------------------------------------

    def state(self, ticket: int) -> int:
        """PENDING, DONE or POISONED, for a ticket of any kind. If a later ticket has
        taken the slot, this ticket is DONE.
        """
        # SYNC ticket: pairs with Tickets.issue and Tickets.complete. The writes of the
        # ticket's stream are visible once its slot says DONE.
        word = self._seen(self._slot(ticket))
        status = word & _STATUS_MASK if _isIn(word, ticket) else layout.TICKET_DONE
        return _SIMPLY.get(status, status)

    def await_(self, ticket: int, seconds: float) -> int:
        """Wait at most `seconds` until the ticket is not PENDING. Returns its state
        then.
        """
        deadline = clock.now() + seconds
        while True:
            # SYNC completion: pairs with Tickets._wakeAll. The word is read before the
            # state, and compared as the thread falls asleep.
            wake = atomics.loadAcquire32(self._wake)
            state = self.state(ticket)
            remaining = deadline - clock.now()
            if state != layout.TICKET_PENDING or remaining <= 0:
                return state
            aside.refuseOwn()
            sleepOn(self._wake, wake, min(_CHECK_NS, int(remaining * 1e9)))

    def scopes(self, *, reading: bool) -> list[int]:
        """The tickets of accesses whose work is not over, oldest first: those of write
        accesses, and if `reading` those of read accesses too.
        """
        found = self._matching(layout.TICKET_KIND_MASK, layout.TICKET_WRITING)
        if reading:
            found += self._matching(_STATUS_MASK, layout.TICKET_READING)
        return sorted(
            self._whole(word) for word in map(self._seen, found) if word & layout.TICKET_OPEN_BIT
        )

    def lastWriter(self) -> int:
        """The last ticket of a write access; 0: none."""
        # SYNC raise: pairs with _raise.
        return int(atomics.loadAcquire64(self._lastWriter))

    def torn(self) -> int | None:
        """The last writer's ticket, if the writer died before its work was done: the
        bytes are half written until a process writes them anew.
        """
        # SYNC raise: pairs with _raise. An older number is that of a reader that came a
        # moment earlier.
        last = self.lastWriter()
        torn = int(atomics.loadAcquire64(self._torn))
        return torn if torn and torn >= last else None

    def fenceAddress(self, ticket: int) -> int:
        """The address of the ticket's fence word. A GPU that waits for the ticket may
        go on once the word has reached it.
        """
        return self._fences + (ticket % layout.TICKET_RING) * 8

    def raiseFence(self, ticket: int) -> None:
        """Raise the fence word to `ticket`, unless it says that a later ticket is over.
        The ticket is over.
        """
        # SYNC fence: pairs with CudaStream.delay: a GPU waits for `ticket` or more.
        _raise(self.fenceAddress(ticket), ticket)

    # --- death -----------------------------------------------------------------------

    @staticmethod
    def openOf(key: MemberKey) -> tuple[int, int]:
        """(mask, value) of the ring slots that hold a ticket of `key` whose work is not
        over.
        """
        return _OPEN_MASK, _ofMember(key)

    def poison(self, key: MemberKey) -> int:
        """Poison every pending ticket of a member that is confirmed dead. Returns their
        number.
        """
        poisoned = 0
        for address in self._matching(*self.openOf(key)):
            # The GPU may have reached the fence of a ticket that is completed by the
            # device, before the CPU could say so. Such a ticket is done.
            word = self._seen(address)
            if word & _OPEN_MASK != _ofMember(key):
                continue
            ends = _ENDS.get(word & _STATUS_MASK, _ENDS[layout.TICKET_PENDING])
            self._sayTorn(self._whole(word), ends.poisoned)
            # SYNC ticket: pairs with Tickets.state. The member is confirmed dead, and
            # the tickets that its GPU had reached were completed before.
            changed = (
                atomics.casSeqCst64(address, word, word & ~_STATUS_MASK | ends.poisoned) == word
            )
            poisoned += changed and ends.poisoned != ends.done
            # Nothing else ends the wait of a GPU. The process of that GPU asks for the
            # ticket's state after the wait.
            self.raiseFence(self._whole(word))
            self._wakeAll()
        return poisoned

    # --- words -----------------------------------------------------------------------

    def _slot(self, ticket: int) -> int:
        return self._ring + (ticket % layout.TICKET_RING) * 8

    def _matching(self, mask: int, value: int) -> list[int]:
        """The addresses of the ring slots with (word & mask) == value."""
        indices = atomics.indexBuffer(layout.TICKET_RING)
        found = atomics.scan64(
            self._ring, 8, layout.TICKET_RING, mask, value, indices, layout.TICKET_RING
        )
        return [self._ring + 8 * index for index in indices[: min(found, layout.TICKET_RING)]]

    def _whole(self, word: int) -> int:
        """The whole number of the ticket in a slot's word. It is at most one ahead of
        `last`, and less than half of all tickets behind it.
        """
        last = self.last()
        ahead = (word >> _TICKET_SHIFT) - last & _TICKET_MASK
        return last + (ahead if ahead < _HALF else ahead - _TICKET_MASK - 1)

    def _seen(self, address: int) -> int:
        """A slot's word. If its ticket is completed by the device, and the GPU has
        reached it, the word is completed first.
        """
        # SYNC byDevice: pairs with Tickets.markCompletedByDevice.
        word = int(atomics.loadAcquire64(address))
        ends = _ENDS.get(word & _STATUS_MASK)
        if ends is None or not word & layout.TICKET_BY_DEVICE_BIT:
            return word
        ticket = self._whole(word)
        # SYNC fence: pairs with CudaStream.recordFence, by which a GPU writes the word.
        # The writes of its stream are visible.
        if int(atomics.loadAcquire64(self.fenceAddress(ticket))) < ticket:
            return word
        over = word & ~_STATUS_MASK | ends.done
        before = int(atomics.casSeqCst64(address, word, over))
        if before == word:
            self._wakeAll()
        return over if before == word else before

    def _sayTorn(self, ticket: int, status: int) -> None:
        """Store a torn ticket beside the ring, before the ring shows it: the ring may
        reuse its slot before the bytes are whole again.
        """
        if status == layout.TICKET_TORN:
            _raise(self._torn, ticket)

    def _wakeAll(self) -> None:
        # SYNC completion: pairs with Tickets.await_ and Tickets.awaitFreeTicket. The
        # slot was changed before the word.
        atomics.fetchAddAcqRel32(self._wake, 1)
        atomics.futexWake32(self._wake, atomics.FUTEX_ALL)


def _raise(address: int, value: int) -> None:
    """Raise the word to `value`, unless it is at `value` or above."""
    # SYNC raise: pairs with Tickets.torn and Tickets.lastWriter. The word is raised
    # before the ticket is seen to be over.
    atomics.raiseField64(address, 8, 1, _WHOLE_MASK, value)


def _isIn(word: int, ticket: int) -> bool:
    """Whether a slot's word is that ticket's."""
    return word & _STATUS_MASK != 0 and word >> _TICKET_SHIFT == ticket & _TICKET_MASK


def _isBehind(ticket: int, word: int) -> bool:
    """Whether a slot's word is that of a later ticket."""
    return (
        word & _STATUS_MASK != 0 and 0 < ((word >> _TICKET_SHIFT) - ticket & _TICKET_MASK) < _HALF
    )


def _ofMember(key: MemberKey) -> int:
    """The bits in `_OPEN_MASK` of a word of that member whose work is not over."""
    return _ticketWord(0, key, layout.TICKET_OPEN_BIT)


def _ticketWord(ticket: int, key: MemberKey, status: int) -> int:
    member = (key.generation & _GENERATION_MASK) << _GENERATION_SHIFT | (
        key.slot & _SLOT_MASK
    ) << _SLOT_SHIFT
    return (ticket & _TICKET_MASK) << _TICKET_SHIFT | member | status
