"""Usage: what one buffer takes, as quotas count it."""

from __future__ import annotations

from typing import NamedTuple

from muninn.control.descriptions import RowDescription
from muninn.terms import Mode


class Usage(NamedTuple):
    """What one row takes."""

    name: str
    tenant: str
    mode: Mode
    gpu: int
    sizeBytes: int
    deadlineMs: int


def usageOf(description: RowDescription) -> Usage:
    """What a described row takes."""
    return Usage(
        description.name,
        description.tenant,
        description.mode,
        description.gpu,
        description.segmentBytes,
        description.deadlineMs,
    )
