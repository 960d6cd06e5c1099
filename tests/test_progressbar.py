"""`ProgressBar`: each call that takes `progress=` tells it the bytes that there will be,
and then of each of them.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import muninn
from support import BOUND_SECONDS

ARRAY = np.zeros(3 << 20, "u1")
BUNDLE = {"a": ARRAY, "b": ARRAY[:100]}
Progress = Callable[[int], object]


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "2")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", ARRAY)
    return tmp_path / "x.npy"


def shared() -> muninn.MuninnBuffer:
    return muninn.share(ARRAY, name="a", access="readWrite", hints={"hotRanges": [(0, 1 << 20)]})


CALLS: dict[str, Callable[[Any], object]] = {
    "share": lambda bar: muninn.share(ARRAY, progress=bar),
    "shareOnGpu": lambda bar: muninn.share(ARRAY, mode="fastMode", progress=bar),
    "lazily": lambda bar: muninn.share(ARRAY, reserve="lazy", progress=bar),
    "array": lambda bar: muninn.array("z", 3 << 20, "u1", progress=bar),
    "publish": lambda bar: muninn.publish("z", ARRAY, progress=bar),
    "shareBundle": lambda bar: muninn.shareBundle(BUNDLE, progress=bar),
    "onTwoGpus": lambda bar: muninn.shareBundle(
        BUNDLE, mode="fastMode", preferredGpu={"a": 0, "b": 1}, progress=bar
    ),
    "copyTo": lambda bar: shared().copyTo(1, progress=bar),
    "copyFrom": lambda bar: shared().copyFrom(muninn.share(ARRAY), progress=bar),
    "startCopyTo": lambda bar: shared().startCopyTo(1, progress=bar).result(),
    "promote": lambda bar: shared().promote(0, 2 << 20, progress=bar).close(),
    "prefetch": lambda bar: shared().prefetch(progress=bar).result(),
    "open": lambda bar: shared().open(progress=bar),
}


def checkDone(bar: muninn.ProgressBar) -> None:
    assert bar.state == "done" and bar.doneBytes == bar.totalBytes > 0, bar
    assert re.fullmatch(r"<muninn.ProgressBar x: (\S+) of \1 in [\d.]+ s, done>", repr(bar))


@pytest.mark.parametrize("name", CALLS)
def test_knowsHowMuchThereIs(name: str) -> None:
    bar = muninn.ProgressBar("x")
    CALLS[name](bar)
    checkDone(bar)


def test_knowsHowMuchAFileHas(file: Path) -> None:
    bar = muninn.ProgressBar("x")
    muninn.load(file, progress=bar)
    checkDone(bar)
    assert bar.totalBytes == ARRAY.nbytes


def test_theBytesOfSeveralCallsAddUp() -> None:
    bar = muninn.ProgressBar("x")
    for _ in range(2):
        shared().copyTo(1, progress=bar)
        muninn.free("a")
    checkDone(bar)
    assert bar.totalBytes == 2 * ARRAY.nbytes


def test_aPromotionThatCopiesNothingLeavesItWaiting() -> None:
    buffer = muninn.share(ARRAY, access="readOnly")
    buffer.promote().close()
    with muninn.ProgressBar() as bar:
        buffer.promote(progress=bar).close()
    assert (bar.state, bar.doneBytes) == ("waiting", 0)


def test_aCallThatFailsStopsTheBar() -> None:
    with pytest.raises(ValueError), muninn.ProgressBar("x") as bar:
        bar.expect(10)
        bar(4)
        raise ValueError
    assert repr(bar) == "<muninn.ProgressBar x: 4 B of 10 B, stopped>"
    assert 'value="4" max="10"' in bar._repr_html_()


def test_aTotalThatNobodyToldIsLeftOut() -> None:
    bar = muninn.ProgressBar("x")
    bar(4)
    assert repr(bar) == "<muninn.ProgressBar x: 4 B, running>"
    assert "value" not in bar._repr_html_()
    bar.close()
    assert bar.state == "done"


def test_theLabelIsNoMarkup() -> None:
    assert "&lt;b&gt;" in muninn.ProgressBar("<b>")._repr_html_()
    with pytest.raises(TypeError, match="label"):
        muninn.ProgressBar(3)  # type: ignore[arg-type]


def test_aLogGetsNoBar(capfd: pytest.CaptureFixture[str]) -> None:
    muninn.share(ARRAY, progress=muninn.ProgressBar("x"))
    assert capfd.readouterr() == ("", "")


class Terminal(io.StringIO):
    """A terminal that is gone after so many writes."""

    def __init__(self, error: Exception, after: int) -> None:
        super().__init__()
        self._error, self._left = error, after

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._left -= 1
        if self._left < 0:
            raise self._error
        return super().write(text)


@pytest.mark.parametrize("after", [0, 1, 2, 5])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), BrokenPipeError(32, "")])
def test_aTerminalThatIsGoneDisturbsNoCopy(
    monkeypatch: pytest.MonkeyPatch, error: Exception, after: int
) -> None:
    """Broken: the error ended the copy, and rich led the standard output to /dev/null and
    the process to its end for a pipe that nobody reads.
    """
    there, streams = os.readlink(f"/proc/self/fd/{sys.__stdout__.fileno()}"), sys.stdout
    monkeypatch.setattr(sys, "stderr", terminal := Terminal(error, after))
    bar = muninn.ProgressBar("x")
    for _ in range(2):
        shared().copyTo(1, progress=bar)
        muninn.free("a")
    checkDone(bar)
    assert os.readlink(f"/proc/self/fd/{sys.__stdout__.fileno()}") == there
    assert (sys.stdout, sys.stderr) == (streams, terminal)


def test_whatCanNotBeDrawnOnDisturbsNoCopy(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    CALLS["share"](bar := muninn.ProgressBar("x"))
    checkDone(bar)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    shell = types.SimpleNamespace(kernel=1)
    notebook = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=fail))
    CALLS["copyTo"](bar := muninn.ProgressBar("x"))
    checkDone(bar)


def test_whatTheProgramPrintsStaysWhereItGoes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: what was printed to a file while a bar was shown went to the terminal."""
    monkeypatch.setattr(sys, "stderr", Terminal(OSError(), 1 << 30))
    monkeypatch.setattr(sys, "stdout", file := io.StringIO())
    with muninn.ProgressBar("x") as bar:
        bar.expect(10)
        print("a result")
    assert file.getvalue() == "a result\n"


def test_aTerminalGetsALine(domain: str) -> None:
    """`script` gives the program a terminal."""
    program = (
        "import numpy, muninn; "
        "muninn.share(numpy.zeros(3 << 20), progress=muninn.ProgressBar('[b]eights'))"
    )
    ended = subprocess.run(
        ["script", "--quiet", "--command", f'{sys.executable} -c "{program}"', "/dev/null"],
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert "[b]eights" in ended.stdout and "done" in ended.stdout
    assert ended.stdout.rindex("\x1b[?25h") > ended.stdout.rfind("\x1b[?25l")  # the cursor is back
