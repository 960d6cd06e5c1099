"""The parts of new VRAM that are cleared: all that nothing else fills."""

from __future__ import annotations

import pytest

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: make setup")

from muninn.devices.cuda import copies
from muninn.system.structures import Extent


def _gaps(filledBytes: int, sizeBytes: int, *extents: tuple[int, int]) -> list[tuple[int, int]]:
    given = [Extent(offset, 1, length) for offset, length in extents]
    return copies._gapsOf(given, filledBytes, sizeBytes)


def test_allThatNothingFillsIsCleared() -> None:
    assert _gaps(0, 100) == [(0, 100)]
    assert _gaps(0, 100, (0, 30), (40, 10)) == [(30, 40), (50, 100)]
    assert _gaps(0, 100, (0, 100)) == []


def test_theCallerFillsTheBeginningAndTheRestIsCleared() -> None:
    assert _gaps(70, 100) == [(70, 100)]
    assert _gaps(100, 100) == []
    assert _gaps(10, 100, (20, 30)) == [(10, 20), (50, 100)]


def test_manyGapsAreClearedAtOnce() -> None:
    extents = [(offset, 1) for offset in range(10, 10 + 2 * copies._MOST_GAPS, 2)]
    assert _gaps(5, 1000, *extents) == [(5, 1000)]
    assert len(_gaps(5, 1000, *extents[:-1])) == copies._MOST_GAPS
