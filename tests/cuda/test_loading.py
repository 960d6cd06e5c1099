"""Files that are loaded into VRAM: by pinned pieces, whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import muninn
from muninn.devices.port import Device
from muninn.errors import BarPressureHigh, DeviceUnavailable, FileInvalid
from muninn.formats.source import Source
from muninn.session import loading
from muninn.session.gpus import deviceOf
from muninn.session.membership import current
from support import Actor, eventually, leftovers

Start = Callable[..., Actor]
Free = Callable[[], int]
MIB = 1 << 20
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "long": np.random.default_rng(1).integers(0, 255, 3 * MIB + 77, np.uint8),
    **{f"short{number}": np.full(number, number, np.float32) for number in range(20)},
    "empty": np.zeros((0, 4), np.int64),
}


@pytest.fixture
def file(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of several pieces."""
    folder: Path = request.getfixturevalue("tmp_path")
    monkeypatch.setattr(loading, "_UPLOAD_PIECE_BYTES", 256 << 10)
    save_file(ARRAYS, folder / "x.safetensors")
    return folder / "x.safetensors"


def device() -> Device:
    return deviceOf(current())


def pinnedBytes() -> int:
    """Host memory that this process has pinned, once the GPU's work is done."""
    assert device().awaitWork(30)
    return int(device()._budget.usedBytes)  # type: ignore[attr-defined]


def nothingIsLeft(domain: str) -> bool:
    return (
        leftovers(domain) == []
        and muninn.listBuffers() == []
        and pinnedBytes() == 0
        and not [each for each in threading.enumerate() if each.name.startswith("muninn-crew")]
    )


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "compressed"])
def test_loadsIntoVram(domain: str, file: Path, actor: Start, suffix: str) -> None:
    counted: list[int] = []
    if suffix != "safetensors":
        save = np.savez if suffix == "npz" else np.savez_compressed
        save(file.with_suffix(".npz"), **ARRAYS)
        file = file.with_suffix(".npz")
    bundle = muninn.load(file, "model", mode="fastMode", progress=counted.append)
    assert isinstance(bundle, muninn.Bundle)
    other = actor("import numpy as np; model = muninn.openBundle('model')")
    assert other.do("int(np.asarray(model['long']).astype(int).sum()), len(model)") == [
        int(ARRAYS["long"].astype(int).sum()),
        len(ARRAYS),
    ]
    for key, array in ARRAYS.items():
        assert np.array_equal(np.asarray(bundle[key]), array), key
    assert sum(counted) == sum(array.nbytes for array in ARRAYS.values())
    assert pinnedBytes() == 0


def test_loadsOneArrayIntoVram(domain: str, file: Path) -> None:
    for order in ("C", "F"):
        array = np.asarray(np.arange(200_000.0).reshape(200, 1000), order=order)  # type: ignore[call-overload]
        np.save(file.with_suffix(".npy"), array)
        buffer = muninn.load(file.with_suffix(".npy"), mode="fastMode")
        assert isinstance(buffer, muninn.MuninnBuffer) and np.array_equal(buffer.read(), array)


def test_loadsToTheGpuThatWasNamed(domain: str, file: Path) -> None:
    if device().gpuCount < 2:
        pytest.skip("there is one GPU")
    bundle = muninn.load(file, "model", mode="fastMode", preferredGpu=1)
    assert isinstance(bundle, muninn.Bundle)
    assert bundle.describe()["gpu"] == 1
    assert np.array_equal(np.asarray(bundle["long"]), ARRAYS["long"])


def test_aFileThatIsShortenedMeanwhileLeavesNothing(
    domain: str, file: Path, monkeypatch: pytest.MonkeyPatch, freeBytes: Free
) -> None:
    original = loading.load

    def shortened(*arguments: Any) -> None:
        os.truncate(file, 2 * MIB)
        original(*arguments)

    muninn.share(np.zeros(3), mode="fastMode").free()  # makes the context
    before = freeBytes()
    monkeypatch.setattr(loading, "load", shortened)
    with pytest.raises(FileInvalid, match="early"):
        muninn.load(file, "model", mode="fastMode")
    assert nothingIsLeft(domain)
    eventually(lambda: freeBytes() >= before, "the VRAM is given back")


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_aProgressFunctionThatRaisesLeavesNothing(
    domain: str, file: Path, kind: type[BaseException]
) -> None:
    def stop(count: int) -> None:
        raise kind("enough")

    with pytest.raises(kind, match="enough"):
        muninn.load(file, "model", mode="fastMode", progress=stop)
    assert nothingIsLeft(domain)
    muninn.load(file, "model", mode="fastMode")


def test_memoryThatMayNotBePinnedIsAnError(
    domain: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUNINN_MAPPED_WINDOW_BYTES", "128K")
    with pytest.raises(BarPressureHigh):
        muninn.load(file, "model", mode="fastMode")
    assert nothingIsLeft(domain)


def test_aCopyThatFailsIsAnError(domain: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(*arguments: Any) -> None:
        raise DeviceUnavailable("the GPU is gone")

    muninn.share(np.zeros(3), mode="fastMode").free()
    monkeypatch.setattr(device(), "copy", copy)
    with pytest.raises(DeviceUnavailable, match="gone"):
        muninn.load(file, "model", mode="fastMode")
    assert nothingIsLeft(domain)


def test_theGpuCopiesWhileTheNextPieceIsRead(
    domain: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read begins before the copy of the piece before it is waited for."""
    monkeypatch.setenv("MUNINN_LOAD_THREADS", "1")
    steps: list[str] = []
    original, copy = Source.readAt, device().copy

    def readAt(source: Source, offset: int, target: Any) -> None:
        steps.append("read")
        original(source, offset, target)

    def copied(*arguments: Any) -> None:
        steps.append("copy")
        copy(*arguments)

    monkeypatch.setattr(Source, "readAt", readAt)
    monkeypatch.setattr(device(), "copy", copied)
    created, waits = device().createStream, []

    def createStream(gpu: int) -> Any:
        stream = created(gpu)
        synchronize = stream.synchronize

        def synchronized(timeout: float | None = None) -> None:
            waits.append(len([step for step in steps if step == "copy"]))
            synchronize(timeout)

        stream.synchronize = synchronized  # type: ignore[method-assign]
        return stream

    monkeypatch.setattr(device(), "createStream", createStream)
    muninn.load(file, "model", mode="fastMode")
    assert waits[:5] == [0, 1, 2, 3, 4], "each piece waits for the copy two before it only"
