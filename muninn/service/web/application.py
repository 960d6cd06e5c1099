"""The application: the table of operations as routes of starlette."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Never

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import muninn
from muninn.errors import InvalidArgument, MuninnError
from muninn.observe.calls import countError
from muninn.service.metrics import DomainCollector
from muninn.service.readings import read
from muninn.service.web import openapi
from muninn.service.web.failures import RETRY_SECONDS, bodyOf, problem, statusOf
from muninn.service.web.handlers import Handlers
from muninn.service.web.ids import BufferId
from muninn.service.web.operations import OPERATIONS, Operation
from muninn.session.membership import current
from muninn.system.logs import Log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from muninn.plans.fields import Field
    from muninn.service.web.guards import Guard
    from muninn.service.web.held import Held
    from muninn.service.web.workshop import Workshop

_log = Log("muninn.http")
_MOST_BODY_BYTES = 1 << 16
#: The page runs its own script, and loads nothing from elsewhere.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Refused(Exception):
    """A request that no handler gets."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(status)
        self.status, self.body = status, body


def applicationOf(held: Held, workshop: Workshop, guard: Guard) -> Starlette:
    """The application for this process's domain."""
    handlers = Handlers(held)
    routes = [
        Route(each.path, _endpoint(each, handlers, workshop, guard), methods=[each.method])
        for each in OPERATIONS
    ]
    routes += [
        # The page asks for the token, so it needs none, as its document does not.
        _plain("/", _page, workshop, guard, isPublic=True),
        _plain("/openapi.json", _document, workshop, guard, isPublic=True),
        _plain("/metrics", _metrics, workshop, guard, isPublic=False),
    ]
    application = Starlette(routes=routes, exception_handlers={HTTPException: _unrouted})
    application.router.redirect_slashes = False  # to a Host that no guard has seen
    return application


def _endpoint(
    operation: Operation, handlers: Handlers, workshop: Workshop, guard: Guard
) -> Callable[[Request], Awaitable[Response]]:
    handler = getattr(handlers, operation.handler)

    async def answer(request: Request) -> Response:
        if (refused := guard(request.headers, False)) is not None:
            return refused
        try:
            arguments: list[Any] = [_idOf(request)] if operation.hasId else []
            if operation.body is not None:
                arguments.append(_checked(operation.body, await _bodyOf(request)))
            result = await workshop.do(handler, *arguments, waits=operation.waits)
        except _Refused as refusal:
            return JSONResponse(refusal.body, refusal.status)
        except Exception as error:
            return _failed(error)
        status = operation.status
        if operation.isHealth and result["status"] != "ok":
            status = 503
        headers = {"Cache-Control": "no-store"}
        if status == 201 and operation.path == "/buffers":
            headers["Location"] = f"/buffers/{result['bufferId']}"
        return JSONResponse(result, status, headers)

    return answer


def _plain(
    path: str, made: Callable[[], Response], workshop: Workshop, guard: Guard, isPublic: bool
) -> Route:
    async def answer(request: Request) -> Response:
        if (refused := guard(request.headers, isPublic)) is not None:
            return refused
        try:
            response: Response = await workshop.do(made)
            return response
        except Exception as error:
            return _failed(error)

    return Route(path, answer, methods=["GET"])


def _failed(error: Exception) -> Response:
    if isinstance(error, MuninnError):
        countError(error)
    elif not isinstance(error, TimeoutError):
        _log.exception("a request failed")
    status = statusOf(error)
    headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else None
    return JSONResponse(bodyOf(error), status, headers)


def _unrouted(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(problem(error.detail), error.status_code, error.headers)


def _idOf(request: Request) -> BufferId:
    text: str = request.path_params["id"]
    bufferId = BufferId.of(text)
    if bufferId is None:
        raise _Refused(
            404, problem(f"{text[:40]!r} is no id of a buffer", "GET /buffers lists them")
        )
    return bufferId


async def _bodyOf(request: Request) -> Any:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # A form of any page in a browser could send another one.
        raise _Refused(415, problem("the body is no JSON", "Send `Content-Type: application/json`"))
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MOST_BODY_BYTES:
            raise _Refused(413, problem(f"the body has more than {_MOST_BODY_BYTES} bytes"))
    try:
        return json.loads(content, parse_float=_number, parse_constant=_noNumber)
    except (ValueError, RecursionError) as error:
        raise _Refused(422, problem(f"the body is no JSON: {error}")) from error


def _number(text: str) -> float | int:
    """JSON has one kind of number: 4096.0 is an integer."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 1 << 53 else value


def _noNumber(text: str) -> Never:
    raise ValueError(f"{text} is no number")


def _checked(body: Field, value: Any) -> Any:
    """The body, if it fits. The reason names the member that does not."""
    try:
        return body.check("", value)
    except InvalidArgument as error:
        countError(error)
        raise _Refused(422, bodyOf(error)) from error


def _page() -> Response:
    text = files("muninn.service.web").joinpath("page.html").read_text("utf-8")
    return HTMLResponse(text, headers=_PAGE_HEADERS)


def _document() -> Response:
    return JSONResponse(openapi.document(muninn.__version__))


def _metrics() -> Response:
    member, registry = current(), CollectorRegistry()
    registry.register(DomainCollector(lambda: read(member.tables), member.gpus.chosen))
    return PlainTextResponse(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
