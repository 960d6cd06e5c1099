"""Copies: the way of each, chosen so that no call waits for the work that is in the
stream before it.

For two kinds of copy the driver makes the caller wait until the stream comes to them:
to or from host memory that the driver does not know, and from host memory to host
memory. The stream worker makes such copies instead.
"""

from __future__ import annotations

import _thread
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.contexts import ON_DEVICE, Contexts
from muninn.devices.cuda.driver import NON_BLOCKING, DriverError, call, typed
from muninn.devices.cuda.gpu import Gpu
from muninn.devices.cuda.seams import Seams
from muninn.devices.cuda.streams import CudaStream
from muninn.interop.streams import DEFAULT_HANDLES
from muninn.system import atomics
from muninn.system.structures import Extent

#: From so many copies on, one call for all is faster.
_LEAST_BATCH = 8
#: The first driver that has the call by which the bindings copy a batch.
_BATCHES_SINCE = 13000
_IN_STREAM_ORDER = cu.CUmemcpySrcAccessOrder.CU_MEMCPY_SRC_ACCESS_ORDER_STREAM
#: More places than this are filled with zeros in one go, with what is between them.
_MOST_GAPS = 64
#: How often one copy is tried while memory is pinned.
_TRIES = 5


class Copies:
    """The copies of this process.

    Parameters
    ----------
    seams
        The addresses between two registrations of host memory, where a copy is cut.
    """

    def __init__(self, gpus: list[Gpu], contexts: Contexts, seams: Seams) -> None:
        self._gpus, self._contexts, self._seams = gpus, contexts, seams
        self._copiers: dict[int, Any] = {}
        self._making = _thread.RLock()
        self._hasBatches = driver.version() >= _BATCHES_SINCE

    def submit(
        self,
        stream: CudaStream,
        target: int,
        source: int,
        sizeBytes: int,
        keepAlive: object,
        isMapped: bool = False,
    ) -> None:
        """Copy in a stream, in a way that does not block the caller."""
        try:
            self._whileSeamsMove(
                lambda: self._submit(stream, target, source, sizeBytes, keepAlive, isMapped)
            )
        except DriverError as error:
            staged = self._stagedInstead(error, target, source, sizeBytes)
            if staged is None:
                raise typed(error, f"{sizeBytes} bytes can not be copied") from error
            try:
                stream.submitCalls(staged, keepAlive)
            except DriverError as again:
                raise typed(again, f"{sizeBytes} bytes can not be copied") from error

    def across(
        self,
        stream: CudaStream,
        target: int,
        targetGpu: int,
        source: int,
        sizeBytes: int,
        keepAlive: object,
    ) -> None:
        """Copy from memory of the stream's GPU straight to that of another one."""
        try:
            stream.submitCalls(
                self._peerCopy(target, targetGpu, source, stream.gpu, sizeBytes), keepAlive
            )
        except DriverError as error:
            raise typed(error, f"{sizeBytes} bytes can not be copied across") from error

    def _submit(
        self,
        stream: CudaStream,
        target: int,
        source: int,
        sizeBytes: int,
        keepAlive: object,
        isMapped: bool,
    ) -> None:
        parts = self._seams.parts(target, source, sizeBytes)
        if isMapped:
            stream.submitCalls(functools.partial(_inParts, target, source, parts), keepAlive)
            return
        # The driver copies only where it would not make the caller wait (see the
        # head); otherwise the stream worker copies, or fills and empties pinned
        # pieces that the driver copies.
        intoType, fromType = (
            self._contexts.memoryType(target),
            self._contexts.memoryType(source),
        )
        isOnGpu = ON_DEVICE in (intoType, fromType)
        if (isOnGpu and None not in (intoType, fromType)) or (
            stream.handle in DEFAULT_HANDLES and stream.isQuiet()
        ):
            stream.submitCalls(functools.partial(_inParts, target, source, parts), keepAlive)
        elif isOnGpu and fromType is None:
            stream.copyIn(target, source, parts, keepAlive)
        elif isOnGpu:
            stream.copyOut(target, source, parts, keepAlive)
        else:
            stream.submit(functools.partial(_copyOnHost, target, source, sizeBytes, keepAlive))

    def _whileSeamsMove(self, copy: Callable[[], None]) -> None:
        """Call `copy`. Call it again if the driver refuses it after memory was pinned
        meanwhile: then a part of it may reach over a new seam, and the same bytes are
        copied once more. Few parts meet a new seam, because each is found when it is
        copied, and pieces are pinned at a pace (`pace.py`).
        """
        for left in reversed(range(_TRIES)):
            changes = self._seams.changes
            try:
                copy()
                return
            except DriverError as error:
                isMoved = error.code == "INVALID_VALUE" and changes != self._seams.changes
                if not isMoved or not left:
                    raise

    def batch(
        self, stream: CudaStream, copies: Sequence[tuple[int, int, int]], keepAlive: object
    ) -> None:
        """Copy each (target, source, bytes), with one submission to the stream."""

        def calls(handle: int) -> None:
            parts = self._seams.cut(copies)
            if self._hasBatches and len(parts) >= _LEAST_BATCH and handle not in DEFAULT_HANDLES:
                _asBatch(parts, handle)
                return
            for target, source, sizeBytes in parts:
                call(cu.cuMemcpyAsync, target, source, sizeBytes, handle)

        try:
            self._whileSeamsMove(lambda: stream.submitCalls(calls, keepAlive))
        except DriverError as error:
            raise typed(error, f"{len(copies)} ranges can not be copied") from error

    def now(self, copies: Sequence[tuple[int, int, int]], gpu: int) -> None:
        """Copy each (target, source, bytes), and return when all are done. The caller has
        entered the GPU's context, and frees no memory before the return, not even if
        this raises.
        """
        copier = self.copier(gpu)
        try:
            for target, source, sizeBytes in copies:
                try:
                    self._whileSeamsMove(
                        functools.partial(self._nowInParts, target, source, sizeBytes, copier)
                    )
                except DriverError as error:
                    staged = self._stagedInstead(error, target, source, sizeBytes)
                    if staged is None:
                        raise
                    staged(copier)
        finally:
            call(cu.cuStreamSynchronize, copier)

    def _nowInParts(self, target: int, source: int, sizeBytes: int, copier: Any) -> None:
        _inParts(target, source, self._seams.parts(target, source, sizeBytes), copier)

    def fill(
        self,
        address: int,
        filledBytes: int,
        sizeBytes: int,
        extents: Sequence[Extent],
        gpu: int,
    ) -> None:
        """Fill new memory with extents, and with zeros where there is none, but for the
        first `filledBytes`. The caller has entered the GPU's context.
        """
        copier = self.copier(gpu)
        try:
            for begin, end in _gapsOf(extents, filledBytes, sizeBytes):
                call(cu.cuMemsetD8Async, address + begin, 0, end - begin, copier)
        except DriverError:
            call(cu.cuStreamSynchronize, copier)  # the caller gives the memory back
            raise
        copies = [
            (address + extent.offset, extent.address, extent.sizeBytes)
            for extent in extents
            if extent.sizeBytes
        ]
        self.now(copies, gpu)

    def _stagedInstead(
        self, error: DriverError, target: int, source: int, sizeBytes: int
    ) -> Callable[[Any], None] | None:
        """If a copy failed because it is between two GPUs of which the stream's does not
        reach both: the copy that the driver stages by itself, in any stream. It reaches
        two thirds of what the slower direction gives (two H200), and is for the copies
        that the engine of `transfer` does not make.
        """
        if error.code != "INVALID_VALUE":
            return None
        into, out = self._contexts.gpuOf(target), self._contexts.gpuOf(source)
        if into is None or out is None or into == out:
            return None
        return self._peerCopy(target, into, source, out, sizeBytes)

    def _peerCopy(
        self, target: int, targetGpu: int, source: int, sourceGpu: int, sizeBytes: int
    ) -> Callable[[Any], None]:
        into, out = self._gpus[targetGpu].context, self._gpus[sourceGpu].context

        def calls(handle: Any) -> None:
            call(cu.cuMemcpyPeerAsync, target, into, source, out, sizeBytes, handle)

        return calls

    def copier(self, gpu: int) -> Any:
        """The stream for copies whose caller waits for them at once. It never waits for
        another stream or process.
        """
        with self._making:
            if gpu not in self._copiers:
                with self._gpus[gpu].entered(), driver.BeyondCaptures():
                    self._copiers[gpu] = call(cu.cuStreamCreate, NON_BLOCKING)
            return self._copiers[gpu]


def _gapsOf(extents: Sequence[Extent], filledBytes: int, sizeBytes: int) -> list[tuple[int, int]]:
    """(begin, end) of what to fill with zeros: where there is no extent, or all if there
    are so many such places that one larger fill is faster.
    """
    gaps, end = [], filledBytes
    for extent in extents:
        if extent.offset > end:
            gaps.append((end, extent.offset))
        end = extent.offset + extent.sizeBytes
    if end < sizeBytes:
        gaps.append((end, sizeBytes))
    return gaps if len(gaps) <= _MOST_GAPS else [(filledBytes, sizeBytes)]


def _inParts(target: int, source: int, parts: Iterable[tuple[int, int]], handle: Any) -> None:
    for offset, sizeBytes in parts:
        call(cu.cuMemcpyAsync, target + offset, source + offset, sizeBytes, handle)


def _asBatch(parts: Sequence[tuple[int, int, int]], handle: int) -> None:
    """One call for many small copies, by which each takes the driver a fraction of the
    time.
    """
    attributes = cu.CUmemcpyAttributes()
    attributes.srcAccessOrder = _IN_STREAM_ORDER
    targets, sources, sizes = zip(*parts, strict=True)
    call(
        cu.cuMemcpyBatchAsync,
        [*map(cu.CUdeviceptr, targets)],
        [*map(cu.CUdeviceptr, sources)],
        [*sizes],
        len(parts),
        [attributes],
        [0],
        1,
        handle,
    )


def _copyOnHost(target: int, source: int, sizeBytes: int, held: object) -> None:
    atomics.copy(target, source, sizeBytes)
