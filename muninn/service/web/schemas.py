"""Schemas: what the bodies of answers are, as JSON Schema, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from muninn.terms import MODES

Schema = dict[str, Any]


def closed(properties: Schema, required: tuple[str, ...] = ()) -> Schema:
    """An object with these members and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


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
