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
