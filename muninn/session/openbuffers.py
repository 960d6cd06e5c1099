"""Open buffers: the buffers that this process has open, each of them once, and how a
process opens a buffer.

Open.

1. The process looks the name up in the name index, which gives {row, incarnation}. The
   index is only a hint, so the process compares the name in the row as well. If the
   index does not know the name, the process asks the broker.
2. The process takes a lease: it exchanges {row, incarnation} into a free lease slot of
   its own.
3. Then it reads the row's state word. If the word is LIVE with this incarnation, the
   lease holds, and no broker reclaims the memory before the lease ends. Otherwise the
   process gives the lease back, and tells the broker to try to reclaim the row: the
   broker may have kept the row because of this lease.
4. It reads the description and maps the memory: a segment by its name, and memory
   without a name by a descriptor that it asks for.

The broker frees a row in the other order (`broker/directory.py`): it changes the state
word first and reads the leases second. All four operations are sequentially consistent,
so at least one of the two sees the other: the opener finds no live row, or the broker
keeps the memory until the lease ends.

A newer version takes a name in the same order: it is live before the row of the older
one is REPLACED. So a process that finds an older version replaced looks again, and
finds a newer one.

A stale index entry costs one look at a row. A row that is read before the lease is
taken may be another buffer's by the time the memory is mapped; therefore the process
trusts nothing that it read before the lease.

Only the leases are shared memory; everything else is private to the process. When the
process dies, the broker reclaims its leases.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable

from muninn.control import layout
from muninn.control.descriptions import RowDescription
from muninn.errors import BrokerUnavailable, BufferFreed, MuninnError, OwnerDied, TableFull
from muninn.session.context import Context
from muninn.session.leases import LeaseIndex
from muninn.session.mappings import Bytes, Memory, NoBytes, exported
from muninn.session.openbuffer import OpenBuffer
from muninn.session.registry import Registry
from muninn.session.reservation import Creating
from muninn.session.silence import holderSilent
from muninn.storage import segments
from muninn.system import aside, clock, green
from muninn.system.clock import monotonicMs
from muninn.system.descriptors import Descriptor
from muninn.terms import Access, Lifetime, Mode

_FETCH_PAUSE_SECONDS = 0.005
#: How often the broker is asked again for a name whose row is not live any more when it
#: is opened. Each time another version must have been published meanwhile.
_ASK_ATTEMPTS = 32


class OpenBuffers:
    """All open buffers of one membership.

    A signal handler may raise, and a finalizer may call, between any two steps of these
    methods. Therefore a lease and its mapping belong to a `Lease` object before they
    are made; when that object is gone, `Releases` undoes them.
    """

    def __init__(self, context: Context, wake: Callable[[], object]) -> None:
        self.context = context
        self.tables = context.tables
        self.gpus = context.gpus
        self.owners = context.owners
        self._byName: weakref.WeakValueDictionary[str, OpenBuffer] = weakref.WeakValueDictionary()
        self._all: Registry[OpenBuffer] = Registry()
        self._memories: Registry[Memory] = Registry()
        self.creating = Creating(wake)
        self._renewAtMs = 0

    # --- opening ---------------------------------------------------------------------

    def find(self, name: str) -> OpenBuffer | None:
        """The open buffer of a name that is live now; this call opens it if it is not
        open yet. None when there is no such buffer.
        """
        return self.known(name) or self.asked(name)[0]

    def openedAgain(self, name: str) -> OpenBuffer | None:
        """The open buffer of a live name that this process has open already. An open is
        counted.
        """
        openBuffer = self._byName.get(name)
        return openBuffer if openBuffer is not None and openBuffer.isOpenedAgain() else None

    def known(self, name: str) -> OpenBuffer | None:
        """The open buffer of a live name, as far as this process and the index know it.
        If this returns None, the broker may still know the name.
        """
        openBuffer = self._byName.get(name)
        if openBuffer is not None and openBuffer.isLive():
            openBuffer.takeAgain()
            return openBuffer
        tables, encoded = self.tables, name.encode()
        for row, incarnation in tables.index.candidates(encoded):
            if tables.rows.isLive(row, incarnation) and tables.rows.nameIs(row, encoded):
                openBuffer = self.hold(row, incarnation)
                if openBuffer is not None:
                    return openBuffer
        return None

    def asked(self, name: str) -> tuple[OpenBuffer | None, bool]:
        """Ask the broker for a name: the open buffer if the name is live, and otherwise
        whether a process is creating it.
        """
        for _ in range(_ASK_ATTEMPTS):
            pair, isBeingCreated = self.context.client.find(name)
            openBuffer = None if pair is None else self.hold(*pair)
            if pair is None or openBuffer is not None:
                return openBuffer, isBeingCreated
            # It was freed since the answer, or a newer version has the name.
        return None, False

    def hold(self, row: int, incarnation: int) -> OpenBuffer | None:
        """The open buffer of a row; None when the row is not live (any more)."""
        tables = self.tables
        # The thread that has the lock may be waiting for the thread that serves.
        with aside.unlessTaken(tables.leaseLock):
            if self.context.isStale():
                raise BrokerUnavailable(
                    f"this process has just left {tables.paths.domain!r}",
                    "Ask again: it joins anew",
                )
            openBuffer = self._all.get((row, incarnation))
            if openBuffer is not None and openBuffer.isLive():
                openBuffer.takeAgain()
                return openBuffer
            # Memory that only arrays still use is used again: its lease is still there,
            # so a live row stays live.
            kept = self._memories.get((row, incarnation))
            mapped = (
                self._map(row, incarnation)
                if kept is None
                else (kept, tables.rows.description(row))
            )
            parts = () if mapped is None else self._partsOf(row, incarnation, mapped[1])
            if (
                mapped is None
                or not tables.rows.isLive(row, incarnation)
                or clock.isOver(mapped[1].deadlineMs)
            ):
                return None
            memory, description = mapped
            openBuffer = self._add(
                OpenBuffer(
                    self.context,
                    row,
                    incarnation,
                    description,
                    memory,
                    parts=parts,
                    isFresh=kept is None,
                )
            )
            openBuffer.takeAgain()  # memory that only arrays used may have been evicted
            return openBuffer

    def _partsOf(
        self, row: int, incarnation: int, description: RowDescription
    ) -> tuple[OpenBuffer, ...]:
        """The open parts of a bundle on which this process has a lease. If one of them
        is lost meanwhile, the bundle is not LIVE any more.
        """
        if not description.flags & layout.ROW_FLAG_PARTS:
            return ()
        held = (self.hold(*pair) for pair in self.tables.rows.partsOf(row, incarnation))
        return tuple(part for part in held if part is not None)

    def _map(self, row: int, incarnation: int) -> tuple[Memory, RowDescription] | None:
        tables = self.tables
        self.context.releases.reclaimGone()
        try:
            index = tables.leases.take(row, incarnation, tables.ttlMs)
        except TableFull:
            self.gpus.giveWay().clear()  # what nothing uses has leases too
            self.context.releases.reclaimGone()
            index = tables.leases.take(row, incarnation, tables.ttlMs)
        try:
            # SYNC lease: pairs with Directory.tryReclaim. The lease is visible; if the
            # row is live now, no broker reclaims it before this lease ends.
            description = (
                tables.rows.description(row) if tables.rows.isLive(row, incarnation) else None
            )
            if description is None or clock.isOver(description.deadlineMs):
                self.context.releases.giveUp(index, row, incarnation)
                return None
            source = self._source(row, incarnation, description)
        except BaseException as error:
            self.context.releases.giveUp(index, row, incarnation)
            if isinstance(error, OwnerDied) and not tables.rows.isLive(row, incarnation):
                return None  # no process had the memory any more, so the name is free
            raise
        return self.memory(
            source, index, row, incarnation, description.access, description.lifetime
        ), description

    def _source(self, row: int, incarnation: int, description: RowDescription) -> Bytes:
        if description.mode is Mode.FAST:
            return self._import(row, incarnation, description)
        if not description.segmentBytes:
            return NoBytes()
        return segments.mapped(
            self.tables.paths, row, incarnation, description.segmentBytes, description.origin
        )

    def _import(self, row: int, incarnation: int, description: RowDescription) -> Bytes:
        """Import memory without a name. Its descriptor comes from the broker; a new
        broker may have to wait until a process that has the memory open brings it.
        """
        device, handle = self.gpus.chosen(), self.tables.rows.handle(row)
        writable = description.access is not Access.READ_ONLY
        # The description has the creator's number of the GPU. If this process numbers
        # its GPUs otherwise, the handle says which GPU it is.
        gpu = description.gpu if description.gpu < device.gpuCount else 0
        given = handle if any(handle) else b""
        if description.transport == "cudaIpc":
            return device.importAllocation(gpu, -1, description.segmentBytes, writable, given)
        client = self.context.client
        # Counted and not timed: this process may itself stand still meanwhile.
        for _ in range(math.ceil(client.broughtSeconds() / _FETCH_PAUSE_SECONDS)):
            descriptor = client.fetch(row, incarnation)
            if descriptor is not None:
                try:
                    return device.importAllocation(
                        gpu, descriptor.number, description.segmentBytes, writable, given
                    )
                finally:
                    descriptor.close()
            clock.sleep(_FETCH_PAUSE_SECONDS)
        # If the process that has the memory had died, the broker would have said so.
        raise holderSilent(self.tables, description.name, row)

    def memory(
        self,
        source: Bytes,
        leaseIndex: LeaseIndex,
        row: int,
        incarnation: int,
        access: Access,
        lifetime: Lifetime,
    ) -> Memory:
        """Register memory that this process has mapped and leased."""
        tenure = leaseIndex.lease.tenure
        tenure.source = source
        tenure.isTold = lifetime is Lifetime.LAST_CLOSE
        memory = Memory(source, leaseIndex, self.gpus.device, access is not Access.READ_ONLY)
        tenure.isBorrowed = memory.isBorrowed()
        return self._memories.keepFirst((row, incarnation), memory)

    def created(
        self,
        row: int,
        incarnation: int,
        description: RowDescription,
        memory: Memory,
        parts: tuple[OpenBuffer, ...] = (),
    ) -> OpenBuffer:
        """The open buffer of a row that this process has just committed. Another thread
        may have opened the name in the meantime.
        """
        with self.tables.leaseLock:
            return self._add(
                OpenBuffer(self.context, row, incarnation, description, memory, parts=parts)
            )

    def _add(self, openBuffer: OpenBuffer) -> OpenBuffer:
        """The open buffer to use for this row: the given one, or one that a signal
        handler made while the given one was being made.
        """
        openBuffer = self._all.keepFirst((openBuffer.row, openBuffer.incarnation), openBuffer)
        self._byName[openBuffer.description.name] = openBuffer
        return openBuffer

    # --- maintenance -----------------------------------------------------------------

    def renewAll(self) -> None:
        """If it is time, renew the leases of the buffers that are open with
        ``renew="auto"``. Memory that is kept for others, and need not be, is dropped.
        """
        self.context.unclaimed.dropEnded()
        self.gpus.tidy()
        if monotonicMs() < self._renewAtMs:
            return
        self._renewAtMs = monotonicMs() + self.tables.ttlMs // 4
        # One step copies the references, since other threads open buffers meanwhile.
        for openBuffer in [reference() for reference in self._all.valuerefs()]:
            if openBuffer is not None and openBuffer.isRenewed():
                openBuffer.renew()
        self.context.lent.forgetFreed()

    def allocations(self) -> list[tuple[tuple[int, int], Descriptor]]:
        """((row, incarnation), descriptor) of the memory that only processes which have
        it open can pass on. The caller closes the descriptors.
        """
        made: list[tuple[tuple[int, int], Descriptor]] = []
        for reference in self._memories.valuerefs():
            memory = reference()
            if memory is not None:
                # If the program has closed the descriptor, this process can not pass
                # the memory on any more.
                with contextlib.suppress(BufferFreed):
                    made.extend(
                        (reference.key, descriptor) for descriptor in exported(memory.source)
                    )
        return made

    def isInside(self) -> bool:
        """Whether this process holds a lock or creates a buffer, or another of its
        threads is inside an access. The process can not leave while this is so.

        The calling thread's own accesses do not count: while it asks, it writes
        nothing.
        """
        openBuffers, thread = [reference() for reference in self._all.valuerefs()], green.identity()
        return self.creating.isAny() or any(
            openBuffer is not None and openBuffer.hasScopes(thread) for openBuffer in openBuffers
        )

    def isAtWork(self) -> bool:
        """Whether GPUs may be at work for this process on memory that others will use
        as soon as its leases and owner locks are gone.
        """
        openBuffers = [reference() for reference in self._all.valuerefs()]
        isBorrower = any(tenure.isBorrowed for tenure in self.tables.leases.tenures())
        return isBorrower or any(
            openBuffer is not None and openBuffer.hasScopes() for openBuffer in openBuffers
        )

    def closeAll(self) -> None:
        """At the end: give back every lease. Arrays stay readable until the process is
        gone.
        """
        self.context.lent.awaitAll()
        table = self.tables.leases
        with self.tables.leaseLock:
            memories = list(self._memories.items())
            for (row, incarnation), memory in memories:
                table.release(memory.leaseIndex)
                self.context.releases.add(row, incarnation)
                table.forget(memory.leaseIndex)
        self.context.unclaimed.dropAll()
        self.gpus.close()
        try:
            self.context.releases.tryReclaimReleased()
        except MuninnError:
            return  # the next broker finds these rows without a lease
