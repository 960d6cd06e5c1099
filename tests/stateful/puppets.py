"""Puppets: real processes that perform one operation at a time for the test. They are
forked from a zygote, since starting Python takes too long for thousands of steps.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from support import BOUND_SECONDS

_MAX_BYTES = 1 << 20


class Difference(BaseException):
    """The domain is not as the reference says. It is no `Exception`, because Hypothesis
    would repeat all steps, and processes do not fail twice in the same way.
    """


class Outcome(NamedTuple):
    """The result of an operation: a value, or the name of an error and its text."""

    error: str
    value: Any


class Puppet:
    """One process. It is alive until `kill` or `leave`, stopped or not."""

    def __init__(self, pid: int, connection: socket.socket, name: str) -> None:
        self.pid = pid
        self.name = name
        self.isStopped = False
        self._connection = connection
        self._pidfd = os.pidfd_open(pid)

    def begin(self, op: str, *arguments: Any) -> None:
        self._connection.send(json.dumps([op, arguments]).encode())

    def result(self) -> Outcome:
        """The result of `begin`. The test fails if no answer comes."""
        if not select.select([self._connection], [], [], BOUND_SECONDS)[0]:
            raise Difference(f"{self} gave no answer within {BOUND_SECONDS} s")
        raw = self._connection.recv(_MAX_BYTES)
        if not raw:
            raise Difference(f"{self} ended by itself")
        answer = json.loads(raw)
        return (
            Outcome(answer["error"], answer["message"])
            if "error" in answer
            else Outcome("", answer["value"])
        )

    def do(self, op: str, *arguments: Any) -> Outcome:
        self.begin(op, *arguments)
        return self.result()

    def stop(self) -> None:
        self.isStopped = True
        signal.pidfd_send_signal(self._pidfd, signal.SIGSTOP)

    def resume(self) -> None:
        self.isStopped = False
        signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._end()

    def leave(self) -> None:
        """End politely."""
        self._connection.shutdown(socket.SHUT_WR)
        self._end()

    def _end(self) -> None:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(BOUND_SECONDS * 1000):
            raise Difference(f"{self} does not end")
        self._connection.close()
        os.close(self._pidfd)

    def __repr__(self) -> str:
        return f"{self.name}({self.pid})"


class Zygote:
    """The process from which puppets are forked."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        # The zygote forks, and only its own thread survives that.
        environment = {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stateful.zygote", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
        )
        theirs.close()

    def fork(self, name: str, **environment: str) -> Puppet:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._control, [json.dumps(environment).encode()], [theirs.fileno()])
            assert select.select([self._control], [], [], BOUND_SECONDS)[0], (
                "the zygote does not answer"
            )
            return Puppet(int(self._control.recv(100)), ours, name)

    def close(self) -> None:
        """Puppets that still run die with it."""
        self._control.close()
        self._process.wait(BOUND_SECONDS)
