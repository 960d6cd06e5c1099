"""The C functions: their own test programs under sanitizers, and the Python bindings of
each.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

import pytest

from muninn.system import atomics

ROOT = Path(__file__).parent.parent
HEADERS = [path for path in sorted((ROOT / "cshim").glob("*.h")) if path.name != "layout.h"]


def test_primitivesKeepTheirPromisesUnderSanitizers() -> None:
    run = subprocess.run(
        ["make", "--no-print-directory", "sanitize"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for promise in (
        "all primitives keep their promises",
        "the descriptor server keeps its promises",
        "a watcher is woken when it is wanted",
        "reserve keeps its promises",
        "the passes over rows keep their promises",
        "owners keep their promises",
    ):
        assert promise in run.stdout


def test_everyPrimitiveIsBound() -> None:
    declared = {
        name
        for header in HEADERS
        for name in re.findall(r"MNN_API [\w ]+?\*?(mnn\w+)\(", header.read_text())
    }
    source = Path(atomics.__file__).read_text()
    assert declared == set(re.findall(r'"(mnn\w+)"', source))


@pytest.mark.parametrize(("width", "top"), [(32, (1 << 32) - 1), (64, (1 << 64) - 1)])
def test_wordsKeepAllTheirBits(width: int, top: int) -> None:
    word = (ctypes.c_uint32 if width == 32 else ctypes.c_uint64)(top)
    address = ctypes.addressof(word)
    calls = {
        name: getattr(atomics, f"{name}{width}")
        for name in ("loadAcquire", "loadSeqCst", "exchangeSeqCst", "casSeqCst", "fetchAddAcqRel")
    }
    assert calls["loadAcquire"](address) == calls["loadSeqCst"](address) == top
    assert calls["exchangeSeqCst"](address, 5) == top
    assert calls["casSeqCst"](address, 4, 6) == 5
    assert calls["casSeqCst"](address, 5, top) == 5
    assert calls["fetchAddAcqRel"](address, 1) == top
    assert word.value == 0
    getattr(atomics, f"storeRelease{width}")(address, 9)
    assert word.value == 9


def test_failuresBecomeOsErrors() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        atomics.mapped(-1, 4096, writable=True)
    assert atomics.checked(3, "anything") == 3
