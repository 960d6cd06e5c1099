"""The architecture: imports point inward, `import muninn` loads nothing heavy, modules
stay small.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from imports import circlesOf, graphOf, layersOf

PACKAGE = Path(__file__).parent.parent / "muninn"
#: The packages, bottom up: each imports only packages above it in this list, and those
#: of `EVERYBODYS`.
LAYERS = (
    "system",
    "storage",
    "control",
    "wire",
    "interop",
    "devices",
    "kernels",
    "formats",
    "observe",
    "broker",
    "session",
    "sync",
    "transfer",
    "api",
    "torch",
    "plans",
    "service",
    "prof",
    "cli",
)
EVERYBODYS = {"errors", "errortable", "terms", "config", "arguments"}
#: Packages that a package does not import although they are above it: (package, other)
#: → why.
FORBIDDEN = {
    ("broker", "devices"): "the broker decides, and calls no driver",
    ("broker", "interop"): "nor does it know arrays",
}
MAX_LINES, MAX_FUNCTION_LINES = 400, 70


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def test_noFilesFormACircle() -> None:
    circles = circlesOf(graphOf(PACKAGE.parent, "muninn"))
    assert circles == []


@pytest.mark.parametrize("folder", ["bench", "examples", "ops"])
def test_noFilesBesideThePackageFormACircle(folder: str) -> None:
    graph = graphOf(PACKAGE.parent, folder)
    assert graph, f"{folder} has no Python files"
    assert circlesOf(graph) == []


@pytest.mark.parametrize(
    "late",
    [
        "from muninn.broker import directory\n",
        "def late():\n    import muninn.broker.directory\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from muninn.broker.directory import Directory\n",
        "from . import directory\n",
    ],
)
def test_aPlantedCircleIsFound(tmp_path: Path, late: str) -> None:
    planted = tmp_path / "muninn" / "broker"
    planted.mkdir(parents=True)
    (planted.parent / "__init__.py").touch()
    (planted / "__init__.py").touch()
    (planted / "directory.py").write_text("from muninn.broker.catalog import Catalog\n")
    (planted / "catalog.py").write_text(late)
    assert circlesOf(graphOf(tmp_path, "muninn")) == [
        ["muninn.broker.catalog", "muninn.broker.directory"]
    ]


@pytest.mark.parametrize("folder", LAYERS)
def test_importsPointInward(folder: str) -> None:
    allowed = {*LAYERS[: LAYERS.index(folder)], *EVERYBODYS} - {
        other for each, other in FORBIDDEN if each == folder
    }
    assert layersOf(graphOf(PACKAGE.parent, "muninn")).get(folder, set()) - allowed == set()


def test_everyPackageHasItsPlace() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"config"} == set(LAYERS)


def test_modulesAndFunctionsKeepTheirSize() -> None:
    for path in modules():
        text = path.read_text()
        assert text.count("\n") <= MAX_LINES, f"{path} is too long"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lines = (node.end_lineno or 0) - node.lineno - docstringLines(node)
                assert lines <= MAX_FUNCTION_LINES, f"{path}:{node.lineno} {node.name}"


def docstringLines(node: ast.FunctionDef) -> int:
    """How many lines of a function are its docstring."""
    return 0 if ast.get_docstring(node) is None else (node.body[0].end_lineno or 0) - node.lineno


def test_everyModuleSaysWhatItIs() -> None:
    for path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_wordsAreReachedThroughTheirPrimitivesOnly() -> None:
    """The bindings use `ctypes` itself, and so do a few modules with private memory,
    which are named here.
    """
    allowed = {
        "system/atomics.py",
        "system/library.py",
        "system/structures.py",
        "control/block.py",
        "system/forks.py",
        "session/finalization.py",
        "session/worker.py",
        "cli/doctor.py",
        "cli/probes.py",
        "devices/choose.py",
        "devices/host/memory.py",
    }
    allowed |= {
        "interop/capsules.py",
        "interop/dlpack.py",
        "devices/cuda/ipc.py",
        "devices/cuda/driver.py",
    }  # structures of other libraries and of the driver
    using = {
        str(path.relative_to(PACKAGE)) for path in modules() if "import ctypes" in path.read_text()
    }
    assert using <= allowed


def test_importingLoadsNoGpuLibraryAndStartsNothing() -> None:
    code = (
        "import sys, threading, os; import muninn; heavy = {'numba', 'cuda', 'torch', 'cupy', 'asyncio', 'rich', 'psutil', 'safetensors', 'prometheus_client', 'wsgiref', 'http'};"
        "print(sorted(heavy & set(sys.modules)), threading.active_count())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed == "[] 1\n"


@pytest.mark.parametrize("folder", ["system", "storage", "control", "wire", "broker", "session"])
def test_noArraysBelowInterop(folder: str) -> None:
    """A process in a domain works on addresses and bytes: only `interop` makes arrays
    of them.
    """
    imported = {
        name.split(".")[0]
        for path in (PACKAGE / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(getattr(node, "module", ""))]
        )
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert "numpy" not in imported


def test_joiningLoadsNoLibrary(domain: str) -> None:
    """Broken: a module loaded `hashlib` for one of its functions, and with it
    libcrypto: 3.4 MiB resident in each member.
    """
    code = "import sys, muninn; muninn.share(b'x').handle; print({'_hashlib', 'psutil', 'asyncio'} & set(sys.modules))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "set()\n"
    )


_LONGEST_PROGRAM = 10


def longPrograms(folder: Path) -> list[str]:
    """Find each string of more than ten lines that is a Python program. Such a program
    belongs into a file: editors, linters and readers find nothing in a string.
    """
    found = []
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text())
        parts = {
            part
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in node.values
        }
        prose = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and isinstance(node.body[0], ast.Expr)
        }
        for node in set(ast.walk(tree)) - parts - prose:
            text = textOf(node)
            if text.strip().count("\n") >= _LONGEST_PROGRAM and isProgram(text):
                found.append(f"{path.relative_to(folder)}:{node.lineno}")  # type: ignore[attr-defined]
    return found


def textOf(node: ast.AST) -> str:
    """The text of a string; each value that an f-string inserts becomes a name."""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "name" for part in node.values
        )
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def isProgram(text: str) -> bool:
    try:
        ast.parse(textwrap.dedent(re.sub(r"\{\w+\}", "name", text)))
    except SyntaxError:
        return False
    return True


def test_programsOfTestsAreFiles() -> None:
    assert longPrograms(Path(__file__).parent) == []


@pytest.mark.parametrize("kind", ["", "f"])
def test_aPlantedProgramInAStringIsFound(tmp_path: Path, kind: str) -> None:
    body = "import os\n" + "os.getpid()\n" * 10
    (tmp_path / "test_planted.py").write_text(f'"""Head."""\nCODE = {kind}"""\n{body}"""\n')
    (tmp_path / "test_short.py").write_text('CODE = """\nimport os\nos.getpid()\n"""\n')
    assert longPrograms(tmp_path) == ["test_planted.py:2"]
