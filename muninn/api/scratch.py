"""Scratch memory: a window of a buffer while it is promoted, what was written there, and
the way back.

What was written is copied back inside a write access, dirty slices only. The access
finds the generation that was promoted, or the bytes were written meanwhile and nothing
is copied: `WritebackConflict`. A process that dies half way, or a copy that fails, leaves
the generation odd: readers get `WriterDied`, and the next writer repairs the buffer.

The address of the scratch memory is another window's once the block is over.
"""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from muninn.api import transfers, views
from muninn.api.attachment import Attachment
from muninn.api.protocols import Exposure, Protocols
from muninn.api.views import Region
from muninn.arguments import asInteger, named, timeoutOf
from muninn.devices.ways import streamFor
from muninn.errors import BufferFreed, InvalidArgument, PermissionDenied
from muninn.interop.elements import asElement
from muninn.session.gpus import deviceOf
from muninn.sync.moves import WritingBack
from muninn.system.closable import Closable
from muninn.system.pages import pagesUp
from muninn.terms import Access
from muninn.transfer import dirty
from muninn.transfer.handle import Transfer
from muninn.transfer.tiers import slicesOf

if TYPE_CHECKING:
    from collections.abc import Callable

    from muninn.devices.port import Device
    from muninn.session.mappings import Memory
    from muninn.session.openbuffer import OpenBuffer
    from muninn.transfer.handle import Report
    from muninn.transfer.tiers import Place

_WORK_SECONDS = 60.0
#: Slices are compared word by word.
WORD_BYTES = 8


class Room(NamedTuple):
    """What is where in scratch memory: the window is at 0.

    Attributes
    ----------
    shadowAt
        The copy with which a window is compared, if it is.
    flagsAt
        A flag for each slice, for kernels, if the window can be written.
    """

    shadowAt: int | None
    flagsAt: int | None
    sizeBytes: int

    @classmethod
    def of(cls, windowBytes: int, sliceBytes: int, isWritten: bool, isTracked: bool) -> Room:
        if not isWritten:
            return cls(None, None, windowBytes)
        behind = pagesUp(windowBytes)
        flagsAt = behind if isTracked else 2 * behind
        total = flagsAt + slicesOf(windowBytes, sliceBytes)
        return cls(None if isTracked else behind, flagsAt, total)


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
    transfer
        How the bytes came: `route`, `reason`, `seconds`. None if another process had
        promoted the window.
    """

    def __init__(
        self,
        base: Attachment,
        window: dirty.Range,
        gpu: int,
        memory: OpenBuffer,
        *,
        isShared: bool,
        sliceBytes: int,
        room: Room,
        stream: Any,
        giveBack: Callable[[OpenBuffer], None] | None,
    ) -> None:
        self.offset, self.sizeBytes = window
        self.gpu, self.isShared, self.sliceBytes = gpu, isShared, sliceBytes
        self.transfer: Report | None = None
        self._base, self._memory = base, memory
        self._room, self._stream, self._giveBack = room, stream, giveBack
        self._generation = 0
        self._policy: Access = base._held().description.access
        self._isOver = False
        #: On the host; a comparison, or the flags of kernels, add to them.
        self._flags = np.zeros(slicesOf(self.sizeBytes, sliceBytes), np.uint8)
        self._region = _regionOf(base, window)
        _scratches[memory.memory.address] = self

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
        return self._memory

    @property
    def address(self) -> int:
        """The address of the first byte for kernels of the GPU. It is valid until the end
        of the block.
        """
        return self._checked().memory.address

    def __index__(self) -> int:
        return self.address

    @property
    def shape(self) -> tuple[int, ...]:
        return self._region.shape

    @property
    def nbytes(self) -> int:
        return self.sizeBytes

    # --- what was written ----------------------------------------------------------------

    @named
    def markDirty(self, offset: int = 0, length: int | None = None) -> None:
        """Note that a range of the window was written, in bytes from its beginning.

        Raises
        ------
        PermissionDenied
            The scratch memory is shared, or the buffer is readOnly.
        """
        self._refuseReadOnly()
        begin, wanted = askedRange("markDirty", self.sizeBytes, offset, length)
        if begin < 0 or wanted < 0 or begin + wanted > self.sizeBytes:
            raise InvalidArgument(
                f"{wanted} bytes from {begin} on are not in a window of {self.sizeBytes}"
            )
        dirty.mark(self._flags, self.sliceBytes, begin, wanted)

    @property
    def dirtyFlags(self) -> Any:
        """The flags for kernels of the GPU, a uint8 array with one for each slice:
        ``muninn.kernels.markDirty(flags, sliceBytes, offset, length)`` sets them. For a
        window that was promoted with ``track=True``.
        """
        self._refuseReadOnly()
        if self._room.flagsAt is None or self._room.shadowAt is not None:
            raise InvalidArgument(
                "this window is compared, and has no flags", "Promote it with track=True"
            )
        memory = self._checked()
        memory.memory.device = deviceOf(memory.context)
        region = Region(self._room.flagsAt, self._flags.shape, asElement(np.uint8))
        return views.deviceArray(memory.memory, region, True, self.gpu)

    def dirtyBytes(self) -> int:
        """How many bytes are dirty by now, in whole slices. Waits for the kernels that may
        use the window.
        """
        self._refuseReadOnly()
        self._awaitWork()
        return sum(each.sizeBytes for each in self._ranges())

    @named
    def writeback(self, timeout: float | None = None) -> int:
        """Copy the slices that are dirty back to the buffer and publish them; returns the
        new generation, or the present one if none is dirty. No kernel may write the
        window meanwhile.

        Raises
        ------
        WritebackConflict
            The buffer was written since the window was promoted. Nothing is copied.
        PermissionDenied
            The buffer is readOnly, or this object is open for reading.
        TimeoutError
            Others are inside an access for so long.
        """
        self._checked()
        self._refuseReadOnly()
        self._awaitWork()
        base, ranges = self._base._checked(), self._ranges()
        if not ranges:
            return base.generation.value()
        # What is marked from now on counts for the next time.
        marked = self._flags.copy()
        self._flags[:] = 0
        self._putFlags()
        try:
            with WritingBack(base, timeoutOf("writeback", timeout), self._generation):
                self._sendBack(base, ranges)
        except BaseException:
            self._flags |= marked
            raise
        self._generation += 2
        return self._generation

    def _sendBack(self, base: OpenBuffer, ranges: list[dirty.Range]) -> None:
        """Copy ranges to the base, and to the shadow. All copies are over when this
        returns or raises.
        """
        device, source = deviceOf(base.context), self._memory.memory.address
        whole, home = transfers.windowOf(base, lambda: None), base.memory.gpu
        target = whole.address + self.offset
        with streamFor(device, self.gpu) as stream:
            if (shadowAt := self._room.shadowAt) is not None:
                kept = [(source + shadowAt + at, source + at, length) for at, length in ranges]
                device.copyBatch(kept, stream)
            if home in (None, self.gpu):
                device.copyBatch(
                    [(target + at, source + at, length) for at, length in ranges], stream
                )
        if home not in (None, self.gpu):
            self._sendAcross(base, whole.place, target, ranges)

    def _sendAcross(
        self, base: OpenBuffer, place: Place, target: int, ranges: list[dirty.Range]
    ) -> None:
        """Copy ranges to another GPU."""
        window = transfers.windowOf(self._memory, lambda: None)
        transfer: Transfer[None] = Transfer(window.place, place, self.sizeBytes)
        with transfers.engineFor(base).way(transfer, window, place, None) as way:
            for at, length in ranges:
                way.send(window.address + at, target + at, length, lambda _: None)

    # --- the end -------------------------------------------------------------------------

    def close(self) -> None:
        """End the window without writing anything back. A second call does nothing."""
        if self._isOver:
            return
        self._awaitWork()
        self._isOver = True
        memory, giveBack = self._memory, self._giveBack
        del self._memory
        if giveBack is not None:
            giveBack(memory)

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
        finally:
            self.close()

    def _ranges(self) -> list[dirty.Range]:
        """The dirty ranges by now. No kernel uses the window."""
        room, opened = self._room, self._memory
        memory = opened.memory
        assert room.flagsAt is not None, "the window can be written"
        if room.shadowAt is not None:
            memory.device = deviceOf(opened.context)
            _compare(memory, self.sizeBytes, room, self.sliceBytes, memory.device, self.gpu)
        seen = np.empty_like(self._flags)
        memory.copyOut(seen.ctypes.data, seen.nbytes, room.flagsAt)
        self._flags |= seen
        return dirty.rangesOf(self._flags, self.sliceBytes, self.sizeBytes)

    def _putFlags(self) -> None:
        if self._room.flagsAt is not None:
            self._memory.memory.copyIn(
                self._flags.ctypes.data, self._flags.nbytes, self._room.flagsAt
            )

    def _refuseReadOnly(self) -> None:
        if not self._isWritten:
            raise PermissionDenied(
                f"{self._base.name!r} is readOnly, or open for reading, and so is a window of it",
                'Share it with access="readWrite", and open it so',
            )

    def _awaitWork(self) -> None:
        """Wait for the kernels that may use the scratch memory."""
        device = deviceOf(self._memory.context)
        if self._stream is not None:
            device.asStream(self._stream, self.gpu).synchronize()
        elif not device.awaitWork(_WORK_SECONDS):
            raise TimeoutError(f"work of this process is pending after {_WORK_SECONDS:.0f} s")


def askedRange(caller: str, sizeBytes: int, offset: object, length: object) -> dirty.Range:
    """The range that a caller asks for, of so many bytes; it may reach beyond them."""
    begin = asInteger(offset)
    wanted = sizeBytes - (begin or 0) if length is None else asInteger(length)
    if begin is None or wanted is None:
        raise TypeError(f"{caller}: offset and length are numbers of bytes")
    return dirty.Range(begin, wanted)


#: The promoted windows of this process, by address.
_scratches: weakref.WeakValueDictionary[int, Scratch] = weakref.WeakValueDictionary()


def scratchAt(base: Attachment, gpu: int, pointer: Any) -> Scratch:
    """The window of a buffer whose scratch memory is at an address."""
    address = asInteger(pointer)
    found = None if address is None else _scratches.get(address)
    isThere = found is not None and not found._isOver and found.gpu == gpu
    if found is None or not isThere or found._base._held() is not base._checked():
        raise InvalidArgument(
            f"no window of {base.name!r} is promoted to GPU {gpu} at {pointer!r}",
            "Pass what promote() returned, inside its block",
        )
    return found


def _regionOf(base: Attachment, window: dirty.Range) -> Region:
    """The window as an array of the buffer's elements, or of bytes if it cuts one."""
    openBuffer = base._held()
    whole = Region.of(openBuffer)
    if window == (0, whole.sizeBytes):
        return whole
    itemBytes = whole.element.itemBytes
    if itemBytes and not window.offset % itemBytes and not window.sizeBytes % itemBytes:
        return Region(0, (window.sizeBytes // itemBytes,), whole.element)
    return Region(0, (window.sizeBytes,), asElement(np.uint8))


def _compare(
    memory: Memory, windowBytes: int, room: Room, sliceBytes: int, device: Device, gpu: int
) -> None:
    """Set the flags of the slices in which a window differs from its shadow, by a kernel
    of the GPU.

    Raises
    ------
    DeviceUnavailable
        No kernel can be compiled here.
    """
    from muninn.kernels import launch

    assert room.shadowAt is not None and room.flagsAt is not None
    whole = Region(0, (-(-windowBytes // WORD_BYTES),), asElement(np.uint64))
    window, shadow = (
        views.deviceArray(memory, whole._replace(offset=at), False, gpu)
        for at in (0, room.shadowAt)
    )
    count, words = (slicesOf(windowBytes, sliceBytes),), sliceBytes // WORD_BYTES
    flags = views.deviceArray(memory, Region(room.flagsAt, count, asElement(np.uint8)), True, gpu)
    with streamFor(device, gpu) as stream:
        launch.launch("compareSlices", window, shadow, words, flags, stream=stream)
