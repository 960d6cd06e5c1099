"""The report of `prof`: for people, and as an object for programs."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

import muninn
from muninn.cli.output import Row, printable, printTable
from muninn.config.sizes import asText
from muninn.prof.comparison import Change, Comparison
from muninn.prof.measuring import Outcome
from muninn.prof.rows import AS_FITS, DEATH, GPU, HOST, ROWS, RowSpec
from muninn.prof.run import EMULATED as EMULATED_GPU
from muninn.prof.run import FULL_BYTES, Gpus

#: Numbers are on the right of their columns, which are the same in all groups.
_ROW_WIDTH, _NUMBER_WIDTHS = max(map(len, ROWS)), (8, 8, 10, 8, 7)
_HEADINGS = ("ROW", "P50", "P95", "SPEED", "LIMIT", "RATIO", "")
_COMPARED = ("ROW", "P50", "", "P95", "", "LIMIT", "")
_MAX_WIDTH, _LEAST_SHOWN_BYTES = 100, 1 << 20
_SIZES = f"{asText(FULL_BYTES)} is less with --quick, and where /dev/shm is small."
OK, SLOW, EMULATED = "ok", "slow", "emulated"


class Report(NamedTuple):
    """All of a run.

    Attributes
    ----------
    busy
        Why the figures are worse than the machine's, or "".
    smallBytes
        The size of large buffers where /dev/shm has no room for the usual one, or 0.
    """

    machine: str
    gpus: Gpus
    isQuick: bool
    outcomes: list[Outcome]
    busy: str
    smallBytes: int = 0


def verdictOf(outcome: Outcome) -> str:
    """`ok`, `slow`, or `emulated`, where the ratio says nothing about a GPU."""
    result = outcome.result
    assert result is not None
    if result.device == EMULATED_GPU:
        return EMULATED
    return OK if result.ratio <= outcome.row.usual else SLOW


def printReport(report: Report) -> None:
    titles = {
        HOST: "Host memory and processes",
        GPU: f"GPU: {report.gpus.name}"
        + (
            ", which is host memory: these rows say nothing about a GPU"
            if report.gpus.isEmulated
            else ""
        ),
        DEATH: "Death of the broker",
    }
    print(f"Muninn {muninn.__version__} on {printable(report.machine)}")
    for group, title in titles.items():
        chosen = [each for each in report.outcomes if each.row.group == group]
        if chosen:
            print(f"\n{printable(title)}")
            printTable(_aligned(*_HEADINGS), [_rowOf(each) for each in chosen])
    print()
    for paragraph in _conclusions(report):
        printWrapped(paragraph)


def _aligned(name: str, *cells: str) -> tuple[str, ...]:
    numbers = (cell.rjust(width) for cell, width in zip(cells, _NUMBER_WIDTHS, strict=False))
    return (name.ljust(_ROW_WIDTH), *numbers, cells[-1])


def _rowOf(outcome: Outcome) -> Row:
    row, result = outcome.row, outcome.result
    if result is None:
        cells = _aligned(row.name, *["-"] * len(_NUMBER_WIDTHS), "")
        return Row.of(cells, _wrapped(f"not measured: {outcome.reason}"))
    verdict = verdictOf(outcome)
    isEmulated = verdict == EMULATED
    speed = _speedText(outcome, result.limitP50)
    usual = "emulated: no usual ratio" if isEmulated else f"up to {row.usual:g} × is usual"
    notes = [
        f"{EMULATED_GPU}: {result.what}" if isEmulated else result.what,
        f"limit: {result.limit}{f', {speed}' if speed != '-' else ''}; {usual}",
        f"it tells {row.meaning}",
    ]
    if verdict == SLOW:
        notes.append(f"what to do: {row.advice}")
    cells = _aligned(
        row.name,
        duration(result.p50),
        duration(result.p95),
        _speedText(outcome, result.p50),
        duration(result.limitP50),
        ratioText(result.ratio),
        verdict,
    )
    return Row.of(cells, [line for note in notes for line in _wrapped(note)])


def _speedText(outcome: Outcome, seconds: float) -> str:
    """GB/s by the clock, of bytes that move; "-" for what is too small for it to mean
    something.
    """
    assert outcome.result is not None
    sizeBytes = outcome.result.sizeBytes
    if not outcome.row.isMoving or sizeBytes < _LEAST_SHOWN_BYTES:
        return "-"
    return f"{sizeBytes / seconds / 1e9:.3g} GB/s"


def _conclusions(report: Report) -> list[str]:
    measured = [each for each in report.outcomes if each.result is not None]
    slow = [each.row.name for each in measured if verdictOf(each) == SLOW]
    ratio = "RATIO is P50 over LIMIT, and LIMIT the P50 of what the machine does without Muninn"
    said = [f"{ratio}, measured in turn with it. P95: of 20 times, one takes longer."]
    if slow:
        said.append(
            f"{len(slow)} of {len(measured)} rows take more of their limit than usual: "
            f"{', '.join(slow)}. What to do stands below each."
        )
    elif measured:
        said.append("No row takes more of its limit than usual.")
    if report.busy:
        said.append(
            f"When it began, {report.busy}. Measure again on a quiet machine before you "
            "believe a row that is slow."
        )
    if report.smallBytes:
        said.append(
            f"As /dev/shm is small, large buffers have {asText(report.smallBytes)} only, and what "
            "a call costs however large they are weighs more: enlarge it (see `doctor`)."
        )
    if report.isQuick:
        said.append("With --quick the sizes are small, and each figure has few samples.")
    return said


def printList(rows: Sequence[RowSpec]) -> None:
    printTable(
        ("ROW", "USUAL", "MEASURED"),
        [
            Row.of(
                (row.name, f"{row.usual:g} ×", row.what.format(size=_sizeText(row))),
                [f"limit: {row.limit}"],
            )
            for row in rows
        ],
        wrapping=True,
    )
    print()
    printWrapped(_SIZES)


def listed(rows: Sequence[RowSpec]) -> list[dict[str, Any]]:
    return [
        {
            "row": row.name,
            "group": row.group,
            "what": row.what.format(size=_sizeText(row)),
            "limit": row.limit,
            "usual": row.usual,
            "meaning": row.meaning,
            "advice": row.advice,
        }
        for row in rows
    ]


def _sizeText(row: RowSpec) -> str:
    return asText(FULL_BYTES if row.sizeBytes == AS_FITS else row.sizeBytes)


def printComparison(
    comparison: Comparison, path: str, withinPercent: float, busy: str = ""
) -> None:
    print(f"\nCompared with {printable(path)}, {withinPercent:g} % allowed")
    if comparison.changes:
        _printChanges(comparison.changes)
    for name, reason in comparison.unlike:
        print(printable(f"{name}: not compared: {reason}"))
    for name in comparison.onlyOld:
        print(printable(f"{name}: only in {path}"))
    for name in comparison.onlyNew:
        print(f"{name}: only in this run")
    then, now = (
        {getattr(change, side).machine for change in comparison.changes} for side in ("old", "new")
    )
    if then - now:
        printWrapped(f"That was another machine: {', '.join(sorted(then - now))}.")
    if any(change.limitPercent > withinPercent for change in comparison.regressed):
        printWrapped(
            "Where LIMIT, what the machine does without Muninn, takes longer too, look at the "
            "machine first: other programs, heat, another kernel."
        )
    if busy and comparison.regressed:
        printWrapped(f"When it began, {busy}: measure again on a quiet machine.")
    print(f"\n{comparisonText(comparison, withinPercent)}")


def comparisonText(comparison: Comparison, withinPercent: float) -> str:
    """The outcome in a sentence."""
    if not comparison.changes:
        return "no row could be compared"
    if not comparison.regressed:
        return f"no row is slower by more than {withinPercent:g} %"
    names = [f"{each.new.row} ({' and '.join(each.slower)})" for each in comparison.regressed]
    return f"slower by more than {withinPercent:g} %, each time it was measured: {', '.join(names)}"


def _printChanges(changes: Sequence[Change]) -> None:
    """A line for each; 80 columns are enough."""
    rows = [
        (
            each.new.row,
            _fromTo(each.old.p50, each.new.p50),
            _signed(each.p50Percent),
            _fromTo(each.old.p95, each.new.p95),
            _signed(each.p95Percent),
            _signed(each.limitPercent),
            SLOW if each.slower else OK,
        )
        for each in changes
    ]
    widths = [max(map(len, column)) for column in zip(_COMPARED, *rows, strict=True)]
    headings, *lines = (_numbersRight(cells, widths) for cells in (_COMPARED, *rows))
    printTable(headings, [Row.of(cells) for cells in lines])


def _numbersRight(cells: Sequence[str], widths: Sequence[int]) -> tuple[str, ...]:
    """Words are on the left of their columns: the first and the last."""
    numbers = zip(cells[1:-1], widths[1:-1], strict=True)
    return (cells[0], *(cell.rjust(width) for cell, width in numbers), cells[-1])


def _fromTo(before: float, now: float) -> str:
    """Two times in the unit of the longer one."""
    factor, unit = _unitOf(max(before, now))
    return f"{before * factor:.3g} → {now * factor:.3g} {unit}"


def asJson(report: Report, comparison: Comparison | None, withinPercent: float) -> dict[str, Any]:
    measured = [each for each in report.outcomes if each.result is not None]
    return {
        "muninn": muninn.__version__,
        "machine": report.machine,
        "gpu": report.gpus.name,
        "gpuCount": report.gpus.number,
        "isEmulated": report.gpus.isEmulated,
        "isQuick": report.isQuick,
        "busy": report.busy or None,
        "smallBytes": report.smallBytes or None,
        "rows": [_rowJson(each) for each in measured],
        "notMeasured": [
            {"row": each.row.name, "reason": each.reason, "isFailure": each.isFailure}
            for each in report.outcomes
            if each.result is None
        ],
        "comparison": None if comparison is None else _comparisonJson(comparison, withinPercent),
    }


def _rowJson(outcome: Outcome) -> dict[str, Any]:
    row, result = outcome.row, outcome.result
    assert result is not None
    return {
        "row": result.row,
        "what": result.what,
        "device": result.device or None,
        "bytes": result.sizeBytes,
        "samples": result.samples,
        "p50Us": result.p50 * 1e6,
        "p95Us": result.p95 * 1e6,
        "limit": result.limit,
        "limitP50Us": result.limitP50 * 1e6,
        "ratio": result.ratio,
        "usual": row.usual,
        "verdict": verdictOf(outcome),
        "meaning": row.meaning,
        "advice": row.advice,
    }


def _comparisonJson(comparison: Comparison, withinPercent: float) -> dict[str, Any]:
    return {
        "withinPercent": withinPercent,
        "rows": [
            {
                "row": each.new.row,
                "p50Percent": each.p50Percent,
                "p95Percent": each.p95Percent,
                "limitPercent": each.limitPercent,
                "slower": list(each.slower),
            }
            for each in comparison.changes
        ],
        "regressed": [each.new.row for each in comparison.regressed],
        "onlyOld": comparison.onlyOld,
        "onlyNew": comparison.onlyNew,
        "unlike": [{"row": name, "reason": reason} for name, reason in comparison.unlike],
    }


def duration(seconds: float) -> str:
    """A time with three digits and its unit."""
    factor, unit = _unitOf(seconds)
    return f"{seconds * factor:.3g} {unit}"


def _unitOf(seconds: float) -> tuple[float, str]:
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 999.5:
            return factor, unit
    return 1.0, "s"


def ratioText(ratio: float) -> str:
    return f"{ratio:.2g} ×" if ratio < 10 else f"{ratio:.0f} ×"


def _signed(percent: float) -> str:
    return f"{round(percent):+d} %"


def _width() -> int:
    return min(shutil.get_terminal_size().columns, _MAX_WIDTH)


def _wrapped(text: str) -> list[str]:
    """A note below a row, which is indented by two."""
    return textwrap.wrap(
        printable(text), _width() - 2, subsequent_indent="  ", break_on_hyphens=False
    )


def printWrapped(text: str, file: TextIO | None = None) -> None:
    for line in textwrap.wrap(printable(text), _width(), break_on_hyphens=False):
        print(line, file=file)
