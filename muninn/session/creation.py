"""Creation: how a process creates a buffer.

1. The process takes the name among its own threads, and asks the broker to grant it a
   row. The broker checks the name and the quotas, and takes the row from FREE to
   CREATING (`reservation.py`, `broker/directory.py`).
2. The process takes a lease on the row.
3. It makes the memory, and copies into it what is in host memory, in C order.
4. It writes the description into the row, with plain stores: no process reads the
   description of a CREATING row.
5. It fills the memory: the `fill` function, the manifest, and the `put` function.
6. It asks the broker to commit. Memory without a name goes along as a descriptor. The
   broker takes the row from CREATING to LIVE, which publishes the description and the
   contents.

A bundle on several GPUs takes each step for all of its segments before the next one,
and commits its own row last (`broker/parts.py`).

A version that is to replace another (`api/publishing.py`) has a name of its own until
its commit, by which it takes the public one (`broker/succession.py`).

No other process can open the buffer before the commit, because an opener accepts only a
LIVE row. A stale read of the row's state by an opener costs it an answer that the
buffer does not exist yet.

A creator that fails gives the row back. If the creator dies, the broker reclaims the
row; if the broker dies, the creator repeats the request to the successor, which finds
the row by the journal and returns the same one.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from muninn.arguments import requireCallable
from muninn.control import layout
from muninn.control.descriptions import Head, RowDescription
from muninn.errors import (
    BufferExists,
    DomainChanged,
    HolderSilent,
    MuninnError,
    QuotaExceeded,
    TableFull,
)
from muninn.observe import events
from muninn.observe.counters import count
from muninn.observe.progressbar import expect
from muninn.observe.spans import spanned
from muninn.session.departure import Departing
from muninn.session.gpus import deviceOf
from muninn.session.mappings import Bytes, Memory, exported
from muninn.session.membership import current
from muninn.session.newmemory import Progress, makeBytes
from muninn.session.othersroom import OTHERS_SECONDS, askOthers
from muninn.session.reservation import Reservation
from muninn.session.silence import holderSilent
from muninn.session.spec import fieldsOf
from muninn.system import clock
from muninn.system.clock import monotonicMs
from muninn.system.oserrors import typedErrors
from muninn.system.structures import Extent
from muninn.terms import Lifetime, Mode, Reserve
from muninn.wire import messages

if TYPE_CHECKING:
    from muninn.devices.port import Device
    from muninn.session.member import Membership
    from muninn.session.openbuffer import OpenBuffer
    from muninn.session.spec import BufferSpec

#: How long a creation waits for memory that this process had and did not use, and how often
#: it asks again.
_WAY_SECONDS, _PAUSE_SECONDS = 1.0, 0.005
_TIERS = {Mode.FAST: "vram", Mode.BIG: "host"}


@spanned("alloc", lambda wanted, *_, **__: fieldsOf(wanted))
def create(
    wanted: BufferSpec,
    fill: Callable[..., None] | None = None,
    extents: Sequence[Sequence[Extent]] = (),
    progress: Progress | None = None,
    put: Callable[[int], None] | None = None,
) -> OpenBuffer:
    """Create the buffer.

    Parameters
    ----------
    fill
        Called with the memory, and with that of each part, before another process can
        open it.
    extents
        For each of these memories the bytes that are copied into it, in the order of
        their offsets: of host memory, and into VRAM of GPUs too. Host memory is
        reserved meanwhile. The caller keeps them alive.
    put
        Called with the address of the memory, which may be a GPU's, before another
        process can open it.
    progress
        Called with the number of bytes that became ready since the last call.

    Raises
    ------
    BufferExists, QuotaExceeded, HostMemoryFull, TableFull, DomainDraining
    """
    if progress is not None:
        requireCallable("progress", progress)
    contents, untilSeconds, isTold = _Contents(fill, extents, progress, put), 0.0, False
    while True:
        membership = current()

        def work(reservation: Reservation, membership: Membership = membership) -> OpenBuffer:
            return _withParts(membership, wanted, reservation, [], contents)

        try:
            with contextlib.suppress(Departing):
                return _reserved(membership, wanted, work)
        except DomainChanged:
            if not membership.isLost():
                raise
            continue  # again, in the new control block
        except (QuotaExceeded, TableFull) as error:
            # Windows have budgets of their own (`api/scratchmemory.py`).
            if wanted.kind == layout.ROW_KIND_WINDOW and isinstance(error, QuotaExceeded):
                raise
            if _hasGivenWay(membership):
                untilSeconds = clock.now() + _WAY_SECONDS
            elif not isTold and _hasAsked(membership, wanted, error):
                isTold, untilSeconds = True, clock.now() + OTHERS_SECONDS
            elif clock.now() >= untilSeconds:
                raise
            clock.sleep(_PAUSE_SECONDS)
            continue
        membership.departure.awaitEnd()


def _hasGivenWay(membership: Membership) -> bool:
    """Whether this process had memory that nothing uses, which goes now: of a GPU once its
    work is over.
    """
    context = membership.openBuffers.context
    unused = context.gpus.giveWay()
    if not unused:
        return False
    context.releases.letGo(unused)
    return True


def _hasAsked(membership: Membership, wanted: BufferSpec, error: MuninnError) -> bool:
    """Whether other processes have what a GPU has no room for, and were asked."""
    if wanted.mode is not Mode.FAST or not isinstance(error, QuotaExceeded):
        return False
    needs = Counter[int]()
    for each in (wanted, *wanted.parts):
        needs[each.gpu] += each.segmentBytes
    asked = [askOthers(membership, gpu, sizeBytes) for gpu, sizeBytes in needs.items()]
    return any(asked)


class _Contents(NamedTuple):
    """What `create` puts into the memory, as it was told."""

    fill: Callable[..., None] | None
    extents: Sequence[Sequence[Extent]]
    progress: Progress | None
    put: Callable[[int], None] | None

    def extentsOf(self, segment: int) -> Sequence[Extent]:
        return self.extents[segment] if segment < len(self.extents) else ()


def _reserved(
    membership: Membership, wanted: BufferSpec, work: Callable[[Reservation], OpenBuffer]
) -> OpenBuffer:
    """The result of `work` on a reservation of the name. What `work` has not ended when
    it returns or raises is given back.
    """
    reservation = Reservation(
        membership.client,
        membership.openBuffers.creating,
        wanted.grantedAs or wanted.name,
        replaces=bool(wanted.grantedAs),
        isPart=wanted.kind == layout.ROW_KIND_PART,
    )
    with reservation.begun():
        try:
            reservation.takeName()
            membership.departure.check()
            return work(reservation)
        finally:
            reservation.giveUp()
            reservation.leaveName()
            membership.openBuffers.context.unclaimed.dropEnded()


def _withParts(
    membership: Membership,
    wanted: BufferSpec,
    reservation: Reservation,
    grants: list[_Grant],
    contents: _Contents,
) -> OpenBuffer:
    """Ask for the row for which there is a reservation now, and then for that of each
    part that is not among the grants yet, within a reservation of its own. All room is
    found before any memory is made.
    """
    number = len(grants)
    spec = wanted
    if number:
        head = Head(grants[0].row, grants[0].incarnation, number)
        spec = wanted.parts[number - 1]._replace(head=head)
    grants.append(_granted(membership, reservation, spec))
    if number == len(wanted.parts):
        return _make(membership, wanted, grants, contents)

    def work(reservation: Reservation) -> OpenBuffer:
        return _withParts(membership, wanted, reservation, grants, contents)

    return _reserved(membership, wanted.parts[number], work)


class _Grant(NamedTuple):
    """A row that this process is to fill."""

    spec: BufferSpec
    reservation: Reservation
    device: Device | None
    row: int
    incarnation: int


def _granted(membership: Membership, reservation: Reservation, wanted: BufferSpec) -> _Grant:
    """Step 1."""
    device = _deviceFor(membership, wanted)
    # A driver knows better than a sum over rows how much memory its GPU has left; and
    # two processes may mean two GPUs by the same number.
    capacity = (
        0
        if device is None or device.usedBytes is None
        else device.memoryInfo(wanted.gpu).totalBytes
    )
    try:
        row, incarnation = reservation.grant(
            name=wanted.grantedAs or wanted.name,
            tenant=wanted.tenant,
            mode=wanted.mode.value,
            gpu=wanted.gpu,
            sizeBytes=wanted.segmentBytes,
            gpuCapacityBytes=capacity,
            deadlineMs=wanted.deadlineMs,
            rank=wanted.hints.priority.rank,
            isWaiting=wanted.isWaiting,
        )
    except HolderSilent:
        silent = holderSilent(membership.tables, wanted.name)
        raise BufferExists(
            f"{wanted.name!r} exists already, and {silent.reason}", silent.fix
        ) from None
    return _Grant(wanted, reservation, device, row, incarnation)


def _make(
    membership: Membership, wanted: BufferSpec, grants: list[_Grant], contents: _Contents
) -> OpenBuffer:
    """The other steps, for all segments."""
    halves = list[_Half]()
    try:
        expect(contents.progress, sum(grant.spec.segmentBytes for grant in grants))
        for number, grant in enumerate(grants):
            extents = contents.extentsOf(number)
            halves.append(_half(membership, grant, extents, contents.progress))
        if contents.fill is not None:
            contents.fill(*(half.memory for half in halves))
        if wanted.manifest:
            halves[0].memory.put(wanted.manifest, wanted.metaOffset)
        if contents.put is not None:
            contents.put(halves[0].made.address)
        if wanted.grantedAs and (
            wanted.lifetime is Lifetime.LAST_CLOSE or wanted.mode is Mode.FAST
        ):
            # After the commit the name has no other version, and this one needs a holder.
            membership.openBuffers.context.unclaimed.keep(
                (grants[0].row, grants[0].incarnation), tuple(half.memory for half in halves)
            )
        # The head comes last: a bundle that can be opened has all of its parts.
        for number in (*range(1, len(halves)), 0):
            _commit(grants[number].reservation, halves[number].made)
            _count(halves[number].description)
        parts = tuple(_opened(membership, half) for half in halves[1:])
        created = _opened(membership, halves[0], parts)
        for grant in grants:
            grant.reservation.end()
        return created
    except BaseException:
        halves.clear()  # whoever keeps the error keeps this frame, and not the memory
        raise


class _Half(NamedTuple):
    """A buffer whose row is described, and which is not committed yet."""

    row: int
    incarnation: int
    description: RowDescription
    memory: Memory
    made: Bytes


def _half(
    membership: Membership, grant: _Grant, extents: Sequence[Extent], progress: Progress | None
) -> _Half:
    """Steps 2 to 4."""
    wanted, _, device, row, incarnation = grant
    tables = membership.tables
    with tables.leaseLock:
        index = tables.leases.take(row, incarnation, tables.ttlMs)
    try:
        with typedErrors(f"memory for {wanted.name!r}"):
            made = makeBytes(tables, wanted, device, row, incarnation, extents, progress)
    except BaseException:
        tables.leases.giveBack(index)
        raise
    memory = membership.openBuffers.memory(
        made, index, row, incarnation, wanted.access, wanted.lifetime
    )
    description = _describe(wanted, made)
    tables.rows.describe(row, description, getattr(made, "handle", b""), wanted.hints)
    return _Half(row, incarnation, description, memory, made)


def _opened(membership: Membership, half: _Half, parts: tuple[OpenBuffer, ...] = ()) -> OpenBuffer:
    """The open buffer of what was committed just now."""
    row, incarnation, description, memory, _ = half
    return membership.openBuffers.created(row, incarnation, description, memory, parts)


def _count(description: RowDescription) -> None:
    """Count what was committed. A lock has no memory to speak of, and a part or a window is
    no buffer of its own.
    """
    if description.kind != layout.ROW_KIND_LOCK:
        count("allocations", _TIERS[description.mode], 1, description.segmentBytes)
    if description.kind in (layout.ROW_KIND_ARRAY, layout.ROW_KIND_BUNDLE):
        count("buffers", description.mode.value)
        events.say("creation", **fieldsOf(description))


def _commit(reservation: Reservation, made: Bytes) -> None:
    """Ask for CREATING → LIVE. Memory without a name goes along as a descriptor."""
    descriptors = exported(made)
    try:
        reservation.commit(descriptors)
    finally:
        messages.closeAll(descriptors)


def _describe(wanted: BufferSpec, made: Bytes) -> RowDescription:
    return RowDescription(
        sizeBytes=wanted.sizeBytes,
        segmentBytes=wanted.segmentBytes,
        createdMs=monotonicMs(),
        deadlineMs=wanted.deadlineMs,
        metaOffset=wanted.metaOffset,
        metaBytes=len(wanted.manifest),
        mode=wanted.mode,
        access=wanted.access,
        lifetime=wanted.lifetime,
        kind=wanted.kind,
        gpu=wanted.gpu,
        flags=_flagsOf(wanted),
        transport=getattr(made, "transport", "segment"),
        shape=wanted.shape,
        dtype=wanted.dtype,
        tenant=wanted.tenant,
        name=wanted.name,
        head=wanted.head,
    )


def _flagsOf(wanted: BufferSpec) -> int:
    lazy = layout.ROW_FLAG_LAZY if wanted.reserve is Reserve.LAZY else 0
    return lazy | (layout.ROW_FLAG_PARTS if wanted.parts else 0)


def _deviceFor(membership: Membership, wanted: BufferSpec) -> Device | None:
    """The device on which the memory is to be allocated; None for host memory."""
    if wanted.mode is Mode.BIG:
        return None
    return deviceOf(membership)
