"""The fail points: the search finds them, they cost nothing, and a sample of the scenes
that `make failpoints` runs ends well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from failpoints import points

import muninn

_TESTS = Path(__file__).parent
_PACKAGE = Path(muninn.__file__).parent
#: How many points there were when the list of renames began.
_FIRST_COUNT = 154


def test_eachChangeOfSharedStateHasAName() -> None:
    names = [point.name for point in points.allPoints()]
    assert len(names) == len(set(names)) > 100
    assert {
        "election.Election.replace:casSeqCst64",
        "rows.RowTable.change:casSeqCst64",
        "leases.LeaseTable.take:exchangeSeqCst64",
        "segments.unlink:unlink",
        "server.Server.listen:bind",
        "rows.RowTable.describe:put#2",
    } <= set(names)


def test_noPointIsLostWhenItsNameChanges() -> None:
    """`renamed.txt` has each name that changed since the points were first counted, and
    its present name.
    """
    pairs = [
        line.split() for line in (_TESTS / "failpoints" / "renamed.txt").read_text().splitlines()
    ]
    assert all(len(pair) == 2 for pair in pairs)
    old, new = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    names = {point.name for point in points.allPoints()}
    assert len(set(old)) == len(old)
    assert len(set(new)) == len(new)
    assert not set(new) - names, "the new name does not exist"
    assert not set(old) & (names - set(new)), "the old name still exists"
    assert len(names) >= _FIRST_COUNT


def test_thePackageKnowsNothingOfIt() -> None:
    assert not [file for file in _PACKAGE.rglob("*.py") if "failpoints" in file.read_text()]


def test_playersNeedNoPyTorch() -> None:
    """Broken: `make failpoints` and `make interrupts` after `make setup` alone."""
    code = (
        "import sys; sys.modules['torch'] = None; from failpoints import player; player.importAll();"
        "print('muninn.torch' in sys.modules, 'muninn.transfer.engine' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(_TESTS)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False True\n", done.stderr


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [4, pytest.param(120, marks=pytest.mark.long)])
def test_aSampleOfTheScenesEndsWell(count: int) -> None:
    """`MUNINN_SEED` chooses another sample; a failure prints the scene, and `--only`
    replays it.
    """
    seed = os.environ.get("MUNINN_SEED", "20261123")
    command = [sys.executable, "-m", "failpoints", "--sample", str(count), "--seed", seed]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(_TESTS)},
        capture_output=True,
        text=True,
        timeout=590,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failures: 0" in done.stdout
