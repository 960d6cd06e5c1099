"""The example programs, as a reader would run them, on a machine without a GPU."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize(("name", "library"), [("withnumba", "numpy"), ("withtorch", "torch"), ("withjax", "jax")])
def test_aTensorIsSharedWithEachLibrary(domain: str, name: str, library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed" + (": make interop" if library == "torch" else ""))
    ran = run(name)
    assert ran.returncode == 0, ran.stderr
    assert "both processes see one" in ran.stdout


@pytest.mark.parametrize("name", ["withcupy", "vram", "stream"])
def test_whatNeedsAGpuSaysSo(domain: str, name: str) -> None:
    ran = run(name)
    assert ran.returncode == 2
    assert "GPU" in ran.stderr and "Traceback" not in ran.stderr
