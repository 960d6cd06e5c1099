"""The inspector as a test calls it: its commands, their answers, and what a terminal shows."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from typing import Any

import spawning
from spawning import Zygote


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as `python -m muninn` does, and start Python for it only where
    the environment asks for that.
    """
    environment = {**os.environ, **environment}
    if Zygote.current().suits(environment):
        return spawning.run("command", *arguments, environment=environment, timeout=60)
    command = [sys.executable, "-m", "muninn", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment, check=False
    )


def answer(*arguments: str) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def onTerminal(*arguments: str, columns: int = 80, **environment: str) -> str:
    """The output of a command in a terminal of that width."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    settings = {"TERM": "xterm", "COLUMNS": str(columns), **environment}
    ended = subprocess.run(
        [sys.executable, "-m", "muninn", *arguments],
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
        timeout=60,
        env={**os.environ, **settings},
    )
    assert ended.returncode == 0
    os.close(theirs)
    raw = b""
    with contextlib.suppress(OSError):  # a terminal ends with EIO
        while chunk := os.read(ours, 65536):
            raw += chunk
    os.close(ours)
    return raw.decode()


def runAs(uid: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command as another user. Only root can."""
    command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable]
    return subprocess.run(
        [*command, "-m", "muninn", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent"},
    )
