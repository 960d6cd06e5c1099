"""Adoption: a new control block takes over what the journals of older ones vouch for.

Algorithm. The journals say which rows lived and what they were; a segment that is still
there, under the name that such a row has, vouches for its bytes. Both together make the
row again. An old block that can be read says it too, for which the journal was removed.
Adoption fills a block that nobody can open yet: it installs the rows, and writes all of
them into a journal of the new block. Then the block gets its names, in one step. Only
after that the older journals and the segments that nothing knows are removed. A death
before that step leaves a draft and everything as it was; a death after it leaves older
journals, which say nothing that is not in the new one, and which the new block's broker
removes. So nothing that is known is ever deleted before it was adopted, and what could
not be adopted stays, with its journals.

A block is made so when there is none (its names were removed from outside), when the
first process of a domain finds that the epochs are half used up, and by `muninn doctor
--repair`. The last two withdraw the old block first; all hold CREATE, and none begins
while a slot byte is locked, or while the old block, where it can be read, names a
member that is not confirmed dead. fastMode memory had no name and is gone with its
holders.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from muninn.broker.journal import Journal, read
from muninn.control import layout
from muninn.control.block import ControlBlock, create, openExisting
from muninn.control.descriptions import RowDescription
from muninn.control.drain import Drain
from muninn.control.election import Election
from muninn.control.geometry import Geometry
from muninn.control.index import NameIndex
from muninn.control.lockfile import LockFile
from muninn.control.members import MemberTable
from muninn.control.rows import RowTable
from muninn.control.rowstate import MAX_EPOCH
from muninn.control.withdrawal import Withdrawal, reinstate
from muninn.errors import BrokerUnavailable, ControlBlockInvalid
from muninn.storage import segments
from muninn.storage.paths import SHM_ROOT, Paths, SegmentKey
from muninn.system import atomics
from muninn.system.logs import Log
from muninn.terms import Mode

_log = Log("muninn.broker")
#: From this epoch on the first process of a domain begins it anew, so that no word
#: comes near its end.
RENEWAL_EPOCH = MAX_EPOCH // 2


class Adoption:
    """What becomes of the segments of older blocks, and of the drain of the last one.

    Parameters
    ----------
    old
        The block that is replaced, if it can be read: it knows what was half written,
        what lives if its journal was removed, and whether the domain drains.
    """

    def __init__(self, old: ControlBlock | None = None) -> None:
        self._old = old
        self.recovered: list[str] = []
        self.discarded: list[SegmentKey] = []
        #: Known to a journal, or to the old block, and not adopted.
        self.kept: list[SegmentKey] = []

    def fill(self, block: ControlBlock) -> Any:
        """Install the rows in a block that nobody can open yet; returns what is to be
        done once it can be found.
        """
        paths = block.paths
        older = [
            (ofBlock, epoch)
            for ofBlock, epoch in paths.journals()
            if ofBlock.identity != block.identity
        ]
        living, unread, ended = _livingRows(older)
        self._addRows(living, unread, ended)
        there = set(paths.segmentKeys())
        wanted = _newestOfName(living, there)
        adopted = self._install(block, wanted, _firstEpoch(older))
        intact = {key for key, description in wanted.items() if _isWhole(paths, key, description)}
        self.kept = sorted((there & (unread | intact)) - adopted)
        self.discarded = sorted(there - adopted - set(self.kept))
        if not self.kept:
            block.put(layout.ADOPTED_OFFSET, (1).to_bytes(4, "little"))

        def published() -> None:
            for key in self.discarded:
                _log.warning(
                    "nothing knows the segment %s: it was removed",
                    paths.segmentName(key.row, key.incarnation, key.origin),
                )
                segments.unlink(paths, key.row, key.incarnation, key.origin)
            for ofBlock, epoch in older if not self.kept else ():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(ofBlock.journalPath(epoch))

        return published

    def _addRows(
        self,
        living: dict[SegmentKey, RowDescription],
        unread: set[SegmentKey],
        ended: set[SegmentKey],
    ) -> None:
        """What lives by the old block's rows: its journal may have been removed. What a
        journal has ended was to end.
        """
        if self._old is None:
            return
        rows = RowTable(self._old)
        for row in rows.named(0, rows.count()):
            key = SegmentKey(
                rows.origin(row) or self._old.identity, row, rows.state(row).incarnation
            )
            if key in living or key in ended:
                continue
            try:
                living[key] = rows.description(row)
            except ControlBlockInvalid:
                unread.add(key)

    def _install(
        self, block: ControlBlock, wanted: dict[SegmentKey, RowDescription], epoch: int
    ) -> set[SegmentKey]:
        """Write the rows whose segments are there; returns their segments. The words
        are changed as always.
        """
        rows, index, journal = RowTable(block), NameIndex(block), Journal(block.paths, epoch)
        adopted: set[SegmentKey] = set()
        try:
            for key, description in sorted(wanted.items()):
                if key.row >= block.geometry.maxBuffers or not _isWhole(
                    block.paths, key, description
                ):
                    continue
                while key.row >= rows.count():
                    rows.grow(epoch)
                free = rows.state(key.row)
                if free.state != layout.ROW_FREE:
                    continue  # another block's buffer has this row: this one is kept aside
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
        """How often it was published, and that its last writer died half way, if the
        old block can still say so.
        """
        old = self._old
        if (
            old is None
            or key.row >= RowTable(old).count()
            or RowTable(old).state(key.row).incarnation != key.incarnation
        ):
            return
        source, target = old.rowAddress(key.row), block.rowAddress(key.row)
        generation = int(atomics.loadAcquire64(source + layout.ROW_GENERATION_OFFSET))
        isTorn = int(atomics.loadAcquire64(source + layout.ROW_TORN_OFFSET)) != 0
        # A torn ticket is not carried over: an odd generation that nobody owns says the
        # same to readers, until somebody writes anew. SYNC version: pairs with create,
        # which stores the version later: no process opens the new block before, so none
        # sees this word change.
        atomics.storeRelease64(
            target + layout.ROW_GENERATION_OFFSET, generation | 1 if isTorn else generation
        )


def adopt(block: ControlBlock) -> Any:
    """For `openOrCreate`: the adoption by a block that is made because there is none."""
    return Adoption().fill(block)


def rebuild(paths: Paths, limits: Geometry) -> dict[str, Any]:
    """Put a sound control block in place of whatever is there, and say what became of
    its buffers: see `admin.repair`.

    Raises
    ------
    BrokerUnavailable
        A process of the domain still runs: it would go on with the old block.
    """
    lockFile = LockFile(paths)
    paths = lockFile.paths
    try:
        adoption = _begunAnew(paths, lockFile, limits)
        if isinstance(adoption, int):
            raise BrokerUnavailable(
                f"process {adoption} is still in domain {paths.domain!r}",
                "End it, and repair again until nobody is named; where the block can be read, "
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
    """Begin the domain anew, with all that lives in it, if nobody is in it: its epochs
    are half used up.
    """
    _begunAnew(paths, lockFile, limits)


def _begunAnew(paths: Paths, lockFile: LockFile, limits: Geometry) -> Adoption | int:
    """The adoption by a new block; the pid of a process that is in the old one, which
    then stays.
    """
    with lockFile.creating():
        try:
            # or one that a repair had withdrawn, and died, could not say anything
            reinstate(paths, lockFile)
            old = openExisting(paths, lockFile)
        except ControlBlockInvalid:
            old = None
        withdrawal = Withdrawal(paths, lockFile)
        try:
            # A byte that is free proves nothing: a member may have lost it, and not
            # have seen that yet.
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


def _firstEpoch(journals: list[tuple[Paths, int]]) -> int:
    """After all that the journals remember, while there is room."""
    last = max((epoch for _, epoch in journals), default=0)
    return last + 1 if last < RENEWAL_EPOCH else 1


def _livingRows(
    journals: list[tuple[Paths, int]],
) -> tuple[dict[SegmentKey, RowDescription], set[SegmentKey], set[SegmentKey]]:
    """What lived when the journals ended, what they know without a description that can
    be read, and what they ended.

    In each block's journals the last word counts. What one block's journals ended does
    not live by another's, which is older: a block adopts before its first term.
    """
    living: dict[SegmentKey, RowDescription] = {}
    unread: set[SegmentKey] = set()
    ended: set[SegmentKey] = set()
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
            elif record["op"] in ("free", "gone"):
                key = SegmentKey(originOf.get(named, paths.identity), row, incarnation)
                ended.add(key)
                unread.discard(key)
    return (
        {key: description for key, description in living.items() if key not in ended},
        unread,
        ended,
    )


def _newestOfName(
    living: dict[SegmentKey, RowDescription], there: set[SegmentKey]
) -> dict[SegmentKey, RowDescription]:
    """The bigMode buffers whose segments are there, one a name: an earlier one was
    freed, or there would be no later one.
    """
    newest: dict[str, SegmentKey] = {}
    for key, description in living.items():
        if key not in there or description.mode is not Mode.BIG:
            continue
        other = newest.get(description.name)
        if other is None or living[other].createdMs <= description.createdMs:
            newest[description.name] = key
    return {key: living[key] for key in newest.values()}


def _isWhole(paths: Paths, key: SegmentKey, description: RowDescription) -> bool:
    try:
        sizeBytes = os.lstat(
            f"{SHM_ROOT}{paths.segmentName(key.row, key.incarnation, key.origin)}"
        ).st_size
    except FileNotFoundError:
        return False
    return sizeBytes >= description.segmentBytes
