"""`system/logs.py`: the log messages of Muninn."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support import Actor


@pytest.mark.parametrize(
    ("level", "own", "found"),
    [("debug", 0, 10), ("error", 0, 40), ("warning", 0, 0), ("debug", 30, 30)],
    ids=str,
)
def test_theLevelOfTheSettingsHoldsInAProgram(
    domain: str, actor: Callable[..., Actor], level: str, own: int, found: int
) -> None:
    """The level holds unless the program sets its own. Broken: only the command line
    read it.
    """
    program = actor(
        f"import logging; logger = logging.getLogger('muninn'); logger.setLevel({own})",
        MUNINN_LOG_LEVEL=level,
    )
    assert program.do("muninn.listBuffers(); logger.level") == found
