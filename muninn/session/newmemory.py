"""New memory: how a process makes the memory of a buffer that it creates, and copies bytes
into it. No other process has the memory yet, and nothing of it is left if this fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from muninn.errors import InvalidArgument
from muninn.session.mappings import Bytes, NoBytes
from muninn.storage import segments
from muninn.system.logs import Log
from muninn.system.structures import Extent
from muninn.terms import Reserve

if TYPE_CHECKING:
    from muninn.devices.port import Allocation, Device
    from muninn.session.spec import BufferSpec
    from muninn.session.tables import Tables

_log = Log("muninn.devices")
#: After how many bytes of a copy to a GPU `progress` is called.
_PIECE_BYTES = 64 << 20
Progress = Callable[[int], None]


def makeBytes(
    tables: Tables,
    wanted: BufferSpec,
    device: Device | None,
    row: int,
    incarnation: int,
    extents: Sequence[Extent],
    progress: Progress | None,
) -> Bytes:
    if device is not None:
        # With a progress function the copies are made piece by piece.
        allocation = _allocated(device, wanted, extents if progress is None else ())
        _log.debug(
            "%r: transport %s (%s)", wanted.name, allocation.transport, allocation.transportReason
        )
        if progress is not None:
            try:
                _fillAllocation(device, wanted, allocation, extents, progress)
            except BaseException:
                allocation.close()
                raise
        return allocation
    if not wanted.segmentBytes:
        return NoBytes()
    fd = segments.create(tables.paths, row, incarnation, wanted.segmentBytes)
    try:
        mapping = segments.Mapping(fd, wanted.segmentBytes, writable=True)
        try:
            _fillSegment(tables, wanted, fd.number, mapping, extents, progress)
        except BaseException:
            mapping.close()
            raise
        return mapping
    finally:
        fd.close()


def _allocated(device: Device, wanted: BufferSpec, extents: Sequence[Extent]) -> Allocation:
    if wanted.lent is not None:
        return device.lend(wanted.lent.address, wanted.sizeBytes, wanted.lent.keepAlive)
    filledBytes = wanted.sizeBytes if wanted.isOverwritten else 0
    return device.allocate(
        wanted.gpu, wanted.segmentBytes, filledBytes=filledBytes, extents=extents
    )


def _fillAllocation(
    device: Device,
    wanted: BufferSpec,
    allocation: Allocation,
    extents: Sequence[Extent],
    progress: Progress,
) -> None:
    """Copy `extents` into the allocation, in pieces, and tell of each. Memory that
    nothing is copied into is ready as it is.
    """
    copiedBytes = 0
    for extent in extents:
        target, source = allocation.address + extent.offset, extent.address
        for offset in range(0, extent.sizeBytes, _PIECE_BYTES):
            length = min(_PIECE_BYTES, extent.sizeBytes - offset)
            device.copyNow(target + offset, source + offset, length, wanted.gpu)
            copiedBytes += length
            progress(length)
    if copiedBytes < wanted.segmentBytes:
        progress(wanted.segmentBytes - copiedBytes)


def _fillSegment(
    tables: Tables,
    wanted: BufferSpec,
    fd: int,
    mapping: segments.Mapping,
    extents: Sequence[Extent],
    progress: Progress | None,
) -> None:
    try:
        segments.advise(mapping, wanted.numaNode)
    except OSError as error:
        raise InvalidArgument(
            str(error.strerror),
            "Leave numaNode out, or name a node that `python -m muninn doctor` lists",
        ) from error
    if wanted.isFilledInParts and segments.beginParts(mapping):
        segments.populate(mapping, wanted.metaOffset, len(wanted.manifest))
        return
    if wanted.reserve is Reserve.FULL or wanted.isFilledInParts:
        segments.reserve(fd, mapping, tables.settings.memory.prefaultThreads, extents, progress)
        return
    for extent in extents:
        segments.copyIn(mapping, extent)
    segments.populate(mapping, wanted.metaOffset, len(wanted.manifest))
    if progress is not None:
        progress(mapping.sizeBytes)
