"""The fixtures of the conformance suite: a platform, its device, and peers on it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeAlias

import pytest

from muninn.devices.port import Device

from .peer import Peer
from .platforms import PLATFORMS, Platform


@pytest.fixture(params=PLATFORMS.values(), ids=lambda platform: platform.name)
def platform(request: pytest.FixtureRequest) -> Platform:
    chosen: Platform = request.param
    return chosen


@pytest.fixture
def device(platform: Platform) -> Device:
    return platform.makeDevice()


#: Makes memory of these bytes.
HostMemory: TypeAlias = Callable[[bytes], Any]


@pytest.fixture
def hostMemory(device: Device) -> Iterator[HostMemory]:
    """Memory that a test registers. It lives until the driver knows it no more: a
    registration ends behind the work of the GPU, and what is next at its addresses, be it
    memory of another test, would meet it.
    """
    made = []

    def make(content: bytes) -> Any:
        made.append(ctypes.create_string_buffer(content, len(content)))
        return made[-1]

    yield make
    device.memoryInfo(0)  # which waits for what was closed


@pytest.fixture
def startPeer(platform: Platform) -> Iterator[Callable[[], Peer]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Peer(platform.name, dict(platform.environment)))
