"""The demos and examples on a driver, small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        pytest.param(
            "vram",
            ("20", "2"),
            "copies in either process: 0; elements that were not the producer's: 0",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "stream",
            ("0.05", "2", "2"),
            "elements that were not what was written: 0",
            marks=pytest.mark.long,
        ),
        ("withnumba", (), "both processes see one array"),
        ("routes", ("4",), "outperforms"),
    ],
)
def test_runsAsItSays(domain: str, name: str, arguments: tuple[str, ...], expected: str) -> None:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / f"{name}.py"), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert expected in ran.stdout


def test_oneProcessDoesNotWaitForAnotherThatFailed(domain: str) -> None:
    """Broken: the producer had failed, and the consumer waited a minute for the buffer,
    and said that it was not there.
    """
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "vram.py"), "3", "100000000"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert ran.returncode == 1
    assert ran.stderr.startswith("MNN-") and ran.stderr.endswith(
        "the other process ended with status 1\n"
    )


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["withtorch", "withcupy", "withjax"])
def test_sharesTensorsWithEachLibraryOnTheGpu(domain: str, name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", str(EXAMPLES / f"{name}.py")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if ran.returncode == 2:
        pytest.skip(ran.stderr.strip())
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "both processes see one" in ran.stdout and "cpu" not in ran.stdout.lower().replace(
        "+cpu", ""
    )
