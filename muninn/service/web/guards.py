"""Guards: who may ask.

On the Unix socket the file's mode decides: it is the user's alone. On loopback every
user of the machine, and every page in a browser, can connect; so a request needs the
bearer token, and names this machine in its Host (a page of elsewhere that resolves its
own name to 127.0.0.1 does not).

A guard gets the headers and not the request: old versions of starlette make the
request's URL of the Host, which the client writes. So which routes are public is said
where the routes are made, and a guard is told.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from muninn.service.web.failures import problem

if TYPE_CHECKING:
    from starlette.datastructures import Headers

#: The refusal of a request, by its headers and by whether its route is public: says
#: nothing about the domain.
Guard = Callable[["Headers", bool], Response | None]
_OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.ASCII | re.IGNORECASE)


def byToken(token: str) -> Guard:
    """The guard of a port on loopback."""
    expected = token.encode()

    def guard(headers: Headers, isPublic: bool) -> Response | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not _OWN_HOST.fullmatch(hosts[0]):
            return JSONResponse(problem("the Host is none of this machine's own names"), 421)
        scheme, _, given = headers.get("authorization", "").partition(" ")
        isTheirs = hmac.compare_digest(given.encode("latin-1"), expected)
        if isPublic or (isTheirs and scheme.lower() == "bearer"):
            return None
        return JSONResponse(
            problem("the bearer token is missing or wrong", "Send `Authorization: Bearer TOKEN`"),
            401,
            {"WWW-Authenticate": "Bearer"},
        )

    return guard


def byFile(headers: Headers, isPublic: bool) -> Response | None:
    """The guard of the Unix socket: who reaches it may ask."""
    del headers, isPublic
    return None
