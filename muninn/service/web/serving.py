"""Serving: the application on a Unix socket of the domain, and on loopback if asked."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from typing import NamedTuple

import uvicorn

from muninn.errors import InvalidArgument
from muninn.service.web.application import applicationOf
from muninn.service.web.guards import Guard, byFile, byToken
from muninn.service.web.held import Held
from muninn.session.membership import current
from muninn.system import descriptors, threads
from muninn.system.logs import Log

_log = Log("muninn.http")
_TIDY_SECONDS, _STOP_SECONDS = 0.5, 5.0
#: The mode of the socket: the user's alone.
_SOCKET_MASK = 0o177
TOKEN_VARIABLE = "MUNINN_HTTP_TOKEN"
_LEAST_TOKEN = 16


class Where(NamedTuple):
    """Where it is served.

    Attributes
    ----------
    token
        The bearer token of the port; "" if there is none.
    """

    socketPath: str
    address: str
    port: int | None
    token: str

    @property
    def url(self) -> str | None:
        """The address of the port."""
        if self.port is None:
            return None
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}/"

    @property
    def madeToken(self) -> str | None:
        """The token, unless the user knows it: what is printed may end in a log."""
        return None if os.environ.get(TOKEN_VARIABLE) else self.token or None

    @property
    def page(self) -> str:
        """Where a browser finds the page."""
        token = self.madeToken or f"${TOKEN_VARIABLE}"
        return f"{self.url}#token={token}"


class _Server(uvicorn.Server):
    """A server on a thread: the signals are the command's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # uvicorn's name
        yield


@contextlib.contextmanager
def served(port: int | None = None, address: str = "127.0.0.1") -> Iterator[Where]:
    """Serve for the time of a block: on the domain's socket, and on a port of loopback if
    one is given (0: any that is free).

    Raises
    ------
    InvalidArgument
        The address is not loopback, the port is taken, or the token is too short.
    """
    held, where = Held(), Where(current().paths.httpPath(), address, None, "")
    with contextlib.ExitStack() as undo:
        undo.callback(held.close)
        undo.enter_context(_running(_unixSocket(where.socketPath), held, byFile))
        undo.callback(_unlink, where.socketPath)
        if port is not None:
            listener = _loopback(address, port)
            where = where._replace(port=listener.getsockname()[1], token=_token())
            undo.enter_context(_running(listener, held, byToken(where.token)))
        stop = threading.Event()
        undo.callback(stop.set)
        threads.start(lambda: _tidy(held, stop), "muninn-http-tidy")
        yield where


@contextlib.contextmanager
def _running(listener: socket.socket, held: Held, guard: Guard) -> Iterator[None]:
    config = uvicorn.Config(
        applicationOf(held, guard),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    thread = threads.start(lambda: server.run([listener]), "muninn-http")
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(_STOP_SECONDS)
        listener.close()


def _unixSocket(path: str) -> socket.socket:
    """The domain's own socket. One that a killed process has left is replaced: the
    directory is the user's alone, and one process is told to serve.
    """
    _unlink(path)
    listener = _socketOf(socket.AF_UNIX)
    before = os.umask(_SOCKET_MASK)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    return listener


def _loopback(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if address not in ("127.0.0.1", "::1", "localhost"):
        raise InvalidArgument(
            f"{address} is not loopback: the interface is for programs of this machine",
            "Use 127.0.0.1, and a proxy with TLS for others",
        )
    listener = _socketOf(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise InvalidArgument(
            f"port {port} of {address} can not be served: {error.strerror}", "Use another port"
        ) from error
    return listener


def _socketOf(family: socket.AddressFamily) -> socket.socket:
    """A new socket, of the class that asyncio wants."""
    return socket.socket(fileno=descriptors.streamSocket(family).detach())


def _token() -> str:
    token = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(32)
    if len(token) < _LEAST_TOKEN or not token.isascii() or not token.isprintable():
        raise InvalidArgument(
            f"{TOKEN_VARIABLE} is no token of {_LEAST_TOKEN} printable characters or more",
            "Leave it out to have one made",
        )
    return token


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _tidy(held: Held, stop: threading.Event) -> None:
    while not stop.wait(_TIDY_SECONDS):
        try:
            held.tidy()
        except Exception:
            _log.exception("a window was not ended, and is tried again")
