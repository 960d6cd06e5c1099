"""The fixtures of the conformance suite: a platform, its device, and peers on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

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


@pytest.fixture
def startPeer(platform: Platform) -> Iterator[Callable[[], Peer]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Peer(platform.name, dict(platform.environment)))
