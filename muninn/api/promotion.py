"""Promotion: a window of a buffer copied to scratch memory of a GPU (`api/scratch.py`).

The window is copied to the GPU inside a read access, so it is of one whole generation.
Scratch memory is a buffer of its own kind: the broker admits it against the budgets of
the GPU and of the tenant, it is freed with its last user, and a process that is killed
leaves nothing. A window of a buffer that nobody may write has a name made of its place,
by which other processes find it and share the copy; it outlives its promoter as long as
any of them uses it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from muninn.api import transfers
from muninn.api.attachment import Attachment
from muninn.api.options import BufferOptions
from muninn.api.scratch import WORD_BYTES, Room, Scratch
from muninn.api.specs import specOf
from muninn.arguments import asInteger, timeoutOf
from muninn.config.sizes import exactly
from muninn.devices.ways import streamFor
from muninn.errors import BufferExists, InvalidArgument, PromotionDenied, QuotaExceeded
from muninn.kernels import launch
from muninn.session import creation
from muninn.session.gpus import deviceOf
from muninn.session.membership import current
from muninn.session.spec import windowSpec
from muninn.sync.moves import Sending
from muninn.system import clock
from muninn.system.deadlines import deadlineOf, remaining
from muninn.terms import Access, Mode
from muninn.transfer import dirty
from muninn.transfer.arena import arenaOf
from muninn.transfer.handle import Report, Transfer
from muninn.transfer.tiers import Place, Tier

if TYPE_CHECKING:
    from muninn.devices.port import Device
    from muninn.session.mappings import Memory
    from muninn.session.openbuffer import OpenBuffer
    from muninn.session.spec import BufferSpec

#: How often a promotion asks again for room.
_PAUSE_SECONDS = 0.005
_LEAST_SLICE_BYTES = 4096


def promoted(
    caller: str,
    base: Attachment,
    window: dirty.Range,
    targetGpu: int,
    *,
    timeout: float | None,
    stream: Any,
    isTracked: bool,
    sliceBytes: int | None,
) -> Scratch:
    """The scratch memory of a window, filled. See `MuninnBuffer.promote`."""
    openBuffer = base._checked()
    settings = openBuffer.tables.settings.promotion
    if not settings.enablePromotion:
        raise PromotionDenied(
            "promotion is turned off (promotion.enablePromotion)", "Turn it on, or use the buffer"
        )
    transfers.requireArray(base, openBuffer)
    _require(openBuffer, window)
    device = deviceOf(openBuffer.context)
    gpu = device.requireGpu(targetGpu)
    description = openBuffer.description
    unit = settings.defaultSliceBytes if sliceBytes is None else _asSlice(caller, sliceBytes)
    # Memory that its owner has lent may change although no access of it is a write.
    isConstant = description.access is Access.READ_ONLY
    isShared = isConstant and description.transport != "cudaIpc"
    room = Room.of(window.sizeBytes, unit, base.writable and not isConstant, isTracked)
    if room.shadowAt is not None and not device.runsKernelsOnHost:
        launch.requireKernels()  # or the end of the block would find out
    most = min(settings.perGpuScratchBytes, settings.perTenantScratchBytes)
    if room.sizeBytes > most:
        raise PromotionDenied(
            f"a window of {exactly(window.sizeBytes)} takes {exactly(room.sizeBytes)} of scratch "
            f"memory, and {exactly(most)} is the most (promotion.perGpuScratchBytes, "
            "perTenantScratchBytes)",
            "Promote a smaller one, with track=True, or raise the budget",
        )
    wanted = specOf(
        caller,
        (room.sizeBytes,),
        np.uint8,
        BufferOptions(
            mode=Mode.FAST.value,
            preferredGpu=gpu,
            access=description.access.value,  # type: ignore[arg-type]  # a word of it
            tenant=description.tenant,
        ),
    )
    deadline = deadlineOf(timeoutOf(caller, timeout))
    filler = _Filler(base, window, Place(Tier.VRAM, gpu), room, deadline)
    if isShared:
        key = f"{openBuffer.row}.{openBuffer.incarnation}:{device.gpuUuid(gpu)[-12:]}"
        name = f"{key}:{window.offset}+{window.sizeBytes}"
        memory = _shared(windowSpec(wanted, name), filler, deadline)
    else:
        memory = _private(windowSpec(wanted, os.urandom(8).hex()), filler, deadline)
    arena = arenaOf(openBuffer.context)
    scratch = Scratch(
        base,
        window,
        gpu,
        memory,
        isShared=isShared,
        sliceBytes=unit,
        room=room,
        stream=stream,
        giveBack=None if isShared else functools.partial(arena.giveBack, gpu),
    )
    scratch.transfer, scratch._generation = filler.report, filler.generation
    return scratch


class _Filler:
    """Copies a window into scratch memory, and keeps what it learns."""

    def __init__(
        self,
        base: Attachment,
        window: dirty.Range,
        target: Place,
        room: Room,
        deadline: float | None,
    ) -> None:
        self._base, self._window, self._target = base, window, target
        self._room, self._deadline = room, deadline
        self.generation = 0
        self.report: Report | None = None

    @property
    def tenant(self) -> str:
        return str(self._base._held().description.tenant)

    @property
    def gpu(self) -> int:
        return self._target.gpu

    @property
    def sizeBytes(self) -> int:
        return self._room.sizeBytes

    @property
    def openBuffer(self) -> OpenBuffer:
        return self._base._held()

    def fill(self, memory: Memory) -> None:
        """Called before another process can open the memory, or with memory of the arena."""
        openBuffer = self._base._checked()
        place, left = transfers.placeOf(openBuffer), remaining(self._deadline)
        transfer: Transfer[int] = Transfer(place, self._target, self._window.sizeBytes, left)
        engine, into = transfers.engineFor(openBuffer), memory.address
        memory.device = device = engine.device

        def work() -> int:
            whole = transfers.windowOf(openBuffer, transfer.check)
            source = whole._replace(
                address=whole.address + self._window.offset, sizeBytes=self._window.sizeBytes
            )
            with (
                engine.way(transfer, source, self._target, None) as way,
                Sending(openBuffer, transfer.secondsLeft, transfer.checkCancelled),
            ):
                engine.send(transfer, way, source, into)
                return openBuffer.generation.value()

        self.generation = engine.run(transfer, work)
        self.report = transfer.report()
        try:
            self._prepare(device, memory)
        finally:
            del memory  # an error keeps this frame, and not the memory

    def _prepare(self, device: Device, memory: Memory) -> None:
        """The shadow, and flags that are 0."""
        room = self._room
        if room.flagsAt is None:
            return
        flags = np.zeros(room.sizeBytes - room.flagsAt, np.uint8)
        memory.copyIn(flags.ctypes.data, flags.nbytes, room.flagsAt)
        if room.shadowAt is not None:
            # Whole words are compared.
            length = -(-self._window.sizeBytes // WORD_BYTES) * WORD_BYTES
            with streamFor(device, self._target.gpu) as stream:
                device.copyBatch([(memory.address + room.shadowAt, memory.address, length)], stream)


def _shared(wanted: BufferSpec, filler: _Filler, deadline: float | None) -> OpenBuffer:
    """The scratch memory of that name: another process's, or made now."""
    while True:
        found = current().openBuffers.find(wanted.name)
        if found is not None:
            return found
        with contextlib.suppress(BufferExists):  # another process makes it
            return _granted(wanted, filler, deadline)
        if (left := remaining(deadline)) is not None and left <= 0:
            raise TimeoutError(
                "another process has been promoting the same window, and is not ready"
            )
        clock.sleep(_PAUSE_SECONDS)


def _private(wanted: BufferSpec, filler: _Filler, deadline: float | None) -> OpenBuffer:
    """Scratch memory that this process alone uses: of the arena, or made now."""
    arena = arenaOf(filler.openBuffer.context)
    kept = arena.take(filler.gpu, filler.tenant, filler.sizeBytes)
    if kept is None:
        return _granted(wanted, filler, deadline)
    try:
        filler.fill(kept.memory)
    except BaseException:
        arena.giveBack(filler.gpu, kept)
        raise
    return kept


def _granted(wanted: BufferSpec, filler: _Filler, deadline: float | None) -> OpenBuffer:
    """New scratch memory, as soon as the budgets allow it."""
    arena = arenaOf(filler.openBuffer.context)
    while True:
        try:
            return creation.create(wanted, fill=filler.fill)
        except (PromotionDenied, QuotaExceeded) as error:
            if arena.trim(0.0):
                continue
            left = remaining(deadline)
            if isinstance(error, QuotaExceeded) or (left is not None and left <= 0):
                raise
            clock.sleep(_PAUSE_SECONDS)


def _require(openBuffer: OpenBuffer, window: dirty.Range) -> None:
    sizeBytes = openBuffer.description.sizeBytes
    if window.offset < 0 or window.sizeBytes <= 0 or sum(window) > sizeBytes:
        raise InvalidArgument(
            f"{window.sizeBytes} bytes from {window.offset} on are no window of "
            f"{openBuffer.description.name!r}, which has {sizeBytes}",
            "Promote a range of its bytes",
        )


def _asSlice(caller: str, sliceBytes: object) -> int:
    number = asInteger(sliceBytes)
    if number is None or number < _LEAST_SLICE_BYTES or number % WORD_BYTES:
        raise InvalidArgument(
            f"{caller}: sliceBytes {sliceBytes!r} can not be",
            f"Use a multiple of {WORD_BYTES} from {_LEAST_SLICE_BYTES} on",
        )
    return number
