"""Promotion on a driver: kernels write scratch memory, and a kernel finds what they wrote."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import muninn
from muninn.kernels import launch

WORDS = 100_003


@pytest.fixture(params=["bigMode", "fastMode"])
def buffer(request: pytest.FixtureRequest, domain: str) -> Any:
    array = np.arange(WORDS, dtype=np.uint64)
    return muninn.share(array, "a", mode=request.param, access="readWrite")


@pytest.mark.parametrize("track", [False, True])
def test_whatKernelsWriteComesBack(buffer: Any, track: bool) -> None:
    stream = muninn.createStream(0)
    with buffer.promote(8 * 1000, 8 * 50_000, stream=stream, track=track) as scratch:
        window = scratch.deviceArray()
        launch.launch("fillPattern", window[:3000], 42, stream=stream)
        if track:
            scratch.markDirty(0, 8 * 3000)
        assert scratch.dirtyBytes() == 65_536
    expected = np.arange(WORDS, dtype=np.uint64)
    launch.launch("fillPattern", expected[1000:4000], 42)
    assert np.array_equal(buffer.read(), expected) and buffer.generation == 2


def test_processesShareAWindowOfAReadOnlyBuffer(domain: str, actor: Any) -> None:
    array = np.arange(WORDS, dtype=np.uint64)
    muninn.share(array, "r", access="readOnly")
    code = (
        "from muninn.kernels import launch; b = muninn.open('r'); s = b.promote(0, 80_000)\n"
        "r = np.zeros(1, np.uint64); t = muninn.array('x%d' % __import__('os').getpid(), 1, 'u8', mode='fastMode')\n"
        "with t.write() as view: launch.launch('readSum', s.deviceArray(), view)\n"
    )
    first, second = actor(code), actor(code)
    total = int(array[:10_000].sum())
    assert first.do("int(t.read()[0])") == second.do("int(t.read()[0])") == total
    assert len([each for each in muninn.listBuffers() if each["kind"] == "window"]) == 1
    first.kill()
    assert (
        second.do("with t.write() as view: launch.launch('readSum', s.deviceArray(), view)") is None
    )
    assert second.do("int(t.read()[0])") == 2 * total
