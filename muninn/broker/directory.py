"""The directory: the life of a row, from its grant to FREE.

The broker of one epoch changes the rows of a domain, and no other process does. Each
step is one CAS of the row's state word, stamped with the epoch, between two records of
the journal. The state word shows which step a broker has left half done, and
`tryReclaim` finishes it, in this broker or in any successor. The rows, the name index
and the journal survive a crash of the broker. The catalog and the descriptors are
private memory; a successor derives the catalog from the rows, and the members bring it
the descriptors.

Create. `grant` writes a `create` record, and takes a FREE row to CREATING, with the
next incarnation. The creator fills the memory and the description. `commit` checks the
description, writes a `live` record, puts the name into the index, and takes the row to
LIVE. If the creator gives up, or is confirmed dead, the broker reclaims the row.

Free. An opener first takes a lease on the row, and then reads the row's state word; it
may use the memory if the word is LIVE. The broker does it the other way round:

1. It writes a `free` record, and takes the row from LIVE to DYING by a CAS. The name is
   free from then on, and no opener may use the row any more. A row whose name a newer
   version takes goes to REPLACED instead (`broker/succession.py`).
2. It counts the leases on the row. While there are any, the row stays as it is: each
   holder reports its release, and each report runs `tryReclaim` again.
3. When it has counted none, it takes the row to DEAD by a CAS of exactly the word that
   it saw. DEAD is never taken back.
4. It removes the name from the index, unlinks the segment, drops the descriptor, writes
   a `gone` record, and takes the row to FREE.

A buffer that ends with its last close goes from LIVE to PROBING before the count, and
back to LIVE when a lease is found: an opener that sees PROBING asks the broker. The
parts of a bundle end with it (`broker/parts.py`).

The opener writes before it reads, and so does the broker; at least one of them sees the
other. A stale count of leases costs a later `tryReclaim`, since a lease that is seen
keeps the row. A stale state word costs a CAS that fails: a later epoch has changed the
row, and this broker is deposed. Nothing is unlinked before the row is DEAD.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from muninn.broker.catalog import Catalog
from muninn.broker.descriptorstore import DescriptorStore
from muninn.broker.halfmade import HalfMade, createRecord
from muninn.broker.holders import Holders
from muninn.broker.journal import Journal, Record
from muninn.broker.parts import Parts
from muninn.broker.policy.heirs import requireHeir
from muninn.broker.policy.promotionqueue import ONCE, Asking
from muninn.broker.policy.usage import Usage, usageOf
from muninn.broker.succession import Succession
from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.index import NameIndex
from muninn.control.leases import OWNER_DIED
from muninn.control.members import MemberKey, MemberTable
from muninn.control.rows import Deposed, RowTable
from muninn.control.rowstate import RowState
from muninn.errors import BufferFreed, ControlBlockInvalid, PermissionDenied, ProtocolViolation
from muninn.storage import segments
from muninn.system import clock
from muninn.system.descriptors import Descriptor, own

_HELD_BY_NAME = (layout.ROW_LIVE, layout.ROW_PROBING)
_USABLE = (*_HELD_BY_NAME, layout.ROW_REPLACED)


class Directory:
    """The rows of a domain, as the broker of one epoch changes them."""

    def __init__(
        self,
        block: ControlBlock,
        members: MemberTable,
        epoch: int,
        journal: Journal,
        makeCatalog: Callable[[RowTable], Catalog],
    ) -> None:
        self.rows = RowTable(block)
        self.descriptorStore = DescriptorStore()
        self._block = block
        self._members = members
        self._epoch = epoch
        self._journal = journal
        self._index = NameIndex(block, epoch)
        self._makeCatalog = makeCatalog
        self._catalog: Catalog | None = None
        self._halfMade = HalfMade(block.paths, epoch, journal)
        self.holders = Holders(block, members, self.rows)
        self._parts = Parts(self.rows)
        self.succession = Succession(block, self.rows, self._index, epoch, journal)

    @property
    def catalog(self) -> Catalog:
        """Built at its first use: a takeover does not wait for it."""
        if self._catalog is None:
            self._catalog = self._makeCatalog(self.rows)
            self._halfMade.adopt(self.rows, self._catalog)
        return self._catalog

    def halfMade(self) -> list[Record]:
        """The `create` records of the rows that are CREATING, also of those that were
        granted in earlier terms. Only the journal has their names.
        """
        _ = self.catalog  # building it takes the records from the older journals
        return self._halfMade.records()

    def fence(self) -> None:
        """Raise the epoch of all rows, so that every CAS of an earlier broker fails. A
        broker calls this before it changes anything.
        """
        self.rows.fence(self._epoch)

    def exists(self, row: int, incarnation: int) -> bool:
        """Whether there is such a row now."""
        return 0 <= row < self.rows.count() and self.rows.state(row).incarnation == incarnation

    # --- creating --------------------------------------------------------------------

    def grant(
        self, member: MemberKey, usage: Usage, gpuCapacityBytes: int, asking: Asking = ONCE
    ) -> tuple[int, int]:
        """Take a row to CREATING for a member that will fill and commit it; returns
        (row, incarnation).
        """
        other = self._namedRow(usage.name)
        if other is not None and self.holders.isGivenUp(other):
            self.catalog.forgetName(other)
            other = None
        if other is not None:
            if (again := self.holders.grantedBefore(member, other)) is None:
                raise self.holders.nameTaken(usage.name, other)
            return other, again
        # The lifetime begins with the commit: a row that no process can open yet must
        # not be freed.
        usage = usage._replace(deadlineMs=0)
        if usage.isWindow:
            self.catalog.quotas.admitWindow(usage, self._halfMade.windows(usage.gpu), asking)
        self.catalog.quotas.admit(
            usage.tenant, usage.mode, usage.gpu, usage.sizeBytes, gpuCapacityBytes
        )
        row, old = self.rows.free(self._epoch)
        incarnation = old.incarnation + 1  # `free` takes no row whose incarnations are used up
        granted = createRecord(row, incarnation, member.slot, usage)
        self._journal.append("create", **granted)
        self.rows.change(
            row, old, self._epoch, layout.ROW_CREATING, creator=member.slot, incarnation=incarnation
        )
        self._halfMade.put(granted)
        self.catalog.add(row, usage)
        return row, incarnation

    def commit(
        self,
        member: MemberKey,
        row: int,
        incarnation: int,
        descriptor: Descriptor | None,
        replaces: bool = False,
    ) -> int | None:
        """CREATING → LIVE: the creator has filled the memory and the description. The
        directory owns the descriptor from here on.

        Returns the row whose name it has taken, if it `replaces` one. The caller tries
        to reclaim that row.
        """
        state = self.rows.state(row)
        isRepeated = state.state in _USABLE and state.incarnation == incarnation
        isCreators = (state.creator, state.incarnation) == (member.slot, incarnation)
        if not isRepeated and not (isCreators and state.state == layout.ROW_CREATING):
            if descriptor is not None:
                own(descriptor).close()
            if isCreators and state.state == layout.ROW_DYING:
                # The row was committed and freed, and the answer to the commit was lost.
                raise BufferFreed(f"row {row}.{incarnation} was freed as soon as it was there")
            raise ProtocolViolation(
                f"row {row}.{incarnation} is not being created by slot {member.slot}"
            )
        if descriptor is not None:
            self.descriptorStore.put(row, incarnation, descriptor)
        if isRepeated:
            return None
        old = None
        try:
            description = self.rows.description(row)
            self.descriptorStore.requireOf(row, incarnation, description)
            self._parts.requireHead(description, member.slot)
            old = self._predecessor(description.name) if replaces else None
            if old is not None:
                requireHeir(self.rows.description(old), description.kind, description.tenant)
                self.succession.begin(row, incarnation, description, old)
                self.catalog.replace(row, usageOf(description))
            else:
                # The description may have another name than the grant.
                self.catalog.forgetName(row)
                self.catalog.add(row, usageOf(description))
                self._journal.append(
                    "live", row=row, incarnation=incarnation, description=description.packed()
                )
            isIndexed = self._index.insert(description.name.encode(), row, incarnation)
            self.rows.change(row, state, self._epoch, layout.ROW_LIVE)
        except Deposed:
            raise  # the creator asks the successor, which still has the row
        except Exception:
            if self._journal.hindrance is None:  # otherwise the member asks the successor
                self._takeBack(row, state, old)
            raise
        self._halfMade.forget(row)
        if old is not None:
            self.succession.finish(old)
        self._index.tell(description.name.encode(), isIndexed)
        return old

    def _takeBack(self, row: int, state: RowState, old: int | None) -> None:
        """Reclaim a row whose commit has failed, and leave its name to the row `old`. A
        row that is LIVE already has the name, and keeps it.
        """
        if old is not None:
            self.succession.finishLeft()
        if self.rows.state(row) != state:
            return
        self._reclaim(row, state)
        if old is not None:
            self.catalog.replace(old, usageOf(self.rows.description(old)))

    def _predecessor(self, name: str) -> int | None:
        """The row whose name a new version takes. Raises `BufferExists` while another
        process creates a buffer of that name.
        """
        old = self._namedRow(name)
        if old is not None and self.holders.isGivenUp(old):
            self.catalog.forgetName(old)
            return None
        if old is not None and self.rows.state(old).state == layout.ROW_CREATING:
            raise self.holders.nameTaken(name, old)
        return old

    def abandon(self, member: MemberKey, row: int, incarnation: int) -> None:
        """The creator gives up: reclaim the row, with what there is of its segment."""
        state = self.rows.state(row)
        if (state.state, state.creator, state.incarnation) == (
            layout.ROW_CREATING,
            member.slot,
            incarnation,
        ):
            self._reclaim(row, state)

    # --- finding ---------------------------------------------------------------------

    def find(self, name: str) -> tuple[int, int, bool] | None:
        """(row, incarnation, live) of a name. If it is not live, it is being created."""
        row = self._namedRow(name)
        if row is None:
            return None
        state = self.tryReclaim(row)
        if state.state == layout.ROW_LIVE:
            self._index.insert(name.encode(), row, state.incarnation)
        if state.state not in (layout.ROW_LIVE, layout.ROW_CREATING):
            return None
        return row, state.incarnation, state.state == layout.ROW_LIVE

    def _namedRow(self, name: str) -> int | None:
        """The row that has a name. A row whose lifetime is over loses its name here,
        even if maintenance has not come to it yet.
        """
        row = self.catalog.find(name)
        return self.catalog.find(name) if row is not None and self.endLifetime(row) else row

    def lacks(self, name: str) -> bool:
        """Whether no row has the name, also none that is being created. It only reads,
        so any thread may call it. If it returns False, a request must find out.
        """
        return self._catalog is not None and self._catalog.lacks(name)

    def lacksMemory(self, name: str) -> bool:
        """Whether the buffer's memory has no name in `/dev/shm`, and no member has
        brought its descriptor to this broker.
        """
        row = self._namedRow(name)
        return row is not None and self.descriptorStore.lacksMemory(self.rows, row)

    # --- ending ----------------------------------------------------------------------

    def free(self, row: int, incarnation: int) -> None:
        """LIVE → DYING: the name is free at once, and the memory when the last lease on
        it ends. Freeing twice is fine. A row that was replaced meanwhile has no name
        any more, and its holders keep it.
        """
        state = self.rows.state(row)
        if state.incarnation != incarnation or state.state not in (
            *_USABLE,
            layout.ROW_DYING,
            layout.ROW_DEAD,
        ):
            raise BufferFreed(f"row {row}.{incarnation} is free already")
        if state.state in _HELD_BY_NAME:
            self._journal.note("free", row=row, incarnation=state.incarnation)
            self.rows.change(row, state, self._epoch, layout.ROW_DYING)
            self._unname(row, state)
        self.tryReclaim(row)

    def endLifetime(self, row: int) -> bool:
        """Free the row if its deadline has passed; returns whether it was freed."""
        state = self.rows.state(row)
        if state.state not in _USABLE or not clock.isOver(self.rows.deadlineMs(row)):
            return False
        self.holders.revoke(row, "lifetimeEnded")
        self.free(row, state.incarnation)
        return True

    def tryReclaim(self, row: int) -> RowState:
        """Take a row as far towards FREE as its leases allow; returns its state then.
        Safe to call at any time, for any row.
        """
        state = self.rows.state(row)
        if (
            state.state in _HELD_BY_NAME
            and clock.isOver(self.rows.deadlineMs(row))
            and self.endLifetime(row)
        ):
            return self.rows.state(row)
        if state.state == layout.ROW_LIVE and self._parts.isOver(row):
            self.free(row, state.incarnation)
            return self.rows.state(row)
        if (
            state.state == layout.ROW_LIVE
            and self.holders.endsWithLastClose(row)
            and not self.holders.isHeld(row)
            and not self.holders.isLockNotFree(row)
        ):
            state = self.rows.change(row, state, self._epoch, layout.ROW_PROBING)
        # SYNC lease: pairs with LeaseTable.take. The state is written before the leases
        # are read here; the lease is written before the state is read there.
        if state.state == layout.ROW_PROBING and self.holders.isHeld(row):
            return self.rows.change(row, state, self._epoch, layout.ROW_LIVE)
        isEnding = state.state in (layout.ROW_PROBING, layout.ROW_DYING, layout.ROW_REPLACED)
        isOver = isEnding and not self.holders.isHeld(row)
        return self._reclaim(row, state) if isOver or state.state == layout.ROW_DEAD else state

    def ownerGone(self, row: int) -> None:
        """A row has lost its memory. Revoke the leases, so that each holder is told at its
        next use, and free it. A bundle ends before the part that it has lost.
        """
        if (head := self._parts.headOf(row)) is not None:
            self.ownerGone(head)
        state = self.rows.state(row)  # the part may have gone with its bundle
        if state.state in _USABLE:
            self.holders.revoke(row, OWNER_DIED)
            self.free(row, state.incarnation)

    def recall(self, member: MemberKey, row: int, incarnation: int) -> None:
        """The owner of memory that is shared where it lies takes it back."""
        if self.rows.state(row).creator != member.slot or self.rows.needsDescriptor(row):
            raise PermissionDenied(f"row {row}.{incarnation} is not lent by slot {member.slot}")
        self.ownerGone(row)

    def orphaned(self, row: int) -> None:
        """The creator of a CREATING row is confirmed dead."""
        state = self.rows.state(row)
        if state.state == layout.ROW_CREATING:
            self._reclaim(row, state)

    def _reclaim(self, row: int, state: RowState) -> RowState:
        """→ DEAD → memory gone → parts freed → FREE."""
        if state.state != layout.ROW_DEAD:
            state = self.rows.change(row, state, self._epoch, layout.ROW_DEAD)
        # After the CAS to DEAD, which is never taken back: a broker that was deposed
        # before must not remove the name of a row that lives on. The name of a row that
        # was never LIVE is removed as well, since its broker may have died between the
        # index entry and LIVE.
        self._unname(row, state)
        segments.unlink(self._block.paths, row, state.incarnation)
        # An adopted row: its segment has a name of the block that made it.
        if origin := self.rows.origin(row):
            segments.unlink(self._block.paths, row, state.incarnation, origin)
        self.descriptorStore.drop(row, state.incarnation)
        for part in self._parts.of(row, state.incarnation):
            self.tryReclaim(part)
        self.catalog.remove(row)
        self._halfMade.forget(row)
        self._journal.note("gone", row=row, incarnation=state.incarnation)
        return self.rows.change(row, state, self._epoch, layout.ROW_FREE, creator=0)

    def _unname(self, row: int, state: RowState) -> None:
        """Free the row's names: the name of its grant, while it waits for a commit, and
        the name in its description.
        """
        granted = self.catalog.nameOf(row)
        self.catalog.forgetName(row)
        names = set() if granted is None else {granted}
        # The index entry of a damaged row stays as a stale hint; readers check the row.
        with contextlib.suppress(ControlBlockInvalid):
            described = self.rows.description(row).name
            self._index.remove(described.encode(), row, state.incarnation)
            names.add(described)
        for name in names:
            self._index.tell(name.encode())
