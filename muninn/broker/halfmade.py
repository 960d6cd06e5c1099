"""Half-made rows: rows that were granted and are not committed yet.

A row that is CREATING has no description yet; only the `create` record in the journal
says its name and its size. The broker keeps these records in private memory, and copies
them whenever it begins a journal. A successor takes them from the journals of earlier
epochs. Where a record is lost, the name may be granted again, and the commit of the
first creator is then refused.
"""

from __future__ import annotations

import contextlib

from muninn.broker.catalog import Catalog
from muninn.broker.journal import Journal, Record, read
from muninn.broker.policy.usage import Usage
from muninn.control import layout
from muninn.control.rows import RowTable
from muninn.errors import ControlBlockInvalid, MuninnError
from muninn.storage.paths import Paths
from muninn.terms import WINDOW_PREFIX, asMode

#: The fields of a `create` record. A record without one of them is of another version,
#: and is ignored.
_GRANTED = {
    "row": int,
    "incarnation": int,
    "slot": int,
    "name": str,
    "tenant": str,
    "mode": str,
    "gpu": int,
    "sizeBytes": int,
}


class HalfMade:
    """The `create` records of the rows that are CREATING, by row."""

    def __init__(self, paths: Paths, epoch: int, journal: Journal) -> None:
        self._paths = paths
        self._epoch = epoch
        self._journal = journal
        self._records: dict[int, Record] = {}

    def adopt(self, rows: RowTable, catalog: Catalog) -> None:
        """Take the names of CREATING rows from the journals of earlier terms.

        A creator that asked for a name and lost the answer gets the same row again, and
        no other creator gets that name.
        """
        halfMade = {(row, rows.state(row).incarnation) for row in rows.inState(layout.ROW_CREATING)}
        if not halfMade:
            return
        granted: dict[tuple[int, int], Record] = {}
        for epoch in self._paths.epochsOf("journal"):
            if epoch < self._epoch:
                # A journal that another user could have written is ignored.
                with contextlib.suppress(ControlBlockInvalid):
                    granted.update(
                        {
                            (record["row"], record["incarnation"]): record
                            for record in read(self._paths, epoch, only="create")
                            if all(
                                type(record.get(field)) is kind for field, kind in _GRANTED.items()
                            )
                        }
                    )
        for row, incarnation in halfMade & granted.keys():
            record = granted[row, incarnation]
            try:
                usage = Usage(
                    record["name"],
                    record["tenant"],
                    asMode(record["mode"]),
                    record["gpu"],
                    record["sizeBytes"],
                    0,
                )
                catalog.add(row, usage)
            except MuninnError:
                # The mode is not valid, or another creator has the name meanwhile: the
                # commit will be refused.
                continue
            self._records[row] = createRecord(row, incarnation, record["slot"], usage)
            self._journal.note("create", **self._records[row])

    def put(self, record: Record) -> None:
        self._records[record["row"]] = record

    def forget(self, row: int) -> None:
        """The row is not CREATING any more."""
        self._records.pop(row, None)

    def windows(self, gpu: int) -> int:
        """How many windows are being promoted to a GPU."""
        return sum(
            record["gpu"] == gpu and record["name"].startswith(WINDOW_PREFIX)
            for record in self._records.values()
        )

    def records(self) -> list[Record]:
        return list(self._records.values())


def createRecord(row: int, incarnation: int, slot: int, usage: Usage) -> Record:
    """The fields of a `create` record."""
    return {
        "row": row,
        "incarnation": incarnation,
        "slot": slot,
        "name": usage.name,
        "tenant": usage.tenant,
        "mode": usage.mode.value,
        "gpu": usage.gpu,
        "sizeBytes": usage.sizeBytes,
    }
