"""The command `top`: the loop of the live view, and the one look of `--once` and
`--json`.
"""

from __future__ import annotations

import argparse
import os
import pwd
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from muninn.cli.output import printJson
from muninn.cli.top.keys import decoded, pressed
from muninn.cli.top.looking import Looking
from muninn.cli.top.picture import Picture
from muninn.cli.top.report import nobody, reportOf
from muninn.cli.top.screen import Frame, frameOf, nobodyFrame, onceLines
from muninn.cli.top.terminal import Ended, Terminal
from muninn.cli.top.view import View
from muninn.system import clock

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

#: How often the screen changes, and between which two moments one look measures.
_INTERVAL_SECONDS, _ONCE_SECONDS = 2.0, 0.5


def runTop(arguments: argparse.Namespace) -> int:
    """Show the domain until the user quits; or once, where there is no screen."""
    from muninn.config import loadSettings
    from muninn.storage.paths import Paths

    settings = loadSettings()
    paths = Paths(_uidOf(arguments), settings.control.domain)
    looking = Looking(paths, settings)
    view = View(
        panel="processes" if arguments.processes else "buffers",
        sort=arguments.sort,
        isReversed=arguments.reverse,
        group=arguments.group,
        filter=arguments.filter,
        interval=arguments.interval or _INTERVAL_SECONDS,
    )
    isOnce = arguments.once or arguments.json or not sys.stdout.isatty() or _isDumb()
    try:
        if isOnce:
            return _once(arguments, looking, view)
        return _live(looking, view, paths.domain)
    finally:
        looking.close()


def _uidOf(arguments: argparse.Namespace) -> int:
    """The user whose domain is looked at."""
    wanted: str | None = arguments.user
    if wanted is None:
        return os.geteuid()
    if wanted.isascii() and wanted.isdecimal():
        return int(wanted)
    try:
        return pwd.getpwnam(wanted).pw_uid
    except KeyError:
        arguments.fail(f"there is no user {wanted!r}")
        raise


def _isDumb() -> bool:
    """Whether the terminal has no cursor that could be moved."""
    return os.environ.get("TERM", "dumb") in ("", "dumb", "unknown")


def _console(width: int | None = None) -> Console:
    """Rich honours NO_COLOR and TERM. The width is that of the window, whatever COLUMNS
    says.
    """
    from rich.console import Console

    return Console(highlight=False, width=width, soft_wrap=True)


def _isUnicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") in ("utf8", "utf16", "utf32")


def _once(arguments: argparse.Namespace, looking: Looking, view: View) -> int:
    """Two readings, so that there are rates, and what they say."""
    from muninn.config import loadSettings

    picture = looking.picture()
    if picture is not None:
        for person in picture.people.values():
            picture.usageOf(person)  # processor time counts from here
        clock.sleep(arguments.interval or _ONCE_SECONDS)
        picture = looking.picture()
    if arguments.json:
        domain = loadSettings().control.domain
        printJson(nobody(domain) if picture is None else reportOf(picture, view))
        return 0
    if picture is None:
        print(f"no process is in domain {loadSettings().control.domain!r}")
        return 0
    isTerminal = sys.stdout.isatty()
    width = os.get_terminal_size(sys.stdout.fileno()).columns or 80 if isTerminal else None
    for line in onceLines(picture, view, width, _isUnicode()):
        print(_rendered(_console(width), line) if isTerminal else line.plain.rstrip())
    return 0


def _rendered(console: Console, line: Text) -> str:
    """A line with the escape sequences of its styles."""
    with console.capture() as capture:
        console.print(line, end="", no_wrap=True, overflow="ignore", crop=False)
    return capture.get()


def _live(looking: Looking, view: View, domain: str) -> int:
    try:
        with Terminal() as terminal:
            _loop(terminal, looking, view, domain)
    except Ended as ended:
        if ended.number == signal.SIGINT:
            raise KeyboardInterrupt from None
        # As if the signal had ended the process: the terminal is given back by now.
        signal.signal(ended.number, signal.SIG_DFL)
        os.kill(os.getpid(), ended.number)
    return 0


def _loop(terminal: Terminal, looking: Looking, view: View, domain: str) -> None:
    picture, lookAt = looking.picture(), clock.now() + _ONCE_SECONDS
    while True:
        columns, lines = terminal.size()
        frame = _frame(picture, view, columns, lines, domain)
        view = replace(view, position=frame.position, chosen=frame.chosen)
        terminal.show(_asTexts(frame, columns))
        interval = view.interval
        for key in decoded(terminal.wait(lookAt - clock.now())):
            after = pressed(view, key, frame.page)
            if after is None:
                return
            if key == "redraw":
                terminal.isStale = True
            view = after
        if view.interval != interval:
            lookAt = min(lookAt, clock.now() + view.interval)
        if clock.now() >= lookAt:
            lookAt = clock.now() + view.interval
            if not view.isPaused:
                picture = looking.picture()


def _frame(picture: Picture | None, view: View, columns: int, lines: int, domain: str) -> Frame:
    if picture is None:
        return nobodyFrame(domain, view, columns, lines)
    return frameOf(picture, view, columns, lines, _isUnicode())


def _asTexts(frame: Frame, columns: int) -> list[str]:
    console = _console(columns)
    return [_rendered(console, line) for line in frame.lines]
