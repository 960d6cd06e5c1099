"""The snapshot: the rows that are there, copied into the journal of this term, a piece
at a time.

The broker takes a snapshot at the beginning of a term, so that the journals of earlier
terms can be removed. It takes another when most of the journal is about rows that are
gone, when a part of it is and there would soon be no memory left for a copy, and when
the journal was removed. Changes that happen meanwhile are appended to the journal and
to the copy (`journal.py`). A row whose name a newer version has taken is copied as a
record that says so. A row may get into the copy late or twice: each record is as the
row was at that time, and the last one counts. If there is no memory for a copy, the
journals stay as they are, and the broker tries again later.

The snapshot is private memory. If the broker dies, its successor removes the unfinished
copy and begins again.
"""

from __future__ import annotations

import contextlib
import os

from muninn.broker.directory import Directory
from muninn.broker.journal import SLACK_BYTES, Journal, Record
from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.election import Election
from muninn.errors import BrokerUnavailable, DescriptorsExhausted, HostMemoryFull
from muninn.system import clock
from muninn.system.logs import Log
from muninn.system.pages import PAGE_BYTES

_log = Log("muninn.broker")
#: A piece takes some 0.2 ms, so that it does not delay a request much.
_PIECE_ROWS = 64
_RETRY_SECONDS = 1.0
#: The most that a row takes, with the frame and the names of the fields.
_RECORD_BYTES = 512
#: How many bytes of a journal must be about rows that are gone, in addition to an
#: eighth of the vouching bytes, before the broker looks whether it must make a copy
#: early; and by how many bytes the journal grows between two looks.
_LEAST_WASTE_BYTES, _LOOK_BYTES = 16 << 10, 4 << 10


class Snapshot:
    """The copying of the rows that are there. The caller holds the broker's lock."""

    def __init__(
        self, block: ControlBlock, epoch: int, directory: Directory, journal: Journal
    ) -> None:
        self._block = block
        self._paths = block.paths
        self._epoch = epoch
        self._directory = directory
        self._journal = journal
        self._next: int | None = None  # the first row that the copy lacks, while there is one
        self._isWanted = False
        self._retryAt = 0.0
        # Whether memory is short, and at how many wasted bytes to look again.
        self._isShort, self._lookAtBytes = False, 0

    def want(self) -> None:
        """Ask for a snapshot: this term's journal does not vouch for all rows."""
        self._isWanted = True

    def isUnderWay(self) -> bool:
        return self._next is not None

    def isDue(self) -> bool:
        if self._next is not None:
            return True
        isWanted = (
            self._journal.isNameless
            or self._isWanted
            or self._journal.isTooLong()
            or self._isMemoryShort()
        )
        return isWanted and clock.now() >= self._retryAt

    def _isMemoryShort(self) -> bool:
        """Whether there is hardly enough memory for a copy. If the journal grew further
        there would be none, and then the journal would grow for ever.
        """
        wasted, vouched = self._journal.wastedBytes(), self._journal.vouchedBytes
        if wasted >= max(self._lookAtBytes, vouched // 8 + _LEAST_WASTE_BYTES):
            self._isShort, self._lookAtBytes = (
                self._availableBytes() < vouched * 3 // 2 + 2 * SLACK_BYTES,
                wasted + _LOOK_BYTES,
            )
        return self._isShort

    def _availableBytes(self) -> int:
        room = os.statvfs(self._paths.directory)
        # 0 blocks: a file system without a limit
        return room.f_bavail * room.f_frsize if room.f_blocks else 1 << 62

    def workOnce(self) -> None:
        """Copy a piece."""
        try:
            if self._next is None:
                self._begin()
            elif not self._journal.isCopying():
                self._giveUp("an append did not fit into the copy")
            else:
                self._next = self._copied(self._next)
        except (HostMemoryFull, DescriptorsExhausted) as error:
            self._giveUp(error.reason)

    def _begin(self) -> None:
        self._journal.look()
        if self._journal.isNameless and not self._nameAnew():
            self._giveUp("it has lost its name, and this may not be its term any more")
            return
        # A journal with all rows knows its vouching bytes. At the beginning of a term
        # they are estimated.
        ofRowsBytes = self._directory.rows.countInState(layout.ROW_LIVE) * _RECORD_BYTES
        wantedBytes = PAGE_BYTES + (ofRowsBytes if self._isWanted else self._journal.vouchedBytes)
        if self._availableBytes() < wantedBytes:
            self._giveUp(f"{wantedBytes} bytes for a copy are not there")
            return
        halfMade, rows = self._directory.halfMade(), self._directory.rows
        self._journal.beginCopy()
        self._journal.copy(
            [("begin", {"epoch": self._epoch}), *(("create", record) for record in halfMade)]
        )
        # The journal of an earlier term may still vouch for these.
        replaced = rows.inState(layout.ROW_REPLACED)
        self._journal.copy([("replaced", self._replaced(row)) for row in replaced])
        self._next = 0

    def _nameAnew(self) -> bool:
        """Begin a new file for a journal that was removed. A deposed broker does not,
        since its successor has removed the journal.
        """
        # Under CREATE, since another process may be removing journals under it.
        with contextlib.suppress(BrokerUnavailable), self._block.lockFile.creating(0):
            if self._block.hasName() and Election(self._block).epoch() == self._epoch:
                _log.warning(
                    "the journal of %s was removed from /dev/shm: it is written anew",
                    self._paths.domain,
                )
                self._journal.beginAnew()
                self._journal.append("begin", epoch=self._epoch)
                self._isWanted = True
                return True
        return False

    def _copied(self, first: int) -> int | None:
        """Copy the rows from `first` on; returns where the next piece begins, None
        after the last.
        """
        rows = self._directory.rows
        end = min(first + _PIECE_ROWS, rows.count())
        self._journal.copy([("live", self._record(row)) for row in rows.named(first, end)])
        if end < rows.count():
            return end
        if not self._journal.finishCopy():
            self._giveUp("the copy has gone")
            return None
        self._isWanted, self._isShort, self._lookAtBytes = False, False, 0
        # If another process holds CREATE, the end of the next copy removes them.
        with contextlib.suppress(BrokerUnavailable), self._block.lockFile.creating(0):
            if self._block.hasName():
                self._block.dropJournals(self._epoch)
        return None

    def _record(self, row: int) -> Record:
        rows = self._directory.rows
        return {
            "row": row,
            "incarnation": rows.state(row).incarnation,
            "description": rows.packed(row),
        }

    def _replaced(self, row: int) -> Record:
        rows = self._directory.rows
        return {
            "row": row,
            "incarnation": rows.state(row).incarnation,
            "origin": rows.origin(row),
        }

    def _giveUp(self, why: str) -> None:
        _log.info("the journal stays as it is for now: %s", why)
        self._journal.dropCopy()
        self._next = None
        self._retryAt = clock.now() + _RETRY_SECONDS
