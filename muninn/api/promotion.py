"""Promotion: a window of a buffer copied to scratch memory of a GPU (`api/scratch.py`).

The window is copied to the GPU inside a read access, so it is of one whole generation.
The access begins before scratch memory is asked for, and ends if there is no room: what
waits for a writer holds no room, and what waits for room holds no writer up.
If a prefetch (`api/prefetch.py`) has brought those bytes already, they are used, or
copied within the GPU. Of a buffer that nobody may write, processes share the scratch
memory of a window; it outlives its promoter as long as any of them uses it. If the broker
dies, and the only process that has it stands still, nobody else gets it: a process then
makes a copy of its own.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from muninn.api import transfers, windowevents, windowtable
from muninn.api.attachment import Attachment
from muninn.api.executing import Admission
from muninn.api.givingback import GivingBack
from muninn.api.hints import hintsOf
from muninn.api.scratch import Scratch
from muninn.api.scratchmemory import Claim
from muninn.api.scratchroom import WORD_BYTES, Room, asSlice, requireWindow
from muninn.api.windowevents import fieldsOf
from muninn.api.windowwork import WindowWork
from muninn.arguments import requireCallable, requireTruth, timeoutOf
from muninn.config.sizes import exactly
from muninn.control import layout
from muninn.devices.ways import streamFor
from muninn.errors import HolderSilent, InvalidArgument, MuninnError, PromotionDenied
from muninn.kernels import launch
from muninn.observe import events
from muninn.observe.progressbar import expect
from muninn.observe.spans import spanned
from muninn.session.gpus import deviceOf
from muninn.session.windownames import WindowPlace
from muninn.sync.moves import Sending
from muninn.system import clock
from muninn.system.deadlines import deadlineOf, remaining
from muninn.terms import Access
from muninn.transfer import dirty
from muninn.transfer.arena import Content, Prefetched, arenaOf
from muninn.transfer.execution import Kind, Work
from muninn.transfer.handle import Report, Transfer
from muninn.transfer.tiers import Place, Tier, Window

if TYPE_CHECKING:
    from muninn.control.hints import Hints
    from muninn.devices.port import Device
    from muninn.session.mappings import Memory
    from muninn.session.openbuffer import OpenBuffer


class Asked(NamedTuple):
    """What a caller asks for, beside the window.

    Attributes
    ----------
    timeout
        Seconds for all of it.
    sliceBytes
        The unit in which writes are told apart; None: as configured.
    look
        Called now and then; raises to end the promotion.
    progress
        Called with the bytes that have arrived since the last call.
    """

    caller: str
    targetGpu: int
    timeout: float | None
    isTracked: bool
    sliceBytes: int | None
    isPrefetch: bool = False
    look: Callable[[], object] = lambda: None
    progress: transfers.Progress | None = None


@spanned("promotion", lambda base, window, asked, stream: fieldsOf(base, window, asked.targetGpu))
def promoted(base: Attachment, window: dirty.Range, asked: Asked, stream: Any) -> Scratch:
    """The scratch memory of a window, filled. See `MuninnBuffer.promote`."""
    begun = clock.now()
    try:
        promotion = Promotion.of(base, asked)
        requireWindow(asked.caller, promotion.openBuffer.description, window)
        device = deviceOf(promotion.openBuffer.context)
        work = WindowWork.of(asked.caller, stream, promotion.gpu, device)
        made = promotion.scratch(window, work)
    except (MuninnError, TimeoutError) as error:
        windowevents.notPromoted(base, window, asked.targetGpu, error)
        raise
    # What was there already, or is used where it is, was not copied.
    movedBytes = 0 if made.transfer is None else made.transfer.sizeBytes
    windowevents.promoted(base, window, made.gpu, movedBytes, clock.now() - begun)
    return made


class Promotion(NamedTuple):
    """Windows of one buffer that go to one GPU."""

    base: Attachment
    openBuffer: OpenBuffer
    asked: Asked
    gpu: int
    sliceBytes: int
    deadline: float | None
    hints: Hints

    @classmethod
    def of(cls, base: Attachment, asked: Asked) -> Promotion:
        """Raises what forbids any promotion of the buffer."""
        openBuffer = base._checked()
        settings = openBuffer.tables.settings.promotion
        if not settings.enablePromotion:
            raise PromotionDenied(
                "promotion is turned off (promotion.enablePromotion)",
                "Turn it on, or use the buffer",
            )
        _requireShared(base, openBuffer)
        requireTruth(f"{asked.caller}: track", asked.isTracked)
        if asked.progress is not None:
            requireCallable(f"{asked.caller}: progress", asked.progress)
        sliceBytes = settings.defaultSliceBytes
        if asked.sliceBytes is not None:
            sliceBytes = asSlice(asked.caller, asked.sliceBytes)
        return cls(
            base,
            openBuffer,
            asked,
            deviceOf(openBuffer.context).requireGpu(asked.targetGpu),
            sliceBytes,
            deadlineOf(timeoutOf(asked.caller, asked.timeout)),
            hintsOf(openBuffer.tables, openBuffer.row).get().holding(),
        )

    @property
    def isConstant(self) -> bool:
        """Whether no process may write it by an access."""
        return self.openBuffer.description.access is Access.READ_ONLY

    @property
    def isShared(self) -> bool:
        """Whether other processes may use the same scratch memory."""
        return self.isConstant and not self.isInPlace

    @property
    def isInPlace(self) -> bool:
        """Whether a program may write it without an access, so that the generation does not
        tell whether bytes are the same still: the owner of lent memory, or who has an
        array of it.
        """
        isLent = self.openBuffer.description.transport == "cudaIpc"
        return isLent or (not self.isConstant and self.openBuffer.isWrittenInPlace())

    def room(self, window: dirty.Range) -> Room:
        """What a window needs. Raises `PromotionDenied` if it is more than ever is there."""
        isWritten = self.base.writable and not self.isConstant
        room = Room.of(window.sizeBytes, self.sliceBytes, isWritten, self.asked.isTracked)
        if room.shadowAt is not None and not deviceOf(self.openBuffer.context).runsKernelsOnHost:
            launch.requireKernels()  # or the end of the block would find out
        settings = self.openBuffer.tables.settings.promotion
        most = min(settings.perGpuScratchBytes, settings.perTenantScratchBytes)
        if room.sizeBytes > most:
            tracked = Room.of(window.sizeBytes, self.sliceBytes, isWritten, isTracked=True)
            fix = "Promote a smaller one, or raise the budget"
            if room.shadowAt is not None and tracked.sizeBytes <= most:
                fix = "Promote it with track=True, or a smaller one, or raise the budget"
            raise PromotionDenied(
                f"a window of {exactly(window.sizeBytes)} takes {exactly(room.sizeBytes)} of "
                f"scratch memory{room.more()}, and {exactly(most)} is the most "
                "(promotion.perGpuScratchBytes, perTenantScratchBytes)",
                fix,
            )
        return room

    def content(self, window: dirty.Range) -> Content:
        """The bytes of a window as they are now."""
        base = self.openBuffer.row, self.openBuffer.incarnation
        return Content(base, self.gpu, window, self.openBuffer.generation.value())

    def admission(self, window: dirty.Range) -> Admission:
        """The question whether the window may go."""
        openBuffer = self.openBuffer
        work = Work(
            Kind.PREFETCH if self.asked.isPrefetch else Kind.PROMOTION,
            openBuffer.description.name,
            transfers.placeOf(openBuffer),
            Place(Tier.VRAM, self.gpu),
            window.sizeBytes,
            self.hints.priority.value,
        )
        return Admission.of(openBuffer.context, work)

    def claim(self, window: dirty.Range, sizeBytes: int, filler: Filler) -> Claim:
        return Claim(
            self.openBuffer,
            self.gpu,
            window,
            sizeBytes,
            self.hints.priority,
            self.hints.priority.rank + (not self.asked.isPrefetch),
            not self.asked.isPrefetch,
            self.deadline,
            self.asked.look,
            filler.inside,
        )

    def filled(self, window: dirty.Range, room: Room) -> tuple[OpenBuffer, int, Filler]:
        """The scratch memory of a window, where the window is in it, and how its bytes came."""
        filler = Filler(self, window, room)
        with filler.admission, filler.admission:
            return *self._filledBy(filler, window, room), filler

    def _filledBy(self, filler: Filler, window: dirty.Range, room: Room) -> tuple[OpenBuffer, int]:
        claim, caller = self.claim(window, room.sizeBytes, filler), self.asked.caller
        if not self.isShared:
            return claim.private(caller, filler.fill), 0
        try:
            return claim.shared(caller, filler.fill)
        except HolderSilent as silent:
            note = silent.reason
        fields = fieldsOf(self.base, window, self.gpu)
        events.say("promotionAlone", note=note, **fields)
        memory = arenaOf(self.openBuffer.context).takeFilled(self.content(window), room)
        if memory is None:
            memory = claim.private(caller, filler.fill)
            filler.noted(f"not shared: {note}")
        return memory, 0

    def scratch(self, window: dirty.Range, work: WindowWork) -> Scratch:
        room, arena = self.room(window), arenaOf(self.openBuffer.context)
        wanted = self.content(window)
        isHot = any(window.overlaps(dirty.Range(*each)) for each in self.hints.hotRanges)
        at, report, generation = 0, None, 0
        memory: OpenBuffer | None = None
        if not self.isShared and not self.isInPlace:
            memory, generation = arena.takeFilled(wanted, room), wanted.generation
        if memory is None:
            memory, at, filler = self.filled(window, room)
            report, generation = filler.report, filler.generation
        known = None if self.isInPlace else wanted
        isShared = WindowPlace.of(memory.description.name, isShared=True) is not None
        made = Scratch(
            self.base,
            window,
            self.gpu,
            memory,
            at=at,
            isShared=isShared,
            isHot=isHot,
            sliceBytes=self.sliceBytes,
            room=room,
            generation=generation,
            work=work,
            priority=self.hints.priority,
            timeout=timeoutOf(self.asked.caller, self.asked.timeout),
            giveBack=GivingBack(arena, room, known, isShared, self.gpu).giveBack,
        )
        # Raises if it was evicted: this process may have had it already.
        windowtable.note(made)
        made.transfer = report
        return made


class Filler:
    """Copies a window into scratch memory, and keeps what it learns.

    Attributes
    ----------
    admission
        To be entered, twice, around all of it: the executor is told the end.
    """

    def __init__(self, promotion: Promotion, window: dirty.Range, room: Room) -> None:
        self._promotion, self._window, self._room = promotion, window, room
        self.generation = 0
        self.report: Report | None = None
        self._access: Sending | None = None
        self.admission = promotion.admission(window)

    def noted(self, note: str) -> None:
        """Say more in the report, for people."""
        if self.report is not None:
            self.report = self.report._replace(note=note)

    def inside(self) -> Sending:
        """A read access of the buffer, in which `fill` is called. It is only now that bytes
        will be copied, so the executor is asked here: another process may have the window.
        """
        promotion = self._promotion
        look = promotion.asked.look
        if not self.admission.hasGone:
            self.admission.ask(remaining(promotion.deadline), look)
        openBuffer = promotion.base._checked()
        if arenaOf(openBuffer.context).covering(promotion.content(self._window)) is None:
            transfers.windowOf(openBuffer, look)  # to pin it in the access would take longer
        self._access = Sending(openBuffer, remaining(promotion.deadline), look)
        return self._access

    def fill(self, memory: Memory) -> None:
        """Called before another process can open the memory, or with memory of the arena."""
        promotion, target = self._promotion, Place(Tier.VRAM, self._promotion.gpu)
        openBuffer = promotion.base._checked()
        place, access = transfers.placeOf(openBuffer), self._access
        assert access is not None, "it is filled inside an access"
        asked = promotion.asked

        def arrived(sizeBytes: int) -> None:
            asked.look()
            if asked.progress is not None:
                asked.progress(sizeBytes)

        expect(asked.progress, self._window.sizeBytes)
        # Its deadline is for the waits, and not for the copy.
        size = self._window.sizeBytes
        name = openBuffer.description.name
        transfer: Transfer[int] = Transfer(place, target, size, None, arrived, name)
        engine, into = transfers.engineFor(openBuffer), memory.address
        anchor = weakref.ref(memory)
        memory.device = device = engine.device
        clear = functools.partial(self._clearFlags, anchor)

        def work() -> int:
            near = self._near()
            if near is not None:
                # The copy within the GPU holds both memories.
                source, held = self._sourceIn(near), weakref.ref(near.memory.memory)
                with engine.way(transfer, source, target, None) as way:
                    engine.send(transfer, way, source, into, lambda: (anchor(), held()), clear)
                arenaOf(openBuffer.context).keep(near)
                return near.content.generation
            whole = transfers.windowOf(openBuffer, transfer.check)
            source = whole._replace(
                address=whole.address + self._window.offset, sizeBytes=self._window.sizeBytes
            )
            with engine.way(transfer, source, target, None) as way:
                access.covers(way.settle)
                engine.send(transfer, way, source, into, anchor, clear)
                access.covers(lambda: None)  # another transfer may use the way from now on
            return openBuffer.generation.value()

        try:
            self.generation = engine.run(transfer, work)
            self.report = transfer.report()
            self._fillShadow(device, memory)
        finally:
            del memory  # an error keeps this frame, and not the memory

    def _near(self) -> Prefetched | None:
        """The bytes, if a prefetch has brought them to the GPU. A writer that comes now
        comes after this promotion.
        """
        if self._promotion.isShared or self._promotion.isInPlace:
            return None
        wanted = self._promotion.content(self._window)
        return arenaOf(self._promotion.openBuffer.context).takeCovering(wanted)

    def _sourceIn(self, near: Prefetched) -> Window:
        whole = transfers.windowOf(near.memory, lambda: None)
        begin = self._window.offset - near.content.window.offset
        return whole._replace(address=whole.address + begin, sizeBytes=self._window.sizeBytes)

    def _clearFlags(self, scratch: Callable[[], Memory | None]) -> None:
        room, memory = self._room, scratch()
        if room.flagsAt is not None and memory is not None:
            flags = np.zeros(room.sizeBytes - room.flagsAt, np.uint8)
            memory.copyIn(flags.ctypes.data, flags.nbytes, room.flagsAt)

    def _fillShadow(self, device: Device, memory: Memory) -> None:
        shadowAt = self._room.shadowAt
        if shadowAt is not None:
            # Whole words are compared.
            length = -(-self._window.sizeBytes // WORD_BYTES) * WORD_BYTES
            with streamFor(device, self._promotion.gpu) as stream:
                device.copyBatch([(memory.address + shadowAt, memory.address, length)], stream)


def _requireShared(base: Attachment, openBuffer: OpenBuffer) -> None:
    """Raise `InvalidArgument` for a bundle, and for an object whose bytes are private."""
    name = openBuffer.description.name
    if openBuffer.description.kind != layout.ROW_KIND_ARRAY:
        raise InvalidArgument(
            f"{name!r} is a bundle, and only buffers of one array are promoted",
            "Share the arrays that kernels promote under names of their own",
        )
    if base._isPrivate:
        raise InvalidArgument(
            f"{name!r} is open copyOnWrite, and a window would be of what is shared",
            "Promote an object that is open readOnly or readWrite",
        )
