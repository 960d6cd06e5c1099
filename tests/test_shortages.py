"""Shortages: scratch memory that a process has and does not use gives way to what another
process has no room for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.control import layout
from muninn.control.shortages import EVERYTHING, Shortages, groupOf
from muninn.errors import PromotionDenied, QuotaExceeded
from muninn.session import membership
from muninn.session.gpus import deviceOf
from muninn.session.windownames import wordOf
from support import Actor, Background, eventually

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
    assert "evict NAME --windows" in caught.value.fix
    with buffer.promote(0, 20 * MIB) as scratch:
        assert scratch.isShared and scratch.transfer is None, "its bytes are there still"
    other.do("1")


def told() -> list[tuple[int, ...]]:
    shortages = Shortages(membership.current().block)
    return [shortages.counts(group) for group in range(layout.SHORTAGE_GROUPS)]


@pytest.mark.parametrize("what", ["window", "buffer", "too large", "quota"])
def test_whatNobodyCanGiveUpIsRefusedAtOnce(
    actor: Start, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process has a window of 4 KiB, which is not enough. Broken: it was waited for,
    for ever without a timeout, and all processes gave up what they had kept.
    """
    if what == "quota":
        monkeypatch.setenv("MUNINN_DEFAULT_VRAM_QUOTA", "24M")
    buffer, other = shared(), actor("s = muninn.open('a').promote(0, 4096)")
    held = muninn.share(np.ones(20 * MIB, np.uint8), mode="fastMode")
    before = told()
    with pytest.raises(QuotaExceeded):
        if what == "window":
            buffer.promote(20 * MIB, 20 * MIB, timeout=None)
        elif what == "too large":
            muninn.MuninnBuffer(1 << 40, mode="fastMode")
        elif what == "quota":
            muninn.share(np.ones(8 * MIB, np.uint8), mode="fastMode", preferredGpu=1)
        else:
            muninn.share(np.ones(20 * MIB, np.uint8), mode="fastMode")
    assert told() == before
    held.free()
    assert other.do("bool(s.array.all())")


def test_ownWindowsAreNothingToWaitFor() -> None:
    """Broken: a thread waited for its own window until its timeout."""
    buffer = shared()
    with buffer.promote(0, 20 * MIB) as scratch:
        with pytest.raises(QuotaExceeded):
            buffer.promote(20 * MIB, 20 * MIB, timeout=None)
        assert scratch.array.all()


def test_whatIsOnAnotherGpuStays(actor: Start) -> None:
    """And each GPU of a bundle may be the one that is short."""
    shared()
    other = actor(
        "b = muninn.open('a'); b.prefetch(0).result(30); b.prefetch(1).result(30)\n"
        "def gpus(): return sorted(each['gpu'] for each in muninn.listBuffers() if each['kind'] == 'window')"
    )
    assert other.do("gpus()") == [0, 1]
    with muninn.shareBundle(
        {"x": np.ones(MIB, np.uint8), "y": np.ones(20 * MIB, np.uint8)},
        mode="fastMode",
        preferredGpu={"x": 0, "y": 1},
    ):
        eventually(lambda: other.do("gpus()") == [0], "GPU 1 has given way, and GPU 0 has not")


def test_aQueuedWindowAsksOnceItKnowsWhatIsShort(
    actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: where it had waited for its turn first, the next shortage was an error at
    once.
    """
    monkeypatch.setenv("MUNINN_MAX_CONCURRENT_PROMOTIONS", "1")
    buffer, other = shared(), actor(IDLE["prefetched"])
    halfway = actor(
        "import threading; at, go = threading.Event(), threading.Event()\n"
        "b = muninn.open('a')\n"
        "def stay(_): at.set(); go.wait(60)\n"
        "t = threading.Thread(target=lambda: b.promote(39 << 20, 4096, progress=stay).close())\n"
        "t.start()"
    )
    halfway.do("at.wait(60)")
    waiting = Background(lambda: buffer.promote(20 * MIB, 20 * MIB, timeout=60))
    eventually(lambda: waiting.value is None, "it waits")
    halfway.do("go.set(); t.join()")
    waiting.ended().close()
    other.do("1")


def test_anOldShortageTakesNothingThatIsKeptLater(actor: Start) -> None:
    buffer = shared()
    gpu = wordOf(deviceOf(membership.current()).gpuUuid(0))
    scratch = buffer.promote(0, 20 * MIB)
    Shortages(membership.current().block).tell(gpu, EVERYTHING)
    scratch.close()
    membership.current().openBuffers.gpus.tidy()
    with buffer.promote(0, 20 * MIB) as again:
        assert again.transfer is None, "it was kept"


def test_eachRankAndGpuIsCountedByItself() -> None:
    muninn.domainInfo()
    shortages, names = Shortages(membership.current().block), ("one", "another")
    assert groupOf("one") != groupOf("another")
    for name, rank in (("one", 0), ("another", EVERYTHING), ("another", EVERYTHING)):
        shortages.tell(name, rank)
    assert [shortages.counts(groupOf(name)) for name in names] == [(1, 0, 0, 0), (0, 0, 0, 2)]
