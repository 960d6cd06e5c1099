"""The example programs, as a reader would run them, on a machine without a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from muninn.control.places import Places

EXAMPLES = Path(__file__).parent.parent / "examples"


#: What is started; the others are parts of these.
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text())


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


@pytest.mark.parametrize("name", PROGRAMS)
def test_eachExplainsItself(domain: str, name: str) -> None:
    """Broken: some took `--help` for a number and ended with a traceback, others for nothing and ran, or for the name of what they share."""
    ran = run(name, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("usage: ") and "Traceback" not in run(name, "--bogus").stderr
    assert not Path(Places(os.getuid(), domain).linkPath).exists()
