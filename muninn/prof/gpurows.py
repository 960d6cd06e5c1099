"""The rows about GPUs, real or emulated. The limits are those of the device port, which
calls the driver without Muninn's buffers; on an emulated GPU they are memcpy.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import ExitStack, suppress

import numpy as np

import muninn
from muninn.devices.port import Allocation, Device
from muninn.errors import IpcHandleMismatch
from muninn.prof.rows import ROWS, RowSpec
from muninn.prof.run import Run
from muninn.prof.timing import Sample, Samples, timed
from muninn.session import gpus, membership
from muninn.system import clock

#: One slice of so many is dirty.
_DIRTY, _SLICE_BYTES = 10, 64 << 10


def _device() -> Device:
    return gpus.deviceOf(membership.current())


class _Bare(ExitStack):
    """Pinned host memory, and memory on some GPUs, for the driver's copies."""

    def __init__(self, sizeBytes: int, *onGpus: int) -> None:
        super().__init__()
        self._device, self._sizeBytes = _device(), sizeBytes
        self._memory = np.frombuffer(mmap.mmap(-1, sizeBytes), np.uint8)
        self._memory[:] = 1
        self._host = int(self._memory.ctypes.data)
        self.enter_context(self._device.registerHost(self._host, sizeBytes, writable=True))
        self._vram: list[Allocation] = [
            self.enter_context(self._device.allocate(gpu, sizeBytes)) for gpu in onGpus
        ]

    def up(self, number: int = 0) -> Sample:
        """H2D."""
        return self._copy(self._vram[number].address, self._host, self._vram[number].gpu)

    def down(self, number: int = 0) -> Sample:
        """D2H."""
        return self._copy(self._host, self._vram[number].address, self._vram[number].gpu)

    def within(self) -> Sample:
        """From one allocation to the other."""
        target, source = (each.address for each in self._vram)
        return self._copy(target, source, self._vram[0].gpu)

    def across(self) -> Sample:
        """From the GPU of the first allocation straight to that of the second."""
        near, far = self._vram
        far.letReach(near.gpu)
        stream = self._device.createStream(near.gpu)

        def run() -> None:
            self._device.copyAcross(
                far.address, far.gpu, near.address, near.gpu, self._sizeBytes, stream
            )
            stream.synchronize()

        return timed(run)

    def slower(self) -> Sample:
        """D2H from the first GPU or H2D to the second, whichever takes longer."""
        down, up = self.down(0), self.up(1)
        return lambda: max(down(), up())

    def _copy(self, target: int, source: int, gpu: int) -> Sample:
        return timed(lambda: self._device.copyNow(target, source, self._sizeBytes, gpu))


def openingVram(run: Run, row: RowSpec) -> Samples:
    run.ground.fresh()
    sizeBytes = run.sizeOf(row)
    kept = muninn.MuninnBuffer(sizeBytes, mode="fastMode", name="vram", access="readWrite")
    kept.open()
    with _device().allocate(0, sizeBytes) as bare:
        passing = list[int]()
        with suppress(IpcHandleMismatch):  # it has a handle only
            descriptor = bare.exportDescriptor()
            passing.append(descriptor.fileno())
        number = passing[0] if passing else -1
        peer = run.ground.peer(
            "openInVram", "vram", number, bare.handle.hex(), sizeBytes, passing=tuple(passing)
        )
        peer.line()

        def both() -> tuple[float, float]:
            mine, drivers = peer.ask()
            return mine, drivers

        return run.paired(row, both)


def uploading(run: Run, row: RowSpec) -> Samples:
    """The time until the new buffer is there; to give it back is not in it."""
    run.ground.fresh()
    source = muninn.share(np.ones(run.sizeOf(row), np.uint8), "source")
    source.open()  # kernels may use it: it is pinned from now on

    def ours() -> float:
        began = clock.now()
        copied = source.copyTo(0)
        took = clock.now() - began
        copied.free()
        return took

    with _Bare(run.sizeOf(row), 0) as bare:
        return run.sampled(row, ours, bare.up())


def downloading(run: Run, row: RowSpec) -> Samples:
    run.ground.fresh()
    sizeBytes = run.sizeOf(row)
    target = muninn.MuninnBuffer(sizeBytes, name="target", access="readWrite")
    target.open()
    source = muninn.MuninnBuffer(sizeBytes, mode="fastMode", access="readWrite")
    with _Bare(sizeBytes, 0) as bare:
        return run.sampled(row, timed(lambda: target.copyFrom(source)), bare.down())


def copyingWithin(run: Run, row: RowSpec) -> Samples:
    run.ground.fresh()
    target, source = (_inVram(run.sizeOf(row), 0) for _ in range(2))
    with _Bare(run.sizeOf(row), 0, 0) as bare:
        return run.sampled(row, timed(lambda: target.copyFrom(source)), bare.within())


def copyingStraight(run: Run, row: RowSpec) -> Samples:
    run.ground.fresh()
    source, target = (_inVram(run.sizeOf(row), gpu) for gpu in (0, 1))
    with _Bare(run.sizeOf(row), 0, 1) as bare:
        ours = timed(lambda: target.copyFrom(source, route="p2p"))
        ours()  # a link that can not be used says so before its limit is tried
        return run.sampled(row, ours, bare.across())


def copyingStaged(run: Run, row: RowSpec) -> Samples:
    run.ground.fresh()
    source, target = (_inVram(run.sizeOf(row), gpu) for gpu in (0, 1))
    with _Bare(run.sizeOf(row), 0, 1) as bare:
        ours = timed(lambda: target.copyFrom(source, route="staged"))
        return run.sampled(row, ours, bare.slower())


def _inVram(sizeBytes: int, gpu: int) -> muninn.MuninnBuffer:
    return muninn.MuninnBuffer(sizeBytes, mode="fastMode", preferredGpu=gpu, access="readWrite")


def promoting(run: Run, row: RowSpec) -> Samples:
    run.ground.fresh()
    buffer = muninn.share(np.ones(run.sizeOf(row), np.uint8), "big", access="readWrite")
    buffer.open()
    stream = muninn.createStream(0)

    def ours() -> float:
        began = clock.now()
        with buffer.promote(stream=stream, track=True):
            return clock.now() - began

    with _Bare(run.sizeOf(row), 0) as bare:
        return run.sampled(row, ours, bare.up())


def writingBack(run: Run, row: RowSpec) -> Samples:
    run.ground.fresh()
    sizeBytes = run.sizeOf(row)
    buffer = muninn.share(np.ones(sizeBytes, np.uint8), "big", access="readWrite")
    buffer.open()
    stream = muninn.createStream(0)

    def ours() -> float:
        with buffer.promote(stream=stream, track=True) as scratch:
            for offset in range(0, sizeBytes, _DIRTY * _SLICE_BYTES):
                scratch.markDirty(offset, 1)
            began = clock.now()
            scratch.writeback()
            return clock.now() - began

    with _Bare(dirtyOf(sizeBytes), 0) as bare:
        return run.sampled(row, ours, bare.down())


def dirtyOf(sizeBytes: int) -> int:
    """How many bytes of a window of that size `writeback` writes."""
    return len(range(0, sizeBytes, _DIRTY * _SLICE_BYTES)) * _SLICE_BYTES


#: By the names of the rows.
MEASURES: dict[str, Callable[[Run, RowSpec], Samples]] = {
    "open-vram": openingVram,
    "to-gpu": uploading,
    "from-gpu": downloading,
    "within-gpu": copyingWithin,
    "p2p": copyingStraight,
    "staged": copyingStaged,
    "promotion": promoting,
    "writeback": writingBack,
}
#: Those that need two GPUs.
OF_TWO = frozenset({"p2p", "staged"})
assert set(MEASURES) <= set(ROWS)
