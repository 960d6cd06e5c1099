"""The answers of a driver, kept in a file, and compared with the answers of another
driver.

A recording is JSON: `device`, `driver`, `date`, and `answers`, each of which is
[number, what was asked, what was seen]. Figures, and questions that were not asked, are
not kept.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from asking import Figure, NotAsked

Key = tuple[str, str]

#: The answers of the stand-in that differ from those of an H100 and an H200 on purpose.
#: ../README.md says why, under "Where it stays different".
STAYS_DIFFERENT: dict[Key, Any] = {
    ("15-16, B", "B after truncating its file: copy from it, synchronize"): "no answer: status -7",
    ("17-18", "18 without a descriptor left: cuMemCreate"): "OPERATING_SYSTEM",
    ("17-18", "18 without a descriptor left: cuMemAlloc of 64 MiB"): "OPERATING_SYSTEM",
    ("17-18", "18 without a descriptor left: cuIpcOpenMemHandle"): "INVALID_HANDLE",
    ("19, 26", "19 is fresh memory of cuMemAlloc, of VMM zero"): [False, False],
    ("23", "a stream that never was"): "INVALID_HANDLE",
    ("23", "a stream that was destroyed"): "INVALID_HANDLE",
    ("23", "an event that was destroyed"): "INVALID_HANDLE",
}


def kept(answers: list[tuple[str, str, object]]) -> dict[Key, Any]:
    """The answers that can be compared, as JSON returns them."""
    return {
        (number, what): json.loads(json.dumps(seen))
        for number, what, seen in answers
        if not isinstance(seen, Figure | NotAsked)
    }


def write(path: Path, device: str, driver: str, answers: list[tuple[str, str, object]]) -> None:
    rows = [[*key, seen] for key, seen in kept(answers).items()]
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    head = {"device": device, "driver": driver, "date": time.strftime("%Y-%m-%d")}
    path.write_text(f'{json.dumps(head)[:-1]}, "answers": [\n{lines}\n]}}\n')


def compare(
    answers: list[tuple[str, str, object]], recording: dict[str, Any], different: dict[Key, Any]
) -> tuple[int, list[str]]:
    """The number of answers that were the same as recorded, and of those that differ as
    declared; and a line for each other answer.

    A question that only one of the two was asked counts for neither, since one of them
    may have a GPU less.
    """
    recorded = {(number, what): seen for number, what, seen in recording["answers"]}
    same, otherwise = 0, []
    for key, seen in kept(answers).items():
        if key not in recorded:
            continue
        expected = different.get(key, recorded[key])
        if seen == expected:
            same += 1
        else:
            otherwise.append(
                f"{key[0]:<10} {key[1]}: {seen}, and {recording['device']} said {recorded[key]}"
            )
    return same, otherwise
