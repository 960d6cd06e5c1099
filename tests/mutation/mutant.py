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
        The text, which is there once however it is laid out (`quotes`), and what stands
        in its place. Comments in it are not compared.
    breaks
        What does not hold any more.
    tests
        Files below `tests/`, or tests in them (`test_x.py::test_y`), separated by
        spaces.
    equivalent
        Why no test can notice, where none can. It is tried all the same: a mutant that
        is noticed after all is not equivalent.
    """

    file: str
    old: str
    new: str
    breaks: str
    tests: str
    equivalent: str = ""
