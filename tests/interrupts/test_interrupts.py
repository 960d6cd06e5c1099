"""The interruptions: a sample of those that `make interrupts` performs ends well, and
the census sees the damage of a planted fault.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import program

_TESTS = Path(__file__).parents[1]
#: A planted fault: `MuninnBuffer.read` notes that it is at work, and does not undo the
#: note when it is interrupted.
_PLANTED = program("forgetfulRead")


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        cwd=_TESTS.parent,
        capture_output=True,
        text=True,
        timeout=590,
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "which", [("--call", "read", "--role", "member"), pytest.param((), marks=pytest.mark.long)]
)
def test_aSampleOfTheInterruptionsEndsWell(which: tuple[str, ...]) -> None:
    """`MUNINN_SEED` chooses another sample; a failure prints the bytecode, and
    `--call`, `--role` and `--kind` replay its set.
    """
    seed = os.environ.get("MUNINN_SEED", "20261128")
    done = _run("-m", "interrupts", "--sample", "2", "--seed", seed, *which)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failures: 0" in done.stdout


def test_anInterruptionThatLeavesSomethingBehindIsSeen() -> None:
    done = _run(
        "-c",
        _PLANTED,
        "--call",
        "read",
        "--role",
        "member",
        "--kind",
        "raise",
        "--sample",
        "2",
        "--jobs",
        "1",
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED member read raise: at " in done.stdout
    assert "another read has begun" in done.stdout
    assert "failures: 2" in done.stdout
