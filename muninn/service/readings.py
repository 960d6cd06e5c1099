"""Readings: what the control block says at one moment, as columns of numpy.

A reading takes no lock and asks no process, so it costs the domain nothing and works
while the broker is dead or stopped. It is no snapshot: rows may come and go while it is
made. A row or a lease whose words make no sense is left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muninn.control import layout, leases
from muninn.control.block import ControlBlock
from muninn.control.cells import CELLS, used
from muninn.control.election import Election
from muninn.control.memberreader import MemberKey, MemberReader
from muninn.control.rowreader import RowReader
from muninn.control.rowstate import TAKING
from muninn.observe.families import FAMILIES
from muninn.session.tables import Tables
from muninn.system.clock import monotonicMs
from muninn.terms import MODES, Mode

Column = NDArray[np.int64]
#: `struct mnnLease`.
_LEASE = np.dtype([("slot", "<u4"), ("position", "<u4"), ("hold", "<u8"), ("expiry", "<u8")])
_FAST = MODES.index(Mode.FAST)
_NAME = f"S{layout.MAX_NAME_BYTES}"
_NO_CELLS = np.zeros(CELLS, np.uint64)
#: The states in which no process opens a buffer any more.
_OVER = (layout.ROW_DYING, layout.ROW_REPLACED)


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
    head
        The row of the bundle of which it is a part; -1: it is none.
    createdMs
        When it was created, by the monotonic clock of the host.
    isOver
        Whether it has ended, or a newer version has its name: only its holders use it.
    writer
        The slot of the member that may write it now; -1: no member.
    isAwaited
        Whether a process waits for that member.
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
    head: Column
    createdMs: Column
    isOver: NDArray[np.bool_]
    writer: Column
    isAwaited: NDArray[np.bool_]
    tenants: tuple[str, ...]

    def where(self, chosen: NDArray[np.bool_]) -> Rows:
        """The rows that are chosen."""
        return Rows._make([*(column[chosen] for column in self[:-1]), self.tenants])


class Held(NamedTuple):
    """The leases of living members, a column for each field: the buffer's row, the
    member's slot, and `leases.REVOCATION_REASONS`, of which 0 says that it is valid.
    """

    row: Column
    slot: Column
    reason: Column


class Reading(NamedTuple):
    """One domain at one moment.

    Attributes
    ----------
    identity
        The control block's. Nothing of two readings with different ones can be compared.
    atMs
        The monotonic clock of the host.
    leases
        How many leases each tenant's buffers have, by tenant.
    held
        The leases themselves.
    cells
        The sum of each cell over all slots.
    cellsOf
        The cells of each slot that a process ever had, by slot.
    """

    identity: int

    atMs: int
    epoch: int
    brokerSlot: int | None
    members: list[MemberKey]
    rows: Rows
    leases: dict[str, int]
    held: Held
    cells: list[int]
    cellsOf: dict[int, NDArray[np.uint64]]

    def counted(self, family: str) -> dict[str, dict[str, int]]:
        """The sums of a family by label and amount, of all processes, dead ones too."""
        return FAMILIES[family].read(self.cells)


def read(tables: Tables) -> Reading:
    """Read the domain of a member."""
    return readingOf(tables.block)


def readingOf(block: ControlBlock) -> Reading:
    """Read the domain of a control block, of which this process need not be a member."""
    term, members = Election(block).term(), MemberReader(block)
    living = [key for key in members.live() if not members.isSuspectedDead(key)]
    rows, perRow, held = _rows(block, [key.slot for key in living])
    perTenant = np.bincount(rows.tenant, weights=perRow, minlength=len(rows.tenants))
    cells = _cells(block)
    return Reading(
        block.identity,
        monotonicMs(),
        term.epoch,
        term.slot,
        living,
        rows,
        {tenant: int(count) for tenant, count in zip(rows.tenants, perTenant, strict=True)},
        held,
        np.sum([*cells.values()] or [_NO_CELLS], axis=0).tolist(),
        cells,
    )


def namesIn(block: ControlBlock, rows: Column) -> list[str]:
    """The names of these rows. A row may have got another name meanwhile."""
    raw = _field(block, RowReader(block).count(), layout.ROW_NAME_OFFSET, _NAME)[rows]
    return [each.decode(errors="replace") for each in raw.tolist()]


def _rows(block: ControlBlock, slots: list[int]) -> tuple[Rows, Column, Held]:
    """The rows, the number of leases that members in these slots have on each, and the
    leases.
    """
    count = RowReader(block).count()
    words = _field(block, count, layout.ROW_STATE_OFFSET, "<u8")
    state = words & np.uint64(layout.ROW_STATE.mask)
    incarnation = (words >> np.uint64(layout.ROW_INCARNATION.shift)).astype(np.int64)
    mode = _field(block, count, layout.ROW_MODE_OFFSET, "u1")
    sizes = _field(block, count, layout.ROW_SEGMENT_BYTES_OFFSET, "<u8")
    gpu = _field(block, count, layout.ROW_GPU_OFFSET, "<i2")
    isSound = (mode < 2) & (sizes < 1 << 62) & (gpu >= -1)
    # Memory of GPUs goes with the last process, whatever the rows say.
    isThere = (mode != _FAST) | bool(slots)
    number = np.flatnonzero(np.isin(state, TAKING) & isSound & isThere)
    tenants, tenant = _numbered(
        _field(block, count, layout.ROW_TENANT_OFFSET, f"S{layout.MAX_TENANT_BYTES}")[number]
    )
    held = _leases(block, incarnation, slots)
    perRow = np.bincount(held.row, minlength=count)
    pairs = np.sort(held.row << 16 | held.slot)
    isFirst = np.diff(pairs, prepend=-1) != 0
    holders = np.bincount(pairs[isFirst] >> 16, minlength=count)
    owner = _field(block, count, layout.ROW_OWNER_LOCK_OFFSET, "<u4")[number].astype(np.int64)
    writer = (owner & layout.OWNER_SLOT.mask) - 1

    def column(offset: int, kind: str) -> Column:
        return _field(block, count, offset, kind)[number].astype(np.int64)

    return (
        Rows(
            number.astype(np.int64),
            incarnation[number],
            column(layout.ROW_KIND_OFFSET, "u1"),
            mode[number] == _FAST,
            gpu[number].astype(np.int64),
            sizes[number].astype(np.int64),
            column(layout.ROW_GENERATION_OFFSET, "<u8"),
            tenant,
            holders[number],
            (column(layout.ROW_HEAD_OFFSET, "<u8") & layout.HEAD_ROW.mask) - 1,
            column(layout.ROW_CREATED_MS_OFFSET, "<u8"),
            np.isin(state[number], _OVER),
            np.where(np.isin(writer, slots), writer, -1),
            (owner & layout.OWNER_CONTENDED.mask) != 0,
            tuple(each.decode(errors="replace") for each in tenants),
        ),
        perRow[number],
        held,
    )


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


def _cells(block: ControlBlock) -> dict[int, NDArray[np.uint64]]:
    """The cells of each slot that a process ever had, copied."""
    return {
        slot: np.ndarray((CELLS,), "<u8", block.bytes, block.geometry.cellsOffset(slot)).copy()
        for slot in used(block)
    }


def _leases(block: ControlBlock, incarnation: Column, slots: list[int]) -> Held:
    """The leases that hold a buffer: a lease on an incarnation that is over holds none,
    nor does one of a process that is dead.
    """
    found = np.frombuffer(leases.packed(block), _LEASE)
    slot, hold = found["slot"].astype(np.int64), found["hold"]
    row = (hold & np.uint64(layout.LEASE_ROW.mask)).astype(np.int64) - 1
    isIn = (row >= 0) & (row < len(incarnation)) & np.isin(slot, slots)
    of = (hold[isIn] >> np.uint64(layout.LEASE_INCARNATION.shift)).astype(np.int64)
    reason = (hold[isIn] >> np.uint64(layout.LEASE_REASON.shift)).astype(np.int64)
    isOnIt = incarnation[row[isIn]] == of
    return Held(row[isIn][isOnIt], slot[isIn][isOnIt], reason[isOnIt] & layout.LEASE_REASON.top)
