"""Tickets: the fences of a buffer, as a ring of words.

`issue` reserves a ticket and its ring slot in the signalling member's name; `complete` says that everything before it in the stream
is done. The ring is small: a slot whose older ticket is still pending makes `issue` wait, so a waiter that finds its slot
overwritten knows that its ticket is done. The tickets of a dead member are poisoned by the broker, and waiters wake with an error
instead of hanging.

Beside each ring slot stands a fence word, for GPUs: the last ticket of that slot whose work is over. The signaller's GPU may write it
from its stream, and a waiter's GPU may wait for it to reach its ticket, without a CPU between them. It says "go on" and no more;
whether the work came to something is what the ticket says.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from muninn.control import atomics, layout
from muninn.control.members import MemberKey

_FUTEX_ALL = 0x7FFFFFFF
_CHECK_NS = 200_000_000
_STATUS_MASK = 0xF
_SLOT_SHIFT, _SLOT_MASK = 4, 0xFFF
_GENERATION_SHIFT, _GENERATION_MASK = 16, 0xFFFF
_TICKET_SHIFT = 32


class _Ends(NamedTuple):
    """What a ticket of one kind is to be when its work is over, and when it never will be."""

    done: int
    poisoned: int


#: By what it is before.
_ENDS = {
    layout.TICKET_PENDING: _Ends(layout.TICKET_DONE, layout.TICKET_POISONED),
    layout.TICKET_READING: _Ends(layout.TICKET_READ, layout.TICKET_READ),
    layout.TICKET_WRITING: _Ends(layout.TICKET_WRITTEN, layout.TICKET_TORN),
}
_OF_WRITERS = (layout.TICKET_WRITING, layout.TICKET_WRITTEN, layout.TICKET_TORN)
#: To who only wants to know whether it is over, all kinds are one.
_SIMPLY = dict.fromkeys(_ENDS, layout.TICKET_PENDING)
_SIMPLY |= {ends.poisoned: layout.TICKET_POISONED for ends in _ENDS.values()}
_SIMPLY |= {ends.done: layout.TICKET_DONE for ends in _ENDS.values()}


class Tickets:
    """The ticket ring of one row, and its fence words."""

    __slots__ = ("_fences", "_next", "_ring", "_wake")

    def __init__(self, rowAddress: int, fencesAddress: int) -> None:
        self._fences = fencesAddress
        self._ring = rowAddress + layout.ROW_TICKETS_OFFSET
        self._wake = rowAddress + layout.ROW_TICKET_WAKE_OFFSET
        self._next = rowAddress + layout.ROW_TICKET_NEXT_OFFSET

    def last(self) -> int:
        """The last ticket that was issued; 0: none."""
        return int(atomics.loadAcquire64(self._next))

    def issue(self, key: MemberKey, timeout: float, status: int = layout.TICKET_PENDING) -> int | None:
        """Reserve the next ticket, PENDING, READING or WRITING; None when the ring's oldest is still pending after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            ticket = int(atomics.loadAcquire64(self._next)) + 1
            address = self._slot(ticket)
            wake = atomics.loadAcquire32(self._wake)
            word = int(atomics.loadAcquire64(address))
            if word >> _TICKET_SHIFT >= ticket:
                # Somebody reserved this ticket and has not moved `next` on: do it for it, and try the next one.
                atomics.casSeqCst64(self._next, ticket - 1, ticket)
            elif word & _STATUS_MASK not in _ENDS:
                # SYNC ticket: pairs with state(); the slot names its member before `next` shows the ticket.
                if atomics.casSeqCst64(address, word, _ticketWord(ticket, key, status)) == word:
                    atomics.casSeqCst64(self._next, ticket - 1, ticket)
                    return ticket
            elif (remaining := deadline - time.monotonic()) > 0:
                atomics.futexWait32(self._wake, wake, min(_CHECK_NS, int(remaining * 1e9)))
            else:
                return None

    def complete(self, ticket: int, key: MemberKey, status: int = layout.TICKET_DONE) -> None:
        """Pending → done, or poisoned if `status` says so, each as the ticket's kind has it; and wake who waits, GPUs too."""
        word = int(atomics.loadAcquire64(self._slot(ticket)))
        before = next((kind for kind in _ENDS if word == _ticketWord(ticket, key, kind)), layout.TICKET_PENDING)
        after = _ENDS[before].done if status == layout.TICKET_DONE else _ENDS[before].poisoned
        if status == layout.TICKET_DONE:
            self._raiseFence(ticket)  # before the slot may become another's
        # SYNC ticket: pairs with state(); what the stream wrote is visible before DONE.
        atomics.casSeqCst64(self._slot(ticket), _ticketWord(ticket, key, before), _ticketWord(ticket, key, after))
        self._raiseFence(ticket)  # a GPU that goes on because of a poisoned ticket can be told why already
        self._wakeAll()

    def state(self, ticket: int) -> int:
        """PENDING, DONE or POISONED, whatever its kind. A slot that a later ticket has taken says that this one is DONE."""
        word = int(atomics.loadAcquire64(self._slot(ticket)))
        status = word & _STATUS_MASK if word >> _TICKET_SHIFT == ticket else layout.TICKET_DONE
        return _SIMPLY.get(status, status)

    def await_(self, ticket: int, seconds: float) -> int:
        """Wait at most `seconds` for the ticket to leave PENDING; returns its state then."""
        deadline = time.monotonic() + seconds
        while True:
            wake = atomics.loadAcquire32(self._wake)
            state = self.state(ticket)
            remaining = deadline - time.monotonic()
            if state != layout.TICKET_PENDING or remaining <= 0:
                return state
            atomics.futexWait32(self._wake, wake, min(_CHECK_NS, int(remaining * 1e9)))

    def turns(self, *, reading: bool) -> list[int]:
        """The tickets of turns whose work is not over, oldest first: of those who write, and if `reading` of those who read."""
        meant = (layout.TICKET_WRITING, layout.TICKET_READING) if reading else (layout.TICKET_WRITING,)
        return sorted(word >> _TICKET_SHIFT for word in self._words() if word & _STATUS_MASK in meant)

    def torn(self) -> int | None:
        """The last writer's ticket, if it died before its work was done: the bytes are half written."""
        last = max((word for word in self._words() if word & _STATUS_MASK in _OF_WRITERS), default=0)
        return last >> _TICKET_SHIFT if last & _STATUS_MASK == layout.TICKET_TORN else None

    def _words(self) -> list[int]:
        return [int(atomics.loadAcquire64(self._ring + position * 8)) for position in range(layout.TICKET_RING)]

    def fenceAddress(self, ticket: int) -> int:
        """Where the ticket's fence word is: once it has reached the ticket, a GPU may go on."""
        return self._fences + (ticket % layout.TICKET_RING) * 8

    @staticmethod
    def pendingWords(key: MemberKey) -> list[int]:
        """The low halves of ring slots that hold a ticket of `key` whose work is not over."""
        return [_ticketWord(0, key, status) for status in _ENDS]

    def poison(self, key: MemberKey) -> int:
        """Poison every pending ticket of a member that is proven dead; returns how many."""
        poisoned, own = 0, self.pendingWords(key)
        for position in range(layout.TICKET_RING):
            address = self._ring + position * 8
            word = int(atomics.loadAcquire64(address))
            if word & 0xFFFFFFFF not in own:
                continue
            ticket, ends = word >> _TICKET_SHIFT, _ENDS[word & _STATUS_MASK]
            # Its GPU may have come to the fence, and its CPU never to saying so.
            isOver = int(atomics.loadAcquire64(self.fenceAddress(ticket))) >= ticket
            end = ends.done if isOver else ends.poisoned
            changed = atomics.casSeqCst64(address, word, word & ~_STATUS_MASK | end) == word
            poisoned += changed and end != ends.done
            # A GPU's wait has no other end; whoever waits there asks for the ticket's state behind it.
            self._raiseFence(ticket)
            self._wakeAll()
        return poisoned

    def _slot(self, ticket: int) -> int:
        return self._ring + (ticket % layout.TICKET_RING) * 8

    def _raiseFence(self, ticket: int) -> None:
        """Fence word → `ticket`, unless a later one is over already."""
        address = self.fenceAddress(ticket)
        # SYNC fence: pairs with the GPU that waits for `ticket` or more (Device.delayStream). Bounded: others only ever raise it.
        while (word := int(atomics.loadAcquire64(address))) < ticket:
            atomics.casSeqCst64(address, word, ticket)

    def _wakeAll(self) -> None:
        atomics.fetchAddAcqRel32(self._wake, 1)
        atomics.futexWake32(self._wake, _FUTEX_ALL)


def _ticketWord(ticket: int, key: MemberKey, status: int) -> int:
    generation = key.generation & _GENERATION_MASK
    return ticket << _TICKET_SHIFT | generation << _GENERATION_SHIFT | (key.slot & _SLOT_MASK) << _SLOT_SHIFT | status
