"""The background thread: how long it pauses between two looks at the broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from lab import Lab

from muninn.session.worker import Worker


class Followed:
    """A worker that follows the broker of another process, and its sleeps in seconds."""

    def __init__(self, lab: Lab) -> None:
        self.slept: list[float] = []
        self.isAnswered = self.isConnected = True
        client = SimpleNamespace(
            connect=lambda: self.isAnswered,
            isConnected=lambda epoch: self.isConnected,
            askLater=lambda: True,
        )
        self._term = lab.elect(lab.member().key.slot)
        idle = SimpleNamespace(run=lambda: True)
        watcher = SimpleNamespace(sleep=lambda slot, word, ns: self.slept.append(ns / 1e9))
        self._worker = Worker(
            cast(Any, SimpleNamespace(isLeaving=False)),
            lab.lockFile,
            cast(Any, SimpleNamespace(watcher=watcher)),
            cast(Any, SimpleNamespace(handover=None, isPreferred=False)),
            cast(
                Any,
                SimpleNamespace(
                    tables=SimpleNamespace(members=lab.members, key=lab.member().key, ttlMs=30_000),
                    context=SimpleNamespace(
                        client=client,
                        releases=SimpleNamespace(tryReclaimReleased=lambda: True),
                        unclaimed=SimpleNamespace(memories={}),
                    ),
                    creating=SimpleNamespace(cleanups=idle),
                    gpus=SimpleNamespace(signalling=idle, hasIdle=lambda: self.hasIdle),
                ),
            ),
        )

    hasIdle = False

    def follow(self, isAnswered: bool = True, isConnected: bool = True) -> None:
        self.isAnswered, self.isConnected = isAnswered, isConnected
        self._worker._follow(self._term)


def test_theThreadSleepsUntilTheNextRenewal(lab: Lab) -> None:
    followed = Followed(lab)
    followed.follow()
    followed.hasIdle = True
    followed.follow()
    assert followed.slept == [10.0, 0.5], "memory that is idle is looked after"


def test_aMemberThatWasNotConnectedLooksAgainSoon(lab: Lab) -> None:
    """No descriptor was left. Broken: the thread slept until the next renewal, 40 s,
    while the broker waited for the memory that this member might bring.
    """
    followed = Followed(lab)
    followed.follow(isConnected=False)
    assert followed.slept == [0.05]


def test_theThreadPausesLongerEachTimeThatNoBrokerAnswers(lab: Lab) -> None:
    """Broken: it tried again at once, 7,000 times a second, as long as the sockets of
    the broker were gone.
    """
    followed = Followed(lab)
    for _ in range(9):
        followed.follow(isAnswered=False)
    assert followed.slept == pytest.approx([0.001, 0.003, 0.007, 0.015, 0.031, 0.05, 0.05, 0.05]), (
        "none after the first, which often only waited for a new broker"
    )
    followed.follow()
    followed.follow(isAnswered=False)
    assert followed.slept[8:] == [10.0], "and from the beginning after an answer"
