"""A question to the driver, the processes that ask it, and the kinds of answers."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE.parent))

from support import Actor  # noqa: E402

_PREPARE = f"import sys, time, os, mmap, signal, ctypes, threading; sys.path.insert(0, {str(HERE)!r})\nfrom probe import *\n"

Ask = Callable[[], Iterator[tuple[str, object]]]


class Question(NamedTuple):
    """A function that asks, under the number of the guess; `isAlone` if no other
    process may use the GPU meanwhile.
    """

    number: str
    ask: Ask
    isAlone: bool


QUESTIONS: list[Question] = []


class Figure(NamedTuple):
    """A measured value, or a property of the machine: two drivers of the same behaviour
    may differ in it.
    """

    value: object


class NotAsked(NamedTuple):
    """The reason why a driver was not asked."""

    reason: str


def question(number: str, isAlone: bool = False) -> Callable[[Ask], Ask]:
    """A function that yields (what was asked, what was seen), under the number of the
    guess; letters are questions of the design.
    """

    def add(ask: Ask) -> Ask:
        QUESTIONS.append(Question(number, ask, isAlone))
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


def tried(actor: Actor, what: str, code: str) -> tuple[str, object]:
    """The value, or the way in which the process ended instead."""
    try:
        return what, actor.do(code)
    except AssertionError as error:
        ended = re.search(r"status -?\d+", str(error))
        return what, f"no answer: {ended[0] if ended else error}"


def driverThatIsThere() -> tuple[str, str]:
    """The first device's name, and the driver's version: the kernel module's where
    there is one.
    """
    with actors(1) as (one,):
        name, version = one.do(
            "[ok(cu.cuDeviceGetName(64, 0)).split(b'\\0')[0].decode(), ok(cu.cuDriverGetVersion())]"
        )
    module = Path("/proc/driver/nvidia/version")
    number = (
        re.search(r"\b\d{3}\.[\d.]+", module.read_text())
        if module.exists() and not name.startswith("Stand-in")
        else None
    )
    return (
        name,
        f"{number[0] if number else 'unknown'} (CUDA {version // 1000}.{version % 1000 // 10})",
    )
