"""`broker/upkeep.py`: what a broker does on the side, also when it is never idle."""

from __future__ import annotations

import os

import pytest
from lab import Lab, describe, usage

from muninn.errors import OwnerDied
from muninn.terms import Mode


def test_isDoneAlthoughThereIsAlwaysSomethingToServe(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: upkeep waited for a step without events, so a broker that was asked all the time never looked for unreported deaths."""
    broker = lab.settled(lab.broker(lab.member()))
    upkeep, done = broker._upkeep, []
    monkeypatch.setattr(upkeep, "collectLost", lambda: done.append("swept"))
    upkeep._sweepAt = 0.0
    upkeep._chores.append(lambda: done.append("chore"))
    for _ in range(100):
        os.eventfd_write(broker._wakeFd, 1)
        broker.step(0)
    assert done == ["chore", "swept"]


def test_whatIsSaidToBeLostCanBeMadeAnewAtOnce(lab: Lab) -> None:
    """Broken: the row of lost memory kept its name until the next sweep, so `OwnerDied` was followed by `BufferExists` for seconds."""
    broker = lab.settled(lab.broker(member := lab.member()))
    directory = broker._directory
    row, incarnation = directory.grant(member.key, usage(mode=Mode.FAST, gpu=0), 1 << 20)
    directory.rows.describe(row, describe(mode=Mode.FAST, gpu=0, transport="memfd"))
    directory.commit(member.key, row, incarnation, os.memfd_create("lost"))
    directory.vault.drop(row, incarnation)
    reply, _ = broker.execute({"op": "fetch", "row": row, "incarnation": incarnation}, [])
    assert reply["error"] == OwnerDied.number
    assert directory.grant(member.key, usage(), 0)[1] != incarnation
