"""Bodies: what a request may carry (R§4.2). They are fields as those of a plan, which
check the body and are its schema in the OpenAPI document.
"""

from __future__ import annotations

from typing import Any

from muninn.plans import fields, schemas
from muninn.plans.fields import Field, made, needed, number

_LONGEST_HOLD_MS, _LONGEST_WAIT_MS = 86_400_000, 60_000


def _body(members: dict[str, Field]) -> Field:
    return made(members, _asItIs, "the body")


def _asItIs(_: str, found: dict[str, Any]) -> dict[str, Any]:
    return found


CREATE = _body({**schemas.BUFFER, "hints": made(schemas.HINTS, _asItIs)})
OPEN = _body(
    {
        "process": needed(number(1, (1 << 31) - 1, "a process id")),
        "tenant": fields.TENANT,
        "purpose": fields.word("reader", "writer"),
    }
)
PROMOTE = _body(
    {
        **schemas.WINDOW,
        "holdMs": number(1, _LONGEST_HOLD_MS, "milliseconds"),
        "timeoutMs": number(1, _LONGEST_WAIT_MS, "milliseconds"),
    }
)
