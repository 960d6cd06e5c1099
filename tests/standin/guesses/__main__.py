"""The guesses: ask the driver of this machine, and print its answers. The program is
the same on the stand-in and on a GPU.

    LD_LIBRARY_PATH=build/standin python tests/standin/guesses     # the stand-in
    python tests/standin/guesses                                    # the driver of this machine

Each line is `number  what was asked: what was seen`; the numbers are those of
../README.md, letters are questions of the design. With `--beside RECORDING` it prints the answers that differ from a recording, and the exit status is 1 if there are any; `--record FILE` makes a recording.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import links  # noqa: F401  its questions
import memory  # noqa: F401  its questions
import work  # noqa: F401  its questions
from answers import STAYS_DIFFERENT, compare, write
from asking import QUESTIONS, Figure, NotAsked, Question, driverThatIsThere


def answersTo(question: Question) -> list[tuple[str, str, object]]:
    """Ask one question, and print its answers."""
    answers: list[tuple[str, str, object]] = []
    try:
        answers += ((question.number, what, seen) for what, seen in question.ask())
    except Exception as error:
        answers.append(
            (question.number, question.ask.__name__, f"ended with {type(error).__name__}: {error}")
        )
    lines = []
    for number, what, seen in answers:
        shown = (
            seen.value
            if isinstance(seen, Figure)
            else f"not asked: {seen.reason}"
            if isinstance(seen, NotAsked)
            else seen
        )
        lines.append(f"{number:<10} {what}: {shown}\n")
    print("".join(lines), end="", flush=True)
    return answers


def asked(wanted: set[str]) -> list[tuple[str, str, object]]:
    """Ask the questions about available GPU memory one by one, then the others, some at
    a time where there are processors for them.
    """
    chosen = [each for each in QUESTIONS if not wanted or wanted & {each.number, each.ask.__name__}]
    answers = [answer for question in chosen if question.isAlone for answer in answersTo(question)]
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 3)) as pool:
        return answers + [
            answer
            for found in pool.map(answersTo, [each for each in chosen if not each.isAlone])
            for answer in found
        ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/standin/guesses")
    parser.add_argument("--record", type=Path, metavar="FILE")
    parser.add_argument("--beside", type=Path, metavar="RECORDING")
    parser.add_argument(
        "wanted", nargs="*", help="numbers or names of questions; all, if there are none"
    )
    arguments = parser.parse_args()
    device, driver = driverThatIsThere()
    answers = asked(set(arguments.wanted))
    if arguments.record:
        write(arguments.record, device, driver, answers)
    ended = [
        what for _, what, seen in answers if isinstance(seen, str) and seen.startswith("ended with")
    ]
    if not arguments.beside:
        return 1 if ended else 0
    recording = json.loads(arguments.beside.read_text())
    different = STAYS_DIFFERENT if device.startswith("Stand-in") else {}
    same, otherwise = compare(answers, recording, different)
    print("\n".join(["", *otherwise]))
    name = f"{recording['device']}, driver {recording['driver']}, {recording['date']}"
    print(
        f"{same} answers as recorded of {name}{f' or as declared ({len(different)})' if different else ''}; {len(otherwise)} otherwise"
    )
    return 1 if otherwise or ended or not same else 0


sys.exit(main())
