"""Processes that are forked from a zygote, each with a role, an environment and streams
of its own.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

ROOT = Path(__file__).parents[1]
#: Forking takes milliseconds; a longer wait means that the zygote hangs.
_ANSWER_SECONDS = 60.0
_ZYGOTE = Path(__file__).with_name("zygote.py")
_MAX_BYTES = 1 << 20
#: The loader, the C library, Python and Numba read these when a program starts.
_READ_AT_START = ("LD_", "GLIBC_", "MALLOC_", "LC_", "LANG", "PYTHON", "NUMBA_")


class Zygote:
    """The process from which others are forked; `zygote.py` is its program."""

    _current: tuple[int, Zygote] | None = None

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The zygote forks, and only its own thread survives that.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
        self._atStart = _readAtStart(os.environ)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(_ZYGOTE), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
            )

    @classmethod
    def current(cls) -> Zygote:
        """The zygote of this process, which ends with it."""
        if cls._current is None or cls._current[0] != os.getpid():
            cls._current = os.getpid(), cls()
        return cls._current[1]

    def suits(self, environment: Mapping[str, str]) -> bool:
        """Whether a process that is forked does as one that starts with `environment`."""
        return _readAtStart(environment) == self._atStart

    def fork(
        self,
        role: str,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        streams: Sequence[int] = (),
    ) -> Forked:
        """Fork a process.

        Parameters
        ----------
        role
            Of `zygote.ROLES`.
        arguments
            Of the role.
        environment
            The whole environment; by default that of this process.
        streams
            Descriptors for standard input, output and error. Without one the process
            has that of the zygote.
        """
        request = {
            "role": role,
            "arguments": arguments,
            "environment": {**(os.environ if environment is None else environment)},
            "folder": os.getcwd(),
        }
        return Forked(self, self._ask(request, streams))

    def status(self, pid: int) -> int | None:
        """The exit status of a process that was forked, the negative signal if one
        ended it, or None while it runs. The kernel forgets an ended process with this
        answer.
        """
        status: int | None = self._ask({"status": pid}, ())
        return status

    def _ask(self, request: dict[str, Any], descriptors: Sequence[int]) -> Any:
        with self._asking:
            socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
            assert select.select([self._control], [], [], _ANSWER_SECONDS)[0], (
                "the zygote does not answer"
            )
            raw = self._control.recv(_MAX_BYTES)
        assert raw, "the zygote has ended"
        return json.loads(raw)


class Forked:
    """A process that was forked; its methods are those of `subprocess.Popen`."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self.pid = pid
        self._zygote = zygote
        self._status: int | None = None

    def poll(self) -> int | None:
        if self._status is None:
            self._status = self._zygote.status(self.pid)
        return self._status

    def wait(self, timeout: float) -> int:
        if (status := self.poll()) is None:
            pidfd = os.pidfd_open(self.pid)
            with open(pidfd, "rb", buffering=0):
                if not select.select([pidfd], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired([f"process {self.pid}"], timeout)
            status = self.poll()
            assert status is not None
        return status

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def run(
    role: str, *arguments: str, environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Fork a process, wait for its end, and return what it printed. Raises
    `subprocess.TimeoutExpired` when it runs longer than `timeout` seconds.
    """
    with open(os.devnull) as stdin, TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
        streams = [each.fileno() for each in (stdin, stdout, stderr)]
        process = Zygote.current().fork(role, arguments, environment, streams)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        stdout.seek(0)
        stderr.seek(0)
        return subprocess.CompletedProcess(arguments, status, stdout.read(), stderr.read())


def _readAtStart(environment: Mapping[str, str]) -> dict[str, str]:
    return {key: text for key, text in environment.items() if key.startswith(_READ_AT_START)}
