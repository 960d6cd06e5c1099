"""A player: a forked process that performs calls, and dies or stops at a given point.

It is forked from a process that has imported everything and joined no domain, so that a
player costs milliseconds. Its messages are pickles on a socket pair; its stderr goes to
a file that is shown when a scene fails.
"""

from __future__ import annotations

import contextlib
import importlib
import mmap
import os
import pickle
import pkgutil
import select
import signal
import socket
import struct
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import muninn
from failpoints import points
from muninn.session import membership

#: Longer than any sound scene takes on a busy machine.
BOUND_SECONDS = 30.0
#: `make setup` leaves it out.
_OPTIONAL = ("torch",)
_LENGTH = struct.Struct("<I")
#: How many players of this scene have come to their point: shared by all of them.
_cue = mmap.mmap(-1, mmap.PAGESIZE)


def importAll() -> None:
    """Import all modules, but for those of a library that is not installed: players are
    forked from this process.
    """
    for module in pkgutil.walk_packages(muninn.__path__, "muninn."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name not in _OPTIONAL:
                raise


class Deed(NamedTuple):
    """The death or stop of a player: at which point, at which pass of it, before or
    after the change, and by which signal.

    `cue` is how many other deeds of the scene must have been done first.
    """

    point: str
    hit: int = 1
    isBefore: bool = True
    signal: int = signal.SIGKILL
    cue: int = 0

    def __str__(self) -> str:
        how = {signal.SIGKILL: "killed", signal.SIGSTOP: "stopped"}[signal.Signals(self.signal)]
        return f"{how} {'before' if self.isBefore else 'after'} {self.point} (pass {self.hit})"


class PlayerError(AssertionError):
    """A player raised, ended or hung where it should not."""


class Player:
    """One process of a scene.

    Attributes
    ----------
    fate
        `"alive"`, `"dead"` or `"stopped"`, as last seen.
    """

    def __init__(self, name: str, environment: dict[str, str]) -> None:
        self.name = name
        self.fate = "alive"
        self._isAsked = False
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the player
        self._socket, other = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            _perform(other, self._log.fileno(), environment)
        other.close()

    def begin(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Have it call a function of a module; `result` waits."""
        raw = pickle.dumps((function, arguments))
        self._isAsked = True
        with contextlib.suppress(BrokenPipeError):
            self._socket.sendall(_LENGTH.pack(len(raw)) + raw)

    def result(self) -> Any:
        """The result of the call; None when the player died or stopped in it (`fate`
        says so), or when there was no call.
        """
        if not self._isAsked:
            return None
        deadline = time.monotonic() + BOUND_SECONDS
        while not select.select([self._socket], [], [], 0.002)[0]:
            if self._look() != "alive":
                return None
            if time.monotonic() > deadline:
                raise self._error(f"has not come back from its call within {BOUND_SECONDS:.0f} s")
        try:
            (length,) = _LENGTH.unpack(self._received(_LENGTH.size))
            kind, value = pickle.loads(self._received(length))
        except (EOFError, ConnectionResetError):
            while self._look() == "alive" and time.monotonic() < deadline:
                time.sleep(0.0005)
            return None
        self._isAsked = False
        if kind == "error":
            raise self._error(value)
        return value

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`begin` and `result` of a player that must neither die nor stop."""
        self.begin(function, *arguments)
        value = self.result()
        if self.fate != "alive":
            raise self._error(f"is {self.fate}")
        return value

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
        self.fate = "alive"

    def kill(self) -> None:
        """SIGKILL, and wait for it. Harmless when it is dead already."""
        if self.fate != "dead":
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.fate = "dead"
        self._socket.close()

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _look(self) -> str:
        if self.fate == "alive":
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid:
                self.fate = "stopped" if os.WIFSTOPPED(status) else "dead"
                if self.fate == "dead" and not (
                    os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
                ):
                    raise self._error(f"ended with status {status}")
        return self.fate

    def _received(self, length: int) -> bytes:
        raw = bytearray()
        while len(raw) < length:
            if not (part := self._socket.recv(length - len(raw))):
                raise EOFError
            raw += part
        return bytes(raw)

    def _error(self, what: str) -> PlayerError:
        return PlayerError(f"{self.name} {what}\n--- its stderr ---\n{self.log()}")


def resetCue() -> None:
    _cue[0] = 0


def giveCue() -> None:
    _cue[0] += 1


def meet(deed: Deed) -> None:
    """In a player: from now on, be killed or stopped at the point of the deed."""
    passes = 0

    def reached(point: str, isBefore: bool) -> None:
        nonlocal passes
        if (point, isBefore) != (deed.point, deed.isBefore) or _cue[0] < deed.cue:
            return
        passes += 1
        if passes == deed.hit:
            giveCue()
            os.kill(os.getpid(), deed.signal)

    points.arm(reached)


_passes: Counter[str] = Counter()


def count(cue: int = 0) -> None:
    """In a player: count how often it passes each point, once so many cues were given."""

    def reached(point: str, isBefore: bool) -> None:
        if isBefore and _cue[0] >= cue:
            _passes[point] += 1

    points.arm(reached)


def counted() -> dict[str, int]:
    return dict(_passes)


def leave() -> None:
    """In a player: say good-bye, as at the end of a program."""
    current = membership._current
    if current is not None:
        current.leave()


def _perform(connection: socket.socket, log: int, environment: dict[str, str]) -> None:
    """The life of a player. Does not return."""
    os.dup2(log, 2)
    kept = connection.fileno()
    os.closerange(3, kept)
    os.closerange(kept + 1, 4096)
    os.environ.update(environment)
    file = connection.makefile("rb")
    while header := file.read(_LENGTH.size):
        function, arguments = pickle.loads(file.read(_LENGTH.unpack(header)[0]))
        try:
            answer = ("value", function(*arguments))
        except BaseException:
            answer = ("error", traceback.format_exc())
        raw = pickle.dumps(answer)
        connection.sendall(_LENGTH.pack(len(raw)) + raw)
    os._exit(0)
