"""The host back-end: any number of emulated GPUs whose memory is shared host memory.

It runs where there is no GPU, and is for use there and not only for tests: buffers and
fences work between processes as on GPUs, and it runs the CPU references of the kernels.
A device address is the CPU's own. The links between the GPUs are those of a setting
(`links`), good ones if it names none. Their capacity is a number in the configuration,
which only the accounting enforces.
"""

from __future__ import annotations

import _thread
import uuid
import weakref
from collections.abc import Callable, Sequence

from muninn.config.sizes import exactly
from muninn.control.header import bootId
from muninn.devices.host import memory
from muninn.devices.host.links import Links
from muninn.devices.host.streams import DefaultStream, HostStream, WorkerStream
from muninn.devices.port import (
    SAME_GPU,
    Allocation,
    Device,
    FenceWord,
    Link,
    MemoryInfo,
    OnReached,
    Ready,
    Registration,
    Site,
    Stream,
    UsedBytes,
    badCopy,
)
from muninn.devices.worker import StreamWorker
from muninn.errors import DeviceUnavailable, InvalidArgument, IpcHandleMismatch, QuotaExceeded
from muninn.interop.streams import DEFAULT_HANDLES, streamHandle
from muninn.system import atomics, clock
from muninn.system.pages import pagesUp
from muninn.system.structures import Extent

_NAMESPACE = uuid.UUID("6d756e69-6e6e-5f68-6f73-745f67707500")


class _Reserved:
    """Bytes of a GPU that an allocation of this process takes, while its mapping is
    there.
    """

    __slots__ = ("__weakref__", "gpu", "sizeBytes")

    def __init__(self, gpu: int, sizeBytes: int) -> None:
        self.gpu, self.sizeBytes = gpu, sizeBytes


class _Ledger:
    """The bytes that this process has allocated. They are the whole count only where no
    layer above counts for the domain.
    """

    def __init__(self) -> None:
        self._reservations: weakref.WeakSet[_Reserved] = weakref.WeakSet()
        self._changing = _thread.RLock()

    def used(self, gpu: int) -> int:
        with self._changing:
            return self._sum(gpu)

    def reserve(self, gpu: int, sizeBytes: int, counted: int | None, limit: int) -> _Reserved:
        """Take the bytes. `counted` is the count of the domain; without it, only this
        process's own allocations count.
        """
        reserved = _Reserved(gpu, sizeBytes)
        with self._changing:
            used = self._sum(gpu) if counted is None else counted
            if used + sizeBytes > limit:
                raise QuotaExceeded(
                    f"GPU {gpu}: {exactly(used)} used + {exactly(sizeBytes)} wanted > "
                    f"{exactly(limit)} emulated (devices.hostGpuBytes)",
                    "Free buffers on this GPU, or raise [devices] hostGpuBytes",
                )
            self._reservations.add(reserved)
        return reserved

    def _sum(self, gpu: int) -> int:
        return sum(reserved.sizeBytes for reserved in self._reservations if reserved.gpu == gpu)


class HostRegistration(Registration):
    """Host memory for an emulated GPU, which computes on it at the same address."""

    def __init__(self, address: int, sizeBytes: int, writable: bool) -> None:
        self.devicePointer, self.sizeBytes, self.writable = address, sizeBytes, writable

    def close(self) -> None:
        """Does nothing, as nothing was pinned."""

    def closeThen(self, closed: Callable[[], object]) -> None:
        closed()


class HostDevice(Device):
    """Emulated GPUs.

    Parameters
    ----------
    gpuCount, gpuBytes
        The number of GPUs, and the memory of each in bytes.
    usedBytes
        Returns the bytes that the whole domain has on a GPU. Without it only this
        process's own allocations count: only the directory knows the memfds of other
        processes across a `kill -9`, and the port does not read the directory.
    reason
        The reason for which this back-end was chosen.
    links
        The links between the GPUs; see `Links`.
    """

    backend = "host"
    runsKernelsOnHost = True
    reachesForeignArrays = False
    givesReachAtOnce = True

    def __init__(
        self,
        gpuCount: int,
        gpuBytes: int,
        *,
        usedBytes: UsedBytes | None = None,
        reason: str = "asked for",
        links: str = "",
    ) -> None:
        if gpuCount < 0 or gpuBytes < 0:
            raise InvalidArgument(f"{gpuCount} GPUs of {gpuBytes} bytes can not be emulated")
        self.gpuCount, self.reason = gpuCount, reason
        self.usedBytes = usedBytes
        self._gpuBytes = gpuBytes
        self._links = Links(links, gpuCount)
        self._ledger = _Ledger()
        self._defaults = tuple(DefaultStream(gpu) for gpu in range(gpuCount))
        self._streams: weakref.WeakValueDictionary[int, WorkerStream] = (
            weakref.WeakValueDictionary()
        )
        #: A stream may be gone before its work is over; its worker is not.
        self._workers: weakref.WeakValueDictionary[int, StreamWorker] = (
            weakref.WeakValueDictionary()
        )

    def gpuName(self, gpu: int) -> str:
        return f"Muninn host GPU {self.requireGpu(gpu)}"

    def gpuUuid(self, gpu: int) -> str:
        return f"HOST-{uuid.uuid5(_NAMESPACE, f'{bootId().hex()}/{self.requireGpu(gpu)}')}"

    def memoryInfo(self, gpu: int) -> MemoryInfo:
        self.requireGpu(gpu)
        used = self._ledger.used(gpu) if self.usedBytes is None else self.usedBytes(gpu)
        return MemoryInfo(max(0, self._gpuBytes - used), self._gpuBytes)

    def canAccessPeer(self, gpu: int, peer: int) -> bool:
        return self._links.between(self.requireGpu(peer), self.requireGpu(gpu)).isThere

    def link(self, gpu: int, peer: int) -> Link:
        canAccess = self.canAccessPeer(gpu, peer)
        return Link(canAccess, None, canAccess, SAME_GPU if gpu == peer else "emulated")

    def site(self, gpu: int) -> Site:
        self.requireGpu(gpu)
        return Site("", None, None, None)

    def driverText(self) -> str:
        return f"emulated {self._links.text}".strip()

    def allocate(
        self,
        gpu: int,
        sizeBytes: int,
        *,
        admitted: bool = False,
        filledBytes: int = 0,
        extents: Sequence[Extent] = (),
    ) -> Allocation:
        self.requireGpu(gpu)
        memory.checkSize(sizeBytes)
        allocatedBytes = pagesUp(sizeBytes)
        counted = None
        if self.usedBytes is not None:
            counted = self.usedBytes(gpu) - (allocatedBytes if admitted else 0)
        reserved = self._ledger.reserve(gpu, allocatedBytes, counted, self._gpuBytes)
        made = memory.allocate(gpu, sizeBytes, self._links, reserved)
        for extent in extents:
            self.copy(made.address + extent.offset, extent.address, extent.sizeBytes)
        return made

    def importAllocation(
        self, gpu: int, descriptor: int, sizeBytes: int, writable: bool, handle: bytes = b""
    ) -> Allocation:
        self.requireGpu(gpu)
        if handle:
            raise IpcHandleMismatch("memory of a real GPU can not be mapped by the host back-end")
        return memory.importDescriptor(gpu, descriptor, sizeBytes, writable, self._links)

    def registerHost(
        self,
        address: int,
        sizeBytes: int,
        writable: bool,
        progress: Callable[[int], None] | None = None,
    ) -> Registration:
        memory.checkSize(sizeBytes)
        if address <= 0:
            raise InvalidArgument(f"{address} is not an address")
        if progress is not None:
            progress(sizeBytes)
        return HostRegistration(address, sizeBytes, writable)

    def copy(
        self,
        target: int,
        source: int,
        sizeBytes: int,
        stream: object = None,
        keepAlive: object = None,
        *,
        isMapped: bool = False,
    ) -> None:
        if sizeBytes < 0 or (sizeBytes > 0 and (target <= 0 or source <= 0)):
            raise badCopy(target, source, sizeBytes)

        def work(held: object = keepAlive) -> None:
            atomics.copy(target, source, sizeBytes)

        self._stream(stream).submit(work)

    def copyAcross(
        self,
        target: int,
        targetGpu: int,
        source: int,
        sourceGpu: int,
        sizeBytes: int,
        stream: object = None,
        keepAlive: object = None,
    ) -> None:
        if sizeBytes < 0 or target <= 0 or source <= 0:
            raise badCopy(target, source, sizeBytes)
        self.requirePeer(targetGpu, sourceGpu)

        def work(held: object = keepAlive) -> None:
            self._links.send(source, sourceGpu, target, targetGpu, sizeBytes)

        self._stream(stream, sourceGpu).submit(work)

    def copyBatch(
        self, copies: Sequence[tuple[int, int, int]], stream: object, keepAlive: object = None
    ) -> None:
        given = tuple(copies)

        def work(held: object = keepAlive) -> None:
            for target, source, sizeBytes in given:
                atomics.copy(target, source, sizeBytes)

        self._stream(stream).submit(work)

    def lend(self, address: int, sizeBytes: int, owner: object) -> Allocation:
        # The address is in the memory of a real GPU, where the CPU would fault.
        raise DeviceUnavailable(
            "this is memory of a real GPU, and this is the host back-end",
            "Copy it to the host first",
        )

    def gpuOf(self, address: int) -> int | None:
        return None

    def copyNow(self, target: int, source: int, sizeBytes: int, gpu: int) -> None:
        self.copy(target, source, sizeBytes)

    def workingGpu(self) -> int | None:
        return 0 if self.gpuCount else None

    def awaitWork(self, seconds: float) -> bool:
        deadline = clock.now() + seconds
        workers = [found for each in self._workers.valuerefs() if (found := each()) is not None]
        return not any(each.awaitFinished(deadline - clock.now()) for each in workers)

    def createStream(self, gpu: int) -> Stream:
        stream = WorkerStream(self.requireGpu(gpu))
        self._streams[stream.handle] = stream
        self._workers[stream.handle] = stream.worker
        return stream

    def asStream(self, stream: object, gpu: int = 0) -> Stream:
        return self._stream(stream, gpu)

    def _stream(self, stream: object, gpu: int = 0) -> HostStream:
        if isinstance(stream, HostStream):
            stream.checkOpen()
            return stream
        handle = streamHandle(stream)
        if handle in DEFAULT_HANDLES:
            return self._defaults[self.requireGpu(gpu)]
        known = self._streams.get(handle)
        if known is None:
            reason = f"{type(stream).__name__} {handle:#x} is no stream of the host back-end"
            raise InvalidArgument(reason, "Use a stream of createStream, or None")
        return known

    def recordFence(
        self, stream: object, onReached: OnReached, word: FenceWord | None = None
    ) -> bool:
        self._stream(stream).recordFence(onReached)
        return False

    def delayStream(self, stream: object, ready: Ready, word: FenceWord | None = None) -> None:
        self._stream(stream).delay(ready)
