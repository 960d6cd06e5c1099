"""An open buffer: one buffer that this process has open.

It consists of one lease, one mapping at one address, and any number of `MuninnBuffer`
objects on them. The lease lasts as long as the memory is mapped, also for arrays that
outlive `close()`. So the table of leases always says correctly which processes use the
memory.
"""

from __future__ import annotations

import _thread
import weakref
from typing import TYPE_CHECKING

from muninn.control import layout, ownerlock, rowstate
from muninn.control.generations import Generation
from muninn.control.leases import OWNER_DIED, holdsOn
from muninn.control.tickets import Tickets
from muninn.errors import (
    BufferFreed,
    InvalidArgument,
    LeaseExpired,
    LeaseRevoked,
    OwnerDied,
    PermissionDenied,
)
from muninn.observe.counters import OPENS
from muninn.session.privatememory import PrivateMemory
from muninn.storage import segments
from muninn.system import atomics, clock, green
from muninn.system.clock import monotonicMs
from muninn.system.structures import Standing
from muninn.terms import Access, Mode

if TYPE_CHECKING:
    from muninn.control.descriptions import RowDescription
    from muninn.session.context import Context
    from muninn.session.mappings import Memory


class Renewal:
    """A token that a buffer object with ``renew="auto"`` keeps."""

    __slots__ = ("__weakref__",)


class OpenBuffer:
    """One buffer that this process has open. It ends when the last buffer object that
    uses it is closed.
    """

    __slots__ = (
        "__weakref__",
        "_isInPlace",
        "_leaseAddress",
        "_leaseWord",
        "_liveness",
        "_owner",
        "_renewAtMs",
        "_renewal",
        "context",
        "description",
        "fencing",
        "generation",
        "incarnation",
        "memory",
        "parts",
        "row",
        "tables",
        "tickets",
    )

    def __init__(
        self,
        context: Context,
        row: int,
        incarnation: int,
        description: RowDescription,
        memory: Memory,
        *,
        parts: tuple[OpenBuffer, ...] = (),
        isFresh: bool = False,
    ) -> None:
        self.context = context
        self.tables = tables = context.tables
        block = tables.block
        self.row = row
        self.incarnation = incarnation
        self.description = description
        self.memory = memory
        # The further segments of a bundle: their leases and memory, and nothing else.
        self.parts = parts
        rowAddress = block.rowAddress(row)
        # Only `sync` and `api` use the next three. They are made here, with the open
        # buffer, because every access needs them: a look-up would cost each access, and
        # two threads that made the lock at their first use could each have one.
        self.generation = Generation(rowAddress)
        self.tickets = Tickets(rowAddress, block.fencesAddress(row))
        # Held while tickets are published and streams are made to wait for them, so
        # that both happen in one order.
        self.fencing = _thread.RLock()
        # This is here and not in `sync`, because a process that leaves asks all its open
        # buffers whether a thread is inside (`hasScopes`).
        self._owner = 0
        self._leaseAddress, self._leaseWord = tables.leases.held(
            memory.leaseIndex, row, incarnation
        )
        self._renewal: weakref.ref[Renewal] | None = None
        self._isInPlace = False
        #: Where the row says that it is live, and how; the same for the lease; and where
        #: opens are counted.
        self._liveness = (
            *(rowAddress, *rowstate.liveWord(incarnation)),
            *(self._leaseAddress, self._leaseWord),
            OPENS.address(),
        )
        # A lease that was kept from an earlier use may be about to run out.
        self._renewAtMs = monotonicMs() + self.ttlMs // 2 if isFresh else 0

    @property
    def ttlMs(self) -> int:
        return self.tables.ttlMs

    @property
    def owner(self) -> int:
        """The address of this process's part of the owner lock. It is bound at the
        first use, since most processes that open a buffer never write to it.
        """
        if not self._owner:
            tables = self.tables
            expiryAddress, word = (
                self._leaseAddress + layout.LEASE_EXPIRY_OFFSET,
                ownerlock.ownerLockWord(tables.key),
            )
            rowAddress = tables.block.rowAddress(self.row)
            self._owner = self.context.owners.bind(
                self.row, self.incarnation, rowAddress, expiryAddress, self, word
            )
        return self._owner

    def isWriting(self) -> bool:
        """Whether this thread is inside a write access."""
        return bool(self._owner) and bool(atomics.ownerWrites(self._owner, green.identity()))

    def hasScopes(self, notOf: int = 0) -> bool:
        """Whether a thread of this process other than `notOf` is inside an access. For
        a `Lock`: whether any thread holds it.
        """
        return bool(self._owner) and bool(
            atomics.ownerIsBusy(
                self._owner, 0 if self.description.kind == layout.ROW_KIND_LOCK else notOf
            )
        )

    def renewal(self) -> Renewal:
        """A token. While any object keeps it, the background thread renews the lease."""
        token = self._renewal() if self._renewal is not None else None
        if token is None:
            token = Renewal()
            self._renewal = weakref.ref(token)
        return token

    def isRenewed(self) -> bool:
        """Whether the background thread renews the lease: a buffer object with
        ``renew="auto"`` exists.
        """
        return self._renewal is not None and self._renewal() is not None

    @property
    def segments(self) -> tuple[OpenBuffer, ...]:
        """This one and its parts, in the order of a manifest's segments."""
        return self, *self.parts

    def isOpenedAgain(self) -> bool:
        """Whether it is live and its lease in force; if so, it also counts an open, in the
        same call of C.
        """
        # SYNC row: pairs with RowTable.change, as in RowReader.isLive.
        return (not self.description.deadlineMs or self.isLive()) and bool(
            atomics.countIfEqual(*self._liveness)
        )

    def isLive(self) -> bool:
        """Whether the buffer may be opened. It may not once its deadline has passed,
        even if no broker has freed it yet.
        """
        deadlineMs = self.description.deadlineMs
        return self.tables.rows.isLive(self.row, self.incarnation) and not (
            deadlineMs and clock.isOver(deadlineMs)
        )

    def takeAgain(self) -> None:
        """Put a lease that was revoked in force again, since the program opens the buffer
        anew. All its objects of this buffer have this one lease. A window that was evicted
        is to be given back, and its bytes promoted anew.
        """
        isHeld = atomics.loadAcquire64(self._leaseAddress) == self._leaseWord
        if isHeld or self.description.kind == layout.ROW_KIND_WINDOW:
            return
        for each in self.segments:
            each.tables.leases.takeAgain(each.memory.leaseIndex, each.row, each.incarnation)
        self.renew()

    def check(self) -> None:
        """Called before a new operation: check that the lease still allows it. Renews
        the lease when half of its time has passed.

        Raises
        ------
        LeaseRevoked, BufferFreed
        """
        if atomics.loadAcquire64(self._leaseAddress) != self._leaseWord:
            reason = (
                self.tables.leases.revocation(self.memory.leaseIndex)
                or "given back, as this process left the domain"
            )
            if reason == OWNER_DIED:
                raise OwnerDied(
                    f"the memory of {self.description.name!r} went with the process that owned it"
                )
            raise LeaseRevoked(f"the lease on {self.description.name!r} was revoked: {reason}")
        if not self.tables.rows.mayBeUsed(self.row, self.incarnation):
            raise BufferFreed(f"{self.description.name!r} was freed")
        now = monotonicMs()
        if 0 < self.description.deadlineMs <= now and clock.knowsHostTime():
            # The broker is about to revoke the lease for this reason.
            raise LeaseRevoked(f"the lease on {self.description.name!r} was revoked: lifetimeEnded")
        if now >= self._renewAtMs:
            self.renew()

    def standing(self) -> Standing:
        """The lease, and until when `check` would raise nothing and renew nothing, as long
        as the lease is the same and the row can be used.
        """
        untilMs = self._renewAtMs
        if self.description.deadlineMs and clock.knowsHostTime():
            untilMs = min(untilMs, self.description.deadlineMs)
        fences = self.tables.block.fencesAddress(self.row)
        holds = holdsOn(self.tables.block, self.row, self.incarnation)
        return Standing(self._leaseAddress, fences, self._leaseWord, clock.ownNs(untilMs), holds)

    def renew(self) -> None:
        self._renewAtMs = (
            self.tables.leases.renew(self.memory.leaseIndex, self.ttlMs) - self.ttlMs // 2
        )
        for part in self.parts:
            part.renew()

    def letWriteInPlace(self) -> None:
        """Note that the program gets an array which it may write without an access, so that
        the generation does not tell whether the bytes are the same still.
        """
        if not self._isInPlace:
            # SYNC inPlace: pairs with isWrittenInPlace. It is noted before the array is
            # there.
            atomics.storeRelease32(self._inPlaceAddress(), 1)
            self._isInPlace = True

    def isWrittenInPlace(self) -> bool:
        """Whether any process has got such an array."""
        # SYNC inPlace: pairs with letWriteInPlace.
        return bool(atomics.loadAcquire32(self._inPlaceAddress()))

    def _inPlaceAddress(self) -> int:
        return self.tables.block.rowAddress(self.row) + layout.ROW_IN_PLACE_OFFSET

    def allowWriting(self) -> None:
        """Make this process's mapping writable, if the buffer's access allows it."""
        if self.description.access is Access.READ_ONLY:
            raise PermissionDenied(
                f"{self.description.name!r} was shared readOnly: nobody may write it",
                'Open it with access="readOnly", or "copyOnWrite" for changes of its own; or '
                'share the data anew with access="readWrite"',
            )
        if isinstance(self.memory.source, segments.Mapping):
            self.memory.source.allowWriting()

    def openPrivate(self) -> PrivateMemory:
        """New private memory of this buffer.

        Raises
        ------
        InvalidArgument
            The buffer is in VRAM.
        """
        description = self.description
        requirePages(description.mode, repr(description.name))
        return PrivateMemory(
            segments.mapped(
                self.tables.paths,
                self.row,
                self.incarnation,
                description.segmentBytes,
                description.origin,
                isPrivate=True,
            )
        )

    def keepFor(self, private: PrivateMemory) -> None:
        """Keep the memory, and with it the lease, until private memory is unmapped."""
        self.context.releases.private.keep(private, self.memory)


def requirePages(mode: Mode, what: str) -> None:
    """Raise `InvalidArgument` unless memory of this mode can be opened copyOnWrite. An
    emulated GPU is refused like a real one.
    """
    if mode is Mode.FAST:
        raise InvalidArgument(
            f"{what} is fastMode and can not be opened copyOnWrite: a GPU does not copy the pages "
            "that it writes",
            "Open it readOnly, and change a copy: buffer.read(), or tensor.clone()",
        )


def checkExpiry(name: str, expiresMs: int) -> None:
    """Raise `LeaseExpired` if a strict lease has run out."""
    if monotonicMs() >= expiresMs:
        raise LeaseExpired(f"the lease on {name!r} ran out {monotonicMs() - expiresMs} ms ago")
