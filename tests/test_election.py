"""The election: one word, which one member wins, and which is never lowered."""

from __future__ import annotations

import threading

import pytest
from lab import Lab

from muninn.control.election import Term
from muninn.control.rowstate import MAX_EPOCH
from muninn.errors import TableFull
from support import Background


def test_noMemberIsBrokerAtFirst(lab: Lab) -> None:
    assert lab.election.term() == Term(0, None)
    assert lab.election.readyEpoch() == 0


def test_ofManyMembersThatSawATermEndOneWins(lab: Lab) -> None:
    for _ in range(20):
        old = lab.election.term()
        barrier = threading.Barrier(8)
        won: list[Term | None] = []

        def stand(
            slot: int,
            old: Term = old,
            barrier: threading.Barrier = barrier,
            won: list[Term | None] = won,
        ) -> None:
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


def test_aWaitForTheSocketIsWokenByAnElection(lab: Lab) -> None:
    woken = threading.Event()

    def wait() -> None:
        lab.election.awaitReady(0, 60_000_000_000)
        woken.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    while not woken.wait(0.01):
        lab.elect(1)
    thread.join(30)


def test_aSlotOutOfRangeIsNoMember(lab: Lab) -> None:
    lab.elect(1000)
    assert lab.election.term().slot is None


def test_beatsAreCounted(lab: Lab) -> None:
    lab.election.beat()
    lab.election.beat()
    assert lab.election.heartbeat() == 2


def test_aWaitForTheSocketIsWokenByIt(lab: Lab) -> None:
    """Broken: `announce` did not wake the waiters."""
    lab.elect(1)
    waiting = Background(lambda: lab.election.awaitReady(0, 60_000_000_000)).asleep()
    lab.election.announce(1)
    waiting.ended()


def test_noTermComesAfterTheLastEpoch(lab: Lab) -> None:
    """Rows have no room for a higher epoch. Broken: the epoch ran over into the rows'
    incarnations.
    """
    lab.election.startAt(MAX_EPOCH)
    with pytest.raises(TableFull, match="brokers"):
        lab.election.replace(lab.election.term(), 0)
