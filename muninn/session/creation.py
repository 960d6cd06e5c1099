"""Creating a buffer: granted by the broker, filled here, and only then there for everybody.

The steps are grant, description, memory, fill, commit. Until the commit nobody else can open the buffer; a creator that fails gives
up, and for one that dies the broker does.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Set
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from muninn.arguments import asInteger, passingOn, requireCallable
from muninn.config import asBytes
from muninn.config.sizes import exactly
from muninn.control import layout
from muninn.control.rows import RowDescription
from muninn.errors import BufferExists, DomainChanged, HolderSilent, InvalidArgument
from muninn.interop.dtypes import asDtype, encoded
from muninn.session.departure import Departing
from muninn.session.gpus import deviceOf
from muninn.session.mappings import Bytes, Memory, NoBytes, Stage, addressOf, exported
from muninn.session.membership import Membership, current
from muninn.session.reservation import Making
from muninn.session.silence import holderSilent
from muninn.storage import segments
from muninn.system import clock
from muninn.system.clock import monotonicMs
from muninn.system.logs import Log
from muninn.system.oserrors import typedErrors
from muninn.system.pages import pagesUp
from muninn.terms import INTERNAL_PREFIX, Access, Lifetime, Mode, Reserve, asAccess, asLifetime, asMode, asName, asReserve, asTenant
from muninn.wire import messages

if TYPE_CHECKING:
    from muninn.devices.port import Allocation, Device
    from muninn.interop.arrays import ForeignArray
    from muninn.session.openbuffers import Holding

_log = Log("muninn.devices")
_MAX_BYTES = 1 << 56
_LONGEST_LIFETIME_MS = 1 << 50  # 35,000 years
#: What gives integers when it is gone through, and means no lengths, or none in their order.
_NO_SHAPES = (bytes, bytearray, memoryview, Set, Mapping)
#: After how much of a copy to a GPU `progress` is told.
_PIECE_BYTES = 64 << 20
Progress = Callable[[int], None]


class Draft(NamedTuple):
    """A buffer as its creator wants it; checked, and nothing of it exists yet."""

    name: str
    tenant: str
    mode: Mode
    access: Access
    lifetime: Lifetime
    kind: int
    gpu: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sizeBytes: int
    manifest: bytes
    reserve: Reserve
    deadlineMs: int
    numaNode: int | None
    #: Device memory that is shared where it lies.
    lent: ForeignArray | None = None

    @property
    def metaOffset(self) -> int:
        return pagesUp(self.sizeBytes) if self.manifest else 0

    @property
    def segmentBytes(self) -> int:
        if self.lent is not None:
            return self.sizeBytes
        return pagesUp(self.sizeBytes) + pagesUp(len(self.manifest))


def asSize(value: int | str) -> int:
    """Bytes above 0 from a number or text like ``"128G"``, or `InvalidArgument`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer | str):
        raise TypeError(f'size must be a number of bytes or text like "128G", not {type(value).__name__}')
    sizeBytes = asBytes(value) if isinstance(value, str) else int(value)
    if not 0 < sizeBytes <= _MAX_BYTES:
        raise InvalidArgument(f"a size of {exactly(sizeBytes)} can not be", f"Use 1 B to {exactly(_MAX_BYTES)}")
    return sizeBytes


def asShape(value: Any) -> tuple[int, ...]:
    """A tuple of lengths above 0, at most 8, or `InvalidArgument`."""
    try:
        found = [asInteger(length) for length in ((value,) if isinstance(value, int | np.integer) else value)]
    except TypeError:
        found = [None]
    if isinstance(value, _NO_SHAPES):
        found = [None]
    shape = tuple(length for length in found if length is not None)
    if len(shape) != len(found):
        raise InvalidArgument(f"{value!r} is no shape", "Pass a length or a tuple of lengths")
    if len(shape) > layout.MAX_NDIM or any(length <= 0 for length in shape):
        raise InvalidArgument(f"shape {shape} can not be", f"Use at most {layout.MAX_NDIM} lengths, each above 0")
    return shape


def asItems(shape: Any, dtype: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The lengths, and the type of an element. Elements that are arrays themselves are further lengths, as for numpy."""
    itemType = asDtype(dtype)
    return asShape((*asShape(shape), *itemType.shape)), itemType.base


def draft(
    shape: Any,
    dtype: Any,
    *,
    mode: str | None = None,
    preferredGpu: int | None = None,
    access: str | None = None,
    name: str | None = None,
    tenant: str | None = None,
    lifetime: str | None = None,
    lifetimeMs: int | None = None,
    reserve: str = "full",
    numaNode: int | None = None,
    kind: int = layout.ROW_KIND_ARRAY,
    manifest: bytes = b"",
) -> Draft:
    """Check what a caller asked for, and fill in what was left open."""
    membership = current()
    settings = membership.settings
    asked = asMode(mode) if mode is not None else Mode.BIG
    lengths, itemType = asItems(shape, dtype)
    text, described = encoded(itemType)
    sizeBytes = int(np.prod(lengths, dtype=object)) * itemType.itemsize
    if sizeBytes > _MAX_BYTES:
        raise InvalidArgument(f"{exactly(sizeBytes)} can not be", f"Use at most {exactly(_MAX_BYTES)}")
    gpu = _asGpu(membership, asked, preferredGpu)
    made = f"anonymous-{os.urandom(8).hex()}"
    asLasting = Lifetime.LAST_CLOSE if name is None else Lifetime.KEEP
    return Draft(
        name=made if name is None else asName(name),
        tenant=settings.tenancy.defaultTenant if tenant is None else asTenant(tenant),
        mode=asked,
        access=asAccess(settings.promotion.defaultPolicy if access is None else access),
        lifetime=asLasting if lifetime is None else asLifetime(lifetime),
        kind=kind,
        gpu=gpu,
        shape=lengths,
        dtype=np.dtype(text),
        sizeBytes=sizeBytes,
        manifest=manifest or described,
        reserve=asReserve(reserve),
        deadlineMs=_asDeadline(lifetimeMs),
        numaNode=_asNode(numaNode),
    )


#: Of a function whose `**keywords` are options of the buffer that it makes.
passesOptions = passingOn(draft, "kind", "manifest")


def lockDraft(name: str) -> Draft:
    """A row without memory, for `muninn.Lock`."""
    return Draft(
        INTERNAL_PREFIX + name, "internal", Mode.BIG, Access.READ_WRITE, Lifetime.LAST_CLOSE, layout.ROW_KIND_LOCK, -1, (),
        np.dtype("u1"), 0, b"",
        Reserve.LAZY, 0, None,
    )  # fmt: skip


def create(
    wanted: Draft,
    fill: Callable[[Memory | Stage], None] | None = None,
    source: np.ndarray[Any, Any] | None = None,
    progress: Progress | None = None,
    put: Callable[[int], None] | None = None,
) -> Holding:
    """Make the buffer.

    Parameters
    ----------
    fill
        Called with the memory before anybody else can open it.
    source
        A C-contiguous array whose bytes are copied in, in parallel with the reservation.
    put
        Called with the address of the memory, which may be a GPU's, before anybody else can open it.
    progress
        Called with the bytes that are ready since the last call.

    Raises
    ------
    BufferExists, QuotaExceeded, HostMemoryFull, TableFull, DomainDraining
    """
    if progress is not None:
        requireCallable("progress", progress)
    while True:
        membership = current()
        making = Making(membership.client, membership.holdings.creating, wanted.name)
        with making.begun():
            try:
                making.takeName()
                with contextlib.suppress(Departing):
                    membership.departure.check()
                    holding = _create(membership, making, wanted, fill, source, progress, put)
                    making.end()
                    return holding
            except DomainChanged:
                if not membership.isLost():
                    raise
                continue  # in the control block that there is now
            finally:
                making.giveUp()
                making.leaveName()
        membership.departure.awaitEnd()


def _create(
    membership: Membership,
    making: Making,
    wanted: Draft,
    fill: Callable[[Memory | Stage], None] | None,
    source: np.ndarray[Any, Any] | None,
    progress: Progress | None,
    put: Callable[[int], None] | None,
) -> Holding:
    device = _deviceFor(membership, wanted)
    # A driver knows better than a sum over rows what its GPU has left; and two processes may mean two GPUs by one number.
    capacity = 0 if device is None or device.usedBytes is None else device.memoryInfo(wanted.gpu).totalBytes
    try:
        row, incarnation = making.grant(
            name=wanted.name, tenant=wanted.tenant, mode=wanted.mode.value, gpu=wanted.gpu, sizeBytes=wanted.segmentBytes,
            gpuCapacityBytes=capacity, deadlineMs=wanted.deadlineMs,
        )  # fmt: skip
    except HolderSilent:
        silent = holderSilent(membership, wanted.name)
        raise BufferExists(f"{wanted.name!r} exists already, and {silent.reason}", silent.fix) from None
    with membership.leaseLock:
        index = membership.leaseTable.take(row, incarnation, membership.settings.security.leaseTtlMs)
    try:
        with typedErrors(f"memory for {wanted.name!r}"):
            made = _makeBytes(membership, wanted, device, row, incarnation, source, progress)
    except BaseException:
        membership.leaseTable.release(index)
        raise
    memory = membership.holdings.memory(made, index, row, incarnation, wanted)
    description = _describe(wanted, made)
    membership.rows.describe(row, description, getattr(made, "handle", b""))
    _fill(memory, wanted, fill)
    if put is not None:
        put(made.address)
    _commit(making, made)
    return membership.holdings.created(row, incarnation, description, memory)


def _fill(memory: Memory, wanted: Draft, fill: Callable[[Memory | Stage], None] | None) -> None:
    if fill is not None and memory.isHostVisible:
        fill(memory)
    elif fill is not None:
        stage = Stage(memory, wanted.sizeBytes)
        fill(stage)
        stage.flush()
    if wanted.manifest:
        memory.put(wanted.manifest, wanted.metaOffset)


def _commit(making: Making, made: Bytes) -> None:
    """Ask for CREATING → LIVE; memory without a name goes along as a descriptor."""
    descriptors = exported(made)
    try:
        making.commit(descriptors)
    finally:
        messages.closeAll(descriptors)


def _makeBytes(
    membership: Membership,
    wanted: Draft,
    device: Device | None,
    row: int,
    incarnation: int,
    source: np.ndarray[Any, Any] | None,
    progress: Progress | None,
) -> Bytes:
    if device is not None:
        allocation = _allocated(device, wanted)
        _log.info("%r: transport %s (%s)", wanted.name, allocation.transport, allocation.transportReason)
        try:
            _fillAllocation(device, wanted, allocation, source, progress)
        except BaseException:
            allocation.close()
            raise
        return allocation
    if not wanted.segmentBytes:
        return NoBytes()
    fd = segments.create(membership.places, row, incarnation, wanted.segmentBytes)
    try:
        mapping = segments.Mapping(fd, wanted.segmentBytes, writable=True)
        try:
            _fillSegment(membership, wanted, fd.number, mapping, source, progress)
        except BaseException:
            mapping.close()
            raise
        return mapping
    finally:
        fd.close()


def _allocated(device: Device, wanted: Draft) -> Allocation:
    lent = wanted.lent
    return device.allocate(wanted.gpu, wanted.segmentBytes) if lent is None else device.lend(lent.address, wanted.sizeBytes, lent.keepAlive)


def _fillAllocation(
    device: Device, wanted: Draft, allocation: Allocation, source: np.ndarray[Any, Any] | None, progress: Progress | None
) -> None:
    """Copy `source` there, in pieces if anybody wants to be told; what is not copied is ready as it is."""
    address, sizeBytes = (0, 0) if source is None else (addressOf(source), source.nbytes)
    pieceBytes = _PIECE_BYTES if progress is not None else max(1, sizeBytes)
    for offset in range(0, sizeBytes, pieceBytes):
        length = min(pieceBytes, sizeBytes - offset)
        device.copyNow(allocation.address + offset, address + offset, length, wanted.gpu)
        if progress is not None:
            progress(length)
    if progress is not None and sizeBytes < wanted.segmentBytes:
        progress(wanted.segmentBytes - sizeBytes)


def _fillSegment(
    membership: Membership,
    wanted: Draft,
    fd: int,
    mapping: segments.Mapping,
    source: np.ndarray[Any, Any] | None,
    progress: Progress | None,
) -> None:
    try:
        segments.advise(mapping, wanted.numaNode)
    except OSError as error:
        raise InvalidArgument(str(error.strerror), "Leave numaNode out, or name a node that `python -m muninn doctor` lists") from error
    address, sizeBytes = (None, 0) if source is None else (addressOf(source), source.nbytes)
    if wanted.reserve is Reserve.FULL:
        segments.reserve(fd, mapping, membership.settings.memory.prefaultThreads, address, sizeBytes, progress)
        return
    if address is not None:
        segments.copyIn(mapping, address, sizeBytes)
    segments.populate(mapping, wanted.metaOffset, len(wanted.manifest))
    if progress is not None:
        progress(mapping.sizeBytes)


def _describe(wanted: Draft, made: Bytes) -> RowDescription:
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
        flags=layout.ROW_FLAG_LAZY if wanted.reserve is Reserve.LAZY else 0,
        transport=getattr(made, "transport", "segment"),
        shape=wanted.shape,
        dtype=wanted.dtype.str,
        tenant=wanted.tenant,
        name=wanted.name,
    )


def _deviceFor(membership: Membership, wanted: Draft) -> Device | None:
    """The device whose VRAM is wanted; None for host memory."""
    if wanted.mode is Mode.BIG:
        return None
    return deviceOf(membership)


def _asGpu(membership: Membership, mode: Mode, preferredGpu: int | None) -> int:
    if preferredGpu is None:
        return 0 if mode is Mode.FAST else -1
    if (number := asInteger(preferredGpu)) is None:
        raise TypeError(f"preferredGpu must be an int, not {type(preferredGpu).__name__}")
    preferredGpu = number
    if not 0 <= preferredGpu < 1 << 15:
        raise InvalidArgument(f"GPU {preferredGpu} can not be", "Use the number of a GPU that `python -m muninn doctor` lists")
    if mode is Mode.FAST:
        deviceOf(membership).requireGpu(preferredGpu)
    return preferredGpu if mode is Mode.FAST else -1


def _asDeadline(lifetimeMs: int | None) -> int:
    if lifetimeMs is None:
        return 0
    milliseconds = asInteger(lifetimeMs)
    if milliseconds is None or not 0 < milliseconds <= _LONGEST_LIFETIME_MS:
        raise InvalidArgument(
            f"lifetimeMs {lifetimeMs!r} can not be",
            f"Use milliseconds from 1 to {_LONGEST_LIFETIME_MS}, or leave it out",
        )
    if not clock.knowsHostTime():
        raise InvalidArgument(
            f"lifetimeMs {lifetimeMs} can not be counted: this process left its time namespace, and the kernel does not tell by how much",
            "Fork after unshare(CLONE_NEWTIME) and share in the child, or leave lifetimeMs out",
        )
    return monotonicMs() + milliseconds


def _asNode(numaNode: int | None) -> int | None:
    if numaNode is None:
        return None
    number = asInteger(numaNode)
    if number is None or not 0 <= number < 64:
        raise InvalidArgument(f"NUMA node {numaNode!r} can not be", "Use a node's number, from 0")
    return number
