"""Listeners: the sockets at which the interface is served.

One process serves on the domain's own socket. Whoever begins looks, under a lock of the
domain's directory, whether the name answers: a name that does is another process's, and
one that does not was left by a process that was killed. A socket listens before the lock
is released, so none that is just being made looks as if it were left.

A killed process leaves its name, and the lock goes with the process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from muninn.errors import BrokerUnavailable, InvalidArgument
from muninn.storage import folders
from muninn.system import clock, descriptors
from muninn.system.oserrors import typedErrors

if TYPE_CHECKING:
    from muninn.storage.paths import Paths

#: The mode of the socket: the user's alone.
_SOCKET_MASK = 0o177
_BACKLOG = 128
_LOCK_SECONDS = 5.0
_CREDENTIALS = struct.Struct("iII")


@contextlib.contextmanager
def ofDomain(paths: Paths) -> Iterator[socket.socket]:
    """The domain's socket, which listens, for the time of a block.

    Raises
    ------
    InvalidArgument
        Another process serves there.
    BrokerUnavailable
        The directory of the domain stays locked, or was removed.
    """
    path = paths.httpPath()
    with typedErrors(path), _alone(paths) as isThere:
        if not isThere:
            raise BrokerUnavailable(f"{paths.directory} was removed", "Try again")
        if (other := _answering(path)) is not None:
            raise InvalidArgument(
                f"{other} serves HTTP for domain {paths.domain!r} already",
                "Use its socket, or end it first",
            )
        _unlink(path)
        listener = _bound(path)
        mine = _fileOf(path)
    try:
        yield listener
    finally:
        listener.close()
        with contextlib.suppress(FileNotFoundError), _alone(paths) as isThere:
            if isThere and _fileOf(path) == mine:
                os.unlink(path)


def ofLoopback(address: str, port: int) -> socket.socket:
    """A port of loopback, which listens. Raises `InvalidArgument`."""
    if address not in ("127.0.0.1", "::1", "localhost"):
        raise InvalidArgument(
            f"{address} is not loopback: the interface is for programs of this machine",
            "Use 127.0.0.1, and a proxy with TLS for others",
        )
    listener = _socketOf(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise InvalidArgument(
            f"port {port} of {address} can not be served: {error.strerror}", "Use another port"
        ) from error
    return listener


def _bound(path: str) -> socket.socket:
    listener = _socketOf(socket.AF_UNIX)
    before = os.umask(_SOCKET_MASK)
    try:
        listener.bind(path)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


def _answering(path: str) -> str | None:
    """The process that listens at a name, in words; None if there is none."""
    with contextlib.closing(_socketOf(socket.AF_UNIX)) as asking:
        try:
            asking.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except BlockingIOError:  # as many wait as may
            return "a process that accepts no connection now"
        told = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return f"process {_CREDENTIALS.unpack(told)[0]}"


def _alone(paths: Paths) -> contextlib.AbstractContextManager[bool]:
    """Exclude other processes that begin or end to serve."""
    return folders.locked(os.path.basename(paths.directory), clock.now() + _LOCK_SECONDS)


def _fileOf(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _socketOf(family: socket.AddressFamily) -> socket.socket:
    """A new socket, of the class that asyncio wants."""
    return socket.socket(fileno=descriptors.streamSocket(family).detach())


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
