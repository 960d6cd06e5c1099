"""Serving: the application on a Unix socket of the domain, and on loopback if asked."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import uvicorn

from muninn.config.settings import TOKEN_VARIABLE
from muninn.errors import InvalidArgument
from muninn.service.web import listeners
from muninn.service.web.application import applicationOf
from muninn.service.web.guards import byFile, byToken
from muninn.service.web.held import Held
from muninn.service.web.workshop import Workshop
from muninn.session.membership import current
from muninn.system import threads
from muninn.system.logs import Log

if TYPE_CHECKING:
    from starlette.applications import Starlette

_log = Log("muninn.http")
_TIDY_SECONDS, _STOP_SECONDS = 0.5, 5.0
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
    one is given (0: any that is free). Clients can connect when the block begins.

    Raises
    ------
    InvalidArgument
        Another process serves for the domain, the address is not loopback, the port is
        taken, or the token is too short.
    """
    paths, held, workshop = current().paths, Held(), Workshop()
    where = Where(paths.httpPath(), address, None, "")
    with contextlib.ExitStack() as undo:
        undo.callback(held.close)
        undo.callback(workshop.close, _STOP_SECONDS)
        listener = undo.enter_context(listeners.ofDomain(paths))
        undo.enter_context(_running(listener, applicationOf(held, workshop, byFile)))
        if port is not None:
            where = where._replace(token=_token())
            listener = undo.enter_context(listeners.ofLoopback(address, port))
            where = where._replace(port=listener.getsockname()[1])
            application = applicationOf(held, workshop, byToken(where.token))
            undo.enter_context(_running(listener, application))
        stop = threading.Event()
        undo.callback(stop.set)
        undo.callback(workshop.refuse)
        threads.start(lambda: _tidy(held, stop), "muninn-http-tidy")
        yield where


@contextlib.contextmanager
def _running(listener: socket.socket, application: Starlette) -> Iterator[None]:
    config = uvicorn.Config(
        application,
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


@cache
def _ownToken() -> str:
    """The token of this process: it stays the same when its domain is another one."""
    return secrets.token_urlsafe(32)


def _token() -> str:
    token = os.environ.get(TOKEN_VARIABLE) or _ownToken()
    if len(token) < _LEAST_TOKEN or not token.isascii() or not token.isprintable():
        raise InvalidArgument(
            f"{TOKEN_VARIABLE} is no token of {_LEAST_TOKEN} printable characters or more",
            "Leave it out to have one made",
        )
    return token


def _tidy(held: Held, stop: threading.Event) -> None:
    while not stop.wait(_TIDY_SECONDS):
        try:
            held.tidy()
        except Exception:
            _log.exception("a window was not ended, and is tried again")
