"""Settle the guesses: ask whatever driver is there what it does, and print it. On the stand-in and on a GPU the same program.

    LD_LIBRARY_PATH=build/standin python tests/standin/settle     # the stand-in
    python tests/standin/settle                                    # the driver of this machine

Each line is `number  what was asked: what was seen`; the numbers are those of ../README.md, letters are questions of the design.
"""

from __future__ import annotations

import sys

import memory  # noqa: F401  its questions
import work  # noqa: F401  its questions
from asking import QUESTIONS


def main() -> None:
    wanted = set(sys.argv[1:])
    for number, ask in QUESTIONS:
        if wanted and not wanted & {number, ask.__name__}:
            continue
        try:
            for what, seen in ask():
                print(f"{number:<10} {what}: {seen}", flush=True)
        except Exception as error:
            print(f"{number:<10} {ask.__name__} ended with {type(error).__name__}: {error}", flush=True)


main()
