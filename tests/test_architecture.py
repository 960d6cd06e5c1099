"""The walls of the house: imports point inward, nothing heavy is loaded, modules keep their size."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "muninn"
#: Folder → what it may import of ours. `errors`, `terms` and `config` are everybody's.
INWARD = {
    "config": set(),
    "control": {"control"},
    "devices": {"devices", "control"},
    "broker": {"broker", "control"},
    "formats": {"formats"},
    "kernels": {"kernels", "devices"},
    "api": {"api", "broker", "control", "devices", "kernels"},
    "cli": {"cli", "api", "formats", "devices", "control"},
}
EVERYBODYS = {"errors", "terms", "config"}
MAX_LINES, MAX_FUNCTION_LINES = 480, 70


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The parts of the package that a module imports anywhere but for type checking."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.dump(test.test)
        for node in ast.walk(test)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("muninn."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "muninn":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("muninn.")}
    return names


@pytest.mark.parametrize("folder", sorted(INWARD))
def test_importsPointInward(folder: str) -> None:
    for path in (PACKAGE / folder).rglob("*.py"):
        outward = imported(path) - INWARD[folder] - EVERYBODYS - {"MuninnError"}
        assert not outward, f"{path.relative_to(PACKAGE)} imports {outward}"


def test_modulesAndFunctionsKeepTheirSize() -> None:
    for path in modules():
        text = path.read_text()
        assert text.count("\n") <= MAX_LINES, f"{path} has outgrown its walls"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno <= MAX_FUNCTION_LINES, f"{path}:{node.lineno} {node.name}"


def test_everyModuleSaysWhatItIs() -> None:
    for path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), path


def test_wordsAreReachedThroughTheirPrimitivesOnly() -> None:
    """`ctypes` itself is for the bindings, and for private memory in a few places that are named here."""
    allowed = {
        "control/atomics.py",
        "control/block.py",
        "control/forks.py",
        "api/membership.py",
        "cli/doctor.py",
        "devices/choose.py",
        "devices/memfd.py",
    }
    allowed |= {"devices/dlpack.py", "devices/cuda/legacy.py", "devices/cuda/driver.py"}  # other people's structures, and the driver's
    using = {str(path.relative_to(PACKAGE)) for path in modules() if "import ctypes" in path.read_text()}
    assert using <= allowed


def test_importingLoadsNoGpuLibraryAndStartsNothing() -> None:
    code = (
        "import sys, threading, os; import muninn; heavy = {'numba', 'cuda', 'torch', 'cupy', 'asyncio', 'rich', 'psutil', 'safetensors'};"
        "print(sorted(heavy & set(sys.modules)), threading.active_count())"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed == "[] 1\n"


def test_joiningLoadsNoLibrary(domain: str) -> None:
    """Broken: `hashlib` was loaded for one of its functions, and with it libcrypto: 3.4 MiB resident in each member."""
    code = "import sys, muninn; muninn.share(b'x').handle; print({'_hashlib', 'psutil', 'asyncio'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
