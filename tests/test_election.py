"""The election: one word, won by one, and never lowered."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from lab import Lab

from muninn.control import atomics
from muninn.control import watch as watching
from muninn.control.election import Term
from muninn.control.watch import disturb, watch
from support import Background


def test_nobodyIsBrokerAtFirst(lab: Lab) -> None:
    assert lab.election.term() == Term(0, None)
    assert lab.election.readyEpoch() == 0


def test_ofManyWhoSawTheSameTermEndOneWins(lab: Lab) -> None:
    for _ in range(20):
        old = lab.election.term()
        barrier = threading.Barrier(8)
        won: list[Term | None] = []

        def stand(slot: int, old: Term = old, barrier: threading.Barrier = barrier, won: list[Term | None] = won) -> None:
            barrier.wait()
            won.append(lab.election.replace(old, slot))

        threads = [threading.Thread(target=stand, args=(slot,)) for slot in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [term for term in won if term is not None]
        assert lab.election.term() == winner and winner.epoch == old.epoch + 1


def test_anEndedTermCanNotBeReplacedAgain(lab: Lab) -> None:
    old = lab.election.term()
    assert lab.election.replace(old, 3) == Term(1, 3)
    assert lab.election.replace(old, 4) is None
    assert lab.election.replace(Term(1, 5), 4) is None, "the slot is compared too"
    assert lab.election.replace(Term(1, 3), None) == Term(2, None)


def test_readyIsNeverLowered(lab: Lab) -> None:
    lab.election.announce(5)
    lab.election.announce(3)
    assert lab.election.readyEpoch() == 5


def test_whoeverAwaitsTheSocketIsWokenByAnElection(lab: Lab) -> None:
    woken = threading.Event()

    def wait() -> None:
        lab.election.awaitReady(0, 60_000_000_000)
        woken.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    while not woken.wait(0.01):
        lab.elect(1)
    thread.join(30)


def test_aSlotOutOfRangeIsNobody(lab: Lab) -> None:
    lab.elect(1000)
    assert lab.election.term().slot is None


def test_beatsAreCounted(lab: Lab) -> None:
    lab.election.beat()
    lab.election.beat()
    assert lab.election.heartbeat() == 2


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watchers that sleep for a minute: what only the bound would mend, hangs."""
    monkeypatch.setattr(watching, "_LONGEST_NS", 60_000_000_000)


def _watch(address: int, mustLook: Callable[[], bool] = lambda: False) -> Background:
    return Background(lambda: watch(address, mustLook, 60_000_000_000))


def test_whoeverAwaitsTheSocketIsWokenByIt(lab: Lab) -> None:
    """Broken: `announce` without its wake-up."""
    lab.elect(1)
    waiting = Background(lambda: lab.election.awaitReady(0, 60_000_000_000)).asleep()
    lab.election.announce(1)
    waiting.ended()


@pytest.mark.usefixtures("patient")
def test_whoeverWatchesTheOldBrokerIsWokenByAnElection(lab: Lab) -> None:
    """Broken: `replace` without `disturb`; `disturb` without its wake-up."""
    broker = lab.member()
    old = lab.elect(broker.key.slot)
    watching = [_watch(broker.table.robustAddress(broker.key.slot)).asleep() for _ in range(3)]
    assert lab.election.replace(old, 5) is not None
    for each in watching:
        each.ended()


@pytest.mark.usefixtures("patient")
def test_whatCameBeforeTheSleepIsSeen(lab: Lab) -> None:
    """Broken: `watch` without asking `mustLook`, or without looking whether the word is a dead one's."""
    member = lab.member()
    address = member.table.robustAddress(member.key.slot)
    _watch(address, lambda: True).ended()
    member.die()
    _watch(address).ended()


@pytest.mark.usefixtures("patient")
def test_theKernelWakesOneAndThatOneTheOthers(lab: Lab) -> None:
    """Broken: `watch` without its wake-up: all but one went on sleeping on a dead broker's word."""
    member = lab.member()
    address = member.table.robustAddress(member.key.slot)
    watching = [_watch(address).asleep() for _ in range(3)]
    member.die()
    atomics.futexWake32(address, 1)
    for each in watching:
        each.ended()


@pytest.mark.usefixtures("patient")
def test_aDisturbanceBetweenTheQuestionAndTheSleepIsSeen(lab: Lab) -> None:
    """Broken: `disturb` left the waiters bit, so the word was as the watcher had armed it, and it fell asleep."""
    member = lab.member()
    address = member.table.robustAddress(member.key.slot)

    def disturbed() -> bool:
        disturb(address)
        return False

    _watch(address, disturbed).ended()
