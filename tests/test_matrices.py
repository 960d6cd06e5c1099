"""Every pair of GPUs of a host gets the route that its link deserves, whatever the other
links are like; the bytes arrive whole, and access is given once and taken back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matrices import KINDS, Matrix, coveringMatrices, everyMatrix, meetings, metIn, pairsOf

from support import Actor

Copied = Callable[[Matrix, bool], dict[str, Any]]
#: So many matrices are one test.
_PART = 14


def _parts(matrices: list[Matrix]) -> list[Any]:
    return [
        pytest.param(matrices[begin : begin + _PART], id=f"{matrices[0].gpuCount}-GPUs-{begin}")
        for begin in range(0, len(matrices), _PART)
    ]


@pytest.fixture
def backend() -> str:
    return "host"


@pytest.fixture
def copied(domain: str, actor: Callable[..., Actor], backend: str) -> Copied:
    """What a new process sees that copies along each link of a matrix."""
    numbers = itertools.count()
    surveyor = actor(f"import survey; survey.prepare({backend!r})", MUNINN_DEVICE=backend)

    def seen(matrix: Matrix, isDemanding: bool = False) -> dict[str, Any]:
        given = matrix.gpuCount, list(matrix.kinds), f"{domain}-{next(numbers)}", isDemanding
        answer: dict[str, Any] = surveyor.do(f"survey.of(*{given})")
        return answer

    return seen


def expected(matrix: Matrix, isDemanding: bool = False) -> dict[str, Any]:
    """What the rules say of it."""
    routes = dict[str, list[list[object]]]()
    for (source, target), kind in matrix.links():
        told = routes[f"{source}>{target}"] = [
            [kind.route, kind.reason, True],
            [*kind.later, True],
        ]
        if isDemanding and kind.route == "p2p":
            told += [["p2p", "asked", True], ["staged", "asked", True]]
        elif isDemanding:
            told += [["refused", kind.reason, False], ["staged", "asked", True]]
    return {
        "routes": routes,
        "given": [list(pair) for pair, kind in matrix.links() if kind.isGiven],
        "straight": [list(pair) for pair, kind in matrix.links() if kind.route == "p2p"],
        "mapped": 0,
    }


@pytest.mark.parametrize("gpuCount", [2, 3, 4])
def test_eachTwoKindsMeetOnEachTwoPairs(gpuCount: int) -> None:
    """The sets below are not too small."""
    matrices = everyMatrix(2) if gpuCount == 2 else coveringMatrices(gpuCount)
    met = {each for matrix in matrices for each in metIn(matrix)}
    assert met == set(meetings(gpuCount * (gpuCount - 1)))
    assert len(matrices) == len(set(matrices)) < 100


@pytest.mark.parametrize("matrices", _parts(everyMatrix(2)))
def test_everyLinkOfTwoGpusGetsItsRoute(copied: Copied, matrices: list[Matrix]) -> None:
    for matrix in matrices:
        assert copied(matrix, True) == expected(matrix, True), str(matrix)


@pytest.mark.parametrize("matrices", _parts(coveringMatrices(3)) + _parts(coveringMatrices(4)))
def test_everyLinkOfSeveralGpusGetsItsRoute(copied: Copied, matrices: list[Matrix]) -> None:
    for matrix in matrices:
        assert copied(matrix, False) == expected(matrix), str(matrix)


@st.composite
def anyMatrix(draw: st.DrawFn) -> Matrix:
    gpuCount = draw(st.integers(2, 4))
    links = len(pairsOf(gpuCount))
    return Matrix(
        gpuCount, tuple(draw(st.lists(st.sampled_from([*KINDS]), min_size=links, max_size=links)))
    )


@pytest.mark.long
@pytest.mark.timeout(600)
@given(matrix=anyMatrix())
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_everyLinkOfAnyMatrixGetsItsRoute(copied: Copied, matrix: Matrix) -> None:
    assert copied(matrix, True) == expected(matrix, True)
