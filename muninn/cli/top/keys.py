"""The keys: how a terminal sends them, and the view that each makes of the one before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from muninn.cli.top.options import FASTEST_SECONDS, GROUPS, SLOWEST_SECONDS, SORTS
from muninn.cli.top.view import PANELS, View

_SEQUENCES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b[5~": "pageUp",
    "\x1b[6~": "pageDown",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1bOH": "home",
    "\x1bOF": "end",
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\x1b": "escape",
    "\r": "enter",
    "\n": "enter",
    "\t": "tab",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x0c": "redraw",
    " ": "space",
}
_MAX_FILTER = 64


def decoded(text: str) -> list[str]:
    """The keys in what a terminal has sent: names, or single characters. A sequence that
    no key has is left out.
    """
    keys, at = list[str](), 0
    while at < len(text):
        end = at + 1
        if text[at] == "\x1b" and text[at + 1 : at + 2] in ("[", "O"):
            end = at + 2
            while end < len(text) and not "@" <= text[end] <= "~":
                end += 1
            end = min(end + 1, len(text))
        part = text[at:end]
        if part in _SEQUENCES:
            keys.append(_SEQUENCES[part])
        elif part.isprintable():
            keys.append(part)
        at = end
    return keys


class Binding(NamedTuple):
    """What keys do.

    Attributes
    ----------
    keys
        Their names; any of them.
    shown
        How the help names them.
    text
        What they do, for the help.
    act
        Makes the next view, from this one and the lines of a page.
    """

    keys: tuple[str, ...]
    shown: str
    text: str
    act: Callable[[View, int], View]


def _next(choices: tuple[str, ...], now: str) -> str:
    return choices[(choices.index(now) + 1) % len(choices)]


def _moved(lines: int) -> Callable[[View, int], View]:
    return lambda view, page: replace(view, position=max(0, view.position + lines), chosen=None)


def _paged(pages: int) -> Callable[[View, int], View]:
    def act(view: View, page: int) -> View:
        return replace(view, position=max(0, view.position + pages * page), chosen=None)

    return act


def _atTop(view: View) -> View:
    return replace(view, position=0, chosen=None)


BINDINGS = (
    Binding(("q",), "q", "quit; so does Ctrl-C", lambda view, page: view),
    Binding(
        ("h", "?"), "h ?", "show or hide this help", lambda v, page: replace(v, isHelp=not v.isHelp)
    ),
    Binding(("up", "k"), "↑ k", "choose the line above", _moved(-1)),
    Binding(("down", "j"), "↓ j", "choose the line below", _moved(1)),
    Binding(("pageUp",), "PgUp", "a page up", _paged(-1)),
    Binding(("pageDown",), "PgDn", "a page down", _paged(1)),
    Binding(("home",), "Home", "the first line", _moved(-(10**9))),
    Binding(("end",), "End", "the last line", _moved(10**9)),
    Binding(
        ("tab", "t"),
        "Tab t",
        "buffers, or the tree of processes",
        lambda v, page: replace(_atTop(v), panel=_next(PANELS, v.panel)),
    ),
    Binding(
        ("s",),
        "s",
        "sort by the next column",
        lambda v, page: replace(_atTop(v), sort=_next(SORTS, v.sort)),
    ),
    Binding(
        ("r",),
        "r",
        "turn the order around",
        lambda v, page: replace(_atTop(v), isReversed=not v.isReversed),
    ),
    Binding(
        ("g",),
        "g",
        "group by tenant, mode, GPU or process",
        lambda v, page: replace(_atTop(v), group=_next(GROUPS, v.group)),
    ),
    Binding(
        ("/",),
        "/",
        "filter by name, tenant or holder; Enter keeps it, Esc drops it",
        lambda v, page: replace(v, isTyping=True, panel="buffers"),
    ),
    Binding(
        ("d", "enter"),
        "d Enter",
        "show or hide the holders of the chosen buffer",
        lambda v, page: replace(v, hasDetails=not v.hasDetails),
    ),
    Binding(
        ("space", "p"),
        "Space p",
        "stand still, and go on",
        lambda v, page: replace(v, isPaused=not v.isPaused),
    ),
    Binding(
        ("+",),
        "+",
        "look twice as often",
        lambda v, page: replace(v, interval=max(FASTEST_SECONDS, v.interval / 2)),
    ),
    Binding(
        ("-",),
        "-",
        "look half as often",
        lambda v, page: replace(v, interval=min(SLOWEST_SECONDS, v.interval * 2)),
    ),
    Binding(("redraw",), "Ctrl-L", "draw the screen anew", lambda view, page: view),
    Binding(
        ("escape",),
        "Esc",
        "drop the filter, close the help",
        lambda v, page: replace(v, filter="", isHelp=False),
    ),
)
_BY_KEY = {key: binding for binding in BINDINGS for key in binding.keys}


def pressed(view: View, key: str, page: int) -> View | None:
    """The view after a key; None: the user quits.

    Parameters
    ----------
    page
        How many lines the table shows.
    """
    if view.isTyping:
        return _typed(view, key)
    if key == "q":
        return replace(view, isHelp=False) if view.isHelp else None
    binding = _BY_KEY.get(key)
    return view if binding is None else binding.act(view, page)


def _typed(view: View, key: str) -> View:
    if key == "enter":
        return replace(view, isTyping=False)
    if key == "escape":
        return replace(view, isTyping=False, filter="")
    if key == "backspace":
        return replace(view, filter=view.filter[:-1])
    letter = " " if key == "space" else key
    if len(letter) == 1 and len(view.filter) < _MAX_FILTER:
        return replace(view, filter=view.filter + letter, position=0)
    return view
