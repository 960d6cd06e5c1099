"""The fail points: they are found, they cost nothing, and a sample of what `make failpoints` performs ends well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from muninn.control import failpoints

_TESTS = Path(__file__).parent


def test_eachChangeOfSharedStateHasAName() -> None:
    names = [point.name for point in failpoints.points()]
    assert len(names) == len(set(names)) > 100
    assert {
        "election.Election.replace:casSeqCst64",
        "rows.RowTable.change:casSeqCst64",
        "leases.LeaseTable.take:exchangeSeqCst64",
        "segments.unlink:unlink",
        "broker.Broker.start:bind",
        "rows.RowTable.describe:put#2",
    } <= set(names)


def test_nothingIsLoadedOfItUnlessATestAsks(domain: str) -> None:
    code = "import sys, muninn; muninn.share(b'x'); print('muninn.control.failpoints' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_aSampleOfTheScenesEndsWell() -> None:
    """`MUNINN_SEED` chooses another sample; a failure prints the scene, and `--only` replays it."""
    seed = os.environ.get("MUNINN_SEED", "20261123")
    command = [sys.executable, "-m", "failpoints", "--sample", "120", "--seed", seed]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(_TESTS)}, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failures: 0" in done.stdout
