"""Schemas: what the bodies of requests and answers are, as JSON Schema.

The requests are those of R§4.2. They are checked before anything is done, and the same
schemas are in the OpenAPI document.
"""

from __future__ import annotations

from typing import Any

from muninn.terms import ACCESSES, MODES, PRIORITIES

Schema = dict[str, Any]
_MOST = 1 << 56
_BYTES: Schema = {"type": "integer", "minimum": 0, "maximum": _MOST}
_GPU: Schema = {"type": "integer", "minimum": 0, "maximum": 1023}
_TENANT: Schema = {"type": "string", "minLength": 1, "maxLength": 64}
_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 120}
_MILLISECONDS: Schema = {"type": "integer", "minimum": 1, "maximum": 1 << 40}


def closed(properties: Schema, required: tuple[str, ...] = ()) -> Schema:
    """An object with these members and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


HINTS = closed(
    {
        "hotRanges": {
            "type": "array",
            "maxItems": 15,
            "items": {"type": "array", "items": _BYTES, "minItems": 2, "maxItems": 2},
        },
        "lifetimeMs": _MILLISECONDS,
        "priority": {"enum": [each.value for each in PRIORITIES]},
    }
)
CREATE = closed(
    {
        "size": {
            "oneOf": [
                {**_BYTES, "minimum": 1},
                {"type": "string", "pattern": r"^[1-9][0-9]{0,5}[KMGT]?$"},
            ]
        },
        "mode": {"enum": [each.value for each in MODES]},
        "preferredGpu": {"oneOf": [_GPU, {"type": "null"}]},
        "name": _NAME,
        "access": {"enum": [each.value for each in ACCESSES]},
        "tenant": _TENANT,
        "lifetimeMs": _MILLISECONDS,
        "hints": HINTS,
    },
    ("size",),
)
OPEN = closed(
    {
        "process": {"type": "integer", "minimum": 1, "maximum": (1 << 31) - 1},
        "tenant": _TENANT,
        "purpose": {"enum": ["reader", "writer"]},
    },
    ("process",),
)
PROMOTE = closed(
    {
        "offset": _BYTES,
        "length": {**_BYTES, "minimum": 1},
        "targetGpu": _GPU,
        "holdMs": {**_MILLISECONDS, "maximum": 86_400_000},
        "timeoutMs": {**_MILLISECONDS, "maximum": 60_000},
    }
)
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "name", "reason", "fix"],
            "properties": {
                "code": {"type": ["string", "null"]},
                "name": {"type": ["string", "null"]},
                "reason": {"type": "string"},
                "fix": {"type": ["string", "null"]},
            },
        }
    },
}
#: A description has more members than these; `docs/reference.md` lists them.
BUFFER: Schema = {
    "type": "object",
    "required": ["bufferId", "name", "mode", "size", "access", "tenant", "state", "importers"],
    "properties": {
        "bufferId": {"type": "string"},
        "name": {"type": "string"},
        "mode": {"enum": [each.value for each in MODES]},
        "gpu": {"type": ["integer", "null"]},
        "size": {"type": "integer"},
        "access": {"type": "string"},
        "tenant": {"type": "string"},
        "leaseTtlMs": {"type": "integer"},
        "peerable": {"type": "boolean"},
        "topology": {"type": "object"},
        "state": {"type": "string"},
        "importers": {"type": "array", "items": {"type": "object"}},
    },
}
BUFFERS: Schema = closed({"buffers": {"type": "array", "items": BUFFER}}, ("buffers",))
OPENED = closed(
    {
        "bufferId": {"type": "string"},
        "name": {"type": "string"},
        "mode": {"type": "string"},
        "access": {"type": "string"},
        "leaseTtlMs": {"type": "integer"},
        "handle": {"type": "string", "contentEncoding": "base64"},
        "python": {"type": "string"},
    },
    ("bufferId", "handle", "python"),
)
PROMOTED = closed(
    {
        "bufferId": {"type": "string"},
        "offset": {"type": "integer"},
        "length": {"type": "integer"},
        "gpu": {"type": "integer"},
        "isShared": {"type": "boolean"},
        "route": {"type": ["string", "null"]},
        "reason": {"type": ["string", "null"]},
        "bytes": {"type": "integer"},
        "durationMs": {"type": "number"},
        "heldMs": {"type": "integer"},
    },
    ("bufferId", "offset", "length", "gpu", "bytes", "heldMs"),
)
DELETED = closed(
    {
        "bufferId": {"type": "string"},
        "freed": {"type": "boolean"},
        "holders": {"type": "integer"},
        "revoked": {"type": "integer"},
    },
    ("bufferId", "freed", "holders", "revoked"),
)
HEALTH = closed(
    {
        "status": {"enum": ["ok", "draining", "noBroker"]},
        "domain": {"type": "string"},
        "brokerPid": {"type": ["integer", "null"]},
        "epoch": {"type": "integer"},
    },
    ("status", "domain"),
)
ANYTHING: Schema = {"type": "object"}
