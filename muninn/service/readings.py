"""Readings: what the control block says at one moment, as columns of numpy.

A reading takes no lock and asks no process, so it costs the domain nothing and works
while the broker is dead or stopped. It is no snapshot: rows may come and go while it is
made. A row or a lease whose words make no sense is left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muninn.control import cells, layout, leases
from muninn.control.block import ControlBlock
from muninn.control.members import MemberKey
from muninn.control.rowreader import RowReader
from muninn.observe.families import FAMILIES
from muninn.session.tables import Tables
from muninn.system.clock import monotonicMs
from muninn.terms import MODES, Mode

Column = NDArray[np.int64]
#: `struct mnnLease`.
_LEASE = np.dtype([("slot", "<u4"), ("position", "<u4"), ("hold", "<u8"), ("expiry", "<u8")])
_FAST = MODES.index(Mode.FAST)
#: The states in which a row takes memory.
_TAKING = (layout.ROW_LIVE, layout.ROW_PROBING, layout.ROW_DYING, layout.ROW_REPLACED)


class Rows(NamedTuple):
    """The rows that take memory, a column for each field.

    Attributes
    ----------
    number, incarnation
        Which rows they are.
    kind
        `layout.ROW_KIND_*`.
    isFast
        Whether the memory is in VRAM.
    gpu
        -1: in host memory.
    sizeBytes
        What it takes.
    generation
        How often it was published, twice; odd: while a process writes.
    tenant
        The position of the tenant in `tenants`.
    holders
        How many processes have a lease on it.
    """

    number: Column
    incarnation: Column
    kind: Column
    isFast: NDArray[np.bool_]
    gpu: Column
    sizeBytes: Column
    generation: Column
    tenant: Column
    holders: Column
    tenants: tuple[str, ...]

    def where(self, chosen: NDArray[np.bool_]) -> Rows:
        """The rows that are chosen."""
        return Rows._make((*(column[chosen] for column in self[:-1]), self.tenants))


class Reading(NamedTuple):
    """One domain at one moment.

    Attributes
    ----------
    atMs
        The monotonic clock of the host.
    leases
        How many leases each tenant's buffers have, by tenant.
    """

    atMs: int
    epoch: int
    brokerSlot: int | None
    members: list[MemberKey]
    rows: Rows
    leases: dict[str, int]
    cells: list[int]

    def counted(self, family: str) -> dict[str, dict[str, int]]:
        """The sums of a family by label and amount, of all processes, dead ones too."""
        return FAMILIES[family].read(self.cells)


def read(tables: Tables) -> Reading:
    """Read the domain of a member."""
    term, members = tables.election.term(), tables.members
    living = [key for key in members.live() if not members.isSuspectedDead(key)]
    rows, held = _rows(tables.block, [key.slot for key in living])
    perTenant = np.bincount(rows.tenant, weights=held, minlength=len(rows.tenants))
    return Reading(
        monotonicMs(),
        term.epoch,
        term.slot,
        living,
        rows,
        {tenant: int(count) for tenant, count in zip(rows.tenants, perTenant, strict=True)},
        _cells(tables.block),
    )


def _cells(block: ControlBlock) -> list[int]:
    """`cells.sums`, which takes ten times as long for 200 members."""
    start, stride = block.geometry.cellsOffset(0), block.geometry.areaBytes
    shape, strides = (block.geometry.maxMembers, cells.CELLS), (stride, cells.CELL_BYTES)
    pages = np.ndarray(shape, "<u8", block.bytes, start, strides)
    sums: list[int] = pages[cells.used(block)].sum(axis=0).tolist()
    return sums


def _rows(block: ControlBlock, slots: list[int]) -> tuple[Rows, Column]:
    """The rows, and the number of leases that members in these slots have on each."""
    count = RowReader(block).count()
    words = _field(block, count, layout.ROW_STATE_OFFSET, "<u8")
    state = words & np.uint64(layout.ROW_STATE.mask)
    incarnation = (words >> np.uint64(layout.ROW_INCARNATION.shift)).astype(np.int64)
    mode = _field(block, count, layout.ROW_MODE_OFFSET, "u1")
    sizes = _field(block, count, layout.ROW_SEGMENT_BYTES_OFFSET, "<u8")
    number = np.flatnonzero(np.isin(state, _TAKING) & (mode < 2) & (sizes < 1 << 62))
    tenants, tenant = _numbered(
        _field(block, count, layout.ROW_TENANT_OFFSET, f"S{layout.MAX_TENANT_BYTES}")[number]
    )
    onRow, slotOf = _leases(block, incarnation, slots)
    held = np.bincount(onRow, minlength=count)
    pairs = np.sort(onRow << 16 | slotOf)
    isFirst = np.diff(pairs, prepend=-1) != 0
    holders = np.bincount(pairs[isFirst] >> 16, minlength=count)

    def column(offset: int, kind: str) -> Column:
        return _field(block, count, offset, kind)[number].astype(np.int64)

    return Rows(
        number.astype(np.int64),
        incarnation[number],
        column(layout.ROW_KIND_OFFSET, "u1"),
        mode[number] == _FAST,
        column(layout.ROW_GPU_OFFSET, "<i2"),
        sizes[number].astype(np.int64),
        column(layout.ROW_GENERATION_OFFSET, "<u8"),
        tenant,
        holders[number],
        tuple(each.decode(errors="replace") for each in tenants),
    ), held[number]


def _numbered(texts: NDArray[np.bytes_]) -> tuple[list[bytes], Column]:
    """The different texts, and the position of each text among them. To sort texts takes
    ten times as long.
    """
    known: dict[bytes, int] = {}
    numbers = [known.setdefault(text, len(known)) for text in texts.tolist()]
    return list(known), np.array(numbers, np.int64)


def _field(block: ControlBlock, count: int, offset: int, kind: str) -> NDArray[Any]:
    """One field of the first rows, copied."""
    start, strides = block.rowsOffset + offset, (layout.ROW_BYTES,)
    return np.ndarray((count,), kind, block.bytes, start, strides).copy()


def _leases(block: ControlBlock, incarnation: Column, slots: list[int]) -> tuple[Column, Column]:
    """The row and the slot of each lease that holds a buffer: a lease on an incarnation
    that is over holds none, nor does one of a process that is dead.
    """
    found = np.frombuffer(leases.packed(block), _LEASE)
    slot, hold = found["slot"].astype(np.int64), found["hold"]
    row = (hold & np.uint64(layout.LEASE_ROW.mask)).astype(np.int64) - 1
    isIn = (row >= 0) & (row < len(incarnation)) & np.isin(slot, slots)
    of = (hold[isIn] >> np.uint64(layout.LEASE_INCARNATION.shift)).astype(np.int64)
    isOnIt = incarnation[row[isIn]] == of
    return row[isIn][isOnIt], slot[isIn][isOnIt]
