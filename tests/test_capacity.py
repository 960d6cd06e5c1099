"""How much a tier could still give, by the machine and by the driver."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from muninn.config import loadSettings
from muninn.errors import DeviceUnavailable
from muninn.service import capacity
from muninn.service.capacity import Capacity
from muninn.storage import room


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Capacity:
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "2")
    monkeypatch.setenv("MUNINN_HOST_GPU_BYTES", "1M")
    return Capacity(loadSettings())


def test_anEmulatedGpuHasTheRestOfItsMemory(emulated: Capacity) -> None:
    assert emulated.gpus == 2
    assert emulated.gpuEmpty(1, 4096) == (1 << 20) - 4096
    assert emulated.gpuEmpty(0, 1 << 21) == 0
    assert emulated.gpuEmpty(2, 0) is None, "this machine has no such GPU"


def test_aRealGpuIsAskedByItsAddress(emulated: Capacity, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def free(busId: str) -> int:
        asked.append(busId)
        return 77

    monkeypatch.setattr(
        emulated,
        "_device",
        SimpleNamespace(gpuCount=1, site=lambda gpu: SimpleNamespace(busId="0:1")),
    )
    monkeypatch.setattr(emulated, "_nvml", SimpleNamespace(freeBytes=free))
    assert emulated.gpuEmpty(0, 4096) == 77 and asked == ["0:1"]


def test_whereThereIsNoGpuTheRestIsToldAllTheSame(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(settings: object) -> None:
        raise DeviceUnavailable("there is no CUDA device")

    monkeypatch.setattr(capacity, "chooseDevice", missing)
    without = Capacity(loadSettings())
    assert (without.gpus, without.gpuEmpty(0, 0)) == (0, None) and without.hostEmpty() > 0


@pytest.mark.parametrize(
    ("blocks", "left", "machine", "empty"),
    [(100, 10, 10**9, 40960), (100, 10**6, 5000, 5000), (0, 0, 5000, 5000)],
)
def test_hostMemoryEndsWithTheFileSystemOrTheMachine(
    emulated: Capacity,
    monkeypatch: pytest.MonkeyPatch,
    blocks: int,
    left: int,
    machine: int,
    empty: int,
) -> None:
    def told(path: str) -> Any:
        assert path == "/dev/shm"
        return SimpleNamespace(f_blocks=blocks, f_bavail=left, f_frsize=4096)

    monkeypatch.setattr(os, "statvfs", told)
    monkeypatch.setattr(room, "availableBytes", lambda: machine)
    assert emulated.hostEmpty() == empty
