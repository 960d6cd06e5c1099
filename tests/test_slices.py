"""Slices of the proofs that run for long by themselves: `make mutation` and `make
soak`. A slice that fails shows its output.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def said(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seconds", [4, pytest.param(36, marks=pytest.mark.long)])
def test_aSampleOfTheMutantsIsNoticed(seconds: int) -> None:
    assert " 0 not as they should be" in said(
        "tests.mutation", "--quick", "--seconds", str(seconds)
    )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("hours", [0.001, pytest.param(0.01, marks=pytest.mark.long)])
def test_aSoakLeavesNothing(hours: float) -> None:
    assert said("tests.soak", "--hours", str(hours)).rstrip().endswith("soak: clean")
