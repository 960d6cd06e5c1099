"""Usage: how much of the domain's limits one buffer takes, as quotas count it."""

from __future__ import annotations

from typing import NamedTuple

from muninn.control.descriptions import RowDescription
from muninn.terms import WINDOW_PREFIX, Mode


class Usage(NamedTuple):
    """The usage of one row."""

    name: str
    tenant: str
    mode: Mode
    gpu: int
    sizeBytes: int
    deadlineMs: int

    @property
    def isWindow(self) -> bool:
        """Whether it is the scratch memory of a promoted window, which has a budget of its
        own too.
        """
        return self.name.startswith(WINDOW_PREFIX)


def usageOf(description: RowDescription) -> Usage:
    """The usage of a row that has a description."""
    return Usage(
        description.name,
        description.tenant,
        description.mode,
        description.gpu,
        description.segmentBytes,
        description.deadlineMs,
    )
