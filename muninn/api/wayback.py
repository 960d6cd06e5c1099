"""The way of dirty slices from scratch memory back to the buffer, and the comparison that
finds out which those are.

A kernel copies them where there are many: it writes host memory as fast as one large
copy, and the driver takes some microseconds for each of many small ones.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from muninn.api import transfers, views
from muninn.api.scratchroom import WORD_BYTES, Room
from muninn.api.views import Region
from muninn.devices.ways import drain, streamFor
from muninn.errors import ThreadsExhausted
from muninn.interop.elements import asElement
from muninn.session.gpus import deviceOf
from muninn.system import clock, threads
from muninn.system.deadlines import remaining
from muninn.system.logs import Log
from muninn.transfer import dirty
from muninn.transfer.handle import Transfer
from muninn.transfer.records import Record
from muninn.transfer.routes import within
from muninn.transfer.tiers import Place, Tier, slicesOf

if TYPE_CHECKING:
    from typing import Any

    from muninn.devices.port import Device, Stream
    from muninn.session.mappings import Memory
    from muninn.session.openbuffer import OpenBuffer
    from muninn.sync.moves import WritingBack

_log = Log("muninn.promotion")
#: From so many ranges on a kernel copies: one launch takes as long as some ten copies.
_MANY = 32
#: The GPUs for which the kernel is compiled.
_compiled: set[int] = set()
#: How long a writeback waits for the compiler. It takes some seconds.
_COMPILING_SECONDS = 60.0
_NO_FLAGS = Region(0, (0,), asElement(np.uint8))


class WayBack(NamedTuple):
    """The way of one window.

    Attributes
    ----------
    memory, gpu
        The scratch memory, and its GPU.
    room
        What is where in that memory.
    offset, sizeBytes
        The window in the buffer.
    """

    memory: OpenBuffer
    gpu: int
    room: Room
    offset: int
    sizeBytes: int
    sliceBytes: int

    def compare(self, stream: Stream | None) -> None:
        """Set the flags of the slices in which the window differs from its shadow, by a
        kernel of the GPU.

        Parameters
        ----------
        stream
            That of the window's kernels, for which its end waits; None if its end waits
            for all streams.

        Raises
        ------
        DeviceUnavailable
            No kernel can be compiled here.
        """
        assert self.room.shadowAt is not None and self.room.flagsAt is not None
        device = self._device()
        words = -(-self.sizeBytes // WORD_BYTES)
        window, shadow = (
            self._words(self.memory.memory, at, words, False) for at in (0, self.room.shadowAt)
        )
        flags = self._flags(self.room.flagsAt)
        if stream is not None:
            self._launch("compareSlices", window, shadow, flags, stream)
            stream.synchronize()
            return
        with streamFor(device, self.gpu) as own:
            self._launch("compareSlices", window, shadow, flags, own)

    def sizeOf(self, marked: dirty.Flags) -> int:
        """The bytes of the slices that are marked."""
        ranges = dirty.rangesOf(marked, self.sliceBytes, self.sizeBytes)
        return sum(each.sizeBytes for each in ranges)

    def hasKernel(self, base: OpenBuffer, marked: dirty.Flags, deadline: float | None) -> bool:
        """Whether a kernel is worth it, and is compiled. Asked before the access: others
        would wait for the compiler, and its errors would leave the buffer half written.
        """
        isMeant = (
            dirty.rangesIn(marked) >= _MANY
            and base.memory.gpu in (None, self.gpu)
            and not self._device().runsKernelsOnHost
            and self.offset % WORD_BYTES == 0
            # In a process that has loaded no kernels, the first takes longer than any copies.
            and "muninn.kernels.numbacuda" in sys.modules
        )
        if not isMeant or self.gpu in _compiled:
            return isMeant
        # No handler of the program raises there, in the midst of the compiler. That thread
        # touches no byte of the window, which may be another one's by the time that it ends.
        try:
            compiling = threads.start(lambda: self._compile(base), "muninn-kernel")
        except (ThreadsExhausted, RuntimeError) as error:
            _log.debug("slices are copied without a kernel: %s", error)
            return False
        left = remaining(deadline)
        compiling.join(_COMPILING_SECONDS if left is None else min(left, _COMPILING_SECONDS))
        return self.gpu in _compiled

    def _compile(self, base: OpenBuffer) -> None:
        """Compile the kernel for the types of the arrays of `_copyMarked`, and load it."""
        from muninn.kernels import launch

        try:
            device = self._device()
            base.memory.device = device
            window, target = (
                self._words(memory, 0, 0, isWritten)
                for memory, isWritten in ((self.memory.memory, False), (base.memory, True))
            )
            flags = views.deviceArray(self.memory.memory, _NO_FLAGS, True, self.gpu)
            with streamFor(device, self.gpu) as stream, device.onGpu(self.gpu):
                launch.prepare("copyMarked", target, window, 1, flags, stream=stream)
        except Exception as error:
            _log.warning("slices are copied without a kernel: %s", error)
        else:
            _compiled.add(self.gpu)

    def send(
        self, base: OpenBuffer, marked: dirty.Flags, access: WritingBack, byKernel: bool
    ) -> None:
        """Copy the slices that are marked to the buffer, and to the shadow. All copies are
        over when this returns or raises, or else when the access ends.

        Parameters
        ----------
        byKernel
            What `hasKernel` has answered.
        """
        device, source = self._device(), self.memory.memory.address
        whole, home = transfers.windowOf(base, lambda: None), base.memory.gpu
        target = whole.address + self.offset
        isNear = home in (None, self.gpu)
        begun = clock.now()
        with streamFor(device, self.gpu) as stream:
            access.covers(lambda: drain((stream,)))
            if byKernel:
                ranges = self._copyMarked(base.memory, marked, stream)
            else:
                ranges = dirty.rangesOf(marked, self.sliceBytes, self.sizeBytes)
            if (shadowAt := self.room.shadowAt) is not None:
                kept = [(source + shadowAt + at, source + at, length) for at, length in ranges]
                device.copyBatch(kept, stream)
            if isNear:
                device.copyBatch(
                    [(target + at, source + at, length) for at, length in ranges], stream
                )
        if isNear:
            here = Place(Tier.VRAM, self.gpu)
            choice = within(here, whole.place)
            assert choice is not None, "it is no other GPU"
            name, sizeBytes = base.description.name, self.sizeOf(marked)
            Record(here, whole.place, choice, sizeBytes, name).count(clock.now() - begun)
        else:
            self._sendAcross(base, whole.place, target, ranges, access)

    def _copyMarked(self, base: Memory, marked: dirty.Flags, stream: Stream) -> list[dirty.Range]:
        """Copy the whole words of the marked slices; returns the range that is left."""
        flagsAt, shadowAt = self.room.flagsAt, self.room.shadowAt
        assert flagsAt is not None, "the window can be written"
        takenAt = flagsAt + marked.size
        self.memory.memory.copyIn(marked.ctypes.data, marked.nbytes, takenAt)
        base.device = self._device()
        words, taken = self.sizeBytes // WORD_BYTES, self._flags(takenAt)
        window = self._words(self.memory.memory, 0, words, False)
        targets = [self._words(base, self.offset, words, True)]
        if shadowAt is not None:
            targets.append(self._words(self.memory.memory, shadowAt, words, True))
        for target in targets:
            self._launch("copyMarked", target, window, taken, stream)
        left = self.sizeBytes % WORD_BYTES
        return [dirty.Range(self.sizeBytes - left, left)] if left and marked[-1] else []

    def _launch(self, name: str, first: Any, second: Any, flags: Any, stream: Stream) -> None:
        from muninn.kernels import launch

        # Numba launches in the current context, which may be that of another GPU.
        with self._device().onGpu(self.gpu):
            launch.launch(name, first, second, self.sliceBytes // WORD_BYTES, flags, stream=stream)

    def _device(self) -> Device:
        device = deviceOf(self.memory.context)
        self.memory.memory.device = device
        return device

    def _words(self, memory: Memory, offset: int, words: int, isWritten: bool) -> Any:
        region = Region(offset, (words,), asElement(np.uint64))
        return views.deviceArray(memory, region, isWritten, self.gpu)

    def _flags(self, offset: int) -> Any:
        region = Region(offset, (slicesOf(self.sizeBytes, self.sliceBytes),), asElement(np.uint8))
        return views.deviceArray(self.memory.memory, region, True, self.gpu)

    def _sendAcross(
        self,
        base: OpenBuffer,
        place: Place,
        target: int,
        ranges: list[dirty.Range],
        access: WritingBack,
    ) -> None:
        """Copy ranges to another GPU."""
        window = transfers.windowOf(self.memory, lambda: None)
        sizeBytes = sum(each.sizeBytes for each in ranges)
        name = base.description.name
        transfer: Transfer[None] = Transfer(window.place, place, sizeBytes, bufferId=name)
        with transfers.engineFor(base).way(transfer, window, place, None) as way:
            access.covers(way.settle)
            begun = clock.now()
            for at, length in ranges:
                way.send(window.address + at, target + at, length, lambda _: None)
            way.settle()
        transfer.record().count(clock.now() - begun)
