"""`hatch_build.py` and `pyproject.toml`: the installed files, and the messages of the
installation.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import muninn
from muninn.system import library

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: hatchling is installed in the builds' own environments only.
_STUBS = """
import sys, types
for path, name in (("builders.hooks", "BuildHookInterface"), ("metadata", "MetadataHookInterface")):
    module = types.ModuleType("stub")
    interface = type(name, (), {"__class_getitem__": classmethod(lambda cls, _: cls)})
    setattr(module, name, interface)
    sys.modules[f"hatchling.{path}.plugin.interface"] = module
import hatch_build
"""


def descriptorServer(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", _STUBS + code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=settings,
    )


def test_noTextNamesTheOtherProjectsPackage() -> None:
    """Broken: README and errors said `pip install 'muninn[cuda]'`, which installs a
    catalogue of data products.
    """
    assert PROJECT["name"] == "muninn-gpu"
    files = [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("muninn/**/*.py"),
        *ROOT.glob("examples/*.py"),
        ROOT / "Makefile",
    ]
    sent = [
        (file.name, line)
        for file in files
        for line in re.findall(r"pip install [^`\n]*\bmuninn\b(?!-gpu)[^`\n]*", file.read_text())
    ]
    assert sent == [("README.md", "pip install muninn")], (
        "where it says that this is another project"
    )


def test_theCheckOfWhichOneIsInstalledLooksNotIntoTheCheckout(tmp_path: Path) -> None:
    """Broken: in the checkout, to which README sends the reader, the command found the
    checkout's own package, and not the installed one.
    """
    (tmp_path / "muninn").mkdir()
    (tmp_path / "muninn" / "__init__.py").write_text("raise SystemExit('the checkout')")
    (command,) = re.findall(r"`python (-[^`]*hasattr[^`]*)`", (ROOT / "README.md").read_text())
    done = subprocess.run(
        [sys.executable, *shlex.split(command)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.endswith("muninn/__init__.py True\n") and str(tmp_path) not in done.stdout


def test_theErrorOfAFrozenProgramSaysToPackTheLibrary(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Broken: the error told users of PyInstaller and of zip files to install a C
    compiler.
    """
    assert "C compiler" in library._howToLoad()
    monkeypatch.setattr(
        library, "LIBRARY", tmp_path / "program.zip" / "muninn" / "_shim" / "libmuninn.so"
    )
    assert f"{tmp_path / 'program.zip'}" in (said := library._howToLoad()) and "zip" in said
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert "--collect-all muninn" in library._howToLoad()


def test_theVersionIsWrittenOnce() -> None:
    """The topmost heading of the changelog has the same version."""
    assert "version" not in PROJECT and "version" in PROJECT["dynamic"]
    path = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["version"]["path"]
    written = re.findall(
        r'^__version__ = "(\d+\.\d+\.\d+)"$', (ROOT / path).read_text(), re.MULTILINE
    )
    assert written == [muninn.__version__]
    assert (
        re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
        == muninn.__version__
    )


def test_aCommitRunsTheChecksOfMakeLint() -> None:
    """`.pre-commit-config.yaml` has each tool of `make lint` and of `make types`."""
    recipes = re.findall(
        r"^(?:lint|types):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    checks = re.findall(r"\$\(VENV\)/bin/(\w[\w-]*)|\$\(PY\) (ops/\w+\.py)", "".join(recipes))
    hooks = re.findall(
        r"entry: \.venv/bin/(?:python )?(\S+)", (ROOT / ".pre-commit-config.yaml").read_text()
    )
    assert len(recipes) == 2 and {tool or script for tool, script in checks} == set(hooks)


def test_eachAllowedNameIsNeeded() -> None:
    """`ops/allowednames.py` has exactly the names that vulture reports without it."""
    vulture = pytest.importorskip(
        "vulture", reason="vulture is not installed: it is in the extra `lint`"
    )
    allowed = ROOT / "ops" / "allowednames.py"
    search = vulture.Vulture()
    search.scavenge(
        [str(ROOT / path) for path in ("muninn", "bench", "ops", "examples", "hatch_build.py")],
        exclude=[str(allowed)],
    )
    named = re.findall(r"^_\.(\w+)$", allowed.read_text(), re.MULTILINE)
    assert sorted(named) == sorted({each.name for each in search.get_unused_code()})


def test_onlyTheExtraThatNeedsItHoldsNumpyDown() -> None:
    assert [each for each in PROJECT["dependencies"] if each.startswith("numpy")] == ["numpy>=2.1"]
    assert "numpy>=2.1,<2.5" in PROJECT["optional-dependencies"]["cuda"]


def test_linksInThePageOfPypiLeadSomewhere() -> None:
    """Broken: PyPI shows the README without the files beside it."""
    done = descriptorServer(
        "hook = hatch_build.CustomMetadataHook(); hook.root = sys.argv[1] if sys.argv[1:] else '.'\n"
        "metadata = {'urls': {'Source': 'https://example.org/x'}}; hook.update(metadata); print(metadata['readme']['text'])"
    )
    assert done.returncode == 0, done.stderr
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", done.stdout))
    assert len(targets) > 20 and all(re.match("https://|#", target) for target in targets), targets
    ours = [
        target.partition("#")[0].removeprefix("https://example.org/x/blob/main/")
        for target in targets
        if "example.org" in target
    ]
    assert ours and all((ROOT / path).exists() for path in ours)
    assert {"Source", "Documentation", "Changelog", "Issues"} <= PROJECT["urls"].keys()


def test_withoutACompilerItSaysSo(tmp_path: Path) -> None:
    """Broken: the build printed a traceback of subprocess, which ended with `No such
    file or directory: 'cc'`.
    """
    _withHeader(tmp_path)
    code = f"hook = hatch_build.CustomBuildHook(); hook.root = {str(tmp_path)!r}; hook.initialize('standard', {{}})"
    done = descriptorServer(code, CC="no-such-compiler")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "needs a C compiler" in done.stderr
        and "'no-such-compiler'" in done.stderr
        and "apt install gcc" in done.stderr
    )
    (tmp_path / "cshim" / "broken.c").write_text("this is not C\n")
    done = descriptorServer(code)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "can not be compiled" in done.stderr and "broken.c" in done.stderr
    done = descriptorServer(code, CC='gcc "')
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "variable CC is 'gcc \"', which can not be read" in done.stderr


def _withHeader(at: Path) -> None:
    """A checkout that has only the modules from which its C header is generated."""
    for package in ("control", "system"):
        shutil.copytree(
            ROOT / "muninn" / package,
            at / "muninn" / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    (at / "cshim").mkdir()


def test_theHeaderIsGeneratedByTheBuild(tmp_path: Path) -> None:
    code = _checkout(tmp_path)
    (tmp_path / "cshim" / "layout.h").write_text("what an earlier layout gave\n")
    assert descriptorServer(code).returncode == 0
    assert (tmp_path / "cshim" / "layout.h").read_text() == (
        ROOT / "cshim" / "layout.h"
    ).read_text()


def test_aLayoutOfWhichNoHeaderCanBeMadeIsSaid(tmp_path: Path) -> None:
    code = _checkout(tmp_path)
    (tmp_path / "muninn" / "control" / "layout.py").write_text("import nothing\n")
    done = descriptorServer(code)
    assert done.returncode == 1 and "header can not be generated" in done.stderr


def _checkout(at: Path) -> str:
    """Make a small checkout; returns code that builds it."""
    _withHeader(at)
    (at / "cshim" / "one.c").write_text(
        '__attribute__((visibility("default"))) int one(void) { return 1; }\n'
    )
    return (
        f"hook = hatch_build.CustomBuildHook(); hook.root = {str(at)!r}; data = {{'artifacts': []}}\n"
        "hook.initialize(sys.argv[1] if sys.argv[1:] else 'standard', data)\n"
        "(library,) = data['force_include']; print(data['force_include'][library]); import ctypes; print(ctypes.CDLL(library).one())"
    )


def test_anEmptyCompilerIsTheUsualOne(tmp_path: Path) -> None:
    """Broken: with `CC=`, as some scripts set it, the build raised an IndexError."""
    done = descriptorServer(_checkout(tmp_path), CC="", CFLAGS="")
    assert (done.returncode, done.stdout) == (0, "muninn/_shim/libmuninn.so\n1\n"), done.stderr
    assert [each.name for each in (tmp_path / "muninn" / "_shim").iterdir()] == ["libmuninn.so"], (
        "and a copy for the checkout"
    )


def test_aCheckoutThatCanNotBeWrittenIsBuilt(tmp_path: Path) -> None:
    """Broken: a read-only mount caused an `OSError`, although a wheel needs to write
    nothing there.
    """
    code = _checkout(tmp_path)
    (tmp_path / "muninn" / "_shim").write_text("a file, where root too can make no directory\n")
    done = descriptorServer(code)
    assert (done.returncode, done.stdout) == (0, "muninn/_shim/libmuninn.so\n1\n"), done.stderr
    done = descriptorServer(code.replace("'standard'", "'editable'"))
    assert (
        done.returncode == 1
        and "Traceback" not in done.stderr
        and "an editable install has its C part there" in done.stderr
    )


def test_buildsOfOneCheckoutDoNotDisturbEachOther(tmp_path: Path) -> None:
    """Broken: two builds compiled into one file, and the second found it renamed."""
    code = _checkout(tmp_path)
    settings = {**os.environ, "PYTHONPATH": str(ROOT)}
    builds = [
        subprocess.Popen(
            [sys.executable, "-c", _STUBS + code], env=settings, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    assert [build.communicate(timeout=60)[0][-2:] for build in builds] == ["1\n"] * 6
    assert [build.returncode for build in builds] == [0] * 6
    assert [each.name for each in (tmp_path / "muninn" / "_shim").iterdir()] == ["libmuninn.so"]


def test_aCompilerWithOptionsIsFoundByMake(tmp_path: Path) -> None:
    """Broken: `CC="gcc -m64" make setup` said that there was no compiler."""
    (recipe,) = [
        line.strip().removeprefix("@")
        for line in (ROOT / "Makefile").read_text().splitlines()
        if "no C compiler" in line
    ]
    (tmp_path / "a compiler").symlink_to("/bin/true")
    for compiler, status in (
        ("sh -c", 0),
        ("", None),
        (f"'{tmp_path}/a compiler' -m64", 0),
        ("no-such-compiler", 1),
        ('sh "', 1),
    ):
        ran = subprocess.run(
            ["sh", "-c", recipe.replace("$$", "$")],
            env={**os.environ, "CC": compiler},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert status is None or ran.returncode == status, compiler
        assert ("no C compiler" in ran.stderr) == (ran.returncode != 0)
