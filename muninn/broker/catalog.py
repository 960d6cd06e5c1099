"""The catalog: which names are taken, and what each tenant uses.

Derived from the rows, in the broker's private memory, and only there: it is built by a scan when a broker first needs it, kept
while it serves, and thrown away with it. A sum in it is a hint that the rows can always correct.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from muninn.broker.limits import Limits
from muninn.control import layout
from muninn.control.rows import RowDescription, RowTable
from muninn.errors import BufferExists, ControlBlockInvalid, QuotaExceeded
from muninn.terms import Mode


class Usage(NamedTuple):
    """What one row takes."""

    name: str
    tenant: str
    mode: Mode
    gpu: int
    sizeBytes: int
    deadlineMs: int


class Catalog:
    """Names and sums over the rows."""

    def __init__(self, rows: RowTable, limits: Limits) -> None:
        self._limits = limits
        self._usages: dict[int, Usage] = {}
        self._rowOfName: dict[str, int] = {}
        self._sums: Counter[tuple[object, ...]] = Counter()
        self._deadlines: dict[int, int] = {}
        for row, state in rows.notFree():
            if state.state in (layout.ROW_LIVE, layout.ROW_PROBING, layout.ROW_DYING):
                self._adopt(rows, row, named=state.state != layout.ROW_DYING)

    def _adopt(self, rows: RowTable, row: int, named: bool) -> None:
        try:
            description = rows.description(row)
        except ControlBlockInvalid:
            return  # a damaged row has no name that anybody could ask for; `doctor` reports it
        usage = usageOf(description)
        self._count(row, usage)
        if named:
            self._rowOfName[usage.name] = row

    def find(self, name: str) -> int | None:
        return self._rowOfName.get(name)

    def nameOf(self, row: int) -> str | None:
        """The name under which a row was counted last, also when that is free again."""
        usage = self._usages.get(row)
        return None if usage is None else usage.name

    def add(self, row: int, usage: Usage) -> None:
        """Count a row and take its name. Raises `BufferExists` when another row has it."""
        if self._rowOfName.setdefault(usage.name, row) != row:
            raise BufferExists(f"{usage.name!r} exists already")
        self._count(row, usage)

    def _count(self, row: int, usage: Usage) -> None:
        self._uncount(row)
        self._usages[row] = usage
        if usage.deadlineMs:
            self._deadlines[row] = usage.deadlineMs
        for key in _sumsOf(usage):
            self._sums[key] += usage.sizeBytes

    def _uncount(self, row: int) -> None:
        self._deadlines.pop(row, None)
        usage = self._usages.pop(row, None)
        if usage is not None:
            for key in _sumsOf(usage):
                self._sums[key] -= usage.sizeBytes

    def forgetName(self, row: int) -> None:
        """Free the name; the bytes still count."""
        usage = self._usages.get(row)
        if usage is not None and self._rowOfName.get(usage.name) == row:
            del self._rowOfName[usage.name]

    def remove(self, row: int) -> None:
        """Free the name and the bytes."""
        self.forgetName(row)
        self._uncount(row)

    def admit(self, tenant: str, mode: Mode, gpu: int, sizeBytes: int, gpuCapacityBytes: int) -> None:
        """Whether these bytes may be added; `QuotaExceeded` names the limit that forbids it.

        A GPU of capacity 0 is one whose driver keeps the books.
        """
        limits = self._limits
        big = mode is Mode.BIG
        cap, quota = (limits.bigModeMaxBytes, limits.pinnedHostQuota) if big else (limits.fastModeMaxBytes, limits.vramQuota)
        keys = (
            ("memory.bigModeMaxBytes", "tenancy.defaultPinnedHostQuota") if big else ("memory.fastModeMaxBytes", "tenancy.defaultVramQuota")
        )
        self._compare(f"{mode} of this domain", self._sums[mode,], sizeBytes, cap, keys[0])
        self._compare(f"{mode} of tenant {tenant!r}", self._sums[mode, tenant], sizeBytes, quota, keys[1])
        if not big and gpuCapacityBytes:
            self._compare(f"VRAM of GPU {gpu}", self._sums[gpu,], sizeBytes, gpuCapacityBytes, "devices.hostGpuBytes")

    @staticmethod
    def _compare(what: str, used: int, wanted: int, limit: int, key: str) -> None:
        if used + wanted > limit:
            raise QuotaExceeded(f"{what}: {used} bytes used + {wanted} wanted > {limit} allowed ({key})")

    def forgetDeadline(self, row: int) -> None:
        """The lifetime has ended, and what follows from it was begun."""
        self._deadlines.pop(row, None)

    def used(self, gpu: int) -> int:
        """Bytes of fastMode buffers on a GPU."""
        return self._sums[gpu,]

    def deadlines(self) -> list[tuple[int, int]]:
        """(monotonic ms, row) of the rows whose lifetime ends, soonest first."""
        return sorted((deadlineMs, row) for row, deadlineMs in self._deadlines.items())


def usageOf(description: RowDescription) -> Usage:
    """What a described row takes."""
    return Usage(description.name, description.tenant, description.mode, description.gpu, description.segmentBytes, description.deadlineMs)


def _sumsOf(usage: Usage) -> tuple[tuple[object, ...], ...]:
    """The sums that a row adds to: its mode's, its tenant's, its GPU's."""
    general: tuple[tuple[object, ...], ...] = ((usage.mode,), (usage.mode, usage.tenant))
    return (*general, (usage.gpu,)) if usage.mode is Mode.FAST else general
