"""Open buffers: what this process has open, each buffer once; and how it is opened.

Opening takes a lease first and reads the row's state second. Freeing marks the row
first and reads the leases second. Both are sequentially consistent, so at least one of
two that meet sees the other: the opening gives its lease back and finds nothing, or the
freeing leaves the memory to the lease's end. A row that is read before the lease stands
may be another buffer's by the time the memory is mapped. So nothing is believed of a
row before the lease, and the index of names, a hint, is checked against the row behind
it.

Private to the process, but for the leases: a death leaves those to the broker.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable

from muninn.control.descriptions import RowDescription
from muninn.errors import BrokerUnavailable, BufferFreed, MuninnError, OwnerDied
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

_FETCH_ATTEMPTS = 200
_FETCH_PAUSE_SECONDS = 0.005


class OpenBuffers:
    """All open buffers of one membership.

    Whatever a signal handler raises, and whatever a finalizer calls, between two steps
    of these methods: a lease and its mapping belong to a `Lease` before they are there,
    and when that is gone, `Releases` undoes them.
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
        """The holding of a name that is live now: opened before, or opened here. None
        when there is no such buffer.
        """
        return self.known(name) or self.asked(name)[0]

    def known(self, name: str) -> OpenBuffer | None:
        """The holding of a live name, as far as this process and the index know. None
        says little: the broker may know more.
        """
        openBuffer = self._byName.get(name)
        if openBuffer is not None and openBuffer.isLive():
            return openBuffer
        tables, encoded = self.tables, name.encode()
        for row, incarnation in tables.index.candidates(encoded):
            if tables.rows.isLive(row, incarnation) and tables.rows.nameIs(row, encoded):
                openBuffer = self.hold(row, incarnation)
                if openBuffer is not None:
                    return openBuffer
        return None

    def asked(self, name: str) -> tuple[OpenBuffer | None, bool]:
        """What the broker knows of a name: its open buffer, if it is live; and
        otherwise whether somebody is creating it.
        """
        found, _ = self.context.client.request("find", name=name)
        if not found.get("live"):
            return None, bool(found)
        return self.hold(found["row"], found["incarnation"]), False

    def hold(self, row: int, incarnation: int) -> OpenBuffer | None:
        """The holding of a live row; None when it is not live (any more)."""
        tables = self.tables
        # who has it may be fetching memory from the thread that serves
        with aside.unlessTaken(tables.leaseLock):
            if self.context.isStale():
                raise BrokerUnavailable(
                    f"this process has just left {tables.paths.domain!r}",
                    "Ask again: it joins anew",
                )
            openBuffer = self._all.get((row, incarnation))
            if openBuffer is not None and openBuffer.isLive():
                return openBuffer
            # Memory that only arrays still hold is taken up again: its lease stands, so
            # a live row stays.
            kept = self._memories.get((row, incarnation))
            mapped = (
                self._map(row, incarnation)
                if kept is None
                else (kept, tables.rows.description(row))
            )
            if (
                mapped is None
                or not tables.rows.isLive(row, incarnation)
                or clock.isOver(mapped[1].deadlineMs)
            ):
                return None
            memory, description = mapped
            return self._add(
                OpenBuffer(
                    self.context, row, incarnation, description, memory, isFresh=kept is None
                )
            )

    def _map(self, row: int, incarnation: int) -> tuple[Memory, RowDescription] | None:
        tables = self.tables
        self.context.releases.reclaimGone()
        index = tables.leases.take(row, incarnation, tables.ttlMs)
        try:
            # SYNC open: pairs with Directory.tryReclaim. The lease stands; if the row
            # is still live now, nobody reclaims it before we let go.
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
                return None  # nobody had the memory any more, so the name is free
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
        """Ask the broker for the memory's descriptor. A new broker may have to wait for
        a holder to bring it.
        """
        device, handle = self.gpus.chosen(), self.tables.rows.handle(row)
        writable = description.access is not Access.READ_ONLY
        # The creator's index; where GPUs are numbered otherwise, the handle says which
        # one it is.
        gpu = description.gpu if description.gpu < device.gpuCount else 0
        given = handle if any(handle) else b""
        if description.transport == "cudaIpc":
            return device.importAllocation(gpu, -1, description.segmentBytes, writable, given)
        for _ in range(_FETCH_ATTEMPTS):
            descriptor = self.context.client.fetch(row, incarnation)
            if descriptor is not None:
                try:
                    return device.importAllocation(
                        gpu, descriptor.number, description.segmentBytes, writable, given
                    )
                finally:
                    descriptor.close()
            clock.sleep(_FETCH_PAUSE_SECONDS)
        # nobody has died: the broker would have said so
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
        self, row: int, incarnation: int, description: RowDescription, memory: Memory
    ) -> OpenBuffer:
        """The holding of a row that this process has just committed. Another thread may
        have been faster to open its name.
        """
        with self.tables.leaseLock:
            return self._add(OpenBuffer(self.context, row, incarnation, description, memory))

    def _add(self, openBuffer: OpenBuffer) -> OpenBuffer:
        """The holding of its row: this one, or the one that was made by what
        interrupted the making of it.
        """
        openBuffer = self._all.keepFirst((openBuffer.row, openBuffer.incarnation), openBuffer)
        self._byName[openBuffer.description.name] = openBuffer
        return openBuffer

    # --- maintenance -----------------------------------------------------------------

    def renewAll(self) -> None:
        """Renew the leases that are renewed while held, if it is time."""
        if monotonicMs() < self._renewAtMs:
            return
        self._renewAtMs = monotonicMs() + self.tables.ttlMs // 4
        # The references are copied in one step; other threads open buffers meanwhile.
        for openBuffer in [reference() for reference in self._all.valuerefs()]:
            if openBuffer is not None and openBuffer.isRenewed():
                openBuffer.renew()
        self.context.lent.forgetFreed()

    def allocations(self) -> list[tuple[tuple[int, int], Descriptor]]:
        """((row, incarnation), descriptor) of the memory that only its holders can hand
        on; the descriptors are the caller's to close.
        """
        made: list[tuple[tuple[int, int], Descriptor]] = []
        for reference in self._memories.valuerefs():
            memory = reference()
            if memory is not None:
                # the program has closed its descriptor: it can not be handed on any
                # more
                with contextlib.suppress(BufferFreed):
                    made.extend(
                        (reference.key, descriptor) for descriptor in exported(memory.source)
                    )
        return made

    def isInside(self) -> bool:
        """Whether this process holds a lock or creates, or another thread of it is
        inside an access: what does not end by leaving.

        The caller's own accesses do not count: while it asks it writes nothing.
        """
        openBuffers, thread = [reference() for reference in self._all.valuerefs()], green.identity()
        return self.creating.isAny() or any(
            openBuffer is not None and openBuffer.hasScopes(thread) for openBuffer in openBuffers
        )

    def isAtWork(self) -> bool:
        """Whether GPUs may be at work for this process on what others will use as soon
        as its leases and claims are gone.
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
        try:
            self.context.releases.tryReclaimReleased()
        except MuninnError:
            return  # the domain's next broker finds these rows without a lease
