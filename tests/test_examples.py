"""The example programs, as a reader would run them, on a machine without a GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import muninn
from muninn.storage.paths import Paths
from support import leftovers

EXAMPLES = Path(__file__).parent.parent / "examples"


#: The programs that a reader starts; the others are parts of these.
PROGRAMS = sorted(path.stem for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text())


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def needLibrary(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: make interop")


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_weightsAreServedByWorkersOfEachLibrary(domain: str, library: str) -> None:
    needLibrary(library)
    ran = run(f"weights{library}")
    assert ran.returncode == 0, ran.stderr
    assert re.search("workers (give|compute) one answer", ran.stdout)
    assert leftovers(domain) == []


@pytest.mark.parametrize(
    ("name", "library"),
    [("withnumba", "numpy"), ("withtorch", "torch"), ("withjax", "jax")],
)
def test_aTensorIsSharedWithEachLibrary(domain: str, name: str, library: str) -> None:
    needLibrary(library)
    # Broken: the second found the name taken, because the first had left its memory.
    for _ in range(2):
        ran = run(name)
        assert ran.returncode == 0, ran.stderr
        assert "both processes see one" in ran.stdout
        assert leftovers(domain) == []


@pytest.mark.parametrize("name", ["withcupy", "vram", "stream"])
def test_aProgramThatNeedsAGpuSaysSo(domain: str, name: str) -> None:
    ran = run(name)
    assert ran.returncode == 2
    assert "GPU" in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("producer", ("--seconds", "-1")),
        ("producer", ("--seconds", "nan")),
        ("producer", ("--count", "0")),
        ("consumer", ("--wait", "inf")),
        ("stream", ("0",)),
        ("stream", ("0.01", "0", "1")),
        ("stream", ("0.01", "1", "-1")),
        ("vram", ("3", "0")),
        ("vram", ("-1",)),
    ],
)
def test_aNumberThatCanNotBeIsAUsageError(
    domain: str, name: str, arguments: tuple[str, ...]
) -> None:
    """Broken: the program ended with a traceback, waited for a minute, or printed `-1
    frames … -0.0 GiB/s`.
    """
    ran = run(name, *arguments)
    assert ran.returncode == 2
    assert ran.stderr.startswith("usage: ") and f"{name}.py: error: argument " in ran.stderr


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("consumer", ("--wait", "0"), "MNN-0011"),
        ("producer", ("--buffer", ""), "MNN-0026"),
        ("embedder", ("nothing",), "MNN-0011"),
        ("embedder", ("array",), "MNN-0012"),
        ("embedder", ("another",), "the bundle 'another' has no "),
        ("sharer", ("array",), "MNN-0028"),
    ],
)
def test_aRefusalIsSaidInALine(
    domain: str, name: str, arguments: tuple[str, ...], expected: str
) -> None:
    with (
        muninn.share(b"abc", name="array") as array,
        muninn.shareBundle({"key": b"abc"}, name="another") as another,
    ):
        ran = run(name, *arguments)
        array.free()
        another.free()
    assert ran.returncode == 1
    assert ran.stderr.startswith(expected) and ran.stderr.count("\n") == 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_eachExplainsItself(domain: str, name: str) -> None:
    """Broken: some programs took `--help` for a number and ended with a traceback;
    others ignored it and ran, or took it for the name of the buffer.
    """
    ran = run(name, "--help")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("usage: ") and "Traceback" not in run(name, "--bogus").stderr
    assert not Path(Paths(os.getuid(), domain).linkPath).exists()
