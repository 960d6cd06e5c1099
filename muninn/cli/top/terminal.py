"""The terminal: keys one by one, a screen of its own, and everything as it was at the end.

Whatever ends the program but SIGKILL gives the terminal back: the end of the block, an
exception, SIGINT, SIGTERM, SIGHUP, SIGQUIT. A SIGTSTP gives it back too, and stops the process
then; SIGCONT takes it again, also after a SIGSTOP, which no process can see. Handlers
write a byte that wakes the loop, and the loop does the work; a write to a terminal that
stands still is left at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import sys
import termios
import tty
from types import FrameType, TracebackType
from typing import Any

from muninn.system import clock
from muninn.system.descriptors import own

#: Enter the other screen, hide the cursor, no wrapping; and back.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J", "\x1b[?7h\x1b[?25h\x1b[?1049l"
#: Let the terminal show all of a frame at once, where it knows how.
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
_HANDLED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGCONT,
    signal.SIGWINCH,
)
_PATIENCE_SECONDS = 1.0
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Ended(Exception):
    """A signal asks the program to end, or the terminal is gone (SIGHUP)."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Terminal:
    """The terminal of standard output, while the block is open. Keys come from standard
    input, or from the controlling terminal if that is none.
    """

    def __init__(self) -> None:
        self._output = sys.stdout.fileno()
        self._input = -1
        self._ownsInput = False
        self._saved: list[Any] | None = None
        self._isTaken = False
        self._isWriting = False
        self._handlers: dict[int, Any] = {}
        self._arrived = list[int]()
        self._wake: tuple[int, int] = (-1, -1)
        self._lines: list[str] = []
        self.isStale = True

    def __enter__(self) -> Terminal:
        with contextlib.ExitStack() as undo:
            undo.callback(self._close)
            self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            if sys.stdin is not None and sys.stdin.isatty():
                self._input = sys.stdin.fileno()
            else:
                with contextlib.suppress(OSError):  # no controlling terminal: no keys
                    self._input = own(os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC)).release()
                    self._ownsInput = True
            for number in _HANDLED:
                self._handlers[number] = signal.signal(number, self._onSignal)
            self._take()
            undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _onSignal(self, number: int, frame: FrameType | None) -> None:
        self._arrived.append(number)
        with contextlib.suppress(OSError):  # the pipe is full of wake-ups
            os.write(self._wake[1], b".")
        if self._isWriting and number in _ENDING:
            raise Ended(number)  # a write to a terminal that stands still has no end

    def _take(self) -> None:
        if self._input >= 0:
            # After a stop the modes may be the shell's: those of the beginning count.
            self._saved = self._saved or termios.tcgetattr(self._input)
            tty.setcbreak(self._input, termios.TCSANOW)
        self._isTaken = True
        self._write(_ENTER)
        self.isStale, self._lines = True, []

    def _giveBack(self) -> None:
        if not self._isTaken:
            return
        self._isTaken = False
        # The terminal may be gone, or stand still (Ctrl-S), or its window may hang.
        with contextlib.suppress(OSError, termios.error, Ended):
            # Going on after Ctrl-S needs a stop of one's own before.
            termios.tcflow(self._output, termios.TCOOFF)
            termios.tcflow(self._output, termios.TCOON)
            if select.select([], [self._output], [], _PATIENCE_SECONDS)[1]:
                self._write(_LEAVE)
        if self._saved is not None:
            with contextlib.suppress(OSError, termios.error):
                termios.tcsetattr(self._input, termios.TCSANOW, self._saved)

    def _close(self) -> None:
        self._giveBack()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        if self._ownsInput and self._input >= 0:
            os.close(self._input)
        self._input = -1
        for end in self._wake:
            if end >= 0:
                os.close(end)
        self._wake = (-1, -1)

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            columns, lines = os.get_terminal_size(self._output)
        except OSError:
            columns, lines = 0, 0
        return columns or 80, lines or 24

    def show(self, lines: list[str]) -> None:
        """Show these lines, which have escape sequences and no line breaks. Only what has
        changed is sent.
        """
        height = self.size()[1]
        sent = list[str]()
        for number, line in enumerate(lines[:height]):
            if number >= len(self._lines) or self._lines[number] != line or self.isStale:
                sent.append(f"\x1b[{number + 1};1H\x1b[0m\x1b[2K{line}\x1b[0m")
        if self.isStale or len(lines) < len(self._lines):
            sent.append(f"\x1b[{len(lines) + 1};1H\x1b[0m\x1b[J" if len(lines) < height else "")
        self._lines, self.isStale = lines, False
        if sent:
            self._write(_BEGIN + "".join(sent) + _END)

    def _write(self, text: str) -> None:
        left = text.encode(sys.stdout.encoding or "utf-8", "replace")
        self._isWriting = True
        try:
            while left:
                try:
                    left = left[os.write(self._output, left) :]
                except BlockingIOError:  # another program has made the terminal so
                    select.select([], [self._output], [], _PATIENCE_SECONDS)
        finally:
            self._isWriting = False

    def wait(self, seconds: float) -> str:
        """Wait for keys at most so long, or until the window has another size. Returns
        what the terminal sent.

        Raises
        ------
        Ended
        """
        deadline = clock.now() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake[0], selectors.EVENT_READ)
            if self._input >= 0:
                selector.register(self._input, selectors.EVENT_READ)
            ready = [] if self._arrived else selector.select(max(0.0, deadline - clock.now()))
        for key, _ in ready:
            if key.fd == self._input:
                return self._read()
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake[0], 4096)
        while self._arrived:
            self._serve(self._arrived.pop(0))
        return ""

    def _read(self) -> str:
        try:
            raw = os.read(self._input, 1024)
        except BlockingIOError:
            return ""
        except OSError:
            raw = b""
        if not raw:  # the terminal is gone
            raise Ended(signal.SIGHUP)
        return raw.decode(errors="replace")

    def _serve(self, number: int) -> None:
        if number in _ENDING:
            raise Ended(number)
        if number == signal.SIGTSTP:
            self._giveBack()
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)
            # Here the process stops, or the kernel has ignored the signal, as it does where
            # no shell would let the process go on.
            signal.signal(signal.SIGTSTP, self._onSignal)
            self._arrived = [each for each in self._arrived if each != signal.SIGCONT]
            self._take()
        elif number == signal.SIGCONT:
            self._take()
        self.isStale = True
