"""Tables of the live view: columns that fit the window. Where it is narrow, the columns
that matter least go first, and then the texts that users chose are shortened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

from muninn.cli.output import age
from muninn.cli.top.buffers import Buffer
from muninn.cli.top.graphs import spark
from muninn.cli.top.options import UPWARD
from muninn.cli.top.people import Person, TreeLine, Usage
from muninn.cli.top.picture import Picture
from muninn.cli.top.texts import padded, perSecond, throughput
from muninn.cli.top.view import Group
from muninn.config.sizes import asText

_LEAST_WIDTH = 10
_SPARK = 12
_STYLES = {
    "active": "green",
    "idle": "dim",
    "revoked": "bold red",
    "ending": "yellow",
    "fastMode": "cyan",
    "broker": "magenta",
}


class Column(NamedTuple):
    """A column.

    Attributes
    ----------
    rank
        0 stays in every window; the highest goes first.
    sort
        The word of `SORTS` that sorts by it.
    mayShrink
        Whether its texts give way in a narrow window.
    """

    heading: str
    rank: int
    isRight: bool = False
    sort: str = ""
    mayShrink: bool = False
    style: str = ""


BUFFER_COLUMNS = (
    Column("BUFFER", 0, sort="name", mayShrink=True, style="bold"),
    Column("MODE", 6),
    Column("GPU", 4, sort="gpu"),
    Column("SIZE", 1, isRight=True, sort="size"),
    Column("STATE", 5),
    Column("HELD", 2, isRight=True, sort="holders"),
    Column("WRITER", 7, isRight=True, style="yellow"),
    Column("WAIT", 8, isRight=True, style="bold yellow"),
    Column("PUB/s", 3, isRight=True, sort="rate"),
    Column("HISTORY", 9, style="green"),
    Column("GENERATION", 12, isRight=True),
    Column("AGE", 10, isRight=True, sort="age"),
    Column("TENANT", 11, sort="tenant", mayShrink=True),
)
PROCESS_COLUMNS = (
    Column("PROCESS", 0, mayShrink=True, style="bold"),
    Column("ROLE", 7),
    Column("CPU%", 3, isRight=True),
    Column("RSS", 4, isRight=True),
    Column("BUFFERS", 2, isRight=True),
    Column("HELD", 1, isRight=True),
    Column("MOVES", 5, isRight=True, style="green"),
    Column("AGE", 6, isRight=True),
    Column("USER", 9),
    Column("COMMAND", 8, mayShrink=True, style="dim"),
)


def bufferCells(
    buffer: Buffer, picture: Picture, waiting: int | None, isUnicode: bool
) -> tuple[str, ...]:
    """The cells of a buffer.

    Parameters
    ----------
    waiting
        How many processes wait for it, as far as the kernel tells; None: it was not asked.
    """
    writer = picture.people.get(buffer.writer)
    waits = str(waiting) if waiting else "yes" if buffer.isAwaited else "-"
    return (
        buffer.name,
        buffer.mode,
        buffer.gpus or "-",
        asText(buffer.sizeBytes),
        buffer.state,
        str(buffer.holders),
        "-" if writer is None else str(writer.pid),
        waits,
        perSecond(buffer.publications),
        spark(picture.history.ofRow(buffer.key[0]), _SPARK, isUnicode),
        str(buffer.generation),
        age(buffer.ageMs),
        buffer.tenant,
    )


def groupCells(group: Group) -> tuple[str, ...]:
    """The cells of a heading, with the sums of its group."""
    cells = [""] * len(BUFFER_COLUMNS)
    cells[0] = f"{group.title} ({group.buffers})"
    cells[3], cells[8] = asText(group.sizeBytes), perSecond(group.publications)
    return tuple(cells)


def processCells(
    line: TreeLine, picture: Picture, usage: Usage | None, held: tuple[int, int]
) -> tuple[str, ...]:
    """The cells of a line of the tree.

    Parameters
    ----------
    held
        How many buffers the process holds, and their bytes.
    """
    name = f"{line.prefix}{line.pid} {line.name}"
    person = line.person
    if person is None:
        return (name, *([""] * (len(PROCESS_COLUMNS) - 1)))
    broker = picture.broker()
    return (
        name,
        "broker" if broker is not None and broker.key == person.key else "member",
        "-" if usage is None else f"{usage.processor:.0f}",
        "-" if usage is None else asText(usage.residentBytes),
        str(held[0]),
        asText(held[1]),
        throughput(picture.rates.moved.get(person.key.slot, 0.0)),
        age(max(0, picture.reading.atMs - person.joinedMs)),
        person.user,
        person.command if person.isNear else "in another PID namespace",
    )


class Layout(NamedTuple):
    """The columns that fit, by their numbers, and their widths."""

    columns: tuple[Column, ...]
    shown: tuple[int, ...]
    widths: tuple[int, ...]


def layoutOf(
    columns: tuple[Column, ...],
    rows: Sequence[tuple[str, ...]],
    width: int | None,
    without: str = "",
) -> Layout:
    """The columns for these rows in a window; None: as wide as they are. `without` one."""
    natural = [
        max([cell_len(column.heading) + 1, *(cell_len(row[number]) for row in rows)])
        for number, column in enumerate(columns)
    ]
    shown = [number for number, column in enumerate(columns) if column.heading != without]
    if width is None:
        return Layout(columns, tuple(shown), tuple(natural[number] for number in shown))

    def least(number: int) -> int:
        return min(natural[number], _LEAST_WIDTH * (2 if number == 0 else 1))

    def needed() -> int:
        widths = (
            least(number) if columns[number].mayShrink else natural[number] for number in shown
        )
        return sum(widths) + len(shown) - 1

    while needed() > width and len(shown) > 1:
        shown.remove(max(shown, key=lambda number: columns[number].rank))
    widths = {number: natural[number] for number in shown}
    excess = sum(widths.values()) + len(shown) - 1 - width
    for number in sorted(shown, key=lambda number: -columns[number].rank):
        if columns[number].mayShrink and excess > 0:
            taken = min(excess, widths[number] - (least(number) if number else 1))
            widths[number], excess = widths[number] - taken, excess - taken
    return Layout(columns, tuple(shown), tuple(widths[number] for number in shown))


def headingOf(layout: Layout, sort: str, isReversed: bool, isUnicode: bool) -> Text:
    """The line of the headings. That of the column by which buffers are sorted has a mark."""
    isDownward = (sort not in UPWARD) != isReversed
    mark = ("▼" if isDownward else "▲") if isUnicode else ("v" if isDownward else "^")
    cells = []
    for number, width in zip(layout.shown, layout.widths, strict=True):
        column = layout.columns[number]
        heading = column.heading + (mark if sort and column.sort == sort else "")
        cells.append(padded(heading, width, column.isRight))
    return Text(" ".join(cells), style="bold underline")


def lineOf(layout: Layout, cells: Sequence[str], style: str = "") -> Text:
    """A line of the table."""
    line = Text(style=style)
    for at, (number, width) in enumerate(zip(layout.shown, layout.widths, strict=True)):
        column, cell = layout.columns[number], cells[number]
        isNothing = cell == "-" or (cell == "0" and column.isRight)
        own = "" if style else _STYLES.get(cell, "dim" if isNothing else column.style)
        line.append(" " * (at > 0))
        line.append(padded(cell, width, column.isRight), own)
    return line


def heldBy(picture: Picture) -> dict[int, tuple[int, int]]:
    """How many buffers each process holds, and their bytes, by slot."""
    rows = picture.reading.rows
    sizes = dict(zip(rows.number.tolist(), rows.sizeBytes.tolist(), strict=True))
    held = picture.reading.held
    found = dict[int, tuple[int, int]]()
    pairs = set(zip(held.slot.tolist(), held.row.tolist(), strict=True))
    for slot, row in pairs:
        count, total = found.get(slot, (0, 0))
        found[slot] = count + 1, total + sizes.get(row, 0)
    return found


def commandOf(person: Person) -> str:
    """The command line of a process, or why there is none."""
    return person.command if person.isNear else f"{person.program} (in another PID namespace)"
