"""What the notebooks need beside Muninn: a domain of their own, other processes to talk
to, and the same words for the same thing. It belongs into the folder of the notebooks.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import textwrap

#: How long a notebook waits for another process, at most.
PATIENCE_SECONDS = 60.0
_MOST_AT_ONCE = 100
#: The sockets that say which domains this kernel uses. The system takes them back when
#: the kernel ends, however it does.
_taken: dict[str, socket.socket] = {}
_started: list[subprocess.Popen[str]] = []


def ownDomain(topic: str) -> None:
    """Use a domain in which no other notebook is at work. A kernel that was restarted gets
    the same again. Call it before the first call of Muninn; twice is fine.
    """
    if not _taken:
        base = os.environ.get("MUNINN_DOMAIN", f"notebook-{topic}")
        for number in range(1, _MOST_AT_ONCE):
            domain = base if number == 1 else f"{base}-{number}"
            if _take(domain):
                os.environ["MUNINN_DOMAIN"] = domain
                break
        else:
            raise RuntimeError(f"{_MOST_AT_ONCE} notebooks of {topic!r} are at work")


def _take(domain: str) -> bool:
    """Take a domain for this kernel; False if another kernel has it."""
    taken = socket.socket(socket.AF_UNIX)
    try:
        taken.bind(f"\0muninn-notebook-{os.getuid()}-{domain}")
    except OSError:
        taken.close()
        return False
    _taken[domain] = taken
    return True


def emulateGpus(count: int) -> None:
    """Emulate GPUs in host memory, so that a notebook runs on every machine."""
    os.environ.setdefault("MUNINN_DEVICE", "host")
    os.environ.setdefault("MUNINN_HOST_GPUS", str(count))


def run(program: str) -> None:
    """Run a program in a fresh Python, and print what it prints."""
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )
    print(ended.stdout, end="")


def start(program: str, domain: str | None = None) -> subprocess.Popen[str]:
    """Start a program in a fresh Python, and wait until it prints a line.

    ``sys.stdin.read()`` lets it stay until it is killed, or this kernel ends.
    """
    environment = os.environ if domain is None else {**os.environ, "MUNINN_DOMAIN": domain}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    _started.append(process)
    assert process.stdout is not None
    if not process.stdout.readline():
        raise RuntimeError(f"the program ended with {process.wait()}")
    return process


def kill(process: subprocess.Popen[str]) -> None:
    """`kill -9`: the process gets no chance to say or tidy anything."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def stopAll() -> None:
    """End the programs that are still running."""
    while _started:
        kill(_started.pop())


def left() -> list[str]:
    """The names of the buffers that can be opened."""
    import muninn

    return [
        buffer["name"]
        for buffer in muninn.listBuffers()
        if buffer["state"] == "live" and buffer["kind"] in ("array", "bundle")
    ]


def freeAll() -> None:
    """Stop the programs that are still running, and free every buffer of the domain. What
    a variable still holds is there until it lets go.
    """
    import muninn

    stopAll()
    for name in left():
        with contextlib.suppress(muninn.errors.BufferNotFound):  # its last user just closed it
            muninn.free(name)
