"""A question to the driver, and the processes that put it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE.parent))

from support import Actor  # noqa: E402

_PREPARE = f"import sys, time, os, mmap, signal, ctypes, threading; sys.path.insert(0, {str(HERE)!r})\nfrom probe import *\n"

Ask = Callable[[], Iterator[tuple[str, object]]]
QUESTIONS: list[tuple[str, Ask]] = []


def question(number: str) -> Callable[[Ask], Ask]:
    """A function that yields (what was asked, what was seen), under the number of the guess; letters are questions of the design."""

    def add(ask: Ask) -> Ask:
        QUESTIONS.append((number, ask))
        return ask

    return add


@contextlib.contextmanager
def actors(count: int, code: str = "enter()") -> Iterator[list[Actor]]:
    """Processes that talk to the driver in the words of `probe.py`."""
    with contextlib.ExitStack() as ending:
        made = [Actor(_PREPARE + code) for _ in range(count)]
        for each in made:
            ending.callback(each.kill)
        yield made
