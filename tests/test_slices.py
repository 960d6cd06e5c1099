"""Slices of what runs for long by itself: `make mutation` and `make soak`. What it prints is shown when it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def said(*command: str) -> str:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(900)
def test_aSampleOfTheMutantsIsNoticed() -> None:
    assert " 0 not as they should be" in said("tests.mutation", "--quick")


@pytest.mark.timeout(900)
def test_halfAMinuteOfSoakLeavesNothing() -> None:
    assert said("tests.soak", "--hours", "0.01").rstrip().endswith("soak: clean")
