"""Tests of the whole library on a CUDA driver: the stand-in (`make test-long`) or a GPU's
own driver (`make gpu`), as TEST_DRIVER says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from support import Actor

ON_STANDIN = os.environ.get("TEST_DRIVER") == "standin"


@pytest.fixture
def standin() -> None:
    """For tests that need features of the stand-in: injected faults, missing features,
    a log of the driver's calls.
    """
    if not ON_STANDIN:
        pytest.skip("a GPU's own driver injects no faults and lacks no features")


@pytest.fixture
def freeBytes(actor: Callable[..., Actor]) -> Iterator[Callable[[], int]]:
    """The GPU's free memory, as seen by a process that has only its context there."""
    watcher = actor("from muninn.devices.cuda import CudaDevice\nd = CudaDevice(); d.memoryInfo(0)")
    yield lambda: int(watcher.do("d.memoryInfo(0).freeBytes"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:  # pylint: disable=invalid-name
    for item in items:
        if ON_STANDIN and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="it needs a real GPU: make gpu"))
