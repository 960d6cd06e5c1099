"""A mutant finds its quote in any layout of the source, and leaves a source that can be
run.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mutation.quotes import placesOf

from support import program

_ROOT = Path(__file__).parents[1]
_LONG = program("branches")


_SHORT = (
    ast.unparse(ast.parse(_LONG))
    .replace("(first and second)", "first and second")
    .replace("'", '"')
    + "\n"
)


def _mutated(source: str, old: str, new: str, file: str = "some.py") -> str:
    (place,) = placesOf(old, source, file)
    return place.replaced(source, new, file)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    if first and second or third:\n", "    if False:\n"),
        ("    if first and", "    if"),
        (" or third:\n", ":\n"),
        ("second or third:\n        raise", "second:\n        raise"),
        ('        raise KeyError("two  spaces", first)\n', "        pass\n"),
        ("    return first or second\n", "    return first\n"),
        ("return first or", "return"),
        (
            '        raise KeyError("two  spaces", first)\n    return first or second\n',
            "        return second\n",
        ),
    ],
)
def test_layoutTakesNoPart(old: str, new: str) -> None:
    """Line breaks, comments, trailing commas and the parentheses of a long expression
    do not move a quote.
    """
    expected = ast.dump(ast.parse(_SHORT.replace(old, new)))
    assert ast.dump(ast.parse(_mutated(_SHORT, old, new))) == expected
    assert ast.dump(ast.parse(_mutated(_LONG, old, new))) == expected
    assert ast.dump(ast.parse(_mutated(_LONG, old.replace("\n", "  # why\n"), new))) == expected


@pytest.mark.parametrize(
    ("quote", "source", "count"),
    [
        ("    x = 1\n", "if a:\n    x = 1\nelse:\n    x = 1\n", 2),
        ("    x = 1\n", "if a:\n    x = 1\n    if b:\n        x = 1\n", 1),
        ("return\n", "if a:\n    return 1\nreturn\n", 1),
        ('"a b"', 'f("a  b")\n', 0),
        (" or b:", "while floor or b:\n    floor_or_b: int\n", 1),
        ("f(a, b)", "# f(a, b)\nf(a,\n  b,\n)\n", 1),
        ("a, b),\n", "x = [\n    (\n        a,\n        b,\n    ),\n]\n", 1),
    ],
)
def test_allButLayoutCounts(quote: str, source: str, count: int) -> None:
    """The ends of statements, their indentation, words and what is in strings tell
    quotes apart.
    """
    assert len(placesOf(quote, source, "some.py")) == count


def test_layoutOfCTakesNoPart() -> None:
    """In C any whitespace and any comment."""
    source = "int f(int *a)\n{\n    if (a != NULL /* why */ &&\n        *a == 2)\n        return 1;\n    return 0;\n}\n"
    mutated = _mutated(source, "\tif (a != NULL && *a == 2)\n\t\treturn 1;\n", "", "some.c")
    assert " ".join(mutated.split()) == "int f(int *a) { return 0; }"


def test_everyMutantQuotesItsSourceOnce() -> None:
    """Each mutant quotes its source once, and the changed source can be run."""
    program = "from tests.mutation.__main__ import MUTANTS, misplaced; print(*misplaced(MUTANTS), sep='\\n')"
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stdout.strip(), done.stdout
