"""Scratch memory: a window of a buffer while it is promoted, what was written there, and
the way back.

What was written is copied back inside a write access, dirty slices only. The access
finds the generation that was promoted, or the bytes were written meanwhile and nothing
is copied: `WritebackConflict`. A process that dies half way, or a copy that fails, leaves
the generation odd: readers get `WriterDied`, and the next writer repairs the buffer. If
the window is all of the buffer, a second writeback is such a writer: it copies all of it.

The address of the scratch memory is another window's once the block is over.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Self

import numpy as np

from muninn.api import views, windowevents
from muninn.api.attachment import Attachment, readsOnly
from muninn.api.notebooks import windowHtml
from muninn.api.protocols import Exposure, Protocols
from muninn.api.scratchmemory import Claim
from muninn.api.scratchroom import Room, rangeWithin, regionOf
from muninn.api.usedslices import UsedSlices
from muninn.api.views import Region
from muninn.api.wayback import WayBack
from muninn.api.windowwork import WindowWork
from muninn.arguments import timeoutOf
from muninn.config.sizes import asText
from muninn.errors import BufferFreed, InvalidArgument, LeaseRevoked, PermissionDenied
from muninn.interop.elements import asElement
from muninn.observe.calls import named
from muninn.observe.spans import spanned
from muninn.session.gpus import deviceOf
from muninn.sync.moves import WritingBack
from muninn.system import aside, clock
from muninn.system.closable import Closable
from muninn.system.deadlines import deadlineOf
from muninn.terms import Access, Priority
from muninn.transfer import dirty
from muninn.transfer.arena import arenaOf
from muninn.transfer.steps import Followed, Publication, stepsOf
from muninn.transfer.tiers import slicesOf

if TYPE_CHECKING:
    from collections.abc import Callable

    from muninn.session.openbuffer import OpenBuffer
    from muninn.transfer.handle import Report

#: How long the flags of a window wait for room, at most: the window itself may be what
#: takes it.
_ROOM_SECONDS = 10.0


class Scratch(Protocols, Closable):
    """A window of a buffer in the VRAM of a GPU, as an array for its kernels.

    It is the array that its bytes are in the buffer, flat; of uint8 if the window cuts
    an element. Use it inside ``with``.

    Attributes
    ----------
    offset, sizeBytes
        The window, in bytes of the buffer.
    gpu
        The GPU.
    sliceBytes
        The unit in which writes are told apart.
    isShared
        Whether other processes may use the same copy; then it can not be written.
    isHot
        Whether a hot range of the buffer's hints is in it.
    transfer
        How the bytes came: `route`, `reason`, `seconds`. None if nothing was copied: the
        window was prefetched, this process has kept it since its last block, or another
        process had promoted it.
    """

    def __init__(
        self,
        base: Attachment,
        window: dirty.Range,
        gpu: int,
        memory: OpenBuffer,
        *,
        isShared: bool,
        isHot: bool,
        at: int,
        sliceBytes: int,
        room: Room,
        generation: int,
        work: WindowWork,
        priority: Priority,
        timeout: float | None,
        giveBack: Callable[[OpenBuffer, int | None], None],
    ) -> None:
        self.offset, self.sizeBytes = window
        self.gpu, self.isShared, self.sliceBytes = gpu, isShared, sliceBytes
        self.isHot, self._at, self._priority = isHot, at, priority
        self.transfer: Report | None = None
        self._base, self._memory, self._name = base, memory, base.name
        self._room, self._work, self._giveBack = room, work, giveBack
        self._roomSeconds = _ROOM_SECONDS if timeout is None else min(timeout, _ROOM_SECONDS)
        held = base._held()
        self._followed = stepsOf(held).follow(window, generation)
        self._policy: Access = held.description.access
        self._isOver = False
        #: Whether a writeback of all of the buffer has failed half way.
        self._isTorn = False
        #: Whether the bytes are known to be those of the buffer, at that generation.
        self._isClean = room.flagsAt is None
        #: On the host; a comparison, or the flags of kernels, add to them.
        self._flags = np.zeros(slicesOf(self.sizeBytes, sliceBytes), np.uint8)
        self._used = UsedSlices(self._name, self.sizeBytes, sliceBytes)
        region = regionOf(base, window)
        self._region = region._replace(offset=region.offset + at)

    # --- the array -----------------------------------------------------------------------

    def _exposed(self) -> Exposure:
        memory = self._checked()
        memory.memory.device = deviceOf(memory.context)
        return Exposure(memory, memory.memory, self._region, self._isWritten)

    @property
    def _isWritten(self) -> bool:
        """Whether the window may be written, and written back."""
        return self._room.flagsAt is not None

    def _checked(self) -> OpenBuffer:
        if self._isOver:
            raise BufferFreed(
                "this window is not promoted any more", "Use its scratch memory inside the block"
            )
        try:
            self._memory.check()
        except LeaseRevoked as error:
            window = f"{self.sizeBytes} bytes from {self.offset} on of {self._name!r}"
            raise LeaseRevoked(
                f"the window of {window} on GPU {self.gpu}: {error.reason.rpartition(': ')[2]}",
                "Close it, and promote the window again",
            ) from None
        return self._memory

    @property
    def address(self) -> int:
        """The address of the first byte for kernels of the GPU. It is valid until the end
        of the block.
        """
        return self._checked().memory.address + self._at

    def __index__(self) -> int:
        return self.address

    @property
    def shape(self) -> tuple[int, ...]:
        return self._region.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """numpy's dtype; raises as that of the buffer does."""
        return self._region.element.dtype

    @property
    def nbytes(self) -> int:
        return self.sizeBytes

    def __repr__(self) -> str:
        window = f"{asText(self.sizeBytes)} from {asText(self.offset)} on of {self._name!r}"
        end = " closed" if self._isOver else f" gpu={self.gpu}"
        return f"<muninn.Scratch {window} {self._region.element}{list(self.shape)}{end}>"

    def _repr_html_(self) -> str:
        array = f"{self._region.element} {self.shape}"
        return windowHtml(self, self._name, array, self._isWritten, self._isOver)

    def __reduce__(self) -> Never:
        raise TypeError(
            f"a window on GPU {self.gpu} is its own process's and can not be copied or pickled: "
            "pass the buffer, and promote the window there"
        )

    # --- what was written ----------------------------------------------------------------

    @named
    def markDirty(self, offset: int = 0, length: int | None = None) -> None:
        """Note that a range of the window was written, in bytes from its beginning.

        Raises
        ------
        PermissionDenied
            The scratch memory is shared, or the buffer is readOnly.
        """
        self._requireWritten()
        written = rangeWithin("markDirty", self.sizeBytes, offset, length)
        dirty.mark(self._flags, self.sliceBytes, *written)

    @property
    def dirtyFlags(self) -> Any:
        """The flags for kernels of the GPU, a uint8 array with one for each slice:
        ``muninn.kernels.markDirty(flags, sliceBytes, offset, length)`` sets them. For a
        window that was promoted with ``track=True``.
        """
        memory = self._requireWritten()
        if self._room.flagsAt is None or self._room.shadowAt is not None:
            raise InvalidArgument(
                "this window is compared, and has no flags", "Promote it with track=True"
            )
        memory.memory.device = deviceOf(memory.context)
        region = Region(self._room.flagsAt, self._flags.shape, asElement(np.uint8))
        return views.deviceArray(memory.memory, region, True, self.gpu)

    def dirtyBytes(self) -> int:
        """How many bytes are dirty by now, in whole slices. Waits for the kernels that may
        use the window.
        """
        self._awaitWork(self._requireWritten())
        return self._wayBack().sizeOf(self._marked())

    @named
    @spanned("writeback", lambda self, timeout=None: {"bufferId": self._name, "gpu": self.gpu})
    def writeback(self, timeout: float | None = None) -> int:
        """Copy the slices that are dirty back to the buffer and publish them; returns the
        new generation, or the present one if none is dirty. No kernel may write the
        window meanwhile.

        If a copy fails half way, the buffer is half written, and the slices stay dirty. If
        the window is all of the buffer, another writeback then copies all of it.

        Raises
        ------
        WritebackConflict
            The buffer was written since the window was promoted, or is half written.
            Nothing is copied.
        PermissionDenied
            The buffer is readOnly, or this object is open for reading.
        TimeoutError
            Others are inside an access for so long. The kernels of the window are waited
            for without this bound.
        """
        opened, begun = self._requireWritten(), clock.now()
        aside.refuseOwn()  # it waits for the GPU
        bound = timeoutOf("writeback", timeout)
        deadline = deadlineOf(bound)
        self._awaitWork(opened)
        base, marked = self._base._checked(), self._marked()
        if not marked.any():
            return base.generation.value()
        try:
            # What is marked from now on counts for the next time.
            dirty.clear(self._flags, marked)
            self._putFlags()
            isWhole, isTorn = self.sizeBytes == base.description.sizeBytes, self._isTorn
            copied = np.ones_like(marked) if isTorn else marked
            back = self._wayBack()
            byKernel = back.hasKernel(base, copied, deadline)
            steps, publication = stepsOf(base), Publication()
            access = WritingBack(
                base, bound, lambda: self._followed.generation, steps.areFollowed, isTorn
            )
            with publication.begun():
                with access:
                    self._isTorn = isWhole  # until all is published
                    back.send(base, copied, access, byKernel)
                    steps.announce(publication)
                self._isTorn = False
                _goOn(base, self._followed)
            window = dirty.Range(self.offset, self.sizeBytes)
            told = back.sizeOf(copied), clock.now() - begun, self._followed.generation
            windowevents.writtenBack(self._base, window, self.gpu, *told)
        except BaseException:
            dirty.add(self._flags, marked)
            raise
        return self._followed.generation

    # --- what was used -------------------------------------------------------------------

    @named
    def markUsed(self, offset: int = 0, length: int | None = None) -> None:
        """Note that kernels have read a range of the window, in bytes from its beginning."""
        self._checked()
        self._used.mark(rangeWithin("markUsed", self.sizeBytes, offset, length))

    @property
    def usedFlags(self) -> Any:
        """The flags for kernels of the GPU, a uint8 array with one for each slice:
        ``muninn.kernels.markUsed(flags, sliceBytes, offset, length)`` sets them. They lie
        in scratch memory of their own, which is made by the first use of this, and waits
        for room for as long as the promotion may (its `timeout`), at most for 10 s.

        Raises
        ------
        PromotionDenied
            The budget has no room for them.
        """
        self._checked()
        slices = slicesOf(self.sizeBytes, self.sliceBytes)
        deadline, window = deadlineOf(self._roomSeconds), dirty.Range(self.offset, self.sizeBytes)
        held, gpu = self._base._held(), self.gpu
        claim = Claim(held, gpu, window, slices, self._priority, 0, False, deadline, lambda: None)
        return self._used.deviceFlags(claim._replace(isFlags=True))

    def usefulRatio(self) -> float | None:
        """How much of the window was used by now, in whole slices, from 0 to 1; None if
        neither the host nor a kernel has marked any. Waits for the kernels that may use
        the window.
        """
        self._awaitWork(self._checked())
        used = self._used.usedBytes()
        return None if used is None else used / self.sizeBytes

    # --- the end -------------------------------------------------------------------------

    def close(self) -> None:
        """End the window without writing anything back. A second call does nothing.

        If the stream of its kernels has failed, the window ends, and this raises the
        stream's error.
        """
        opened = self.__dict__.get("_memory")
        if opened is None or not self._work.isHere():
            return
        failure = self._work.end(deviceOf(opened.context))
        self._isOver = True
        # Another thread, or a signal handler, may have ended it meanwhile.
        if (memory := self.__dict__.pop("_memory", None)) is None:
            return
        isClean = self._isClean and failure is None
        try:
            self._used.end(self.gpu)
        finally:
            self._giveBack(memory, self._followed.generation if isClean else None)
        if failure is not None:
            raise failure

    def __enter__(self) -> Self:
        self._checked()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            isEager = self._policy is Access.READ_WRITE and self._isWritten
            if kind is None and isEager and not self._isOver:
                self.writeback()
                # What kernels wrote and did not mark is not in the buffer.
                self._isClean = self._room.shadowAt is not None
        finally:
            self.close()

    def _marked(self) -> dirty.Flags:
        """The flags by now. No kernel uses the window."""
        room, opened = self._room, self._memory
        memory = opened.memory
        assert room.flagsAt is not None, "the window can be written"
        if room.shadowAt is not None:
            self._wayBack().compare(self._work.stream(deviceOf(opened.context)))
        seen = np.empty_like(self._flags)
        memory.copyOut(seen.ctypes.data, seen.nbytes, room.flagsAt)
        dirty.add(self._flags, seen)
        marked = self._flags.copy()
        self._used.markAll(marked)
        return marked

    def _wayBack(self) -> WayBack:
        return WayBack(
            self._memory, self.gpu, self._room, self.offset, self.sizeBytes, self.sliceBytes
        )

    def _putFlags(self) -> None:
        assert self._room.flagsAt is not None, "the window can be written"
        self._memory.memory.copyIn(self._flags.ctypes.data, self._flags.nbytes, self._room.flagsAt)

    def _requireWritten(self) -> OpenBuffer:
        opened = self._checked()
        if not self._isWritten:
            refused = readsOnly(self._base)
            raise PermissionDenied(f"{refused.reason}, and no window of it is written", refused.fix)
        return opened

    def _awaitWork(self, opened: OpenBuffer) -> None:
        """Wait for the kernels that may use the scratch memory."""
        self._work.wait(deviceOf(opened.context))


def _goOn(base: OpenBuffer, own: Followed) -> None:
    """A window was written back and published: what this process has of the rest of the
    buffer is of the next generation too.
    """
    generation = own.generation
    stepsOf(base).take(own)
    arenaOf(base.context).goOn((base.row, base.incarnation), generation, own.window)
