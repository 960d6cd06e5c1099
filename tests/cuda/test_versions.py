"""Versions of a name in VRAM: published from GPUs, replaced when lent, kept by their
holders.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numba import cuda

import muninn
from muninn.errors import OwnerDied, QuotaExceeded
from support import Actor, eventually

Start = Callable[..., Actor]
Free = Callable[[], int]
#: Numba's own memory, so that Muninn does not own it.
LEND = "from numba import cuda\nmine = cuda.to_device(np.arange(1000))\nbuffer = muninn.share(mine, 'a', copy=False)\n"


def test_aVersionIsPublishedFromAGpuAndTheOlderOneStays(domain: str, actor: Start) -> None:
    muninn.publish("a", cuda.to_device(np.arange(1000)))
    reader = actor("held = muninn.open('a')")
    newer = muninn.publish("a", cuda.to_device(np.arange(10.0)))
    assert newer.mode == "fastMode" and newer.isCurrent
    assert reader.do("held.isCurrent, int(held.read().sum())") == [False, 499500]
    assert reader.do("int(held.deviceArray().copy_to_host().sum())") == 499500
    assert reader.do("float(muninn.open('a').read().sum())") == 45.0


def test_aVersionMayMoveFromTheHostToVramAndBack(domain: str) -> None:
    first = muninn.publish("a", np.arange(5))
    second = muninn.publish("a", np.arange(6), mode="fastMode")
    third = muninn.publish("a", second.deviceArray(), mode="bigMode")
    assert [each.mode for each in (first, second, third)] == ["bigMode", "fastMode", "bigMode"]
    assert third.array.tolist() == second.read().tolist() == [0, 1, 2, 3, 4, 5]


def test_theVramOfAnOlderVersionGoesWithItsLastHolder(
    domain: str, actor: Start, freeBytes: Free
) -> None:
    muninn.publish("a", np.zeros(8 << 20, "u1"), mode="fastMode").close()
    holder = actor("held = muninn.open('a')")
    before = freeBytes()
    muninn.publish("a", np.zeros(8 << 20, "u1"), mode="fastMode").close()
    eventually(lambda: freeBytes() <= before - (8 << 20), "both versions are there")
    holder.do("held.close()")
    eventually(lambda: freeBytes() == before, "the older one is gone")


def test_aFullGpuLeavesTheVersionBefore(
    domain: str, freeBytes: Free, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("MUNINN_FAST_MODE_MAX_BYTES", "MUNINN_DEFAULT_VRAM_QUOTA"):
        monkeypatch.setenv(limit, "1024G")  # above every card's memory
    size = freeBytes() * 6 // 10
    held = muninn.MuninnBuffer(size, mode="fastMode", name="a")
    with pytest.raises(QuotaExceeded, match="'a' that is there has"):
        muninn.publish("a", np.zeros(size, "u1"), mode="fastMode")
    assert held.isCurrent
    held.close()
    with muninn.open("a") as there:
        assert there.isCurrent


def test_aLentVersionIsReplacedAndTakenBackByItsOwner(domain: str, actor: Start) -> None:
    owner = actor(LEND)
    older = muninn.open("a")
    newer = muninn.publish("a", np.arange(3), mode="fastMode")
    assert older.read().sum() == 499500 and not older.isCurrent
    owner.kill()

    def isTold() -> bool:
        try:
            older.read()
        except OwnerDied:
            return True
        return False

    eventually(isTold, "the holder is told")
    assert newer.isCurrent and newer.read().tolist() == [0, 1, 2]
