"""How the inspector prints: text for people, JSON for programs, errors on stderr."""

from __future__ import annotations

import json
import sys
from typing import Any

from muninn.errors import MuninnError


def printJson(value: Any) -> None:
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, default=str))


def printError(error: MuninnError, asJson: bool) -> None:
    """`MNN-xxxx name: what happened. Fix: …` on stderr; with JSON the same as an object on stdout."""
    print(error, file=sys.stderr)
    if asJson:
        printJson({"error": {"code": error.code, "name": type(error).__name__, "reason": error.reason, "fix": error.fix}})


def size(sizeBytes: int) -> str:
    """A size for a table: 128G, 1.5M, 512."""
    for unit, power in (("T", 40), ("G", 30), ("M", 20), ("K", 10)):
        if sizeBytes >= 1 << power:
            value = sizeBytes / (1 << power)
            return f"{value:.0f}{unit}" if value >= 100 or value == int(value) else f"{value:.1f}{unit}"
    return str(sizeBytes)


def age(milliseconds: int) -> str:
    """A span of time for a table: 3s, 12m, 5h, 2d."""
    seconds = milliseconds // 1000
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Aligned lines, the headings first. Plain text: it is read by people, and by `grep` and `awk`."""
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (headings, *rows)]
