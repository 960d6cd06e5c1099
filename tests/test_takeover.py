"""A broker that dies or is stuck costs the others a moment, once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import muninn
from support import Actor, eventually, leftovers

Start = Callable[..., Actor]


def brokerPid() -> int | None:
    pid: int | None = muninn.domainInfo()["brokerPid"]
    return pid


def test_survivesTheDeathOfTheBroker(domain: str, actor: Start) -> None:
    broker = actor("buffer = muninn.share(np.arange(8), name='kept')")
    assert brokerPid() == broker.pid
    broker.kill()
    assert muninn.open("kept").array.sum() == 28
    muninn.share(b"more", name="next")
    assert brokerPid() != broker.pid
    eventually(lambda: len(muninn.domainInfo()["members"]) == 1, "the dead broker's slot is reclaimed")
    assert len(leftovers(domain)) == 2


def test_opensWhileTheBrokerIsStopped(domain: str, actor: Start) -> None:
    broker = actor("buffer = muninn.share(np.arange(8), name='kept')")
    broker.stop()
    assert muninn.open("kept").array.sum() == 28


def test_deposesAStoppedBrokerAndIgnoresItWhenItComesBack(domain: str, actor: Start) -> None:
    broker = actor("muninn.domainInfo()")
    assert brokerPid() == broker.pid
    muninn.share(b"a", name="first")
    broker.stop()
    muninn.share(b"b", name="second")
    epoch = muninn.domainInfo()["epoch"]
    assert brokerPid() != broker.pid
    broker.resume()
    assert broker.do("muninn.share(b'c', name='third').name") == "third"
    assert sorted(each["name"] for each in muninn.listBuffers()) == ["first", "second", "third"]
    assert muninn.domainInfo()["epoch"] == epoch


@pytest.mark.parametrize("count", [5])
def test_reclaimsWhatAKilledMemberHeld(domain: str, actor: Start, count: int) -> None:
    muninn.domainInfo()
    member = actor(f"held = [muninn.share(b'x' * 100, lifetime='lastClose', name=f'b{{i}}') for i in range({count})]")
    assert len(muninn.listBuffers()) == count
    member.kill()
    eventually(lambda: not muninn.listBuffers(), "the buffers of the dead member are gone")
    assert leftovers(domain) == []
