"""The OpenAPI document of the table of operations."""

from __future__ import annotations

from typing import Any

from muninn.service.web import schemas
from muninn.service.web.ids import PATTERN
from muninn.service.web.operations import OPERATIONS, Operation

_JSON = "application/json"
_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "The bufferId.",
    "schema": {"type": "string", "pattern": f"^{PATTERN}$"},
}
#: What may go wrong: with every operation, with one that has an id, with one that has a
#: body.
_WRONG = {
    401: "The bearer token is missing or wrong.",
    421: "The Host is none of this machine's own names.",
    500: "An error of Muninn's own.",
    501: "This machine lacks what it takes.",
    503: "Not now: ask again.",
    504: "It took too long.",
    507: "There is no room.",
}
_WRONG_ID = {
    404: "There is no such buffer.",
    410: "It was freed, or its lease revoked, or a newer version has its name.",
}
_WRONG_BODY = {
    400: "An argument can not work.",
    403: "The tenant or the access is not allowed.",
    409: "It is there already, or another one than is asked for.",
    410: "Its lifetime was over before the answer.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    422: "The body does not fit its schema.",
}


def document(version: str) -> dict[str, Any]:
    """The document, of OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Muninn",
            "version": version,
            "description": "Memory that processes and GPUs of one host share: for schedulers.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": schemas.ERROR},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}, {}],
    }


def _described(operation: Operation) -> dict[str, Any]:
    wrong = {
        **_WRONG,
        **(_WRONG_BODY if operation.body is not None else {}),
        **(_WRONG_ID if operation.hasId else {}),
    }
    error: schemas.Schema = {"$ref": "#/components/schemas/Error"}
    described: dict[str, Any] = {
        "operationId": operation.handler,
        "summary": operation.summary,
        "responses": {
            str(operation.status): {
                "description": operation.summary,
                "content": {_JSON: {"schema": operation.answer}},
            },
            **{
                str(status): {"description": why, "content": {_JSON: {"schema": error}}}
                for status, why in sorted(wrong.items())
            },
        },
    }
    if operation.isHealth:
        described["responses"]["503"]["content"][_JSON]["schema"] = {
            "anyOf": [operation.answer, error]
        }
    if operation.hasId:
        described["parameters"] = [_ID]
    if operation.body is not None:
        described["requestBody"] = {
            "required": True,
            "content": {_JSON: {"schema": operation.body.schema}},
        }
    return described
