"""The notebooks run and print the expected output; one of them goes on after its kernel
was killed.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import muninn
from support import BOUND_SECONDS, eventually, leftovers

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
SHARING, TOUR, FAILURES, WINDOWS = NOTEBOOKS


@pytest.fixture(autouse=True)
def jupyterAtHome(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, domain: str
) -> None:
    """Give kernels a domain and a folder of the test's own."""
    folder: Path = request.getfixturevalue("tmp_path")
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(folder / variable.lower()))


class Run:
    """One execution of a notebook, cell by cell, in a kernel that may be killed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notebook = nbformat.read(path, as_version=4)
        self.client = NotebookClient(
            self.notebook,
            timeout=int(BOUND_SECONDS),
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
        )
        self._next = 0

    def to(self, tag: str | None = None) -> Run:
        """Execute the cells before the one that has `tag`, or all that are left."""
        while self._next < len(self.notebook.cells):
            if tag is not None and tag in self.notebook.cells[self._next].metadata.get("tags", ()):
                return self
            self.client.execute_cell(self.notebook.cells[self._next], self._next)
            self._next += 1
        assert tag is None, f"no cell is tagged {tag}"
        return self

    def again(self) -> Run:
        """Execute all cells from the first one on."""
        self._next = 0
        return self.to()

    def execute(self, source: str) -> list[str]:
        """Execute a cell that is not of the notebook. Returns the text of each output."""
        cell = nbformat.v4.new_code_cell(source)
        self.notebook.cells.append(cell)
        try:
            self.client.execute_cell(cell, len(self.notebook.cells) - 1)
        finally:
            self.notebook.cells.pop()
        return [
            output.get("text") or output.get("data", {}).get("text/plain", "")
            for output in cell.outputs
        ]

    def interrupted(self, source: str) -> str:
        """Interrupt a cell while it waits, as the button of Jupyter does. Returns the
        error. The cell says that it has begun by a file.
        """
        begun = self.path.parent / f".begun-{self.kernelPid}"
        interrupter = threading.Thread(target=self._interrupt, args=(begun,))
        interrupter.start()
        try:
            self.execute(f"open({str(begun)!r}, 'w').close()\n{source}")
        except CellExecutionError as error:
            return str(error)
        finally:
            interrupter.join(BOUND_SECONDS)
            begun.unlink(missing_ok=True)
        raise AssertionError("it was not interrupted")

    def _interrupt(self, begun: Path) -> None:
        eventually(begun.exists, "the cell has begun")
        time.sleep(0.2)  # it is in the wait by now, or else on its way there
        os.kill(self.kernelPid, signal.SIGINT)

    def text(self, tag: str) -> str:
        """The output of the cell with `tag`."""
        (cell,) = (cell for cell in self.notebook.cells if tag in cell.metadata.get("tags", ()))
        shown = (
            output.get("text") or output.get("data", {}).get("text/plain", "")
            for output in cell.outputs
        )
        return "".join(shown)

    def html(self, tag: str) -> str:
        (cell,) = (cell for cell in self.notebook.cells if tag in cell.metadata.get("tags", ()))
        return "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)

    @property
    def kernelPid(self) -> int:
        assert self.client.km is not None and self.client.km.provisioner is not None
        return int(self.client.km.provisioner.process.pid)  # type: ignore[attr-defined]  # the local provisioner's

    def killKernel(self) -> None:
        """SIGKILL, and a new kernel in its place."""
        assert self.client.km is not None and self.client.kc is not None
        os.kill(self.kernelPid, signal.SIGKILL)
        run_sync(self.client.km.restart_kernel)(now=True)
        run_sync(self.client.kc.wait_for_ready)(timeout=BOUND_SECONDS)


@pytest.fixture
def sharing() -> Iterator[Run]:
    run = Run(SHARING)
    with run.client.setup_kernel():
        yield run


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_isAValidNotebook(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(
        output.output_type == "error"
        for cell in notebook.cells
        for output in cell.get("outputs", ())
    )


#: What differs from run to run: processes, times, and the domain.
_VARIES = (
    (r"\(\d+\)", "(pid)"),
    (r"(>(?:broker|epoch)</th><td[^>]*>)\d+", r"\1(number)"),
    (r"\b\d+(\.\d+)? m?s\b", "(time)"),
    (r"\b(test|notebook)-[a-z0-9]+\b", "(domain)"),
    (r"Matplotlib is building the font cache.*\n", ""),
)


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """The output of each cell, without what differs from run to run. A table is compared,
    and not the text that stands for it; of a picture only that it is there.
    """
    shown = []
    for cell in notebook.cells:
        parts = []
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            parts.append(output.get("text", ""))
            parts.append(data.get("text/html") or data.get("text/plain", ""))
            parts += [kind for kind in data if kind.startswith("image/")]
        text = "".join(parts)
        for pattern, substitute in _VARIES:
            text = re.sub(pattern, substitute, text)
        shown.append(text)
    return shown


def checkFirstHalf(run: Run) -> None:
    assert "10. 11. 12." in run.text("other")
    assert "-1., -2., -3." in run.text("changed")
    assert run.text("generations").startswith("now: 2\nnext: 4\n")
    assert "the guest: True" in run.text("holders") and "kernel only: True" in run.text("holders")
    assert "sum 499999500000.0" in run.text("killed")
    assert run.text("torn").startswith("MNN-0022") and run.text("torn").endswith("[7. 7. 7.]\n")
    assert run.text("again").count("loading") == 1
    for word in ("weather", "float64 (4, 3)", "readMostly", f"({run.kernelPid})"):
        assert word in run.html("share")


def checkSecondHalf(run: Run) -> None:
    assert "['counts', 'model', 'table', 'weather']" in run.text("restart")
    assert "[7. 7. 7.] [2 2 2]" in run.text("restart")
    assert run.text("clean") == "[]\n"


def test_sharingSaysWhatItShould(sharing: Run, domain: str) -> None:
    checkFirstHalf(sharing.to("restart"))
    checkSecondHalf(sharing.to())
    assert printed(nbformat.read(SHARING, as_version=4)) == printed(sharing.notebook), (
        "as it was kept: python ops/notebooks.py"
    )


@pytest.mark.long
def test_sharingGoesOnAfterItsKernelWasKilled(sharing: Run, domain: str) -> None:
    sharing.to("restart")
    before = sharing.kernelPid
    checkFirstHalf(sharing)
    sharing.killKernel()
    assert sharing.kernelPid != before
    assert len(leftovers(domain)) == 4  # no process of the domain lives
    checkSecondHalf(sharing.to())


def test_sharingLeavesNothingBehind(domain: str) -> None:
    run = Run(SHARING)
    with run.client.setup_kernel():
        run.to()
    eventually(
        lambda: not muninn.listBuffers(), "the buffers of the notebook are gone with its kernel"
    )
    eventually(lambda: leftovers(domain) == [], "the segments of the notebook are gone")


@pytest.mark.long
def test_sharingCanBeRunAgainAfterItWasInterrupted(domain: str) -> None:
    first = Run(SHARING)
    with first.client.setup_kernel():
        first.to("again")
        first.killKernel()
    second = Run(SHARING)
    with second.client.setup_kernel():
        checkFirstHalf(second.to("restart"))
        checkSecondHalf(second.to())


# --- the tours ----------------------------------------------------------------------


#: Tables of all buffers and leases: what an earlier run, or a process that is just
#: ending, still holds is among them.
LISTS = {"list", "domain"}


def checkKept(run: Run) -> None:
    kept = nbformat.read(run.path, as_version=4)
    pairs = zip(run.notebook.cells, printed(run.notebook), printed(kept), strict=True)
    for cell, shown, expected in pairs:
        tags = set(cell.metadata.get("tags", ()))
        assert shown == expected or tags & LISTS, f"{tags}: python ops/notebooks.py"


@pytest.mark.long
@pytest.mark.parametrize("path", [TOUR, FAILURES, WINDOWS], ids=lambda path: path.stem)
def test_aTourShowsWhatWasKeptTwiceAndLeavesNothing(path: Path, domain: str) -> None:
    """The second time is *Run all* in the same kernel, whose variables are still there."""
    first = Run(path)
    with first.client.setup_kernel():
        checkKept(first.to())
        checkKept(first.again())
    for used in (domain, f"{domain}-kill"):
        eventually(lambda: leftovers(used) == [], f"the segments of {used} are gone")


@pytest.mark.long
@pytest.mark.parametrize(
    ("path", "tag"), [(TOUR, "versions"), (FAILURES, "timeline"), (WINDOWS, "conflict")]
)
def test_aTourCanBeRunAgainAfterItsKernelWasKilled(path: Path, tag: str, domain: str) -> None:
    run = Run(path)
    with run.client.setup_kernel():
        run.to(tag)
        assert leftovers(domain)
        run.killKernel()
        checkKept(run.again())


@pytest.mark.long
def test_theTourListsItsBuffersAndItsKernel(domain: str) -> None:
    run = Run(TOUR)
    with run.client.setup_kernel():
        run.to("clean")
        for name in ("model", "readings", "step", "table", "wave"):
            assert f">{name}<" in run.html("list")
        assert f"({run.kernelPid})</td>" in run.html("domain") and domain in run.html("domain")


@pytest.mark.long
def test_twoKernelsRunTheSameNotebookAtOnce(domain: str) -> None:
    """Each takes a domain of its own, so neither frees what the other has."""
    runs = Run(WINDOWS), Run(WINDOWS)
    with runs[0].client.setup_kernel(), runs[1].client.setup_kernel():
        for tag in ("fast", "kernel", "promote", "both", "conflict", "counts", None):
            for run in runs:
                run.to(tag)
        asked = "import os; print(os.environ['MUNINN_DOMAIN'])"
        assert [run.execute(asked) for run in runs] == [[f"{domain}\n"], [f"{domain}-2\n"]]
    eventually(lambda: leftovers(f"{domain}-2") == [], "the segments of the second are gone")
    for run in runs:
        checkKept(run)


@pytest.mark.long
def test_aCellThatWaitsCanBeInterrupted(domain: str) -> None:
    run = Run(TOUR)
    with run.client.setup_kernel():
        run.to("open")
        waiting = run.interrupted("readings.waitNext()")
        assert "KeyboardInterrupt" in waiting
        assert "KeyboardInterrupt" in run.interrupted("with muninn.Lock('x'): readings.waitNext()")
        checkKept(run.to())


@pytest.mark.long
def test_aProgressBarIsOneOutputThatChanges(domain: str) -> None:
    run = Run(TOUR)
    with run.client.setup_kernel():
        run.to("share")
        assert run.execute(
            "bar = muninn.ProgressBar('a')\nbar.expect(8)\nfor _ in range(4): bar(2)"
        ) == ["<muninn.ProgressBar a: 8 B of 8 B in 0.0 s, done>"]
        (shown,) = run.execute(
            "with muninn.ProgressBar('a') as bar:\n    bar.expect(8)\n    bar(2)\n    bar.close()"
        )
        assert shown == "<muninn.ProgressBar a: 2 B of 8 B, stopped>"
