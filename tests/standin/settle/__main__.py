"""Settle the guesses: ask whatever driver is there what it does, and print it. On the stand-in and on a GPU the same program.

    LD_LIBRARY_PATH=build/standin python tests/standin/settle     # the stand-in
    python tests/standin/settle                                    # the driver of this machine

Each line is `number  what was asked: what was seen`; the numbers are those of ../README.md, letters are questions of the design. With
`--beside RECORDING` it says what was answered otherwise, and the exit status is 1 if anything was; `--record FILE` makes a recording.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import memory  # noqa: F401  its questions
import work  # noqa: F401  its questions
from answers import STAYS_DIFFERENT, compare, write
from asking import QUESTIONS, Figure, NotAsked, driverThatIsThere


def asked(wanted: set[str]) -> list[tuple[str, str, object]]:
    """Ask, and print as answers come."""
    answers: list[tuple[str, str, object]] = []
    for number, ask in QUESTIONS:
        if wanted and not wanted & {number, ask.__name__}:
            continue
        try:
            for what, seen in ask():
                answers.append((number, what, seen))
                shown = seen.value if isinstance(seen, Figure) else f"not asked: {seen.reason}" if isinstance(seen, NotAsked) else seen
                print(f"{number:<10} {what}: {shown}", flush=True)
        except Exception as error:
            answers.append((number, ask.__name__, f"ended with {type(error).__name__}: {error}"))
            print(f"{number:<10} {ask.__name__} ended with {type(error).__name__}: {error}", flush=True)
    return answers


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/standin/settle")
    parser.add_argument("--record", type=Path, metavar="FILE")
    parser.add_argument("--beside", type=Path, metavar="RECORDING")
    parser.add_argument("wanted", nargs="*", help="numbers or names of questions; all, if there are none")
    arguments = parser.parse_args()
    device, driver = driverThatIsThere()
    answers = asked(set(arguments.wanted))
    if arguments.record:
        write(arguments.record, device, driver, answers)
    ended = [what for _, what, seen in answers if isinstance(seen, str) and seen.startswith("ended with")]
    if not arguments.beside:
        return 1 if ended else 0
    recording = json.loads(arguments.beside.read_text())
    different = STAYS_DIFFERENT if device.startswith("Stand-in") else {}
    same, otherwise = compare(answers, recording, different)
    print("\n".join(["", *otherwise]))
    name = f"{recording['device']}, driver {recording['driver']}, {recording['date']}"
    print(f"{same} answers as recorded of {name}{f' or as declared ({len(different)})' if different else ''}; {len(otherwise)} otherwise")
    return 1 if otherwise or ended or not same else 0


sys.exit(main())
