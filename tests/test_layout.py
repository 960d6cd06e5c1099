"""`layout.py` is the drawing; `cshim/layout.h` must say the same numbers, all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from muninn.control import layout
from muninn.control.layout import Geometry
from muninn.errors import ControlBlockInvalid

HEADER = Path(__file__).parent.parent / "cshim" / "layout.h"


def numbersOfHeader() -> dict[str, int]:
    return {name: int(value) for name, value in re.findall(r"^#define MNN_(\w+) (\d+)$", HEADER.read_text(), re.MULTILINE)}


def numbersOfModule() -> dict[str, int]:
    return {name: value for name, value in vars(layout).items() if name.isupper() and not name.startswith("_") and isinstance(value, int)}


def test_headerAndModuleSayTheSameNumbers() -> None:
    assert numbersOfHeader() == numbersOfModule()


def test_headerAndModuleSayTheSameMagic() -> None:
    quoted = re.search(r'MNN_MAGIC "(.*)"', HEADER.read_text())
    assert quoted is not None
    assert quoted[1].encode().decode("unicode_escape").encode("latin1") == layout.MAGIC


@pytest.mark.parametrize("limits", [(1, 1, 1), (256, 16384, 2048), (4094, 100_000, 65_536)])
def test_partsFollowEachOtherWithoutOverlap(limits: tuple[int, int, int]) -> None:
    geometry = Geometry.of(*limits)
    ends = [
        (layout.MEMBERS_OFFSET, layout.MEMBERS_OFFSET + geometry.maxMembers * layout.MEMBER_BYTES),
        (geometry.indexOffset, geometry.indexOffset + geometry.indexSlots * layout.INDEX_ENTRY_BYTES),
        (geometry.rowsOffset, geometry.rowsOffset + geometry.maxBuffers * layout.ROW_BYTES),
        (geometry.fencesOffset, geometry.fencesOffset + geometry.maxBuffers * layout.FENCE_BYTES),
        (geometry.areasOffset, geometry.areasOffset + geometry.maxMembers * geometry.areaBytes),
    ]
    starts = [start for start, _ in ends] + [geometry.totalBytes]
    assert all(end <= following for (_, end), following in zip(ends, starts[1:], strict=True))
    assert all(start % layout.PAGE_BYTES == 0 for start, _ in ends)
    assert geometry.indexSlots >= 2 * geometry.maxBuffers


@pytest.mark.parametrize(
    "sizes", [(0, 256, 1, 512), (5000, 256, 1, 512), (1, 255, 1, 512), (1, 256, 0, 512), (1, 256, 1, 500), (1, 256, 1, 1 << 40)]
)
def test_refusesImpossibleSizes(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ControlBlockInvalid):
        Geometry(*sizes).checked()
