"""`broker/upkeep.py`: what a broker does on the side, also when it is never idle."""

from __future__ import annotations

import os

import pytest
from lab import Lab


def test_isDoneAlthoughThereIsAlwaysSomethingToServe(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: upkeep waited for a step without events, so a broker that was asked all the time never looked for unreported deaths."""
    broker = lab.settled(lab.broker(lab.member()))
    upkeep, done = broker._upkeep, []
    monkeypatch.setattr(upkeep, "_collectLost", lambda: done.append("swept"))
    upkeep._sweepAt = 0.0
    upkeep._chores.append(lambda: done.append("chore"))
    for _ in range(100):
        os.eventfd_write(broker._wakeFd, 1)
        broker.step(0)
    assert done == ["chore", "swept"]
