"""The handle of device memory: a forged or foreign handle is refused before a driver
sees it.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muninn.devices import handle
from muninn.errors import IpcHandleMismatch

GPU = bytes(range(16))
GOOD = handle.Handle("cudaIpc", 13000, GPU, 4321, handle.LENT_IN_PLACE, 256, 4096, b"\x07" * 64)


def test_aPackedHandleIsUnpackedWithItsPadding() -> None:
    raw = GOOD.packed()
    assert len(raw) <= 128
    assert handle.unpacked(raw, 13000) == handle.unpacked(raw.ljust(128, b"\0"), 13000) == GOOD
    assert handle.reasonIn(raw.ljust(128, b"\0")).startswith("lentInPlace")


def test_anotherDriverIsNamedWithOurs() -> None:
    with pytest.raises(IpcHandleMismatch, match=r"13\.0.*12\.4"):
        handle.unpacked(GOOD.packed(), 12040)


@pytest.mark.parametrize(
    "field",
    [{"sizeBytes": 0}, {"sizeBytes": 1 << 47}, {"offset": 1 << 47}, {"reason": 0}, {"reason": 99}],
)
def test_anImpossibleFieldIsRefused(field: dict[str, int]) -> None:
    with pytest.raises(IpcHandleMismatch, match="damaged"):
        handle.unpacked(GOOD._replace(**field).packed(), 13000)  # type: ignore[arg-type]


@given(st.binary(max_size=200), st.integers(0, 130), st.integers(0, 255))
def test_noBytesAreMoreThanARefusal(noise: bytes, position: int, value: int) -> None:
    altered = bytearray(GOOD.packed().ljust(128, b"\0"))
    altered[position % 128] = value
    for raw in (noise, bytes(altered), bytes(altered)[: position % 128]):
        try:
            found = handle.unpacked(raw, 13000)
        except IpcHandleMismatch:
            continue
        assert 0 < found.sizeBytes < 1 << 47 and found.offset < 1 << 47
        assert isinstance(handle.reasonIn(raw), str)


def test_reasonsAreReadFromAnyDriversHandle() -> None:
    raw = GOOD._replace(driverVersion=1).packed()
    assert handle.reasonIn(raw).startswith("lentInPlace")
    assert handle.reasonIn(b"") == handle.reasonIn(struct.pack("<128s", b"x")) == ""
