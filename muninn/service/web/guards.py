"""Guards: who may ask.

On the Unix socket the file's mode decides: it is the user's alone. On loopback every
user of the machine, and every page in a browser, can connect; so a request needs the
bearer token, and names this machine in its Host (a page of elsewhere that resolves its
own name to 127.0.0.1 does not).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from muninn.service.web.failures import problem

if TYPE_CHECKING:
    from starlette.requests import Request

Guard = Callable[["Request"], Response | None]
_OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")
#: What says nothing about the domain, and so needs no token: the page asks for it.
_PUBLIC = ("/", "/openapi.json")


def byToken(token: str) -> Guard:
    """The guard of a port on loopback."""
    expected = f"Bearer {token}".encode()

    def guard(request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if host.rpartition(":")[0] not in _OWN_NAMES and host not in _OWN_NAMES:
            return JSONResponse(problem("the Host is none of this machine's own names"), 421)
        given = request.headers.get("authorization", "").encode("latin-1")
        if request.url.path in _PUBLIC or hmac.compare_digest(given, expected):
            return None
        return JSONResponse(
            problem("the bearer token is missing or wrong", "Send `Authorization: Bearer TOKEN`"),
            401,
            {"WWW-Authenticate": "Bearer"},
        )

    return guard


def byFile(request: Request) -> Response | None:
    """The guard of the Unix socket: who reaches it may ask."""
    del request
    return None
