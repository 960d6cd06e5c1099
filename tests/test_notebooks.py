"""The notebooks run and print the expected output; one of them goes on after its kernel
was killed.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

import muninn
from support import BOUND_SECONDS, eventually, leftovers

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
SHARING = NOTEBOOKS[0]


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
        self.notebook = nbformat.read(path, as_version=4)
        self.client = NotebookClient(
            self.notebook, timeout=int(BOUND_SECONDS), kernel_name="python3"
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


def printed(notebook: nbformat.NotebookNode) -> list[str]:
    """The output of each cell, without the numbers of processes."""
    shown = []
    for cell in notebook.cells:
        data = [output.get("data", {}) for output in cell.get("outputs", ())]
        texts = [output.get("text", "") for output in cell.get("outputs", ())]
        parts = [
            *texts,
            *(each.get(kind, "") for each in data for kind in ("text/plain", "text/html")),
        ]
        shown.append(re.sub(r"\(\d+\)", "(pid)", "".join(parts)))
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
