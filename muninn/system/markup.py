"""Small pieces of HTML, of which notebooks show objects: tables and bars.

Every text is escaped here, since names are other people's. The pieces have no colours
of text or ground but those of the page, so that they are readable on a dark page too,
and they load nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

#: Not `html.escape`: every process would load its module (1.5 ms) for the table of a
#: notebook, and an ending interpreter can load none.
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
#: Against the styles of Jupyter, which puts text to the right.
_LEFT = "text-align:left;vertical-align:top;padding:1px 12px 1px 6px;overflow-wrap:anywhere"
_ACCENT = "#4a6fa5"
#: How many rows of a table are shown.
MAX_ROWS = 20


def escaped(value: object) -> str:
    """A value as text of HTML. Characters that show nothing, or that turn the direction
    of others, are shown by their codes.
    """
    text = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in str(value)
    )
    return text.translate(_ESCAPES)


def card(kind: str, facts: Mapping[str, object], more: str = "") -> str:
    """A table of two columns under the name of a kind of object.

    Parameters
    ----------
    facts
        From what is stated to its value; what is None is left out.
    more
        HTML of this module that stands below.
    """
    rows = "".join(
        f'<tr><th style="{_LEFT}">{escaped(key)}</th><td style="{_LEFT}">{escaped(value)}</td></tr>'
        for key, value in facts.items()
        if value is not None
    )
    below = f'<tr><td style="{_LEFT}" colspan="2">{more}</td></tr>' if more else ""
    return f'<table style="border-left:3px solid {_ACCENT}">{_caption(kind)}{rows}{below}</table>'


def grid(kind: str, columns: Sequence[str], rows: Sequence[Iterable[object]]) -> str:
    """A table with a heading, of the first rows; a line says how many more there are.
    Without `kind` it is a part of a card.
    """
    head = "".join(f'<th style="{_LEFT}">{escaped(each)}</th>' for each in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_LEFT}">{escaped(each)}</td>' for each in row) + "</tr>"
        for row in rows[:MAX_ROWS]
    )
    if len(rows) > MAX_ROWS:
        body += f'<tr><td style="{_LEFT}" colspan="{len(columns)}">'
        body += f"… and {len(rows) - MAX_ROWS} more</td></tr>"
    border = f' style="border-left:3px solid {_ACCENT}"' if kind else ""
    return f"<table{border}>{_caption(kind)}<tr>{head}</tr>{body}</table>"


def _caption(kind: str) -> str:
    text = f"<b>{escaped(kind)}</b>"
    return f'<caption style="text-align:left;padding:1px 6px">{text}</caption>' if kind else ""


def bar(part: int, whole: int, text: str) -> str:
    """A bar that is filled for `part` of `whole`, and a text beside it. If nothing is
    known of the whole, the bar only says that there is something under way.
    """
    value = f' value="{min(part, whole)}" max="{whole}"' if whole else ""
    return (
        f'<progress style="width:16em;vertical-align:middle;accent-color:{_ACCENT}"{value}>'
        f"</progress> {escaped(text)}"
    )


def refusal(kind: str, reason: object) -> str:
    """An object of which nothing can be shown, and why."""
    return f"<pre>{escaped(kind)} ({escaped(reason)})</pre>"
