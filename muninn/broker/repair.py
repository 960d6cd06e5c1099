"""Adoption: a new control block takes over the buffers of older control blocks.

A process adopts when there is no block (another program removed its names), when it is
the first process of a domain and finds that the epochs are half used up, and when a
user runs `muninn doctor --repair`. In the last two cases the process withdraws the old
block first. In all cases it holds the lock CREATE. It does not begin while another
process has locked a slot byte, or while the old block, if it can be read, names a
member that is not confirmed dead.

1. The process reads the journals of older blocks: they say which rows lived, and their
   descriptions. If the old block can be read, its rows say the same, also for rows
   whose journal was removed; and a row that was freed or replaced according to it is
   not adopted.
2. It looks for the segments of these rows. A row is adopted only if its segment is
   there and is long enough. If two rows have the same name, the later one counts.
   fastMode memory had no name, and is gone with its holders.
3. It fills a block that no other process can open yet: it installs the rows, and writes
   each into a journal of the new block before it changes the row.
4. It gives the block its names, in one step.
5. Then it removes the segments that no journal and no old block knows, and the older
   journals. If it could not adopt a known segment, it keeps that segment and all older
   journals.

A death before step 4 leaves an unfinished block that no process opens, and everything
else as it was. A death after it leaves older journals. They say nothing that is not in
the new journal, and the broker of the new block removes them. So nothing that is known
is removed before it was adopted. A stale journal record costs nothing: the last record
of a row counts, and a row that a newer block's journal has ended is not adopted from an
older one.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from muninn.broker.journal import Journal
from muninn.broker.succession import hasTaken
from muninn.broker.vouching import isWhole, livingRows, newestOfName
from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.creation import create, openExisting
from muninn.control.descriptions import RowDescription
from muninn.control.drain import Drain
from muninn.control.election import Election
from muninn.control.geometry import Geometry
from muninn.control.index import NameIndex
from muninn.control.lockfile import LockFile
from muninn.control.members import MemberTable
from muninn.control.replacement import Replacement
from muninn.control.rows import RowTable
from muninn.control.rowstate import MAX_EPOCH
from muninn.control.withdrawal import Withdrawal, reinstate
from muninn.errors import BrokerUnavailable, ControlBlockInvalid
from muninn.storage import segments
from muninn.storage.paths import Paths, SegmentKey
from muninn.system import atomics
from muninn.system.logs import Log

_log = Log("muninn.broker")
#: From this epoch on the first process of a domain begins it anew, so that no word
#: comes near its end.
RENEWAL_EPOCH = MAX_EPOCH // 2
#: A row in one of these states was freed, or a newer version has its name.
_OVER = (layout.ROW_REPLACED, layout.ROW_DYING, layout.ROW_DEAD)


class Adoption:
    """The plan for the segments of older blocks, and for the drain of the last block.

    Parameters
    ----------
    old
        The block that is replaced, if it can be read. It knows which buffers were half
        written, which rows live although their journal was removed, and whether the
        domain drains.
    """

    def __init__(self, old: ControlBlock | None = None) -> None:
        self._old = old
        self.recovered: list[str] = []
        self.discarded: list[SegmentKey] = []
        #: Known to a journal, or to the old block, and not adopted.
        self.kept: list[SegmentKey] = []

    def fill(self, block: ControlBlock) -> Any:
        """Install the rows in a block that no other process can open yet; returns a
        function that the caller calls once the block has its names.
        """
        paths = block.paths
        older = [
            (ofBlock, epoch)
            for ofBlock, epoch in paths.journals()
            if ofBlock.identity != block.identity
        ]
        there = set(paths.segmentKeys())
        wanted, known = self.known(paths, older, there)
        adopted = self._install(block, wanted, _firstEpoch(older))
        self.kept = sorted(known - adopted)
        self.discarded = sorted(there - adopted - set(self.kept))
        if not self.kept:
            block.put(layout.ADOPTED_OFFSET, (1).to_bytes(4, "little"))

        def published() -> None:
            for key in self.discarded:
                _log.info(
                    "nothing knows the segment %s: it was removed",
                    paths.segmentName(key.row, key.incarnation, key.origin),
                )
                segments.unlink(paths, key.row, key.incarnation, key.origin)
            for ofBlock, epoch in older if not self.kept else ():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(ofBlock.journalPath(epoch))

        return published

    def known(
        self, paths: Paths, journals: list[tuple[Paths, int]], there: set[SegmentKey]
    ) -> tuple[dict[SegmentKey, RowDescription], set[SegmentKey]]:
        """The buffers that could be adopted, and the segments of those `there` that must
        stay: those of these buffers, and those of which this version can not say whether
        they are needed.
        """
        living, unread, ended = livingRows(journals)
        self._addRows(living, unread, ended)
        wanted = newestOfName(living, there)
        intact = {key for key, description in wanted.items() if isWhole(paths, key, description)}
        return wanted, there & (unread | intact)

    def _addRows(
        self,
        living: dict[SegmentKey, RowDescription],
        unread: set[SegmentKey],
        ended: set[SegmentKey],
    ) -> None:
        """Add the rows that live according to the old block, since its journal may have
        been removed, and end those that according to it do not. A row that a journal has
        ended is not added.
        """
        if self._old is None:
            return
        rows, exchange = RowTable(self._old), Replacement(self._old).read()
        over = [row for state in _OVER for row in rows.inState(state)]
        if exchange is not None and hasTaken(rows, exchange):
            over.append(exchange.old)  # the broker died after the newer version was live
        for row in over:
            key = _keyOf(rows, row)
            living.pop(key, None)
            unread.discard(key)
            ended.add(key)
        for row in rows.named(0, rows.count()):
            key = _keyOf(rows, row)
            if key in living or key in ended:
                continue
            try:
                living[key] = rows.description(row)
            except ControlBlockInvalid:
                unread.add(key)

    def _install(
        self, block: ControlBlock, wanted: dict[SegmentKey, RowDescription], epoch: int
    ) -> set[SegmentKey]:
        """Write the rows whose segments are there; returns these segments. The state
        words are changed by the same CAS as in a broker.
        """
        rows, index, journal = RowTable(block), NameIndex(block), Journal(block.paths, epoch)
        adopted: set[SegmentKey] = set()
        try:
            for key, description in sorted(wanted.items()):
                if key.row >= block.geometry.maxBuffers or not isWhole(
                    block.paths, key, description
                ):
                    continue
                while key.row >= rows.count():
                    rows.grow(epoch)
                free = rows.state(key.row)
                if free.state != layout.ROW_FREE:
                    continue  # a buffer of another block has this row; this segment is kept
                description = description._replace(origin=key.origin)
                journal.append(
                    "live",
                    row=key.row,
                    incarnation=key.incarnation,
                    description=description.packed(),
                )
                creating = rows.change(
                    key.row, free, epoch, layout.ROW_CREATING, incarnation=key.incarnation
                )
                rows.describe(key.row, description)
                rows.change(key.row, creating, epoch, layout.ROW_LIVE)
                index.insert(description.name.encode(), key.row, key.incarnation)
                self._carryGeneration(block, key)
                self.recovered.append(description.name)
                adopted.add(key)
        finally:
            journal.close()
        if self._old is not None and (why := Drain(self._old).reason()) is not None:
            Drain(block).set(epoch, True, why)
        Election(block).startAt(epoch)
        return adopted

    def _carryGeneration(self, block: ControlBlock, key: SegmentKey) -> None:
        """Copy the generation of a buffer from the old block, if that can be read: how
        often it was published, whether its last writer died while writing, and whether a
        program may write it in place, as is assumed otherwise.
        """
        old, inPlace = self._old, block.rowAddress(key.row) + layout.ROW_IN_PLACE_OFFSET
        atomics.storeRelease32(inPlace, 1)
        if (
            old is None
            or key.row >= RowTable(old).count()
            or RowTable(old).state(key.row).incarnation != key.incarnation
        ):
            return
        source, target = old.rowAddress(key.row), block.rowAddress(key.row)
        generation = int(atomics.loadAcquire64(source + layout.ROW_GENERATION_OFFSET))
        isTorn = int(atomics.loadAcquire64(source + layout.ROW_TORN_OFFSET)) != 0
        # A torn ticket is not copied. An odd generation without an owner says the same
        # to readers, until a process writes again. SYNC version: pairs with create,
        # which stores the version later: no process opens the new block before, so none
        # sees this word change.
        atomics.storeRelease64(
            target + layout.ROW_GENERATION_OFFSET, generation | 1 if isTorn else generation
        )
        atomics.storeRelease32(inPlace, atomics.loadAcquire32(source + layout.ROW_IN_PLACE_OFFSET))


def adopt(block: ControlBlock) -> Any:
    """For `openOrCreate`: the adoption by a block that is made where there is none."""
    return Adoption().fill(block)


def rebuild(paths: Paths, limits: Geometry) -> dict[str, Any]:
    """Replace the control block by a sound one, and report which buffers were
    recovered: see `admin.repair`.

    Raises
    ------
    BrokerUnavailable
        A process of the domain still runs, and would go on with the old block.
    """
    lockFile = LockFile(paths)
    paths = lockFile.paths
    try:
        adoption = _begunAnew(paths, lockFile, limits)
        if isinstance(adoption, int):
            raise BrokerUnavailable(
                f"process {adoption} is still in domain {paths.domain!r}",
                "End it, and repair again until no process is named; where the block can be read, "
                "`python -m muninn` names all members",
            )
        return {
            "recovered": sorted(adoption.recovered),
            "discarded": [
                paths.segmentName(key.row, key.incarnation, key.origin)
                for key in adoption.discarded
            ],
            "kept": [
                paths.segmentName(key.row, key.incarnation, key.origin) for key in adoption.kept
            ],
        }
    finally:
        lockFile.close()


def renew(paths: Paths, lockFile: LockFile, limits: Geometry) -> None:
    """If no member is in the domain, replace its control block, whose epochs are half
    used up, by a new one with the same buffers.
    """
    _begunAnew(paths, lockFile, limits)


def _begunAnew(paths: Paths, lockFile: LockFile, limits: Geometry) -> Adoption | int:
    """The adoption by a new block. If a process is in the old block, that block stays,
    and the pid of the process is returned.
    """
    with lockFile.creating():
        try:
            # A process may have withdrawn the block for a repair and died. Without its
            # version the block could not be read.
            reinstate(paths, lockFile)
            old = openExisting(paths, lockFile)
        except ControlBlockInvalid:
            old = None
        withdrawal = Withdrawal(paths, lockFile)
        try:
            # A free byte alone does not show that a member is dead: a live member may
            # have lost its byte and not have seen that yet.
            if holder := withdrawal.holder() or (
                MemberTable(old).inhabitant() if old is not None else 0
            ):
                withdrawal.giveBack()
                return holder
            adoption = Adoption(old)
            try:
                create(paths, lockFile, limits, adoption.fill).close()
            except BaseException:
                withdrawal.giveBack()
                raise
            return adoption
        finally:
            withdrawal.close()
            if old is not None:
                old.close()


def _keyOf(rows: RowTable, row: int) -> SegmentKey:
    return SegmentKey(rows.origin(row) or rows.block.identity, row, rows.state(row).incarnation)


def _firstEpoch(journals: list[tuple[Paths, int]]) -> int:
    """The epoch after all epochs of the journals, or 1 if these are half used up."""
    last = max((epoch for _, epoch in journals), default=0)
    return last + 1 if last < RENEWAL_EPOCH else 1
