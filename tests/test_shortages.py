"""Shortages: scratch memory that a process has and does not use gives way to what another
process has no room for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.control.shortages import EVERYTHING, Shortages
from muninn.errors import PromotionDenied, QuotaExceeded
from muninn.session import membership
from support import Actor

Start = Callable[..., Actor]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "2")
    monkeypatch.setenv("MUNINN_HOST_GPU_BYTES", str(32 * MIB))


def shared(**hints: Any) -> muninn.MuninnBuffer:
    hints = {"hotRanges": [(0, 20 * MIB)], **hints}
    return muninn.share(np.ones(40 * MIB, np.uint8), "a", access="readOnly", hints=hints)


#: What another process has in VRAM, and how it got it.
IDLE = {
    "kept": "muninn.open('a').promote(0, 20 << 20).close()",
    "prefetched": "b = muninn.open('a'); b.prefetch().result(30)",
}


@pytest.mark.parametrize("how", IDLE)
def test_aWindowGetsTheRoomOfWhatOthersDoNotUse(actor: Start, how: str) -> None:
    """Broken: it was QuotaExceeded at once, whatever its timeout."""
    buffer = shared()
    other = actor()
    other.do(IDLE[how])
    with buffer.promote(20 * MIB, 20 * MIB, timeout=30) as scratch:
        assert scratch.array.all()
    other.do("1")


@pytest.mark.parametrize("how", IDLE)
def test_aBufferGetsTheRoomOfWhatOthersDoNotUse(actor: Start, how: str) -> None:
    shared(priority="high")
    other = actor()
    other.do(IDLE[how])
    assert muninn.share(np.ones(20 * MIB, np.uint8), mode="fastMode").nbytes == 20 * MIB
    other.do("1")


def test_theBudgetIsSharedSoToo(actor: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUNINN_PER_GPU_SCRATCH_BYTES", str(24 * MIB))
    buffer = shared()
    other = actor(IDLE["prefetched"])
    with buffer.promote(20 * MIB, 20 * MIB, timeout=30) as scratch:
        assert scratch.array.all()
    other.do("1")


def test_whatIsOfAHigherPriorityStays(actor: Start) -> None:
    buffer = shared(priority="high")
    other = actor(IDLE["prefetched"])
    buffer.setHints(priority="low")
    with pytest.raises(PromotionDenied, match="windows of other processes are there") as caught:
        buffer.promote(20 * MIB, 20 * MIB, timeout=1.5)
    assert "evict --windows" in caught.value.fix
    with buffer.promote(0, 20 * MIB) as scratch:
        assert scratch.isShared and scratch.transfer is None, "its bytes are there still"
    other.do("1")


@pytest.mark.parametrize("mode", ["fastMode", "window"])
def test_whatNobodyCanGiveUpIsRefusedAtOnce(mode: str) -> None:
    """Without scratch memory of others there is nothing to wait for."""
    buffer, before = shared(), Shortages(membership.current().block).counts()
    held = muninn.share(np.ones(20 * MIB, np.uint8), mode="fastMode")
    with pytest.raises(QuotaExceeded):
        if mode == "window":
            buffer.promote(20 * MIB, 20 * MIB, timeout=None)
        else:
            muninn.share(np.ones(20 * MIB, np.uint8), mode="fastMode")
    assert Shortages(membership.current().block).counts() == before
    held.free()


def test_eachRankIsCountedByItself() -> None:
    muninn.domainInfo()
    shortages = Shortages(membership.current().block)
    for rank in (0, EVERYTHING, EVERYTHING):
        shortages.tell(rank)
    assert shortages.counts() == (1, 0, 0, 2)
