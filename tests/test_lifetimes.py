"""The ends of lifetimes: the soonest comes first, in every order of additions and
removals.
"""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab, Member, describe, usage

from muninn.broker.broker import Broker
from muninn.broker.lifetimes import Lifetimes
from muninn.control import layout
from muninn.system import clock
from muninn.system.clock import monotonicMs
from support import eventually

_operations = st.lists(
    st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(1, 20))), max_size=200
)


@given(_operations)
def test_findsWhatASortedListFinds(operations: list[tuple[int, int | None]]) -> None:
    lifetimes, model = Lifetimes(), dict[int, int]()
    for row, deadlineMs in operations:
        if deadlineMs is None:
            lifetimes.forget(row)
            model.pop(row, None)
        else:
            lifetimes.put(row, deadlineMs)
            model[row] = deadlineMs
        expected = sorted((deadline, each) for each, deadline in model.items())
        assert lifetimes._deadlineOf == model and lifetimes.first() == (
            expected[0] if expected else None
        )


def test_theSoonestIsFoundWithoutLookingAtTheOthers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: each step of the broker sorted all deadlines, several times: with 12,000
    of them, a share and a free took 6 ms instead of 1.7.
    """
    lifetimes = Lifetimes()
    for row in range(1000):
        lifetimes.put(row, 10_000 - row)
    popped = list[object]()
    pop = heapq.heappop
    monkeypatch.setattr(heapq, "heappop", lambda heap: popped.append(None) or pop(heap))  # type: ignore[func-returns-value]
    for _ in range(1000):
        assert lifetimes.first() == (9001, 999)
    assert not popped


def test_forgottenDeadlinesDoNotPileUp() -> None:
    """Many buffers are freed long before their time."""
    lifetimes = Lifetimes()
    for row in range(10_000):
        lifetimes.put(row % 10, 1_000_000 + row)
        lifetimes.forget(row % 10)
    lifetimes.put(1, 5)
    assert lifetimes.first() == (5, 1) and len(lifetimes._heap) < 200


def test_aLifetimeThatEndsWhileItsBufferIsHeldIsEndedOnce(
    served: tuple[Lab, Broker, Member],
) -> None:
    """Broken: the deadline stayed in the catalog, so the broker's wait for its next
    event was 0 s until the holder released the buffer.
    """
    lab, broker, own = served
    row, incarnation = lab.make(broker._directory, own, deadlineMs=monotonicMs() + 5)
    lease = own.leases.take(row, incarnation, 1000)
    eventually(lambda: broker.step(0.001) or own.leases.revocation(lease), "its lease is revoked")
    assert own.leases.revocation(lease) == "lifetimeEnded"
    assert broker._maintenance.untilDeadline() > 1000
    own.leases.giveBack(lease)
    broker.execute({"op": "tryReclaim", "row": row, "incarnation": incarnation}, [])
    assert lab.rows.state(row).state == layout.ROW_FREE


def test_aBrokerThatCanNotCompareClocksEndsNoLifetime(
    served: tuple[Lab, Broker, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, broker, own = served
    row, _ = lab.make(broker._directory, own, deadlineMs=monotonicMs() - 5)
    while broker._maintenance._chores:
        broker._maintenance.workOnce()
    monkeypatch.setattr(clock, "_own", clock.TimeNamespace(0, 0, 0))
    broker._maintenance.endLifetimes()
    assert (
        lab.rows.state(row).state == layout.ROW_LIVE and broker._maintenance.untilDeadline() > 1000
    )
    monkeypatch.undo()
    broker._maintenance.endLifetimes()
    assert lab.rows.state(row).state == layout.ROW_FREE


def test_aLifetimeThatEndsBeforeTheCommitEndsNothingElse(
    served: tuple[Lab, Broker, Member],
) -> None:
    """Broken: the deadline counted from the grant; the free of a CREATING row raised,
    and the broker resigned.
    """
    lab, broker, own = served
    past = monotonicMs() - 1
    row, incarnation = broker._directory.grant(own.key, usage("slow", deadlineMs=past), 0)
    broker.step(0)
    lab.rows.describe(row, describe("slow", deadlineMs=past))
    broker._directory.commit(own.key, row, incarnation, None)
    broker.step(0)
    broker.step(0)
    assert lab.rows.state(row).state == layout.ROW_FREE
