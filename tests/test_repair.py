"""Repair: whatever became of the control block, what the journals and the segments agree on is there again."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

import muninn
from muninn.api import admin
from muninn.api.membership import current
from muninn.control.places import Places
from muninn.errors import BrokerUnavailable, ControlBlockInvalid
from support import Actor, eventually, leftovers

Start = Callable[..., Actor]


def _ruin(domain: str) -> None:
    path = f"/dev/shm{Places(os.getuid(), domain).blockName}"
    with open(path, "r+b") as file:
        file.write(b"\xff" * 4096)


def _makeAndEnd(actor: Start) -> None:
    maker = actor(
        "for n in range(3): muninn.share(np.full(1000, n), name=f'n{n}')\nmuninn.open('n1').free()\nmuninn.share(b'x', name='fast', mode='fastMode')"
    )
    maker.kill()


def test_bringsBackWhatLivedAndNothingElse(domain: str, actor: Start) -> None:
    _makeAndEnd(actor)
    _ruin(domain)
    with pytest.raises(ControlBlockInvalid):
        current()
    result = admin.repair()
    assert result["recovered"] == ["n0", "n2"]
    assert muninn.open("n2").array.tolist() == [2] * 1000
    assert sorted(each["name"] for each in muninn.listBuffers()) == ["n0", "n2"]
    muninn.share(np.arange(3), name="n1")
    assert muninn.open("n0").array.sum() == 0
    eventually(lambda: len(leftovers(domain)) == 3, "nothing else is left")


def test_isRefusedWhileSomebodyIsInTheDomain(domain: str, actor: Start) -> None:
    actor().join()
    with pytest.raises(BrokerUnavailable):
        admin.repair()


def test_repairingTwiceIsFine(domain: str, actor: Start) -> None:
    _makeAndEnd(actor)
    _ruin(domain)
    assert admin.repair()["recovered"] == admin.repair()["recovered"]
    assert muninn.open("n0").array.size == 1000


def test_aTornJournalBringsBackWhatStandsBeforeTheTear(domain: str, actor: Start) -> None:
    _makeAndEnd(actor)
    _ruin(domain)
    places = Places(os.getuid(), domain)
    for epoch in places.epochsOf("journal"):
        path = places.journalPath(epoch)
        os.truncate(path, os.stat(path).st_size // 3)
    recovered = admin.repair()["recovered"]
    assert all(muninn.open(name).array.size == 1000 for name in recovered)
    assert len(leftovers(domain)) == len(recovered)


def test_whatWasFreedAndStillHeldIsNotBroughtBack(domain: str, actor: Start) -> None:
    """It was DYING when all died. Broken: only what was gone altogether counted as freed."""
    maker = actor("held = muninn.share(b'x', name='a')\nview = held.array\nmuninn.share(b'y', name='b')\nheld.free()")
    assert maker.do("bytes(view).decode()") == "x"
    maker.kill()
    _ruin(domain)
    assert admin.repair()["recovered"] == ["b"]


def test_aTruncatedSegmentIsNotBroughtBack(domain: str, actor: Start) -> None:
    """Broken: whatever had the right name was taken for the buffer."""
    _makeAndEnd(actor)
    _ruin(domain)
    first = leftovers(domain)[0]
    os.truncate(f"/dev/shm/{first}", 100)
    assert len(admin.repair()["recovered"]) == 1
    assert first not in leftovers(domain)


def test_theNextTermComesAfterAllThatTheJournalsRemember(domain: str, actor: Start) -> None:
    """Broken: the new block began with epoch 1, and the rows in it were of a later one."""
    _makeAndEnd(actor)
    actor().join().kill()
    last = Places(os.getuid(), domain).epochsOf("journal")[-1]
    _ruin(domain)
    admin.repair()
    assert current().election.epoch() > last
