"""The demo's claims hold: its exit status is 0 only if all do. Who runs `make test` has
most often run `make demo` before.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.long
def test_theDemoHolds() -> None:
    done = subprocess.run(
        [sys.executable, "examples/demo.py"], cwd=ROOT, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("equal, bit for bit") == 5
    assert "All of it holds." in done.stdout


@pytest.mark.long
def test_theBenchmarksRun() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--only", "open", "--only", "memory"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "written to" in done.stdout
