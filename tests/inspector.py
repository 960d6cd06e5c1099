"""The inspector as a test calls it: its commands, their answers, and what a terminal shows."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import termios
import time
from typing import Any

import spawning
from spawning import Zygote

from support import BOUND_SECONDS


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
    """The output of a command in a terminal of that width. It is read while the command
    runs: a terminal that nobody reads holds up who writes to it.
    """
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    settings = {"TERM": "xterm", "COLUMNS": str(columns), **environment}
    running = subprocess.Popen(
        [sys.executable, "-m", "muninn", *arguments],
        stdout=theirs,
        stderr=theirs,
        stdin=theirs,
        env={**os.environ, **settings},
    )
    os.close(theirs)
    raw, deadline = b"", time.monotonic() + BOUND_SECONDS
    with contextlib.suppress(OSError):  # a terminal ends with EIO
        while select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raw += os.read(ours, 65536)
    os.close(ours)
    if time.monotonic() > deadline:
        running.kill()
    assert running.wait(BOUND_SECONDS) == 0, raw.decode()
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
