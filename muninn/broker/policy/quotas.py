"""Quotas: how much each mode, tenant and GPU uses, and whether more may be added.

The sums are private memory of the broker. A new broker computes them from the rows
(`catalog.py`), so that none of them survives a broker or drifts. Only the limits of the
broker's own process count.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from muninn.broker.policy.limits import Limits
from muninn.broker.policy.promotionqueue import Asking, PromotionQueue, Queued
from muninn.broker.policy.usage import Usage
from muninn.config.sizes import exactly
from muninn.control.descriptions import Taken
from muninn.errors import PromotionDenied, QuotaExceeded
from muninn.terms import Mode


class _Budget(NamedTuple):
    what: str
    used: int
    limit: int
    key: str
    #: As a process that waits is told: "gpu" or "tenant".
    short: str


class Quotas:
    """Sums of bytes, and the limits that they are compared with."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._sums: Counter[tuple[object, ...]] = Counter()
        self._queue = PromotionQueue()

    def add(self, taken: Usage | Taken, sizeBytes: int) -> None:
        """Add to the sums that a row adds to: its mode's, its tenant's, its GPU's."""
        self._sums[taken.mode,] += sizeBytes
        self._sums[taken.mode, taken.tenant] += sizeBytes
        if taken.mode is Mode.FAST:
            self._sums[taken.gpu,] += sizeBytes
        if taken.isWindow:
            self._sums["window", taken.gpu] += sizeBytes
            self._sums["window", taken.gpu, taken.tenant] += sizeBytes

    def admitWindow(self, wanted: Usage, underWay: int, asking: Asking) -> None:
        """Whether a window may be promoted now, while `underWay` windows are being copied to
        that GPU.

        Raises
        ------
        PromotionDenied
            It is larger than a budget, and would wait for ever; the text names it.
        Queued
            A budget has no room now, too many windows are under way, or others wait before
            it.
        """
        most, gpu, sizeBytes = self._limits.mostPromotions, wanted.gpu, wanted.sizeBytes
        budgets = self._budgets(wanted)
        for each in budgets:
            if sizeBytes > each.limit:
                raise PromotionDenied(
                    f"{each.what}: {exactly(sizeBytes)} wanted > {exactly(each.limit)} allowed "
                    f"in all ({each.key})",
                    "Promote a smaller window, or raise the budget of the broker's process; with "
                    "track=True a window that may be written takes half",
                )
        for each in budgets:
            if each.used + sizeBytes > each.limit:
                self._queue.wait(wanted, asking, isOfTenant=each.short == "tenant")
                raise Queued(
                    f"{each.what}: {exactly(each.used)} used + {exactly(sizeBytes)} wanted > "
                    f"{exactly(each.limit)} allowed ({each.key})",
                    each.short,
                )
        why = ""
        if underWay >= most:
            why = (
                f"windows under way to GPU {gpu}: {underWay}, and at most {most} may be "
                "(promotion.maxConcurrentPromotions)"
            )
        elif ahead := self._queue.ahead(wanted, asking, self._hasRoom):
            why = (
                f"windows that go before this one to scratch memory of GPU {gpu}: {ahead}, of a "
                "higher priority or waiting for longer"
            )
        if why:
            self._queue.wait(wanted, asking, isOfTenant=False)
            raise Queued(why)
        self._queue.leave(wanted)

    def _budgets(self, wanted: Usage) -> tuple[_Budget, _Budget]:
        """The budgets of scratch memory to which a window adds."""
        gpu, tenant, sums = wanted.gpu, wanted.tenant, self._sums
        return (
            _Budget(
                f"scratch of GPU {gpu}",
                sums["window", gpu],
                self._limits.scratchOfGpu,
                "promotion.perGpuScratchBytes",
                "gpu",
            ),
            _Budget(
                f"scratch of tenant {tenant!r} on GPU {gpu}",
                sums["window", gpu, tenant],
                self._limits.scratchOfTenant,
                "promotion.perTenantScratchBytes",
                "tenant",
            ),
        )

    def _hasRoom(self, wanted: Usage) -> bool:
        return all(each.used + wanted.sizeBytes <= each.limit for each in self._budgets(wanted))

    def admit(
        self, tenant: str, mode: Mode, gpu: int, sizeBytes: int, gpuCapacityBytes: int
    ) -> None:
        """Whether these bytes may be added; `QuotaExceeded` names the limit that
        forbids it.

        For a GPU of capacity 0 the driver counts.
        """
        limits = self._limits
        big = mode is Mode.BIG
        cap, quota = (
            (limits.bigModeMaxBytes, limits.pinnedHostQuota)
            if big
            else (limits.fastModeMaxBytes, limits.vramQuota)
        )
        keys = (
            ("memory.bigModeMaxBytes", "tenancy.defaultPinnedHostQuota")
            if big
            else ("memory.fastModeMaxBytes", "tenancy.defaultVramQuota")
        )
        self._compare(f"{mode} of this domain", self._sums[mode,], sizeBytes, cap, keys[0])
        self._compare(
            f"{mode} of tenant {tenant!r}", self._sums[mode, tenant], sizeBytes, quota, keys[1]
        )
        if not big and gpuCapacityBytes:
            self._compare(
                f"VRAM of GPU {gpu}",
                self._sums[gpu,],
                sizeBytes,
                gpuCapacityBytes,
                "devices.hostGpuBytes",
            )

    @staticmethod
    def _compare(what: str, used: int, wanted: int, limit: int, key: str) -> None:
        if used + wanted > limit:
            raise QuotaExceeded(
                f"{what}: {exactly(used)} used + {exactly(wanted)} wanted > {exactly(limit)} "
                f"allowed ({key})"
            )

    def used(self, gpu: int) -> int:
        """Bytes of fastMode buffers on a GPU."""
        return self._sums[gpu,]
