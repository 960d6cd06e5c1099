"""Repair: a new control block from the journals and the segments, when the old one is damaged or of another version.

The journals say which rows lived and what they were; a segment that is still there, under the name that such a row has, vouches for
its bytes. Both together make the row again. fastMode memory had no name and is gone with its holders.
"""

from __future__ import annotations

import os
from typing import Any

import posix_ipc

from muninn.broker import journal
from muninn.control import layout, segments
from muninn.control.block import openOrCreate, unlinkQuietly
from muninn.control.election import Election
from muninn.control.index import NameIndex
from muninn.control.layout import Geometry
from muninn.control.lockfile import LockFile
from muninn.control.places import Places
from muninn.control.rows import RowDescription, RowTable
from muninn.errors import BrokerUnavailable, ControlBlockInvalid
from muninn.terms import Mode

_SLOTS = layout.MAX_MEMBERS_LIMIT


def rebuild(places: Places, limits: Geometry) -> dict[str, Any]:
    """Put a sound control block in place of whatever is there.

    Returns
    -------
    dict
        ``recovered``: the names of the buffers that are there again; ``discarded``: segments that no journal knew.

    Raises
    ------
    BrokerUnavailable
        A process of the domain still runs: it would go on with the old block.
    """
    lockFile = LockFile(places)
    try:
        if running := [slot for slot in range(_SLOTS) if lockFile.slotIsLocked(slot)]:
            raise BrokerUnavailable(
                f"{len(running)} processes are still in domain {places.domain!r}", "End them first: `python -m muninn list` names them"
            )
        known = _livingRows(places)
        epoch = max([*places.epochsOf("journal"), 0])
        unlinkQuietly(places.blockName)
        block = openOrCreate(places, lockFile, limits)
        try:
            recovered, kept = _install(block, RowTable(block), NameIndex(block), known, epoch + 1)
            Election(block).startAt(epoch + 1)
        finally:
            block.close()
        discarded = [segment for segment in places.segments() if segment not in kept]
        for row, incarnation in discarded:
            segments.unlink(places, row, incarnation)
        return {"recovered": sorted(recovered), "discarded": [places.segmentName(*segment) for segment in discarded]}
    finally:
        lockFile.close()


def _livingRows(places: Places) -> dict[tuple[int, int], RowDescription]:
    """What lived when the journals ended: (row, incarnation) to description."""
    living: dict[tuple[int, int], RowDescription] = {}
    for epoch in places.epochsOf("journal"):
        for record in journal.read(places, epoch):
            key = (record.get("row"), record.get("incarnation"))
            if not all(isinstance(number, int) for number in key):
                continue
            if record["op"] == "live":
                try:
                    living[key] = RowDescription.unpacked(record["description"])  # type: ignore[index]  # checked above
                except (ControlBlockInvalid, KeyError, TypeError, ValueError):
                    continue
            elif record["op"] in ("free", "gone"):
                living.pop(key, None)  # type: ignore[arg-type]
    return living


def _install(
    block: Any, rows: RowTable, index: NameIndex, known: dict[tuple[int, int], RowDescription], epoch: int
) -> tuple[list[str], set[tuple[int, int]]]:
    """Write the rows whose segments are there. Nobody else uses the block yet, but the words are changed as always."""
    there = set(block.places.segments())
    recovered: list[str] = []
    kept: set[tuple[int, int]] = set()
    for (row, incarnation), description in sorted(known.items()):
        if description.mode is not Mode.BIG or (row, incarnation) not in there or row >= block.geometry.maxBuffers:
            continue
        if _segmentBytes(block.places, row, incarnation) < description.segmentBytes:
            continue
        while row >= rows.count():
            rows.grow(epoch)
        old = rows.state(row)
        creating = rows.change(row, old, epoch, layout.ROW_CREATING, incarnation=incarnation)
        rows.describe(row, description)
        rows.change(row, creating, epoch, layout.ROW_LIVE)
        index.insert(description.name.encode(), row, incarnation)
        recovered.append(description.name)
        kept.add((row, incarnation))
    return recovered, kept


def _segmentBytes(places: Places, row: int, incarnation: int) -> int:
    memory = posix_ipc.SharedMemory(places.segmentName(row, incarnation))
    try:
        return os.fstat(memory.fd).st_size
    finally:
        memory.close_fd()
