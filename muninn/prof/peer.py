"""Peers: the other processes of a measurement. Each runs one function of a module, and
both sides talk in lines of JSON.

A peer ends when its stdin does, so it does not outlive the process that started it,
however that ends.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import muninn
from muninn.system import clock

_CHUNK_BYTES = 1 << 16


class PeerFailed(RuntimeError):
    """A peer has ended, or said nothing, where it should have answered."""


def environment() -> dict[str, str]:
    """For peers: they import the Muninn of this process, and compiled modules are kept
    as they would be otherwise.
    """
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    folder = str(Path(muninn.__file__).resolve().parent.parent)
    paths = [folder, *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


class Peer:
    """Another Python process that runs `module:function(*arguments)`.

    Parameters
    ----------
    function, arguments
        What it runs.
    passing
        Descriptors that it gets, by the same numbers.

    Attributes
    ----------
    module
        The module; run with `-m`, it calls the function that its first argument names.
    boundSeconds
        How long an answer is waited for.
    """

    module = "muninn.prof.parts"
    boundSeconds = 60.0

    def __init__(self, function: str, *arguments: object, passing: Sequence[int] = ()) -> None:
        self._function = function
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `end`
        self._heard = b""
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", self.module, function, json.dumps(arguments)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            pass_fds=tuple(passing),
            # Ctrl-C is for this process, which ends its peers.
            process_group=0,
        )
        self.pid = self.process.pid

    def line(self) -> Any:
        """The next line that it says. Raises `PeerFailed`."""
        assert self.process.stdout is not None
        deadline = clock.now() + self.boundSeconds
        while b"\n" not in self._heard:
            left = deadline - clock.now()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise PeerFailed(f"{self._name} said nothing for {self.boundSeconds:.0f} s")
            heard = os.read(self.process.stdout.fileno(), _CHUNK_BYTES)
            if not heard:
                raise PeerFailed(self._reason())
            self._heard += heard
        line, _, self._heard = self._heard.partition(b"\n")
        return json.loads(line)

    def say(self) -> None:
        """Tell it to go on."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise PeerFailed(self._reason()) from None

    def ask(self) -> Any:
        self.say()
        return self.line()

    def end(self, kill: bool = False) -> None:
        """End it, by its stdin or by SIGKILL; also if that was done already."""
        if kill:
            self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self.process.wait(self.boundSeconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._complaints.close()

    @property
    def _name(self) -> str:
        return f"process {self.pid} ({self._function})"

    def _reason(self) -> str:
        """Why it has ended, by the last line of what it complained."""
        status = self.process.wait(self.boundSeconds)
        self._complaints.seek(0)
        last = self._complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
        return f"{self._name} ended with status {status}{f': {last}' if last else ''}"
