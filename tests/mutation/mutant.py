"""The definition of a mutant."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One change to the source that some test must notice.

    Attributes
    ----------
    file
        Relative to the root of the repository.
    old, new
        The text, which is in the source once in any layout (`quotes`), and its
        replacement. Comments in it are not compared.
    breaks
        The rule that does not hold any more.
    tests
        Files below `tests/`, or tests in them (`test_x.py::test_y`), separated by
        spaces.
    equivalent
        The reason why no test can notice it, if none can. The mutant is tried all the
        same: one that a test notices is not equivalent.
    """

    file: str
    old: str
    new: str
    breaks: str
    tests: str
    equivalent: str = ""
