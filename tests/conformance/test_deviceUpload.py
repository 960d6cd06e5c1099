"""Uploads: bytes go through pinned pieces into a GPU's memory, by the port alone."""

from __future__ import annotations

import numpy as np
import pytest

from muninn.devices.port import Device, Stream
from muninn.devices.upload import Upload
from muninn.errors import DeviceUnavailable, InvalidArgument
from muninn.system.structures import Extent

from .platforms import MIB, last

PIECE = 64 << 10


def content(device: Device, address: int, sizeBytes: int, gpu: int) -> np.ndarray:  # type: ignore[type-arg]
    target = np.zeros(sizeBytes, np.uint8)
    device.copyNow(int(target.__array_interface__["data"][0]), address, sizeBytes, gpu)
    return target


def test_uploadsMorePiecesThanItHas(device: Device) -> None:
    gpu, expected = last(device), np.random.default_rng(1).integers(0, 255, MIB, np.uint8)
    with (
        device.allocate(gpu, MIB) as memory,
        Upload(device, gpu, memory.address, PIECE) as upload,
    ):
        for offset in range(0, MIB, PIECE):
            upload.begin(offset, PIECE)[:] = expected[offset : offset + PIECE]
            upload.send()
        upload.finish()
        assert np.array_equal(content(device, memory.address, MIB, gpu), expected)


def test_uploadsShortRoomsToAnyOffset(device: Device) -> None:
    with device.allocate(0, MIB) as memory:
        with Upload(device, 0, memory.address, PIECE) as upload:
            for number, offset in enumerate((5, 70_001, 900_000)):
                room = upload.begin(offset, 3 + number)
                assert len(room) == 3 + number
                room[:] = number + 1
                upload.send()
            upload.finish()
        raw = content(device, memory.address, MIB, 0)
    assert np.flatnonzero(raw).tolist() == [
        5,
        6,
        7,
        *range(70_001, 70_005),
        *range(900_000, 900_005),
    ]


def test_aPieceIsFilledAfterItsCopy(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The streams stand still until the third room was asked for."""
    waited: list[int] = []
    with device.allocate(0, MIB) as memory, Upload(device, 0, memory.address, PIECE) as upload:
        for number, stream in enumerate(upload._streams):
            original = stream.synchronize
            monkeypatch.setattr(
                stream,
                "synchronize",
                lambda timeout=None, number=number, original=original: (
                    waited.append(number),
                    original(timeout),
                ),
            )
        for offset in range(0, 3 * PIECE, PIECE):
            upload.begin(offset, PIECE)
            upload.send()
        assert waited == [0, 1, 0]


def test_leavesNothingPinned(device: Device) -> None:
    """Closed twice, and the pieces are counted no more once the GPU's work is done."""
    with device.allocate(0, MIB) as memory:
        for _ in range(20):
            upload = Upload(device, 0, memory.address, MIB)
            upload.begin(0, 10)
            upload.send()
            upload.close()
            upload.close()
        assert device.awaitWork(30)
    budget = getattr(device, "_budget", None)  # of the CUDA back-end
    assert budget is None or budget.usedBytes == 0


def test_givesBackWhatItTookWhenNoStreamCanBeMade(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Stream] = []

    def createStream(gpu: int) -> Stream:
        if made:
            raise DeviceUnavailable("no stream")
        made.append(original(gpu))
        return made[0]

    original = device.createStream
    monkeypatch.setattr(device, "createStream", createStream)
    with device.allocate(0, MIB) as memory, pytest.raises(DeviceUnavailable):
        Upload(device, 0, memory.address, PIECE)
    with pytest.raises(InvalidArgument, match="closed"):
        made[0].synchronize()
    assert device.awaitWork(30)
    budget = getattr(device, "_budget", None)
    assert budget is None or budget.usedBytes == 0


@pytest.mark.parametrize("count", [0, 3, 100])
def test_newMemoryHasItsExtentsAndIsZeroElsewhere(device: Device, count: int) -> None:
    """Memory that had other bytes before may be given again."""
    values = np.random.default_rng(count).integers(1, 255, MIB, np.uint8)
    address = int(values.__array_interface__["data"][0])
    expected = np.zeros(MIB, np.uint8)
    extents = []
    for number in range(count):
        offset, sizeBytes = number * (MIB // max(1, count)) + number % 7, number * 50 % 4000
        extents.append(Extent(offset, address + number, sizeBytes))
        expected[offset : offset + sizeBytes] = values[number : number + sizeBytes]
    gpu = last(device)
    with device.allocate(gpu, MIB, extents=[Extent(0, address, MIB)]) as memory:
        assert np.array_equal(content(device, memory.address, MIB, gpu), values)
    with device.allocate(gpu, MIB, extents=extents) as memory:
        assert np.array_equal(content(device, memory.address, MIB, gpu), expected)
