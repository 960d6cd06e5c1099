"""Tickets: issued in order, completed only by their member, and poisoned when it dies."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator

import pytest

from muninn.control import layout
from muninn.control import tickets as ticketing
from muninn.control.layout import TICKET_DONE, TICKET_PENDING, TICKET_POISONED, TICKET_RING
from muninn.control.members import MemberKey
from muninn.control.tickets import Tickets
from muninn.system import atomics
from support import Background

_MINE, _THEIRS = MemberKey(0, 1), MemberKey(5, 70000)


@pytest.fixture
def tickets() -> Iterator[Tickets]:
    memory = ctypes.create_string_buffer(layout.ROW_BYTES + layout.FENCE_BYTES)
    yield Tickets(ctypes.addressof(memory), ctypes.addressof(memory) + layout.ROW_BYTES)
    del memory


def test_areIssuedInOrderAndPendUntilTheyAreDone(tickets: Tickets) -> None:
    assert tickets.last() == 0
    assert [tickets.issue(_MINE) for _ in range(3)] == [1, 2, 3] and tickets.last() == 3
    assert tickets.state(2) == TICKET_PENDING == tickets.await_(2, 0.01)
    tickets.complete(2, _MINE)
    assert [tickets.state(ticket) for ticket in (1, 2, 3)] == [
        TICKET_PENDING,
        TICKET_DONE,
        TICKET_PENDING,
    ]


def test_aFullRingMakesTheNextOneWait(tickets: Tickets) -> None:
    for _ in range(TICKET_RING):
        tickets.issue(_MINE)
    assert tickets.issue(_MINE) is None and not tickets.awaitFreeTicket(0.01)
    thread = threading.Timer(0.05, tickets.complete, (1, _MINE))
    thread.start()
    assert tickets.awaitFreeTicket(60) and tickets.issue(_MINE) == TICKET_RING + 1
    thread.join()
    assert tickets.state(1) == TICKET_DONE, "its slot is another ticket's now"


def test_onlyItsMemberCompletesATicket(tickets: Tickets) -> None:
    ticket = tickets.issue(_MINE)
    assert ticket is not None
    tickets.complete(ticket, _THEIRS)
    assert tickets.state(ticket) == TICKET_PENDING


def test_theTicketsOfTheDeadArePoisonedAndNoOthers(tickets: Tickets) -> None:
    mine, theirs, done = tickets.issue(_MINE), tickets.issue(_THEIRS), tickets.issue(_THEIRS)
    assert mine and theirs and done
    tickets.complete(done, _THEIRS)
    woken: list[int] = []
    thread = threading.Thread(target=lambda: woken.append(tickets.await_(theirs, 60)))
    thread.start()
    assert tickets.poison(_THEIRS) == 1
    thread.join(60)
    assert woken == [TICKET_POISONED]
    assert [tickets.state(ticket) for ticket in (mine, done)] == [TICKET_PENDING, TICKET_DONE]
    tickets.complete(theirs, _THEIRS)
    assert tickets.state(theirs) == TICKET_POISONED, "a step of a dead member changes nothing"


def test_manyMembersGetDifferentTickets(tickets: Tickets) -> None:
    got: list[int] = []

    def work(slot: int) -> None:
        key = MemberKey(slot, 1)
        for _ in range(50):
            while (ticket := tickets.issue(key)) is None:
                assert tickets.awaitFreeTicket(60)
            got.append(ticket)
            tickets.complete(ticket, key)

    threads = [threading.Thread(target=work, args=(slot,)) for slot in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(got) == list(range(1, 201))


def test_aCompletionEndsASleep(tickets: Tickets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: `complete` woke no sleeper; the look every 0.2 s hid that."""
    monkeypatch.setattr(ticketing, "_CHECK_NS", 60_000_000_000)
    tickets.issue(_MINE)
    waiting = Background(lambda: tickets.await_(1, 60)).asleep()
    tickets.complete(1, _MINE)
    assert waiting.ended() == TICKET_DONE


def test_aCompletionBetweenTheLookAndTheSleepIsSeen(
    tickets: Tickets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a completion woke the sleepers, and did not change the word on which they
    sleep.
    """
    monkeypatch.setattr(ticketing, "_CHECK_NS", 60_000_000_000)
    tickets.issue(_MINE)
    state = Tickets.state

    def completedNow(own: Tickets, ticket: int) -> int:
        seen = state(own, ticket)
        own.complete(ticket, _MINE)
        return seen

    monkeypatch.setattr(Tickets, "state", completedNow)
    assert Background(lambda: tickets.await_(1, 60)).ended() == TICKET_DONE


def test_aMemberThatDiedBetweenTwoStepsStopsNoOther(tickets: Tickets) -> None:
    """It had reserved ticket 1 and not moved `next` on. Broken: the next signaller
    looked at the same ticket for ever.
    """
    tickets.issue(_THEIRS)
    atomics.exchangeSeqCst64(tickets._next, 0)
    assert Background(lambda: tickets.issue(_MINE)).ended() == 2


def test_aTicketThatWasOvertakenIsDone(tickets: Tickets) -> None:
    """Broken: the state of the ticket that has the slot now was taken for that of the
    earlier one.
    """
    for ticket in range(1, TICKET_RING + 2):
        tickets.issue(_MINE)
        if ticket <= TICKET_RING:
            tickets.complete(ticket, _MINE)
    assert tickets.state(TICKET_RING + 1) == TICKET_PENDING and tickets.state(1) == TICKET_DONE


def fence(tickets: Tickets, ticket: int) -> int:
    return int(atomics.loadAcquire64(tickets.fenceAddress(ticket)))


def test_completingRaisesTheFenceWord(tickets: Tickets) -> None:
    for kind in (layout.TICKET_PENDING, layout.TICKET_READING, layout.TICKET_WRITING):
        ticket = tickets.issue(_MINE, kind)
        assert ticket is not None and fence(tickets, ticket) < ticket
        tickets.complete(ticket, _MINE)
        assert fence(tickets, ticket) == ticket and tickets.state(ticket) == TICKET_DONE


def test_theDeathOfASignallerRaisesItsFenceWord(tickets: Tickets) -> None:
    """Broken: a GPU that waits for a dead signaller waits for ever."""
    mine, theirs = tickets.issue(_MINE), tickets.issue(_THEIRS)
    assert mine and theirs
    assert tickets.poison(_THEIRS) == 1
    assert (fence(tickets, theirs), fence(tickets, mine)) == (theirs, 0)
    assert tickets.state(theirs) == TICKET_POISONED


def test_aFenceThatTheGpuHadReachedIsDone(tickets: Tickets) -> None:
    """The signaller's process was killed before it could complete the ticket."""
    ticket = tickets.issue(_THEIRS, layout.TICKET_WRITING)
    assert ticket
    tickets.markCompletedByDevice(ticket, _THEIRS)
    atomics.storeRelease64(tickets.fenceAddress(ticket), ticket)
    assert tickets.poison(_THEIRS) == 0
    assert tickets.state(ticket) == TICKET_DONE and tickets.torn() is None


def test_ofAWorkThatCouldStillFailTheGpusWordIsNotEnough(tickets: Tickets) -> None:
    """The signaller's stream waits for a process that died: the GPU went on over
    half-written bytes.
    """
    ticket = tickets.issue(_THEIRS, layout.TICKET_WRITING)
    assert ticket
    atomics.storeRelease64(tickets.fenceAddress(ticket), ticket)
    assert tickets.state(ticket) == TICKET_PENDING and tickets.scopes(reading=False) == [ticket]
    assert tickets.poison(_THEIRS) == 1 and tickets.torn() == ticket


@pytest.mark.parametrize(
    "kind", [layout.TICKET_PENDING, layout.TICKET_READING, layout.TICKET_WRITING]
)
def test_aTicketCompletedByTheDeviceIsOverWhenTheGpuSaysSo(tickets: Tickets, kind: int) -> None:
    """The signaller's process is stopped. Broken: the ring was full of tickets whose
    work was done, and all processes waited.
    """
    issued = [tickets.issue(_THEIRS, kind) for _ in range(TICKET_RING)]
    for ticket in issued:
        assert ticket is not None
        tickets.markCompletedByDevice(ticket, _THEIRS)
    assert tickets.issue(_MINE) is None and tickets.state(1) == TICKET_PENDING
    atomics.storeRelease64(tickets.fenceAddress(1), 1)
    assert tickets.await_(1, 0) == TICKET_DONE
    assert tickets.scopes(reading=True) == ([] if kind == layout.TICKET_PENDING else issued[1:])
    atomics.storeRelease64(tickets.fenceAddress(2), 2)
    assert (
        tickets.issue(_MINE) == TICKET_RING + 1
        and tickets.awaitFreeTicket(0)
        and tickets.issue(_MINE) == TICKET_RING + 2
    )
    tickets.complete(2, _THEIRS)
    tickets.complete(3, _THEIRS)
    assert [tickets.state(ticket) for ticket in (2, 3, 4)] == [
        TICKET_DONE,
        TICKET_DONE,
        TICKET_PENDING,
    ]


def test_onlyItsMemberMakesATicketCompletedByTheDevice(tickets: Tickets) -> None:
    ticket = tickets.issue(_MINE)
    assert ticket
    tickets.markCompletedByDevice(ticket, _THEIRS)
    atomics.storeRelease64(tickets.fenceAddress(ticket), ticket)
    assert tickets.state(ticket) == TICKET_PENDING
    tickets.complete(ticket, _MINE)
    tickets.markCompletedByDevice(ticket, _MINE)
    assert tickets.state(ticket) == TICKET_DONE


def test_aSlotThatIsAnothersByNowIsNotPoisoned(
    tickets: Tickets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot had the dead member's ticket when the broker found it."""
    mine, theirs = tickets.issue(_MINE), tickets.issue(_THEIRS)
    slots = [tickets._slot(number) for number in range(TICKET_RING)]
    monkeypatch.setattr(Tickets, "_matching", lambda *_: slots)
    assert mine and theirs and tickets.poison(_THEIRS) == 1
    assert [tickets.state(ticket) for ticket in (mine, theirs)] == [TICKET_PENDING, TICKET_POISONED]


def test_aSleeperOverAForgottenTicketWakes(
    tickets: Tickets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No process wakes the sleeper: the GPU wrote the word, and the signaller is
    stopped.
    """
    ticket = tickets.issue(_THEIRS)
    assert ticket
    tickets.markCompletedByDevice(ticket, _THEIRS)
    waiting = Background(lambda: tickets.await_(ticket, 60)).asleep()
    atomics.storeRelease64(tickets.fenceAddress(ticket), ticket)
    assert waiting.ended() == TICKET_DONE


@pytest.mark.parametrize("last", [(1 << 31) - 3, (1 << 32) - 3, (1 << 33) - 2])
def test_ticketsGoOnBeyondTheHalfThatASlotKeeps(tickets: Tickets, last: int) -> None:
    """Broken: from ticket 2^32 on each ticket counted as done at once, and its slot
    stayed pending for ever.
    """
    atomics.exchangeSeqCst64(tickets._next, last)
    for number in range(3 * TICKET_RING):
        ticket = tickets.issue(_MINE, layout.TICKET_WRITING)
        assert ticket == last + 1 + number
        assert (
            tickets.state(ticket) == TICKET_PENDING
            and tickets.scopes(reading=True) == [ticket]
            and tickets.torn() is None
        )
        tickets.markCompletedByDevice(ticket, _MINE)
        if number % 2:
            tickets.complete(ticket, _MINE)
        else:
            atomics.storeRelease64(tickets.fenceAddress(ticket), ticket)
        assert tickets.state(ticket) == TICKET_DONE and tickets.scopes(reading=True) == []
    theirs = tickets.issue(_THEIRS, layout.TICKET_WRITING)
    assert tickets.poison(_THEIRS) == 1 and tickets.torn() == theirs


def test_aSignallerThatReadLastLongAgoTakesNoOthersSlot(
    tickets: Tickets, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signaller read `next`, and then others issued more than a ring of tickets.
    Broken: an old ticket took the slot of a later one.
    """
    last, late = Tickets.last, [0]
    monkeypatch.setattr(Tickets, "last", lambda own: late.pop() if late else last(own))
    stale, late[:] = late[:], []
    for _ in range(TICKET_RING + 1):
        ticket = tickets.issue(_MINE)
        assert ticket
        tickets.complete(ticket, _MINE)
    late[:] = stale
    assert tickets.issue(_THEIRS) == TICKET_RING + 2


def test_aDeadWritersAccessIsTornAndADeadReadersIsNot(tickets: Tickets) -> None:
    written, reading = (
        tickets.issue(_THEIRS, layout.TICKET_WRITING),
        tickets.issue(_THEIRS, layout.TICKET_READING),
    )
    assert tickets.scopes(reading=True) == [written, reading] and tickets.scopes(reading=False) == [
        written
    ]
    assert tickets.poison(_THEIRS) == 1
    assert tickets.torn() == written and tickets.scopes(reading=True) == []
    again = tickets.issue(_MINE, layout.TICKET_WRITING)
    assert again and tickets.torn() is None, "the next writer repairs it"
    tickets.complete(again, _MINE)
    signalled = tickets.issue(_THEIRS)
    assert tickets.poison(_THEIRS) == 1
    assert signalled and tickets.torn() is None, (
        "a ticket that a program signals for itself is no write access"
    )


def test_aTornBufferStaysTornUntilTheNextWriter(tickets: Tickets) -> None:
    """Broken: the torn state was forgotten with the ring slot."""
    assert tickets.issue(_THEIRS, layout.TICKET_WRITING) == 1 and tickets.torn() is None
    assert tickets.poison(_THEIRS) == 1
    for kind in (layout.TICKET_PENDING, layout.TICKET_READING) * TICKET_RING:
        ticket = tickets.issue(_MINE, kind)
        assert ticket and tickets.torn() == 1
        tickets.complete(ticket, _MINE)
    ticket = tickets.issue(_MINE, layout.TICKET_WRITING)
    assert ticket and tickets.torn() is None
    tickets.complete(ticket, _MINE, layout.TICKET_POISONED)
    assert tickets.torn() == ticket, "whose stream has failed has written half of it too"


@pytest.mark.parametrize("end", ["poison", "complete"])
def test_aTicketIsTornBeforeItIsSeenToBeOver(
    tickets: Tickets, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A reader that sees that the writer's ticket is over then checks whether it was
    torn, and not before.
    """
    assert tickets.issue(_THEIRS, layout.TICKET_WRITING) == 1
    seen, cas = list[int | None](), atomics.casSeqCst64

    def looking(address: int, expected: int, desired: int) -> int:
        if desired & 0xF == layout.TICKET_TORN:
            seen.append(tickets.torn())
        return int(cas(address, expected, desired))

    monkeypatch.setattr(atomics, "casSeqCst64", looking)
    if end == "poison":
        tickets.poison(_THEIRS)
    else:
        tickets.complete(1, _THEIRS, layout.TICKET_POISONED)
    assert seen == [1]
