"""Vouching: which segments of a domain the journals of its blocks know, and what they
say of them.

Nothing here changes anything. Who adopts (`repair.py`) and who removes (`purging.py`)
ask the same functions, so that no process removes what the next one could adopt.
"""

from __future__ import annotations

import os
from typing import Any

from muninn.broker.journal import read
from muninn.control.descriptions import RowDescription
from muninn.errors import ControlBlockInvalid
from muninn.storage.paths import SHM_ROOT, Paths, SegmentKey
from muninn.terms import Mode


def livingRows(
    journals: list[tuple[Paths, int]],
) -> tuple[dict[SegmentKey, RowDescription], set[SegmentKey], set[SegmentKey]]:
    """The segments of the rows that lived when the journals ended, with descriptions;
    those whose description can not be read; and those that a journal has ended.

    In the journals of one block the last record of a row counts. If the journals of one
    block have ended a row, a record of another block does not revive it: that block is
    older, because a block adopts before its first term. A row whose name a newer
    version has taken is in none of the three: it lives only if the old block can be
    read, and says so.
    """
    living: dict[SegmentKey, RowDescription] = {}
    unread: set[SegmentKey] = set()
    ended: set[SegmentKey] = set()
    taken: set[SegmentKey] = set()  # their names have newer versions
    originOf: dict[tuple[int, int, int], int] = {}
    for paths, epoch in journals:
        for record in read(paths, epoch):
            row, incarnation = record.get("row"), record.get("incarnation")
            if not isinstance(row, int) or not isinstance(incarnation, int):
                continue
            named = (paths.identity, row, incarnation)
            if record["op"] == "live":
                try:
                    description = RowDescription.unpacked(record["description"])
                except (ControlBlockInvalid, KeyError, TypeError, ValueError):
                    unread.add(SegmentKey(*named))
                    continue
                originOf[named] = description.origin or paths.identity
                key = SegmentKey(originOf[named], row, incarnation)
                living[key] = description
                ended.discard(key)
                taken.discard(key)
                if (replaced := _replacedBy(record)) is not None:
                    old = (paths.identity, *replaced)
                    taken.add(SegmentKey(originOf.get(old, paths.identity), *replaced))
            elif record["op"] == "replaced":
                if isinstance(origin := record.get("origin"), int):
                    taken.add(SegmentKey(origin or paths.identity, row, incarnation))
            elif record["op"] in ("free", "gone"):
                key = SegmentKey(originOf.get(named, paths.identity), row, incarnation)
                ended.add(key)
                unread.discard(key)
    return (
        {
            key: description
            for key, description in living.items()
            if key not in ended and key not in taken
        },
        unread,
        ended,
    )


def _replacedBy(record: dict[str, Any]) -> tuple[int, int] | None:
    """(row, incarnation) of the version whose name the row of this record has taken. If
    the exchange was taken back, a later record vouches for that version again.
    """
    replaced = record.get("replaced")
    if (
        not isinstance(replaced, list)
        or len(replaced) != 2
        or not all(isinstance(number, int) for number in replaced)
    ):
        return None
    return replaced[0], replaced[1]


def newestOfName(
    living: dict[SegmentKey, RowDescription], there: set[SegmentKey]
) -> dict[SegmentKey, RowDescription]:
    """The bigMode buffers whose segments are there, one for each name. Of two with the
    same name the earlier one was freed, or the later one could not have been created.
    """
    newest: dict[str, SegmentKey] = {}
    for key, description in living.items():
        if key not in there or description.mode is not Mode.BIG:
            continue
        other = newest.get(description.name)
        if other is None or living[other].createdMs <= description.createdMs:
            newest[description.name] = key
    return {key: living[key] for key in newest.values()}


def isWhole(paths: Paths, key: SegmentKey, description: RowDescription) -> bool:
    try:
        sizeBytes = os.lstat(
            f"{SHM_ROOT}{paths.segmentName(key.row, key.incarnation, key.origin)}"
        ).st_size
    except FileNotFoundError:
        return False
    return sizeBytes >= description.segmentBytes
