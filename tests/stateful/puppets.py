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
from typing import Any, NamedTuple

from spawning import Zygote

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

    def __init__(self, name: str, **environment: str) -> None:
        self.name = name
        self.isStopped = False
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = Zygote.current().fork(
                "puppet", (), {**os.environ, **environment}, [theirs.fileno()]
            )
        self.pid = self._process.pid

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
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        self.isStopped = False
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        self._process.kill()
        self._end()

    def leave(self) -> None:
        """End politely."""
        self._connection.shutdown(socket.SHUT_WR)
        self._end()

    def _end(self) -> None:
        try:
            self._process.wait(BOUND_SECONDS)
        except subprocess.TimeoutExpired:
            raise Difference(f"{self} does not end") from None
        self._connection.close()

    def __repr__(self) -> str:
        return f"{self.name}({self.pid})"
