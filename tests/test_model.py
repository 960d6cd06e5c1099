"""The models of the protocol: the small ones hold, and fail when one thing is taken
away. `make model` explores the large ones too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: The model that `make test` explores in place of all, whole and with things taken
#: away.
_SHORT = "ownerlocks N=2 OPS=2"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("only", [_SHORT, pytest.param("", marks=pytest.mark.long)])
def test_theModelsHoldAndCanFail(only: str) -> None:
    found = subprocess.run(
        ["sh", "ops/findspin.sh"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    if found.returncode != 0:
        pytest.skip(found.stderr.strip())
    command = [sys.executable, "tests/model/check.py", "--quick", "--only", only]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "SPIN": found.stdout.strip()},
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 not as they should be" in done.stdout
