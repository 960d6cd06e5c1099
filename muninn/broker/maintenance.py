"""Maintenance: the work that a broker does beside its requests, one piece at a time.

After a takeover the broker begins the following in this order. Long ones are done in
slices, between which the others go on. The broker

1. finishes the rows that its predecessors left half done;
2. reclaims the members that are confirmed dead;
3. removes the segments that no row vouches for;
4. removes the sockets and the empty journals of its predecessors;
5. puts names into the index that are not in it yet;
6. copies the rows that are there into the journal of its epoch (`snapshot.py`).

Later it ends lifetimes, copies the journal again when most of it is about rows that are
gone, and every few seconds looks for deaths that no message has reported. Each piece is
idempotent, so a successor repeats the work that a broker which died has begun. Nothing
of it survives in private memory: the rows, the slots and the directory of the domain
say what is still to be done.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

from muninn.broker.deathwatch import DeathWatch
from muninn.broker.directory import Directory
from muninn.broker.holders import fieldsOf
from muninn.broker.journal import Journal, dropEmpty
from muninn.broker.reclaiming import Reclaimer
from muninn.broker.snapshot import Snapshot
from muninn.control import layout
from muninn.control.block import BlockLost, ControlBlock
from muninn.control.members import MemberKey
from muninn.errors import BrokerUnavailable, MuninnError
from muninn.observe import events
from muninn.storage import segments
from muninn.storage.paths import SHM_ROOT, SegmentKey
from muninn.system import clock
from muninn.system.clock import monotonicMs
from muninn.system.logs import Log

_log = Log("muninn.broker")
#: The time between two sweeps (`_sweepMembers`).
SWEEP_SECONDS = 3.0
_SLICE_ROWS = 256
#: How many lifetimes end, and how many rows or segments are reclaimed, in one step.
#: Each costs about as much as serving a request.
_SLICE_ENDS = _SLICE_RECLAIMED = 32


class Maintenance:
    """The maintenance of one broker's term. The caller holds the broker's lock.

    Parameters
    ----------
    own
        The broker's own member, which is never looked at.
    mayStillCome
        Whether a member may still bring a descriptor.
    """

    def __init__(
        self,
        block: ControlBlock,
        epoch: int,
        own: MemberKey,
        directory: Directory,
        deathWatch: DeathWatch,
        reclaimer: Reclaimer,
        journal: Journal,
        mayStillCome: Callable[[], bool],
    ) -> None:
        self._block = block
        self._paths = block.paths
        self._epoch = epoch
        self._own = own
        self._directory = directory
        self._deathWatch = deathWatch
        self._reclaimer = reclaimer
        self._journal = journal
        self.snapshot = Snapshot(block, epoch, directory, journal)
        self._mayStillCome = mayStillCome
        self._chores: deque[Callable[[], None]] = deque()
        self._sweepAt = 0.0
        self._mayBeLost = True

    def takeOver(self) -> None:
        """Queue everything that predecessors may have left to do."""
        self._chores.extend(
            (
                self.tryReclaimUnheld,
                self._sweepMembers,
                self._collectOrphans,
                self._dropLeftovers,
                self._indexNames,
            )
        )
        self.snapshot.want()

    def isPending(self) -> bool:
        return bool(self._chores) or self._reclaimer.isReclaiming() or self.snapshot.isDue()

    def sweepSoon(self) -> None:
        """Look for unreported deaths at the next opportunity."""
        self._chores.append(self._sweepMembers)

    def workOnce(self) -> None:
        """Do one piece. The sweep comes before the snapshot: a snapshot that can not
        be made is tried again for ever, each time that the broker wakes.
        """
        if self._chores:
            self._chores.popleft()()
        elif self._reclaimer.isReclaiming():
            self._reclaimer.reclaimOn()
        elif clock.now() >= self._sweepAt:
            self._sweepMembers()
        elif self.snapshot.isDue():
            self.snapshot.workOnce()

    def untilDeadline(self) -> float:
        """Seconds until the first lifetime ends; a day if none does, or if there is
        other work to do first.
        """
        mayEnd = not self._chores and clock.knowsHostTime()
        first = self._directory.catalog.nextDeadline() if mayEnd else None
        return 86400.0 if first is None else max(0.0, (first[0] - monotonicMs()) / 1000)

    def endLifetimes(self) -> None:
        """Free the buffers whose lifetime is over, a limited number of them. The next
        step frees the others.
        """
        # A broker that can not compare clocks frees nothing by them: its successor
        # does.
        if self._chores or not clock.knowsHostTime():
            return
        now, catalog = monotonicMs(), self._directory.catalog
        for _ in range(_SLICE_ENDS):
            first = catalog.nextDeadline()
            if first is None or first[0] > now:
                return
            catalog.forgetDeadline(first[1])  # so that a failure is not repeated for ever
            self._directory.endLifetime(first[1])

    def _indexNames(self) -> None:
        if self._directory.catalog.indexNames(_SLICE_ROWS):
            self._chores.append(self._indexNames)

    def _sweepMembers(self) -> None:
        """Reclaim the members that died before this term, that died together with their
        broker, or that died before they had said hello. Free the rows whose memory is
        lost, and check that the journal and the names of the block are still there.
        """
        self._sweepAt = clock.now() + SWEEP_SECONDS
        if dead := self._deathWatch.adopt(self._own):
            for key in dead:
                self._reclaimer.begin(key)
            self.tryReclaimUnheld()
        self.collectLost()
        self._journal.look()
        if not self._block.restoreNames():
            raise BlockLost

    def collectLost(self) -> None:
        """Free the fastMode rows whose memory is lost: this broker does not have it,
        and no member is left that could bring it.
        """
        rows = self._directory.rows
        fast = rows.fastMode()
        if fast and self._mayStillCome():
            return
        self._mayBeLost = False
        for row in fast:
            if self._directory.descriptorStore.lacksMemory(rows, row):
                events.say("memoryLost", **fieldsOf(rows, row))
                self._directory.ownerGone(row)

    def mayBeBrought(self, name: str) -> bool:
        """Whether no member has brought the memory of that name, and a member still
        may. If none may, this frees the name.
        """
        if not self._directory.lacksMemory(name):
            return False
        self.collectLost()
        return self._mayStillCome()

    def collectLostAfterTakeover(self) -> None:
        """As `collectLost`, while members may still bring memory of an earlier term.
        Does nothing once a `collectLost` has found that none can.
        """
        if self._mayBeLost:
            self.collectLost()

    def _collectOrphans(self, left: Iterator[SegmentKey] | None = None) -> None:
        """Remove the segments that no row vouches for, a slice at a time. After the
        last slice, try to reclaim the rows without a lease.

        A segment that another block made belongs to that block, until this block has
        adopted everything that lived there.
        """
        paths = self._paths
        left = iter(paths.segmentKeys()) if left is None else left
        if not (keys := list(islice(left, _SLICE_RECLAIMED))):
            self.tryReclaimUnheld()
            return
        self._chores.append(lambda: self._collectOrphans(left))
        if not (orphans := [key for key in keys if self._isOrphan(key)]):
            return
        # If another process holds CREATE, the next term removes them.
        with contextlib.suppress(BrokerUnavailable), self._block.lockFile.creating(0):
            # If this block has lost its names, there may be a newer block, and the
            # segments may be in use there.
            for key in orphans if self._block.hasName() else ():
                self._tellLeak(key)
                segments.unlink(paths, key.row, key.incarnation, key.origin)

    def _tellLeak(self, key: SegmentKey) -> None:
        name = self._paths.segmentName(key.row, key.incarnation, key.origin)
        with contextlib.suppress(OSError):  # another process has removed it meanwhile
            events.say("leakReclaimed", segment=name, bytes=os.stat(SHM_ROOT + name).st_size)

    def _isOrphan(self, key: SegmentKey) -> bool:
        rows = self._directory.rows
        isOwn = key.origin == self._paths.identity
        if not isOwn and not self._block.hasAdopted():
            return False
        state = rows.state(key.row) if key.row < rows.count() else None
        if state is None or state.incarnation != key.incarnation or state.state == layout.ROW_FREE:
            return True
        return not isOwn and rows.origin(key.row) != key.origin

    def tryReclaimUnheld(self, first: int = 0) -> None:
        """Try to reclaim the rows that have no lease any more, a slice at a time. Their
        last holder may have died after it released its lease and before it told the
        broker.
        """
        rows = self._directory.rows
        end = min(first + _SLICE_ROWS, rows.count())
        unheld = sorted({*rows.ending(first, end), *rows.lastClosed(first, end)})
        for row in unheld[:_SLICE_RECLAIMED]:
            self._directory.tryReclaim(row)
        following = unheld[_SLICE_RECLAIMED] if len(unheld) > _SLICE_RECLAIMED else end
        if following < rows.count():
            self._chores.append(lambda: self.tryReclaimUnheld(following))

    def reclaimReplaced(self, row: int) -> None:
        """Try to reclaim a row whose name a newer version has taken. An error does not
        become the answer to the commit, which has happened: maintenance tries again.
        """
        try:
            self._directory.tryReclaim(row)
        except (MuninnError, OSError) as error:
            _log.info(
                "the version of %r before is not freed yet, and is tried again: %s",
                self._directory.rows.name(row).decode(errors="replace"),
                error,
            )
            self._chores.append(self.tryReclaimUnheld)

    def _dropLeftovers(self) -> None:
        """Remove the sockets of predecessors, and the journals in which they wrote
        nothing. Each of these files takes a page.
        """
        dropEmpty(self._paths, self._epoch)
        for kind, pathOf in (
            ("broker", self._paths.socketPath),
            ("descriptorServer", self._paths.descriptorServerPath),
        ):
            for epoch in self._paths.epochsOf(kind):
                if epoch < self._epoch:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(pathOf(epoch))
