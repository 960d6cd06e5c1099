"""Waiting for a name: a waiter wakes only for its own name, and asks the broker only if
that may know more than the index.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

import muninn
from muninn.control import layout
from muninn.control.index import NameIndex
from muninn.session import names
from muninn.session.membership import current
from muninn.session.names import NameWait
from support import Actor, Background, eventually

Start = Callable[..., Actor]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks and requests without a wake-up come only after a minute, so a test that
    depends on them hangs.
    """
    monkeypatch.setattr(names, "_LOOK_NS", 60_000_000_000)
    monkeypatch.setattr(names, "_ASK_MS", 1 << 40)


def _asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names for which this process asks its broker from now on."""
    openBuffers, asked = current().openBuffers, list[str]()
    ask = openBuffers.asked
    monkeypatch.setattr(openBuffers, "asked", lambda name: asked.append(name) or ask(name))  # type: ignore[func-returns-value]
    return asked


def _other(name: str, sharesWord: bool) -> str:
    """Another name that has the same word, or another one."""
    index = current().index
    return next(
        other
        for other in (f"other-{number}" for number in range(100_000))
        if (index.wakeAddress(other.encode()) == index.wakeAddress(name.encode())) is sharesWord
    )


def test_aNameHasOneOfManyWords(domain: str) -> None:
    index, first = current().index, current().block.address + layout.NAME_WAKES_OFFSET
    addresses = {index.wakeAddress(b"name-%d" % number) for number in range(20_000)}
    assert addresses == {first + 4 * word for word in range(layout.NAME_WAKES)}


@pytest.mark.usefixtures("patient")
def test_aWaiterForANameIsWokenForItsOwn(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: all names had one word: each waiter woke, and asked the broker, whenever
    any name came or went.
    """
    asked = _asked(monkeypatch)
    waiting = NameWait(current().openBuffers, "mine")
    assert waiting.look() is None and asked == ["mine"]
    sleeping = Background(lambda: waiting.sleep(None)).asleep()
    muninn.share(np.ones(2), name=_other("mine", sharesWord=False)).free()
    assert sleeping.asleep().isRunning()
    kept = muninn.share(np.arange(4), name="mine")
    sleeping.ended()
    found = waiting.look()
    assert found is not None and (found.row, found.incarnation) == (
        kept._checked().row,
        kept._checked().incarnation,
    )


@pytest.mark.usefixtures("patient")
def test_theBrokerIsNotAskedBecauseOfANameWithTheSameWord(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: each waiter that woke asked the broker, although the index had the
    answer.
    """
    # Let a broker come first: a waiter asks each new broker once.
    muninn.share(np.ones(2)).close()
    asked = _asked(monkeypatch)
    waiting = NameWait(current().openBuffers, "mine")
    waiting.look()
    neighbour = _other("mine", sharesWord=True)
    for _ in range(20):
        muninn.share(np.ones(2), name=neighbour).free()
        assert waiting.sleep(time.monotonic() + 60) and waiting.look() is None
    assert asked.count("mine") == 1


@pytest.mark.usefixtures("patient")
def test_aNameThatTheIndexHasNoRoomForIsAskedFor(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Let a broker come first: a waiter asks each new broker once.
    muninn.share(np.ones(2)).close()
    waiting = NameWait(current().openBuffers, "mine")
    assert waiting.look() is None
    monkeypatch.setattr(NameIndex, "insert", lambda *_: False)
    kept = muninn.share(np.ones(2), name="mine")
    current().openBuffers._byName.clear()
    assert waiting.sleep(time.monotonic() + 60)
    found = waiting.look()
    assert found is not None and found.row == kept._checked().row


@pytest.mark.usefixtures("patient")
def test_aNewBrokerIsAskedOnce(domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old one may have died between the name and its word."""
    broker = actor("kept = muninn.share(np.ones(2), name='its')")
    asked = _asked(monkeypatch)
    waiting = NameWait(current().openBuffers, "mine")
    assert waiting.look() is None and waiting.look() is None and asked == ["mine"]
    broker.kill()
    muninn.share(np.ones(2)).close()
    assert waiting.look() is None and waiting.look() is None and asked == ["mine", "mine"]


@pytest.mark.usefixtures("patient")
def test_aNameThatIsGivenUpIsToldToo(domain: str, actor: Start) -> None:
    """The row has no description yet: the broker finds the word by the name of the
    grant. Broken: waiters for such a name slept on.
    """
    muninn.domainInfo()
    creator = actor().join()
    creator.begin("muninn.loadArray(4, 'f8', lambda view: time.sleep(600), name='mine')")
    waiting = NameWait(current().openBuffers, "mine")
    eventually(lambda: _isComing(waiting), "the creation has begun")
    sleeping = Background(lambda: waiting.sleep(None)).asleep()
    creator.kill()
    sleeping.ended()
    assert waiting.look() is None and not waiting.isComing


def _isComing(waiting: NameWait) -> bool:
    waiting._asked = None
    return waiting.look() is None and waiting.isComing


def test_manyWaitersCostTheBrokerNothing(domain: str, actor: Start) -> None:
    """Broken: four waiters sent a new request for each name that came or went."""
    muninn.domainInfo()
    eventually(lambda: current().role.broker is not None, "this process is the broker")
    broker = current().role.broker
    assert broker is not None
    served, find = list[str](), broker._handlers["find"]
    broker._handlers["find"] = lambda session, message, descriptors: (
        served.append(message["name"]) or find(session, message, descriptors)
    )  # type: ignore[func-returns-value]
    waiting = [actor().join() for _ in range(4)]
    for number, each in enumerate(waiting):
        each.begin(f"int(muninn.open('late-{number}', timeout=60).array.sum())")
    eventually(lambda: {f"late-{number}" for number in range(4)} <= set(served), "all of them wait")
    for _ in range(100):
        muninn.share(np.ones(2), name="n").free()
    kept = [muninn.share(np.full(3, number), name=f"late-{number}") for number in range(4)]
    assert [each.result() for each in waiting] == [0, 3, 6, 9]
    assert len([name for name in served if name.startswith("late")]) < 20 and len(kept) == 4
