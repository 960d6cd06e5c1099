"""`python -m bench.top`: the processor time of the live view beside 200 members.

The members are forked from one process, hold some buffers each, and are idle but for a
few that publish. The view runs in a terminal of 200 columns and 50 lines, with its own
default of how often it looks.
"""

from __future__ import annotations

import contextlib
import csv
import fcntl
import functools
import os
import pty
import select
import shutil
import signal
import struct
import sys
import termios
import time
import traceback
from collections.abc import Callable, Iterator

import numpy as np
import psutil

import muninn
from bench.harness import environment, newDomain
from bench.table import RESULTS
from muninn.storage.paths import Paths

_MEMBERS, _BUFFERS, _WRITERS = 200, 1000, 4
_WARM_SECONDS, _MEASURED_SECONDS = 6.0, 60.0
_COLUMNS, _LINES = 200, 50
_PANELS = {"buffers": (), "processes": ("--processes",)}


def _member(number: int, buffers: int) -> None:
    """Hold a few buffers until killed, and publish one if this is one of the writers."""
    names = [f"top/{(number * 7 + each) % buffers}" for each in range(5)]
    held = [muninn.open(name, access="readWrite") for name in names]
    os.write(1, b".")
    while True:
        if number < _WRITERS:
            with held[0].write() as view:
                view[:8] = 1
            time.sleep(0.01)
        else:
            signal.pause()


def _share(buffers: int) -> None:
    for number in range(buffers):
        array = np.zeros(4096, "u1")
        muninn.share(array, f"top/{number}", access="readWrite", lifetime="keep").close()
    os.write(1, b".")
    signal.pause()


def _forked(output: int, work: Callable[[], None]) -> int:
    """A child that does the work, and nothing of its parent's."""
    if child := os.fork():
        return child
    try:
        os.dup2(output, 1)
        work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


@contextlib.contextmanager
def _crowd(members: int, buffers: int) -> Iterator[None]:
    """A domain with so many members and buffers; its processes end with the block."""
    paths = Paths(os.geteuid(), newDomain())
    reading, writing = os.pipe()
    children = [_forked(writing, lambda: _share(buffers))]
    try:
        _await(reading, 1)
        works = (functools.partial(_member, number, buffers) for number in range(members - 1))
        children.extend(_forked(writing, work) for work in works)
        _await(reading, members - 1)
        yield
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)
        # They were killed, so no process is left to remove the domain.
        shutil.rmtree(paths.directory)
        os.unlink(paths.blockPath)


def _await(descriptor: int, count: int) -> None:
    deadline = time.monotonic() + 300
    while count > 0:
        left = max(0.0, deadline - time.monotonic())
        assert select.select([descriptor], [], [], left)[0], "a member did not come"
        count -= len(os.read(descriptor, count))


def _drained(terminal: int, seconds: float) -> int:
    """Read what the view draws for so long, as a terminal does; returns the bytes."""
    total, deadline = 0, time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            total += len(os.read(terminal, 1 << 16))
    return total


def measured(arguments: tuple[str, ...], seconds: float) -> tuple[float, float]:
    """Percent of a core that the view takes, and the bytes a second that it draws."""
    child, terminal = pty.fork()
    if child == 0:
        command = [sys.executable, "-m", "muninn", "top", *arguments]
        os.execve(sys.executable, command, {**environment(), "TERM": "xterm-256color"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, _COLUMNS, 0, 0))
    try:
        _drained(terminal, _WARM_SECONDS)
        process = psutil.Process(child)
        before, began = sum(process.cpu_times()[:2]), time.monotonic()
        drawn = _drained(terminal, seconds)
        took = time.monotonic() - began
        return (sum(process.cpu_times()[:2]) - before) / took * 100, drawn / took
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        os.close(terminal)


def main() -> None:
    """Measure both panels, and write `bench/results/top.csv`."""
    quick = "--quick" in sys.argv
    members, buffers = (20, 50) if quick else (_MEMBERS, _BUFFERS)
    seconds = 5.0 if quick else _MEASURED_SECONDS
    rows = []
    with _crowd(members, buffers):
        for panel, arguments in _PANELS.items():
            percent, drawn = measured(arguments, seconds)
            rows.append((panel, members, buffers, seconds, round(percent, 2), round(drawn)))
            print(
                f"top, {panel}: {percent:.2f} % of a core beside {members} members and "
                f"{buffers} buffers, over {seconds:.0f} s; {drawn:.0f} B/s drawn"
            )
    if not quick:
        with (RESULTS / "top.csv").open("w", newline="") as file:
            written = csv.writer(file)
            written.writerow(
                ("panel", "members", "buffers", "seconds", "percentOfACore", "drawnBytesPerSecond")
            )
            written.writerows(rows)


if __name__ == "__main__":
    main()
