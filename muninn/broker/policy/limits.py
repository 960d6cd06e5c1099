"""The limits that a broker enforces, as its own process was configured: admission caps
of the domain and quotas of each tenant.
"""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Admission caps and quotas, in bytes."""

    bigModeMaxBytes: int
    fastModeMaxBytes: int
    pinnedHostQuota: int
    vramQuota: int
