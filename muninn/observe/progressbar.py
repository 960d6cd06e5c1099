"""`ProgressBar`: a `progress` function that shows how far a copy has come.

In a notebook it is one output that changes, in a terminal one line of the standard
error output, and else nothing: a log is no place for a bar. The calls that take
`progress=` tell it how many bytes there will be. One thread at a time calls it. It
shows times and no rate: some of the calls move bytes, and some only make them ready.

A terminal may hang up, and its reader may end, in the midst of a copy of hours. So nothing
that the drawing raises reaches the call: the bar is not shown from then on, and the copy
goes on.
"""

from __future__ import annotations

import contextlib
import sys
from types import TracebackType
from typing import Any, Protocol

from muninn.config.sizes import asText
from muninn.system import clock, markup
from muninn.system.closable import Closable
from muninn.system.logs import Log

#: How often a bar is drawn at most: more is sent to a browser for nothing.
_DRAW_SECONDS = 0.1
#: After how long the rest can be estimated.
_KNOWN_SECONDS = 0.5
_log = Log("muninn.transfer")


class _Screen(Protocol):
    """Where a bar is drawn."""

    def draw(self, bar: ProgressBar) -> None: ...
    def end(self) -> None: ...


class ProgressBar(Closable):
    """Shows how many bytes have arrived: ``share(array, progress=muninn.ProgressBar())``.

    It can be passed as `progress` to every call that takes one. It is a bar for one call
    at a time; if it is passed to several, their bytes add up. Within ``with
    muninn.ProgressBar("weights") as bar:`` it also says that a call has failed.

    Parameters
    ----------
    label
        What stands in front of the bar.

    Attributes
    ----------
    doneBytes, totalBytes
        How many bytes have arrived, and how many there will be.
    state
        ``"waiting"``, ``"running"``, ``"done"`` or ``"stopped"``.
    """

    def __init__(self, label: str = "") -> None:
        if not isinstance(label, str):
            raise TypeError(f"ProgressBar: label must be text, not {type(label).__name__}")
        self.label = label
        self.doneBytes = self.totalBytes = 0
        self.state = "waiting"
        self._screen: _Screen | None = None
        self._begun = self._ended = self._drawn = 0.0

    @property
    def seconds(self) -> float:
        """How long it has been running, or was."""
        return (self._ended or clock.now()) - self._begun if self._begun else 0.0

    def expect(self, sizeBytes: int) -> None:
        """So many more bytes will arrive."""
        if not self._begun:
            self._begun = clock.now()
        self.totalBytes += sizeBytes
        self.state, self._ended = "running", 0.0
        self._draw()

    def __call__(self, sizeBytes: int) -> None:
        """So many bytes have arrived since the last call."""
        if not self._begun:
            self.expect(0)
        self.doneBytes += sizeBytes
        if self.totalBytes and self.doneBytes >= self.totalBytes:
            self._end("done")
        elif clock.now() - self._drawn >= _DRAW_SECONDS:
            self._draw()

    def close(self) -> None:
        """End it. What has not arrived by now is not expected any more."""
        if self.state == "running":
            self._end("stopped" if self.doneBytes < self.totalBytes else "done")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and self.state == "running":
            self._end("stopped")
        self.close()

    def _draw(self) -> None:
        self._drawn = clock.now()
        try:
            if self._screen is None:
                self._screen = _screenFor()
            self._screen.draw(self)
        except Exception as error:
            self._giveUp(error)

    def _end(self, state: str) -> None:
        self.state, self._ended = state, clock.now()
        self._draw()
        try:
            if self._screen is not None:
                self._screen.end()
        except Exception as error:
            self._giveUp(error)
        self._screen = None if state == "stopped" else self._screen

    def _giveUp(self, error: Exception) -> None:
        """Show nothing from now on: the screen can not be drawn on."""
        screen, self._screen = self._screen, _Nowhere()
        _log.debug("a progress bar is not shown any more: %r", error)
        if screen is not None:
            with contextlib.suppress(Exception):  # what it raises has been said
                screen.end()

    def _text(self) -> str:
        text = f"{self.label}: " if self.label else ""
        text += asText(self.doneBytes)
        if self.totalBytes:
            text += f" of {asText(self.totalBytes)}"
        if self.state == "done":
            text += f" in {self.seconds:.1f} s"
        elif self.state == "running" and self.doneBytes and self.seconds >= _KNOWN_SECONDS:
            left = (self.totalBytes - self.doneBytes) * self.seconds / self.doneBytes
            text += f", {left:.0f} s left" if self.totalBytes else ""
        return f"{text}, {self.state}"

    def __repr__(self) -> str:
        return f"<muninn.ProgressBar {self._text()}>"

    def _repr_html_(self) -> str:
        return markup.bar(self.doneBytes, self.totalBytes, self._text())


def expect(progress: object, sizeBytes: int) -> None:
    """Tell a bar how many bytes there will be; other functions are not told."""
    if isinstance(progress, ProgressBar):
        progress.expect(sizeBytes)


def _screenFor() -> _Screen:
    """A notebook, if this is the kernel of one; else the terminal, if there is one."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if getattr(shell, "kernel", None) is not None:
        return _Notebook()
    if sys.stderr is not None and sys.stderr.isatty():
        return _Terminal()
    return _Nowhere()


class _Nowhere:
    def draw(self, bar: ProgressBar) -> None:
        """Neither a notebook nor a terminal would show it."""

    def end(self) -> None:
        """Nothing was drawn."""


class _Notebook:
    """One output of the cell, which each drawing replaces."""

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, bar: ProgressBar) -> None:
        if self._handle is None:
            from IPython.display import display

            show: Any = display
            self._handle = show(bar, display_id=True)
        else:
            self._handle.update(bar)

    def end(self) -> None:
        """The last drawing stays."""


class _Terminal:
    """A line that each drawing replaces. It has no thread of its own."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        class Screen(Console):
            """Rich would lead the standard output to /dev/null and end the process."""

            def on_broken_pipe(self) -> None:
                raise  # the error that is being handled

        self._lines = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeRemainingColumn(),
            TextColumn("{task.fields[state]}"),
            console=Screen(stderr=True),
            auto_refresh=False,
            # The program's output stays where the program sends it.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._lines.add_task("", total=None, state="")

    def draw(self, bar: ProgressBar) -> None:
        self._lines.start()
        # A call that fails outside of a `with` block leaves the bar as it is.
        self._lines.console.show_cursor(True)
        self._lines.update(
            self._task,
            description=bar.label,
            completed=bar.doneBytes,
            total=bar.totalBytes or None,
            state=bar.state,
            refresh=True,
        )

    def end(self) -> None:
        self._lines.stop()
