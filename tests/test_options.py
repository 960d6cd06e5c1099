"""The options of a buffer: declared once, known to type checkers, shown by every
function that takes them.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import muninn
from muninn import terms
from muninn.api.options import AllKeywords, BufferOptions
from muninn.errors import InvalidArgument, UnsupportedMode

ROOT = Path(__file__).parent.parent
TYPED = ROOT / "tests" / "typed"
A = np.arange(3)
OPTIONS = {field.name for field in dataclasses.fields(BufferOptions)}
#: The functions that make a buffer.
MAKERS: dict[str, Callable[..., Any]] = {
    "share": muninn.share,
    "array": muninn.array,
    "loadArray": muninn.loadArray,
    "shareOnce": muninn.shareOnce,
    "publish": muninn.publish,
    "shareBundle": muninn.shareBundle,
    "load": muninn.load,
    "loadBundle": muninn.loadBundle,
    "MuninnBuffer": muninn.MuninnBuffer,
}


def test_typeCheckersKnowTheOptionsOfTheDataclass() -> None:
    """Broken: an option was added in one place only, so a checker or Python refused it."""
    assert typing.get_type_hints(AllKeywords) == typing.get_type_hints(BufferOptions)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (terms.ModeWord, terms.Mode),
        (terms.AccessWord, terms.ACCESSES),
        (terms.OpenAccessWord, terms.Access),
        (terms.LifetimeWord, terms.Lifetime),
        (terms.RenewWord, terms.Renew),
        (terms.ReserveWord, terms.Reserve),
    ],
)
def test_literalTypesAreTheWordsOfTheirEnumerations(
    words: Any, kind: Iterable[enum.StrEnum]
) -> None:
    assert typing.get_args(words) == tuple(each.value for each in kind)


@pytest.mark.parametrize("name", MAKERS)
def test_signaturesListEveryOptionAndItsDefault(name: str) -> None:
    """Broken: `help` showed `**keywords`."""
    parameters = inspect.signature(MAKERS[name]).parameters
    assert parameters.keys() >= OPTIONS and all(
        each.kind is not each.VAR_KEYWORD for each in parameters.values()
    )
    own = {
        "mode": {"MuninnBuffer"},
        "access": {"array"},
        "name": {"array", "shareOnce", "publish"},
        "preferredGpu": {"share", "MuninnBuffer"},  # an array is on one GPU
    }
    for field in dataclasses.fields(BufferOptions):
        parameter = parameters[field.name]
        if name not in own.get(field.name, ()):
            assert (parameter.default, parameter.annotation) == (field.default, field.type)


@pytest.mark.parametrize("name", MAKERS)
def test_docstringsDescribeEveryOption(name: str) -> None:
    text = inspect.getdoc(MAKERS[name]) or ""
    section = text.partition("Parameters\n----------\n")[2].partition("\n\n")[0]
    described = [
        each
        for line in re.findall(r"^(\w+(?:, \w+)*)$", section, re.MULTILINE)
        for each in line.split(", ")
    ]
    assert (
        sorted(described) == sorted(inspect.signature(MAKERS[name]).parameters)
        and "**options" not in text
    )


def test_positionsAreWhatTheyWere(domain: str) -> None:
    shared = muninn.share(A, "a", "bigMode", "readWrite", "tenant", None, "lastClose")
    made = muninn.MuninnBuffer(8, "bigMode", None, "readOnly", "b", "tenant")
    assert [(each.name, each.access, each.tenant) for each in (shared, made)] == [
        ("a", "readWrite", "tenant"),
        ("b", "readOnly", "tenant"),
    ]
    with pytest.raises(TypeError, match="positional argument"):
        muninn.share(A, "c", "bigMode", "readWrite", "tenant", None, "lastClose", 5)  # type: ignore[misc]


def test_theNearestWordIsFoundWithAnyCapitals() -> None:
    assert terms.nearest("ttlms", ["name", "TTLMS"]) == "TTLMS"


#: Call → the text of the error: the function that was called, and the nearest right
#: word.
WORDS: dict[str, tuple[Callable[[], Any], str]] = {
    "mode": (
        lambda: muninn.share(A, mode="fastmod"),
        r"^share: mode 'fastmod' is not known \(did you mean 'fastMode'\?\)$",
    ),  # type: ignore[arg-type]
    "far": (lambda: muninn.share(A, mode="x"), r"^share: mode 'x' is not known$"),  # type: ignore[arg-type]
    "fast": (
        lambda: muninn.MuninnBuffer(8, "bigmode"),
        r"^MuninnBuffer: mode 'bigmode' .*'bigMode'",
    ),  # type: ignore[arg-type]
    "access": (
        lambda: muninn.loadArray(3, "f4", print, access="readwrite"),
        r"^loadArray: access 'readwrite' .*'readWrite'",
    ),  # type: ignore[arg-type]
    "own": (
        lambda: muninn.array("n", 3, access="readonly"),
        r"^array: access 'readonly' .*'readOnly'",
    ),  # type: ignore[arg-type]
    "renew": (
        lambda: muninn.shareBundle({"a": A}, renew="onuse"),
        r"^shareBundle: renew 'onuse' .*'onUse'",
    ),  # type: ignore[arg-type]
    "reserve": (
        lambda: muninn.loadBundle({"a": (3, "f4")}, print, reserve="lasy"),
        r"^loadBundle: reserve 'lasy' .*'lazy'",
    ),  # type: ignore[arg-type]
    "lifetime": (
        lambda: muninn.shareOnce("n", lambda: A, lifetime="lastclose"),
        r"^shareOnce: lifetime 'lastclose' .*'lastClose'",
    ),  # type: ignore[arg-type]
    "copy": (lambda: muninn.shareOnce("n", lambda: A, copy=1), r"^shareOnce: copy must be"),  # type: ignore[arg-type]
    "open": (lambda: muninn.open("n", "readwrite"), r"^open: access 'readwrite' .*'readWrite'"),  # type: ignore[arg-type]
    "openBundle": (
        lambda: muninn.openBundle("n", renew="aut"),
        r"^openBundle: renew 'aut' .*'auto'",
    ),  # type: ignore[arg-type]
    "followBundle": (
        lambda: muninn.followBundle("n", "readwrite"),
        r"^followBundle: access 'readwrite' .*'readWrite'",
    ),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WORDS)
def test_aWrongWordIsAnsweredWithTheFunctionAndTheNearestWord(domain: str, name: str) -> None:
    """Broken: the error named neither the function that was called nor the word that
    was meant.
    """
    call, said = WORDS[name]
    with pytest.raises((InvalidArgument, UnsupportedMode, TypeError)) as caught:
        call()
    assert re.search(said, getattr(caught.value, "reason", str(caught.value)))
    assert muninn.listBuffers() == []


def _marked(path: Path) -> set[int]:
    return {
        number
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.endswith("# rejected")
    }


def _byMypy(path: Path) -> set[int]:
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-error-summary",
        "--no-pretty",
        "--hide-error-context",
        str(path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {
        int(number)
        for number in re.findall(
            rf"^{re.escape(str(path.relative_to(ROOT)))}:(\d+): error", done.stdout, re.MULTILINE
        )
    }


def _byPyright(path: Path) -> set[int]:
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        str(path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {
        each["range"]["start"]["line"] + 1
        for each in json.loads(done.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    }


@pytest.mark.long
@pytest.mark.parametrize("name", ["accepted", "rejected"])
@pytest.mark.parametrize(("checker", "found"), [("mypy", _byMypy), ("pyright", _byPyright)])
def test_checkersSeeWrongWordsAndMisspeltKeywords(
    checker: str, found: Callable[[Path], set[int]], name: str
) -> None:
    pytest.importorskip(checker, reason=f"{checker} is not installed: it is in the extra `test`")
    path = TYPED / f"{name}.py"
    assert found(path) == _marked(path)
