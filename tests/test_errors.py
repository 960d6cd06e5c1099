"""The table of errors is complete, and every error says what the user can do."""

from __future__ import annotations

import pickle

import pytest

from muninn import errors
from muninn.errors import ERROR_OF_NUMBER, MuninnError
from muninn.errortable import ERRORS


def test_codesGoUpWithoutGaps() -> None:
    assert [row.code for row in ERRORS] == [
        f"MNN-{number:04d}" for number in range(1, len(ERRORS) + 1)
    ]


def test_everyRowIsWhole() -> None:
    for row in ERRORS:
        assert row.meaning
        assert row.fix
        assert row.category in ("retry", "caller", "fatal")
        assert issubclass(getattr(errors, row.name), MuninnError)


@pytest.mark.parametrize("number", sorted(ERROR_OF_NUMBER))
def test_errorsSayCodeReasonAndFix(number: int) -> None:
    error = ERROR_OF_NUMBER[number]("something happened")
    assert str(error).startswith(
        f"MNN-{number:04d} {type(error).__name__}: something happened. Fix: "
    )
    copy = pickle.loads(pickle.dumps(ERROR_OF_NUMBER[number]("why", "do this")))
    assert (type(copy), copy.reason, copy.fix, copy.code) == (
        type(error),
        "why",
        "do this",
        error.code,
    )
