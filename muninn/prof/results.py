"""Results: the measured rows, and the CSV file that keeps them.

All times are seconds here, and microseconds in the file. A file that was not written by
`write` is refused with its line; nothing of it is believed.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable
from typing import NamedTuple

from muninn.errors import InvalidArgument

_FIX = "Give a file that `python -m muninn prof --csv FILE` has written"
_MAX_FILE_BYTES, _MICRO = 1 << 20, 1e6
_COLUMNS = (
    "row",
    "what",
    "device",
    "bytes",
    "samples",
    "p50Us",
    "p95Us",
    "limit",
    "limitP50Us",
    "ratio",
    "quick",
    "machine",
    "muninn",
)
_TRUTHS = {"yes": True, "no": False}


class Result(NamedTuple):
    """A measured row.

    Attributes
    ----------
    device
        On which GPU: its name, or `emulated GPU`; "" where there is none in it.
    sizeBytes
        How many bytes moved, or 0.
    samples
        How many were taken.
    limit
        The limit beside it, for people.
    """

    row: str
    what: str
    device: str
    sizeBytes: int
    samples: int
    p50: float
    p95: float
    limit: str
    limitP50: float
    isQuick: bool
    machine: str
    version: str

    @property
    def ratio(self) -> float:
        """How many times the limit the operation takes, by their p50."""
        return self.p50 / self.limitP50


def written(results: Iterable[Result]) -> str:
    """The text of the file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for each in results:
        writer.writerow(
            (
                each.row,
                each.what,
                each.device,
                each.sizeBytes,
                each.samples,
                f"{each.p50 * _MICRO:.6g}",
                f"{each.p95 * _MICRO:.6g}",
                each.limit,
                f"{each.limitP50 * _MICRO:.6g}",
                f"{each.ratio:.4g}",
                "yes" if each.isQuick else "no",
                each.machine,
                each.version,
            )
        )
    return text.getvalue()


def write(results: Iterable[Result], path: str) -> None:
    """Replace the file in one step; where a link leads to it, there. What is no file, as a
    pipe or /dev/stdout, is written to.
    """
    path = os.path.realpath(path)
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "w", encoding="utf-8", newline="") as other:
            other.write(written(results))
        return
    beside = f"{path}.{os.getpid()}.new"
    try:
        with open(beside, "x", encoding="utf-8", newline="") as file:
            file.write(written(results))
        os.replace(beside, path)
    except BaseException:
        if os.path.exists(beside):
            os.unlink(beside)
        raise


def read(path: str) -> list[Result]:
    """The results of a file.

    Raises
    ------
    InvalidArgument
        The file is no file of results; the text says in which line.
    OSError
        It can not be read.
    """
    with open(path, "rb") as file:
        raw = file.read(_MAX_FILE_BYTES + 1)
    if len(raw) > _MAX_FILE_BYTES:
        raise InvalidArgument(f"{path} is larger than {_MAX_FILE_BYTES} bytes", _FIX)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is no text: byte {error.start} is not UTF-8", _FIX) from None
    return parsed(text, path)


def parsed(text: str, path: str) -> list[Result]:
    """The results in the text of a file; `path` is for the errors, as in `read`."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise InvalidArgument(f"{path}, line {reader.line_num}: {error}", _FIX) from None
    if not lines:
        raise InvalidArgument(f"{path} is empty", _FIX)
    headings = lines[0][1]
    if missing := [each for each in _COLUMNS if each not in headings]:
        raise InvalidArgument(f"{path}, line 1: there is no column {missing[0]!r}", _FIX)
    results, seen = list[Result](), set[str]()
    for number, cells in lines[1:]:
        where = f"{path}, line {number}"
        if len(cells) != len(headings):
            raise InvalidArgument(f"{where}: {len(cells)} cells instead of {len(headings)}", _FIX)
        result = _result(dict(zip(headings, cells, strict=True)), where)
        if result.row in seen:
            raise InvalidArgument(f"{where}: row {result.row!r} is there twice", _FIX)
        seen.add(result.row)
        results.append(result)
    if not results:
        raise InvalidArgument(f"{path} has no row", _FIX)
    return results


def _result(cells: dict[str, str], where: str) -> Result:
    if cells["quick"] not in _TRUTHS:
        raise InvalidArgument(f"{where}: quick is {cells['quick']!r:.40}, not yes or no", _FIX)
    if not cells["row"]:
        raise InvalidArgument(f"{where}: the row has no name", _FIX)
    return Result(
        cells["row"],
        cells["what"],
        cells["device"],
        _whole(cells, "bytes", where),
        _whole(cells, "samples", where),
        _time(cells, "p50Us", where),
        _time(cells, "p95Us", where),
        cells["limit"],
        _time(cells, "limitP50Us", where),
        _TRUTHS[cells["quick"]],
        cells["machine"],
        cells["muninn"],
    )


def _whole(cells: dict[str, str], column: str, where: str) -> int:
    text = cells[column]
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise InvalidArgument(f"{where}: {column} is {text!r:.40}, no whole number", _FIX)
    return int(text)


def _time(cells: dict[str, str], column: str, where: str) -> float:
    try:
        value = float(cells[column])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InvalidArgument(
            f"{where}: {column} is {cells[column]!r:.40}, no number of µs above 0", _FIX
        )
    return value / _MICRO
