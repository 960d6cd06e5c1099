"""How the inspector prints: text for people, JSON for programs, errors on stderr.

The text is the same in a pipe and on a terminal. On a terminal it has colours (unless
NO_COLOR is set), and fits the window: a list is cut, so that each row stays one line,
and a description goes on in the next line. Other processes wrote the names and the
programs; a character of theirs that a terminal would obey is replaced.

The columns are laid out here and not by `rich.table`: a pipe gets every text whole at
its natural width, without the cost of loading rich, and on a terminal the columns that
users fill give way before all others. `rich.table` has no rows that span the columns,
as the notes below a buffer do, so rich only colours and cuts the lines.
"""

from __future__ import annotations

import contextlib
import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from muninn.cli.fitting import shortened, widthOf
from muninn.cli.hints import inWords
from muninn.errors import MuninnError

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {
    "ok": "green",
    "warn": "yellow",
    "slow": "yellow",
    "emulated": "dim",
    "fail": "bold red",
    "corrupt": "bold red",
    "bad": "bold red",
    "refuse": "bold red",
    "-": "dim",
    "dying": "yellow",
    "replaced": "yellow",
    "expired": "yellow",
}
_LEAST_WIDTH, _SHORT_WIDTH = 8, 14


class Row(NamedTuple):
    """The cells of one line of a table, and the notes that are printed below it."""

    cells: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(cells: Iterable[str], notes: Iterable[str] = ()) -> Row:
        """A row of texts that other processes may have written."""
        return Row(tuple(map(printable, cells)), tuple(map(printable, notes)))


def printJson(value: Any) -> None:
    print(json.dumps(value, indent=2 if sys.stdout.isatty() else None, default=str))


def printError(error: MuninnError, asJson: bool) -> None:
    """Print `MNN-xxxx name: reason. Fix: …` on stderr; with JSON also an object on
    stdout.
    """
    error.fix = inWords(error.fix)
    print(printable(str(error)), file=sys.stderr)
    if asJson:
        printJson(problemOf(error))


def problemOf(error: MuninnError) -> dict[str, Any]:
    """An error of Muninn as an object."""
    return {
        "error": {
            "code": error.code,
            "name": type(error).__name__,
            "reason": error.reason,
            "fix": inWords(error.fix),
        }
    }


@contextlib.contextmanager
def waitingBy(option: str | None) -> Iterator[None]:
    """Adapt the fix of an error, which tells a program to give `timeout=`: name the
    `option` of this command that waits, or nothing if the command can not wait.
    """
    try:
        yield
    except MuninnError as error:
        check, wait, _ = error.fix.partition("; give `timeout=`")
        if option is None and wait:
            error.fix = check
        elif option is not None:
            error.fix = error.fix.replace("`timeout=`", f"`{option}`")
        raise


def printProblem(reason: str, asJson: bool) -> None:
    """Print an error that is not Muninn's own, and so has no code."""
    print(f"muninn: {printable(reason)}", file=sys.stderr)
    if asJson:
        printJson(problem(reason))


def problem(reason: str) -> dict[str, Any]:
    """The same as an object."""
    return {"error": {"code": None, "name": None, "reason": reason, "fix": None}}


def printable(text: str) -> str:
    return (
        text
        if text.isprintable()
        else "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    )


def counted(number: int, noun: str) -> str:
    """Such as `1 buffer`, `3 buffers`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def age(milliseconds: int) -> str:
    """A span of time for a table: 3s, 12m, 5h, 2d."""
    seconds = milliseconds // 1000
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def printTable(
    headings: Sequence[str],
    rows: Sequence[Row],
    shrinking: Sequence[int] = (),
    wrapping: bool = False,
) -> None:
    """Aligned lines.

    Parameters
    ----------
    headings
        One for each column; no line is printed for them if all are empty.
    shrinking
        Columns that give way in a narrow window.
    wrapping
        Whether the last column goes on in the next line there; otherwise lines are cut.
    """
    console = _console()
    widths = [
        max([widthOf(heading), *(widthOf(row.cells[column]) for row in rows)])
        for column, heading in enumerate(headings)
    ]
    if console is not None:
        _shrink(widths, shrinking, console.width)
        rows = [_shortened(row, shrinking, widths) for row in rows]
        if wrapping:
            room = max(console.width - sum(widths[:-1]) - 2 * (len(widths) - 1), _LEAST_WIDTH)
            rows = [line for row in rows for line in _wrapped(row, room)]
            widths[-1] = 0
    if any(headings):
        _printLine(console, headings, widths, "bold", not wrapping)
    for row in rows:
        _printLine(console, row.cells, widths, "", not wrapping)
        for note in row.notes:
            _printLine(console, [f"  {note}"], [0], "dim", not wrapping)


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[str, int, int, str], None]]:
    """A progress bar on stderr, if that is a terminal. Yields a function that takes what
    is done now, how much of it is done, how much there is, and that as text. Until its
    first call the bar only shows that the command works.
    """
    if not sys.stderr.isatty():
        yield lambda what, done, total, shown: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[shown]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None, shown="")

        def show(what: str, done: int, total: int, shown: str) -> None:
            progress.update(task, description=what, completed=done, total=total, shown=shown)

        yield show


def _wrapped(row: Row, room: int) -> list[Row]:
    """The row with its last cell wrapped: one row a line. The first line has the other
    cells, and the last line has the notes.
    """
    parts = textwrap.wrap(row.cells[-1], room, break_on_hyphens=False) or [""]
    blank = ("",) * (len(row.cells) - 1)
    lines = [
        Row((*(row.cells[:-1] if number == 0 else blank), part))
        for number, part in enumerate(parts)
    ]
    lines[-1] = lines[-1]._replace(notes=row.notes)
    return lines


def _console() -> Console | None:
    """The console of the terminal, or None if stdout is none. Rich honours NO_COLOR and
    TERM=dumb.
    """
    if not sys.stdout.isatty():
        return None
    from rich.console import Console

    return Console(highlight=False)


def _printLine(
    console: Console | None, cells: Sequence[str], widths: Sequence[int], style: str, isCut: bool
) -> None:
    padded = [
        cell + " " * (width - widthOf(cell)) for cell, width in zip(cells, widths, strict=True)
    ]
    if console is None:
        print("  ".join(padded).rstrip())
        return
    from rich.text import Text

    line = Text(style=style)
    for number, (cell, text, width) in enumerate(zip(cells, padded, widths, strict=True)):
        shown = Text(text, style=_COLOURS.get(cell, "red" if cell.startswith("revoked") else ""))
        if width:
            shown.truncate(width, overflow="ellipsis")
        line.append("  " if number else "").append_text(shown)
    # `Console.print` ignores the `no_wrap` of the text, so it is told here.
    console.print(line, no_wrap=True, overflow="ellipsis" if isCut else "ignore", crop=isCut)


def _shrink(widths: list[int], shrinking: Sequence[int], room: int) -> None:
    """Let columns give way: all but the first of them until they are short, since the
    first tells the rows apart; then the widest at a time.
    """
    excess = sum(widths) + 2 * (len(widths) - 1) - room
    for columns, least in ((shrinking[1:], _SHORT_WIDTH), (shrinking, _LEAST_WIDTH)):
        for _ in range(max(0, excess)):
            widest = max(columns, key=lambda each: widths[each], default=None)
            if widest is None or widths[widest] <= least:
                break
            widths[widest] -= 1
            excess -= 1


def _shortened(row: Row, columns: Sequence[int], widths: Sequence[int]) -> Row:
    cells = list(row.cells)
    for column in columns:
        cells[column] = shortened(cells[column], widths[column])
    return row._replace(cells=tuple(cells))
