"""The screen: a picture and a view as lines, by no more than the size of the window.

From the top: the domain, the tiers, the routes and events, the table, the details of the
chosen buffer, and the keys. In a low window the panels give way to the table.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from muninn.cli.output import printable
from muninn.cli.top import panels, tables
from muninn.cli.top.buffers import Buffer
from muninn.cli.top.details import detailLines, waitersOn
from muninn.cli.top.keys import BINDINGS
from muninn.cli.top.people import TreeLine, treeOf
from muninn.cli.top.picture import Picture
from muninn.cli.top.texts import padded, shortened
from muninn.cli.top.view import Group, Line, View, linesOf, whereIs

_LEAST_TABLE, _MOST_DETAILS = 6, 9
_KEYS = (
    ("q", "quit"),
    ("h", "help"),
    ("/", "filter"),
    ("s", "sort"),
    ("g", "group"),
    ("t", "processes"),
    ("r", "reverse"),
    ("d", "details"),
    ("Space", "pause"),
    ("+ -", "speed"),
)
#: Keys that change the table of buffers, and not that of processes.
_ONLY_BUFFERS = ("s", "g", "r", "d")


@dataclass(frozen=True, slots=True)
class Frame:
    """What is on the screen.

    Attributes
    ----------
    page
        How many lines of the table are shown.
    position, chosen
        The chosen line, and the buffer that is there.
    """

    lines: list[Text]
    page: int
    position: int = 0
    chosen: tuple[int, int] | None = None


def frameOf(picture: Picture, view: View, width: int, height: int, isUnicode: bool) -> Frame:
    """A frame of exactly `height` lines of at most `width` columns."""
    if view.isHelp:
        return _helpFrame(view, width, height)
    top = _top(picture, view, width, height, isUnicode)
    footer = footerLine(view, width)
    room = max(1, height - len(top) - 3)  # a line of titles, one of headings, the footer
    if view.panel == "processes":
        return _withProcesses(picture, view, top, footer, width, height, room, isUnicode)
    lines = linesOf(picture.buffers, view, picture.titleOf)
    position = whereIs(view, lines, picture.buffers)
    at = lines[position] if lines else None
    buffer = picture.buffers.one(at) if isinstance(at, int) else None
    details = list[Text]()
    if view.hasDetails and buffer is not None and room > _LEAST_TABLE + 2:
        details = detailLines(picture, buffer, width, min(_MOST_DETAILS, room - _LEAST_TABLE))
    room -= len(details)
    first = _firstOf(position, len(lines), room)
    table = _bufferTable(
        picture, view, lines[first : first + room], width, isUnicode, chosen=position - first
    )
    title = _titleLine(picture, view, lines, first, room, width)
    body = [*top, title, *table]
    blank = [Text()] * max(0, height - 1 - len(body) - len(details))
    chosen = None if buffer is None else buffer.key
    return Frame([*_fitted([*body, *blank, *details], height - 1), footer], room, position, chosen)


def _firstOf(position: int, count: int, room: int) -> int:
    """The first line that is shown: the chosen one is in the middle, away from the ends."""
    return max(0, min(position - room // 2, count - room))


def _fitted(lines: list[Text], height: int) -> list[Text]:
    return [*lines, *[Text()] * max(0, height - len(lines))][: max(0, height)]


def _top(picture: Picture, view: View, width: int, height: int, isUnicode: bool) -> list[Text]:
    """The panels, as many as leave room for the table."""
    groups = [
        [panels.domainLine(picture, view.isPaused, width)],
        panels.tierLines(picture, width, isUnicode),
        panels.routeLines(picture, width, isUnicode),
        panels.eventLines(picture, width, isUnicode),
    ]
    shown = list[Text]()
    for group in groups:
        room = height - len(shown) - _LEAST_TABLE - 3
        shown += group[: max(0, room)] if shown else group
    return shown


def _titleLine(
    picture: Picture, view: View, lines: list[Line], first: int, room: int, width: int
) -> Text:
    """How many buffers there are, which of them are shown, and how."""
    count = len({line for line in lines if isinstance(line, int)})
    total = len(picture.buffers)
    line = Text(f"BUFFERS {count if count == total else f'{count} of {total}'}", "bold")
    if len(lines) > room:
        line.append(f", lines {first + 1}-{min(first + room, len(lines))} of {len(lines)}")
    line.append(f"   sort {view.sort}{' reversed' * view.isReversed}", "dim")
    if view.group != "none":
        line.append(f"   group {view.group}", "dim")
    if view.filter or view.isTyping:
        line.append(f"   filter {printable(view.filter)!r}", "bold yellow")
    line.truncate(width, overflow="ellipsis")
    return line


def _bufferTable(
    picture: Picture,
    view: View,
    lines: list[Line],
    width: int | None,
    isUnicode: bool,
    without: str = "",
    chosen: int = -1,
) -> list[Text]:
    """The headings, and a line for each, `without` a column. The `chosen` one is marked."""
    cells, styles = list[tuple[str, ...]](), list[str]()
    for number, line in enumerate(lines):
        if isinstance(line, Group):
            cells.append(tables.groupCells(line))
            styles.append("bold cyan reverse" if number == chosen else "bold cyan")
        else:
            buffer = picture.buffers.one(line)
            cells.append(tables.bufferCells(buffer, picture, _waiting(picture, buffer), isUnicode))
            styles.append("reverse" if number == chosen else "")
    layout = tables.layoutOf(tables.BUFFER_COLUMNS, cells, width, without)
    rows = [tables.lineOf(layout, *each) for each in zip(cells, styles, strict=True)]
    return [tables.headingOf(layout, view.sort, view.isReversed, isUnicode), *rows]


def _waiting(picture: Picture, buffer: Buffer) -> int | None:
    """How many processes wait for a buffer. Only those for the right to write leave a
    mark, so the holders of any other buffer are not looked at.
    """
    if not buffer.isAwaited or buffer.writer < 0:
        return None
    return len({waiter.slot for waiter in waitersOn(picture, buffer)})


def _processTable(
    picture: Picture, lines: list[TreeLine], width: int | None, isUnicode: bool, chosen: int = -1
) -> list[Text]:
    """The headings, and a line for each process. The `chosen` one is marked."""
    held = tables.heldBy(picture)
    cells = [
        tables.processCells(
            line,
            picture,
            None if line.person is None else picture.usageOf(line.person),
            (0, 0) if line.person is None else held.get(line.person.key.slot, (0, 0)),
        )
        for line in lines
    ]
    layout = tables.layoutOf(tables.PROCESS_COLUMNS, cells, width)
    rows = [
        tables.lineOf(layout, each, "reverse" if number == chosen else "")
        for number, each in enumerate(cells)
    ]
    return [tables.headingOf(layout, "", False, isUnicode), *rows]


def _withProcesses(
    picture: Picture,
    view: View,
    top: list[Text],
    footer: Text,
    width: int,
    height: int,
    room: int,
    isUnicode: bool,
) -> Frame:
    tree = treeOf(picture.people.values())
    position = min(max(0, view.position), max(0, len(tree) - 1))
    first = _firstOf(position, len(tree), room)
    shown = tree[first : first + room]
    table = _processTable(picture, shown, width, isUnicode, position - first)
    title = Text(f"PROCESSES {len(picture.people)}", "bold")
    if len(tree) > room:
        title.append(f", lines {first + 1}-{min(first + room, len(tree))} of {len(tree)}")
    title.truncate(width, overflow="ellipsis")
    body = _fitted([*top, title, *table], height - 1)
    return Frame([*body, footer], room, position)


def footerLine(view: View, width: int) -> Text:
    """The keys, or what is being typed."""
    if view.isTyping:
        text = f"filter: {view.filter}_   Enter keeps it, Esc drops it"
        return Text(shortened(text, width), "reverse")
    line, isOfProcesses = Text(), view.panel == "processes"
    for key, text in _KEYS:
        if isOfProcesses and key in _ONLY_BUFFERS:
            continue
        if isOfProcesses and key == "t":
            text = "buffers"
        entry = Text.assemble((f" {key} ", "reverse"), f" {text} ")
        if line.cell_len + entry.cell_len > width:
            break
        line.append_text(entry)
    return line


def _helpFrame(view: View, width: int, height: int) -> Frame:
    return Frame(_fitted(helpLines(width), height), height, view.position, view.chosen)


def helpLines(width: int) -> list[Text]:
    """The keys, and what they do."""
    lines = [Text("muninn top: keys", "bold"), Text()]
    for binding in BINDINGS:
        line = Text(f"  {padded(binding.shown, 9)}", "bold cyan")
        line.append(shortened(binding.text, max(1, width - 11)), "not bold default")
        lines.append(line)
    text = "The columns are explained in docs/top.md of Muninn's source."
    lines += [Text(), Text(shortened(text, width), "dim")]
    for line in lines:
        line.truncate(width)
    return lines


def nobodyFrame(domain: str, view: View, width: int, height: int) -> Frame:
    """The frame while no process is in the domain."""
    if view.isHelp:
        return _helpFrame(view, width, height)
    lines = [Text("muninn top", "bold"), Text(), panels.nobodyLine(domain, width)]
    return Frame([*_fitted(lines, height - 1), footerLine(view, width)], height, view.position)


def onceLines(picture: Picture, view: View, width: int | None, isUnicode: bool) -> list[Text]:
    """Everything, once, without a window: for a pipe or a log. None: as wide as it is."""
    wide = 200 if width is None else width
    above = [
        panels.domainLine(picture, False, wide),
        *panels.tierLines(picture, wide, isUnicode),
        *panels.routeLines(picture, wide, isUnicode),
        *panels.eventLines(picture, wide, isUnicode),
    ]
    if view.panel == "processes":
        title = Text(f"PROCESSES {len(picture.people)}", "bold")
        tree = treeOf(picture.people.values())
        return [*above, title, *_processTable(picture, tree, width, isUnicode)]
    lines = linesOf(picture.buffers, view, picture.titleOf)
    return [
        *above,
        _titleLine(picture, view, lines, 0, len(lines), wide),
        *_bufferTable(picture, view, lines, width, isUnicode, without="HISTORY"),
    ]
