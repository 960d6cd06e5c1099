"""Held: the buffers and windows that the serving process keeps in use for its clients.

Memory of a GPU goes with its last holder, and a promoted window with the process that
promoted it. A client of HTTP holds neither, so the serving process does: a buffer until
it is deleted, a window for as long as the client asked for. All of it ends with the
process.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from muninn.errors import MuninnError
from muninn.system import clock
from muninn.system.forks import Guard

if TYPE_CHECKING:
    from muninn import MuninnBuffer
    from muninn.api.scratch import Scratch


class _Window(NamedTuple):
    """A promoted window, the object by which it was promoted, and when it ends."""

    scratch: Scratch
    buffer: MuninnBuffer
    endsAt: float

    def close(self) -> None:
        # It may have been evicted, or its buffer freed: then nothing is left to be ended.
        with contextlib.suppress(MuninnError):
            self.scratch.close()
        self.buffer.close()


class Held:
    """What is held, by the id of the buffer. Any thread may use it."""

    def __init__(self) -> None:
        self._buffers: dict[str, MuninnBuffer] = {}
        self._windows: dict[str, list[_Window]] = {}
        self._isClosed = False
        self._changing = Guard()

    def keep(self, bufferId: str, buffer: MuninnBuffer) -> None:
        """Hold a buffer until it is dropped."""
        with self._changing.lock:
            if not self._isClosed:
                self._buffers[bufferId] = buffer
                return
        buffer.close()

    def keepWindow(
        self, bufferId: str, scratch: Scratch, buffer: MuninnBuffer, seconds: float
    ) -> None:
        """Hold a window for so long, and then close the object that promoted it."""
        window = _Window(scratch, buffer, clock.now() + seconds)
        with self._changing.lock:
            if not self._isClosed:
                self._windows.setdefault(bufferId, []).append(window)
                return
        window.close()

    def drop(self, bufferId: str) -> None:
        """Hold a buffer and its windows no more."""
        with self._changing.lock:
            windows = self._windows.pop(bufferId, [])
            buffer = self._buffers.pop(bufferId, None)
        for window in windows:
            window.close()
        if buffer is not None:
            buffer.close()

    def tidy(self) -> None:
        """End the windows whose time is over."""
        now = clock.now()
        with self._changing.lock:
            over = [
                (bufferId, window)
                for bufferId, windows in self._windows.items()
                for window in windows
                if window.endsAt <= now
            ]
            for bufferId, window in over:
                self._windows[bufferId].remove(window)
                if not self._windows[bufferId]:
                    del self._windows[bufferId]
        for _, window in over:
            window.close()

    def close(self) -> None:
        """Drop everything, also what is given later: a handler may outlive its server."""
        with self._changing.lock:
            self._isClosed = True
            every = {*self._buffers, *self._windows}
        for bufferId in every:
            self.drop(bufferId)
