"""Holdings: what this process has open, each buffer once.

A holding is one buffer in this process: one lease, one mapping at one address, any number of `MuninnBuffer` objects on it. The
lease lasts as long as the memory is mapped, arrays that outlive `close()` included, so what the table of leases says about who
holds memory is true.
"""

from __future__ import annotations

import _thread
import contextlib
import weakref
from collections import deque
from collections.abc import Callable

from muninn.control import layout, leases, ownerlock
from muninn.control.descriptions import RowDescription
from muninn.control.generations import Generation
from muninn.control.tickets import Tickets
from muninn.errors import BrokerUnavailable, BufferFreed, LeaseExpired, LeaseRevoked, MuninnError, OwnerDied, PermissionDenied
from muninn.session.client import Client
from muninn.session.departure import Departure
from muninn.session.gpus import Gpus
from muninn.session.leases import LeaseIndex, Tenure
from muninn.session.lending import awaitImporters, recall
from muninn.session.mappings import Bytes, Memory, NoBytes, exported
from muninn.session.owners import Owners
from muninn.session.registry import Living
from muninn.session.reservation import Creating
from muninn.session.silence import holderSilent
from muninn.session.standing import Standing
from muninn.session.tables import Tables
from muninn.storage import segments
from muninn.system import aside, atomics, clock, green
from muninn.system.clock import monotonicMs
from muninn.system.descriptors import Descriptor
from muninn.terms import Access, Lifetime, Mode

#: What is undone in one step, which may be done again.
_ENDED_AT_ONCE = (segments.Mapping, NoBytes)
_FETCH_ATTEMPTS = 200
_FETCH_PAUSE_SECONDS = 0.005


class Renewal:
    """What a buffer object with ``renew="auto"`` keeps."""

    __slots__ = ("__weakref__",)


class Holding:
    """One buffer that this process has open. It ends when the last buffer object lets go of it."""

    __slots__ = (
        "__weakref__", "_leaseAddress", "_leaseWord", "_owner", "_renewAtMs", "_renewal", "claimAddress", "description", "fencing",
        "generation", "holdings", "incarnation", "memory", "row", "tables", "tickets",
    )  # fmt: skip

    def __init__(
        self, holdings: Holdings, row: int, incarnation: int, description: RowDescription, memory: Memory, *, isFresh: bool = False
    ) -> None:
        self.holdings = holdings
        self.tables = tables = holdings.tables
        block = tables.block
        self.row = row
        self.incarnation = incarnation
        self.description = description
        self.memory = memory
        rowAddress = block.rowAddress(row)
        self.generation = Generation(rowAddress)
        self.tickets = Tickets(rowAddress, block.fencesAddress(row))
        self.fencing = _thread.RLock()  # what is shown of fences, and what streams are made to wait for, in one order
        self._owner = 0
        self.claimAddress = rowAddress + layout.ROW_CLAIM_OFFSET
        self._leaseAddress, self._leaseWord = tables.leases.held(memory.leaseIndex, row, incarnation)
        self._renewal: weakref.ref[Renewal] | None = None
        self._renewAtMs = monotonicMs() + self.ttlMs // 2 if isFresh else 0  # what was kept may be about to run out

    @property
    def ttlMs(self) -> int:
        return self.tables.ttlMs

    @property
    def owner(self) -> int:
        """What this process has of the claim, by its address. Bound when it is first asked for: most who open a buffer never write."""
        if not self._owner:
            tables = self.tables
            expiryAddress, word = self._leaseAddress + layout.LEASE_EXPIRY_OFFSET, ownerlock.claimWord(tables.key)
            rowAddress = tables.block.rowAddress(self.row)
            self._owner = self.holdings.owners.bind(self.row, self.incarnation, rowAddress, expiryAddress, self, word)
        return self._owner

    def isOwn(self, word: int) -> bool:
        """Whether a claim is this process's."""
        return ownerlock.belongsTo(word, self.tables.key)

    def isWriting(self) -> bool:
        """Whether this thread is inside a writer's turn."""
        return bool(self._owner) and bool(atomics.ownerWrites(self._owner, green.identity()))

    def refuseOwnWriter(self) -> None:
        """Before something that waits for writers: this thread would wait for itself."""
        if self.isWriting():
            raise RuntimeError(f"this thread is writing {self.description.name!r}: what it has written so far is in the view of its turn")

    def hasTurns(self, notOf: int = 0) -> bool:
        """Whether any thread of this process, save one, is inside a turn, or any at all has the lock."""
        return bool(self._owner) and bool(atomics.ownerIsBusy(self._owner, 0 if self.description.kind == layout.ROW_KIND_LOCK else notOf))

    def renewal(self) -> Renewal:
        """A token: while anybody keeps it, the background thread renews the lease."""
        token = self._renewal() if self._renewal is not None else None
        if token is None:
            token = Renewal()
            self._renewal = weakref.ref(token)
        return token

    def isRenewed(self) -> bool:
        """Whether the background thread renews the lease: somebody has it open so."""
        return self._renewal is not None and self._renewal() is not None

    def isLive(self) -> bool:
        """Whether it may be opened. A lifetime that is over has ended, whether or not a broker has come to it yet."""
        deadlineMs = self.description.deadlineMs
        return self.tables.rows.isLive(self.row, self.incarnation) and not (deadlineMs and clock.isOver(deadlineMs))

    def check(self) -> None:
        """Before a new operation: the lease still allows it. Renews the lease when half of it has passed.

        Raises
        ------
        LeaseRevoked, BufferFreed
        """
        if atomics.loadAcquire64(self._leaseAddress) != self._leaseWord:
            reason = self.tables.leases.revocation(self.memory.leaseIndex) or "given back, as this process left the domain"
            if reason == "ownerDied":
                raise OwnerDied(f"the memory of {self.description.name!r} went with the process that owned it")
            raise LeaseRevoked(f"the lease on {self.description.name!r} was revoked: {reason}")
        if not self.tables.rows.isLive(self.row, self.incarnation):
            raise BufferFreed(f"{self.description.name!r} was freed")
        now = monotonicMs()
        if 0 < self.description.deadlineMs <= now and clock.knowsHostTime():
            raise LeaseRevoked(f"the lease on {self.description.name!r} was revoked: lifetimeEnded")  # as its broker is about to say
        if now >= self._renewAtMs:
            self.renew()

    def renew(self) -> None:
        self._renewAtMs = self.tables.leases.renew(self.memory.leaseIndex, self.ttlMs) - self.ttlMs // 2

    def allowWriting(self) -> None:
        """Let this process write; the buffer's access must allow it."""
        if self.description.access is Access.READ_ONLY:
            raise PermissionDenied(f"{self.description.name!r} was shared readOnly")
        if isinstance(self.memory.source, segments.Mapping):
            self.memory.source.allowWriting()


class Holdings:
    """All holdings of one membership.

    Attributes
    ----------
    isStale
        `Standing.isStale` of the membership.

    Whatever a signal handler raises, and whatever a finalizer calls, between two steps of these methods: a lease and its mapping belong
    to a `Lease` before they are there, and when that is gone, `settleGone` undoes them, on the thread that closes or on the background
    thread. A finalizer itself does no more than to say so.
    """

    def __init__(
        self, tables: Tables, standing: Standing, departure: Departure, client: Client, gpus: Gpus, wake: Callable[[], object]
    ) -> None:
        self.tables = tables
        self.isStale = standing.isStale
        self.departure = departure
        self.client = client
        self.gpus = gpus
        self._wake = wake
        self._byName: weakref.WeakValueDictionary[str, Holding] = weakref.WeakValueDictionary()
        self._all: Living[Holding] = Living()
        self._memories: Living[Memory] = Living()
        self._released: deque[tuple[int, int]] = deque()
        self._ofDevices: deque[Tenure] = deque()
        #: Held by who undoes what is gone; whoever comes to it meanwhile on the same thread leaves it to the one that it interrupted.
        self._settling = _thread.RLock()
        #: The thread that is about to undo what it lets go of, and needs nobody else for it.
        self.closing = 0
        tables.leases.onGone = self._onGone
        self.creating = Creating(wake)
        #: The turns and locks of this process, which keep their holdings.
        self.owners = Owners(tables.block.geometry.maxBuffers)
        #: What this process shares where it lies: held until it is taken back.
        self.lent: dict[tuple[int, int], Memory] = {}
        self._renewAtMs = 0

    # --- opening -----------------------------------------------------------------------------------------------------

    def find(self, name: str) -> Holding | None:
        """The holding of a name that is live now: opened before, or opened here. None when there is no such buffer."""
        return self.known(name) or self.asked(name)[0]

    def known(self, name: str) -> Holding | None:
        """The holding of a live name, as far as this process and the index know. None says little: the broker may know more."""
        holding = self._byName.get(name)
        if holding is not None and holding.isLive():
            return holding
        tables, encoded = self.tables, name.encode()
        for row, incarnation in tables.index.candidates(encoded):
            if tables.rows.isLive(row, incarnation) and tables.rows.nameIs(row, encoded):
                holding = self.hold(row, incarnation)
                if holding is not None:
                    return holding
        return None

    def asked(self, name: str) -> tuple[Holding | None, bool]:
        """What the broker knows of a name: its holding, if it is live; and otherwise whether somebody is creating it."""
        found, _ = self.client.request("find", name=name)
        if not found.get("live"):
            return None, bool(found)
        return self.hold(found["row"], found["incarnation"]), False

    def hold(self, row: int, incarnation: int) -> Holding | None:
        """The holding of a live row; None when it is not live (any more)."""
        tables = self.tables
        with aside.unlessTaken(tables.leaseLock):  # who has it may be fetching memory from the thread that serves
            if self.isStale():
                raise BrokerUnavailable(f"this process has just left {tables.places.domain!r}", "Ask again: it joins anew")
            holding = self._all.get((row, incarnation))
            if holding is not None and holding.isLive():
                return holding
            # Memory that only arrays still hold is taken up again: its lease stands, so a live row stays.
            kept = self._memories.get((row, incarnation))
            mapped = self._map(row, incarnation) if kept is None else (kept, tables.rows.description(row))
            if mapped is None or not tables.rows.isLive(row, incarnation) or clock.isOver(mapped[1].deadlineMs):
                return None
            memory, description = mapped
            return self._add(Holding(self, row, incarnation, description, memory, isFresh=kept is None))

    def _map(self, row: int, incarnation: int) -> tuple[Memory, RowDescription] | None:
        tables = self.tables
        self.settleGone()
        index = tables.leases.take(row, incarnation, tables.ttlMs)
        try:
            # SYNC open: pairs with Directory.settle. The lease stands; if the row is still live now, nobody reclaims it before we let go.
            description = tables.rows.description(row) if tables.rows.isLive(row, incarnation) else None
            if description is None or clock.isOver(description.deadlineMs):
                self._giveUp(index, row, incarnation)
                return None
            source = self._source(row, incarnation, description)
        except BaseException as error:
            self._giveUp(index, row, incarnation)
            if isinstance(error, OwnerDied) and not tables.rows.isLive(row, incarnation):
                return None  # nobody had the memory any more, so the name is free
            raise
        return self.memory(source, index, row, incarnation, description.access, description.lifetime), description

    def _giveUp(self, index: int, row: int, incarnation: int) -> None:
        """Take back a lease that came to nothing. While it stood, the broker may have let the row be because of it."""
        self.tables.leases.vacate(index)
        self._released.append((row, incarnation))
        self.tables.leases.forget(index)
        self._wake()

    def _source(self, row: int, incarnation: int, description: RowDescription) -> Bytes:
        if description.mode is Mode.FAST:
            return self._import(row, incarnation, description)
        if not description.segmentBytes:
            return NoBytes()
        return segments.mapped(self.tables.places, row, incarnation, description.segmentBytes, description.origin)

    def _import(self, row: int, incarnation: int, description: RowDescription) -> Bytes:
        """Ask the broker for the memory's descriptor. A new broker may have to wait for a holder to bring it."""
        device, handle = self.gpus.chosen(), self.tables.rows.handle(row)
        writable = description.access is not Access.READ_ONLY
        # The creator's index; where GPUs are numbered otherwise, the handle says which one it is.
        gpu = description.gpu if description.gpu < device.gpuCount else 0
        given = handle if any(handle) else b""
        if description.transport == "cudaIpc":
            return device.importAllocation(gpu, -1, description.segmentBytes, writable, given)
        for _ in range(_FETCH_ATTEMPTS):
            descriptor = self.client.fetch(row, incarnation)
            if descriptor is not None:
                try:
                    return device.importAllocation(gpu, descriptor.number, description.segmentBytes, writable, given)
                finally:
                    descriptor.close()
            clock.sleep(_FETCH_PAUSE_SECONDS)
        raise holderSilent(self.tables, description.name, row)  # nobody has died: the broker would have said so

    def memory(self, source: Bytes, leaseIndex: LeaseIndex, row: int, incarnation: int, access: Access, lifetime: Lifetime) -> Memory:
        """Register memory that this process has mapped and leased."""
        tenure = leaseIndex.lease.tenure
        tenure.source = source
        tenure.isTold = lifetime is Lifetime.LAST_CLOSE
        memory = Memory(source, leaseIndex, self.gpus.device, access is not Access.READ_ONLY)
        tenure.isBorrowed = memory.isBorrowed()
        return self._memories.settled((row, incarnation), memory)

    def created(self, row: int, incarnation: int, description: RowDescription, memory: Memory) -> Holding:
        """The holding of a row that this process has just committed. Another thread may have been faster to open its name."""
        with self.tables.leaseLock:
            return self._add(Holding(self, row, incarnation, description, memory))

    def _add(self, holding: Holding) -> Holding:
        """The holding of its row: this one, or the one that was made by what interrupted the making of it."""
        holding = self._all.settled((holding.row, holding.incarnation), holding)
        self._byName[holding.description.name] = holding
        return holding

    # --- the end of memory -------------------------------------------------------------------------------------------

    def _onGone(self, _: object) -> None:
        """Nobody has some memory any more; it is among `LeaseTable.gone`. Called by a finalizer, that is anywhere, and at any time."""
        if self.isStale():
            self._dropGone()
        elif self.closing != green.identity():
            self.settleGone()
            if self._released or self.tables.leases.gone:
                self._wake()

    def _dropGone(self) -> None:
        """In a forked child, and after the end of the membership: the leases are not ours, only the mappings are."""
        gone = self.tables.leases.gone
        while gone:
            tenure = gone.popleft()
            if tenure.source is not None:
                tenure.source.closeThen(lambda: None)

    def letGo(self, last: list[Holding]) -> None:
        """Let go of what is in the list, and undo here and now what goes with it."""
        self.closing = green.identity()
        try:
            last.clear()
            if not self.isStale():
                self.settleReleased()
        except BaseException:
            self._wake()  # the background thread does the rest
            raise
        finally:
            self.closing = 0

    def settleGone(self) -> None:
        """Unmap what nobody has any more, and give the leases back."""
        gone = self.tables.leases.gone
        while (gone or self._ofDevices) and not self._settling._is_owned():  # type: ignore[attr-defined]
            if not aside.isOwn():
                with self._settling:
                    self._endAll(gone)
            elif self._settling.acquire(blocking=False):  # no signal comes between this and the next step: they do not reach this thread
                try:
                    self._endAll(gone)
                finally:
                    self._settling.release()
            else:
                return  # whoever is about it may wait for this very thread, for what a finalizer asks of the broker in the middle of it
            while self._ofDevices:
                self._closeOnDevice()

    def _endAll(self, gone: deque[Tenure]) -> None:
        while gone:
            # Undone first, and taken off second: who is interrupted between is followed by one who does it again.
            self._end(gone[0])
            gone.popleft()

    def _end(self, tenure: Tenure) -> None:
        """Each step of it may be done twice."""
        table = self.tables.leases
        if isinstance(tenure.source, _ENDED_AT_ONCE) and not tenure.mapped:
            tenure.source.close()
        elif tenure.source is not None and not tenure.isClosed:
            self._ofDevices.append(tenure)
            return
        if not table.isOwner(tenure):
            return
        table.vacate(tenure.index)
        if tenure.isTold or not self.tables.rows.isLive(tenure.row, tenure.incarnation):
            self._released.append((tenure.row, tenure.incarnation))
        table.forget(tenure.index)

    def _closeOnDevice(self) -> None:
        """End memory by its device, which says when; then it is gone once more. No lock is held, since a device has locks of its own."""
        isBegun, tenure = False, None
        try:
            tenure = self._ofDevices[0]
            self._ofDevices.remove(tenure)
            if tenure.isClosing:
                isBegun = True
                return

            def closed() -> None:
                tenure.isClosed = True
                self.tables.leases.gone.append(tenure)
                self._onGone(None)

            isBegun = tenure.isClosing = bool(tenure.mapped)  # what kernels may still use is ended once, all else may be ended twice
            Memory.end(tenure.source, tenure.mapped, closed)
            isBegun = tenure.isClosing = True
        except (IndexError, ValueError):
            isBegun = True  # another thread does it
        finally:
            if not isBegun and tenure is not None:
                self._ofDevices.append(tenure)

    # --- upkeep ------------------------------------------------------------------------------------------------------

    def hasReleased(self) -> bool:
        """Whether the broker is to be told of anything, now or once what is gone was undone."""
        return bool(self._released or self.tables.leases.gone)

    def settleReleased(self, atMost: int = 1 << 30) -> bool:
        """Tell the broker of buffers that may have had their last lease; False when it does not answer now, and is to be told again."""
        self.settleGone()
        for _ in range(atMost):
            if not self._released:
                break
            answered, released = False, None
            try:
                released = self._released[0]
                self._released.remove(released)
                with contextlib.suppress(BufferFreed):  # then it is gone already
                    if self.client.once("settle", row=released[0], incarnation=released[1]) is None:
                        return False
                answered = True
            except (IndexError, ValueError):
                answered = True  # another thread tells
            finally:
                if not answered and released is not None:
                    self._released.append(released)
        return True

    def renewAll(self) -> None:
        """Renew the leases that are renewed while held, if it is time."""
        if monotonicMs() < self._renewAtMs:
            return
        self._renewAtMs = monotonicMs() + self.tables.ttlMs // 4
        # The references are copied in one step; other threads open buffers meanwhile.
        for holding in [reference() for reference in self._all.valuerefs()]:
            if holding is not None and holding.isRenewed():
                holding.renew()
        for pair in list(self.lent):
            # Freed by somebody, and let go by all others: nobody is lent it any more.
            if not self.tables.rows.isLive(*pair) and leases.countHolds(self.tables.block, self.tables.members, *pair) <= 1:
                del self.lent[pair]

    def allocations(self) -> list[tuple[tuple[int, int], Descriptor]]:
        """((row, incarnation), descriptor) of the memory that only its holders can hand on; the descriptors are the caller's to close."""
        made: list[tuple[tuple[int, int], Descriptor]] = []
        for reference in self._memories.valuerefs():
            memory = reference()
            if memory is not None:
                with contextlib.suppress(BufferFreed):  # the program has closed its descriptor: it can not be handed on any more
                    made.extend((reference.key, descriptor) for descriptor in exported(memory.source))
        return made

    def isInside(self) -> bool:
        """Whether this process holds a lock or creates, or another thread of it is inside a turn: what does not end by leaving.

        The caller's own turns do not count: while it asks it writes nothing.
        """
        holdings, thread = [reference() for reference in self._all.valuerefs()], green.identity()
        return self.creating.isAny() or any(holding is not None and holding.hasTurns(thread) for holding in holdings)

    def isAtWork(self) -> bool:
        """Whether GPUs may be at work for this process on what others will use as soon as its leases and claims are gone."""
        holdings = [reference() for reference in self._all.valuerefs()]
        isBorrower = any(tenure.isBorrowed for tenure in self.tables.leases.tenures())
        return isBorrower or any(holding is not None and holding.hasTurns() for holding in holdings)

    def takeBack(self, holding: Holding) -> None:
        """End the sharing of a lent array, if it is one: see `lending.recall`."""
        if self.lent.pop((holding.row, holding.incarnation), None) is not None:
            recall(self.tables, self.client, holding.row, holding.incarnation, holding.description.name)

    def closeAll(self) -> None:
        """At the end: give back every lease. Arrays stay readable until the process is gone."""
        if self.lent:
            awaitImporters(self.tables, self.lent)
        table = self.tables.leases
        with self.tables.leaseLock:
            memories = list(self._memories.items())
            for (row, incarnation), memory in memories:
                table.vacate(memory.leaseIndex)
                self._released.append((row, incarnation))
                table.forget(memory.leaseIndex)
        try:
            self.settleReleased()
        except MuninnError:
            return  # the domain's next broker finds these rows without a lease


def checkExpiry(name: str, expiresMs: int) -> None:
    """Refuse an operation on a strict lease that has run out."""
    if monotonicMs() >= expiresMs:
        raise LeaseExpired(f"the lease on {name!r} ran out {monotonicMs() - expiresMs} ms ago")
