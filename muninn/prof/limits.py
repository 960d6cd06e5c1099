"""Limits: what this machine can do without Muninn. Each gives one sample."""

from __future__ import annotations

import io
import mmap
import os
import select
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from muninn.prof.peer import Peer
from muninn.prof.timing import Sample, seconds, timed
from muninn.system import atomics, clock

_BOUND_MS = 30_000


def memcpy(sizeBytes: int) -> Sample:
    """A copy between two arrays that are there already."""
    source, target = np.ones(sizeBytes, np.uint8), np.ones(sizeBytes, np.uint8)
    return timed(lambda: atomics.copy(target.ctypes.data, source.ctypes.data, sizeBytes))


def systemCall() -> Sample:
    return timed(os.getppid)


def mappedFile(path: str, sizeBytes: int) -> Sample:
    """Open, map and close a file that exists."""

    def run() -> None:
        descriptor = os.open(path, os.O_RDWR)
        mapped = mmap.mmap(descriptor, sizeBytes)
        os.close(descriptor)
        mapped.close()

    return timed(run)


def madeFile(path: str, sizeBytes: int) -> Sample:
    """Make, map and remove a file."""

    def run() -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(descriptor, sizeBytes)
            mmap.mmap(descriptor, sizeBytes).close()
        finally:
            os.close(descriptor)
            os.unlink(path)

    return timed(run)


def allocatedFile(path: str, sizeBytes: int) -> Sample:
    """Give a new file its pages, map all of them, and remove it."""

    def run() -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, sizeBytes)
            flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
            mmap.mmap(descriptor, sizeBytes, flags=flags).close()
        finally:
            os.close(descriptor)
            os.unlink(path)

    return timed(run)


def writingSeconds(arrays: Sequence[np.ndarray[Any, Any]], path: str) -> float:
    """The seconds in which the bytes of arrays are written to a new file."""
    try:
        with open(path, "wb", buffering=0) as written:
            return seconds(lambda: _writeAll(written, arrays))
    finally:
        if os.path.exists(path):
            os.unlink(path)


def _writeAll(file: io.FileIO, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
    for array in arrays:
        left = array.data
        while left:
            left = left[file.write(left) :]


def death(start: Callable[[], Peer]) -> float:
    """The seconds from a SIGKILL until the kernel tells of the end of the process."""
    peer = start()
    peer.line()
    pidfd = os.pidfd_open(peer.pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        began = clock.now()
        peer.process.kill()
        if not poll.poll(_BOUND_MS):
            raise TimeoutError(f"process {peer.pid} was killed, and does not end")
        return clock.now() - began
    finally:
        os.close(pidfd)
        peer.end(kill=True)
