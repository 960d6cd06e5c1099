"""Answers: one HTTP request, as bytes, and the answer to it.

The standard library reads the request and calls a WSGI application; no socket is used
here. Each answer ends its connection. A connection that were kept would stay with one
member, and be lost with it, while a new one reaches whichever member can answer.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, cast
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler

from muninn.system.logs import Log

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

_log = Log("muninn.metrics")
#: The longest head of a request that is read.
MAX_HEAD_BYTES = 16 << 10


def isWhole(request: bytes) -> bool:
    """Whether the head of a request has come, or is too long to be one."""
    return b"\r\n\r\n" in request or b"\n\n" in request or len(request) > MAX_HEAD_BYTES


class _Server:
    """The attributes of a server that the standard library's handler uses."""

    def __init__(self, application: WSGIApplication, port: int) -> None:
        self._application = application
        self.base_environ = {"SERVER_NAME": "muninn", "SERVER_PORT": str(port), "SCRIPT_NAME": ""}  # pylint: disable=invalid-name

    def get_app(self) -> WSGIApplication:  # pylint: disable=invalid-name
        return self._application


class _Request(WSGIRequestHandler):
    """A request whose bytes are there already."""

    def setup(self) -> None:
        self.rfile = cast(Any, io.BytesIO(cast(Any, self.request)))
        self.wfile = cast(Any, io.BytesIO())
        self._errors = io.StringIO()

    def handle(self) -> None:
        self.raw_requestline = self.rfile.readline(MAX_HEAD_BYTES)
        if self.parse_request():
            handler = ServerHandler(
                self.rfile, cast(Any, self.wfile), self._errors, self.get_environ(), False
            )
            cast(Any, handler).request_handler = self
            handler.run(cast(Any, self.server).get_app())

    def finish(self) -> None:
        """The answer stays in `wfile`."""
        if failed := self._errors.getvalue().strip():
            _log.error("a scrape failed: %s", failed)

    def log_message(self, format: str, *values: object) -> None:
        _log.debug(format, *values)

    def answer(self) -> bytes:
        """What was written."""
        return cast(io.BytesIO, self.wfile).getvalue()


def answer(request: bytes, application: WSGIApplication, port: int) -> bytes:
    """The answer of an application to a request."""
    server = _Server(application, port)
    return _Request(cast(Any, request), ("", 0), cast(Any, server)).answer()
