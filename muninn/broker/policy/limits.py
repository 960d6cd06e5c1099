"""The limits that a broker enforces, as its own process was configured: admission caps
of the domain and quotas of each tenant.
"""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Admission caps and quotas, in bytes.

    Attributes
    ----------
    scratchOfGpu, scratchOfTenant
        The scratch memory of promoted windows on one GPU, and of one tenant on it.
    mostPromotions
        How many windows may be copied to one GPU at a time.
    """

    bigModeMaxBytes: int
    fastModeMaxBytes: int
    pinnedHostQuota: int
    vramQuota: int
    scratchOfGpu: int
    scratchOfTenant: int
    mostPromotions: int
