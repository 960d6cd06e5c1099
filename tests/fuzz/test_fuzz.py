"""Each target reads its corpus, its seeds and some mutations of them, and raises no
other exception than it may. `make fuzz` tries many more.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fuzz.__main__ import TARGETS, main
from fuzz.target import CORPUS, Target

_SHORT, _LONG = 1_000, 1_000_000


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("inputs", [_SHORT, pytest.param(_LONG, marks=pytest.mark.long)])
def test_noInputIsMoreThanAnAnswer(capfd: pytest.CaptureFixture[str], inputs: int) -> None:
    status = main(["--inputs", str(inputs), "--seed", os.environ.get("MUNINN_SEED", "20261123")])
    assert status == 0, capfd.readouterr().out


def test_aReaderThatRaisesIsAFailureAndItsInputIsKept(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """The fuzzer itself: it reports each kind of failure."""
    from fuzz import __main__ as driver
    from fuzz.engine import Failure, Report

    folder: Path = request.getfixturevalue("tmp_path")
    monkeypatch.setattr(driver, "CORPUS", folder)
    driver._tell("size", Report(7, 1.0, [Failure(b"\x01\x02", "no end")]), 3)
    said = capsys.readouterr().out
    assert "1 failures, seed 3" in said and "no end" in said and "0102" in said
    assert [path.read_bytes() for path in (folder / "size").iterdir()] == [b"\x01\x02"]


def test_everyFolderOfTheCorpusIsATargets() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} <= TARGETS.keys()
    assert all(issubclass(target, Target) for target in TARGETS.values())
