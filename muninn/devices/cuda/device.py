"""The CUDA back-end of the device port: its parts put together.

Streams and memory of other libraries in this process (Numba, CuPy, PyTorch) are the
driver's own, so theirs and Muninn's mix freely. Memory is `vmm` where the GPU exports
descriptors, else `cudaIpc`. Memory that other libraries allocated is lent in place, by
`cudaIpc`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver, registration, vmm
from muninn.devices.cuda.budget import Budget
from muninn.devices.cuda.contexts import Contexts
from muninn.devices.cuda.copies import Copies
from muninn.devices.cuda.deferredfree import DeferredFree
from muninn.devices.cuda.driver import DriverError, call, typed
from muninn.devices.cuda.gpu import Entered, Gpu
from muninn.devices.cuda.hostparts import HostParts
from muninn.devices.cuda.ipc import IpcMemory
from muninn.devices.cuda.lanes import PeerLane
from muninn.devices.cuda.links import Links
from muninn.devices.cuda.pace import USUAL_BOUNDS, PieceBounds
from muninn.devices.cuda.seams import Seams
from muninn.devices.cuda.semaphores import HostSemaphores
from muninn.devices.cuda.staging import Staging
from muninn.devices.cuda.streamtable import StreamTable
from muninn.devices.handle import gpuText, unpacked
from muninn.devices.port import (
    Allocation,
    Device,
    FenceWord,
    GpuCondition,
    Lane,
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
from muninn.errors import BarPressureHigh, DeviceUnavailable, InvalidArgument, IpcHandleMismatch
from muninn.system.structures import Extent

_MAX_BYTES = 1 << 47
#: How long an allocation that found no memory waits for memory that was closed and is
#: not given back yet.
_DRAIN_SECONDS = 5.0


class CudaDevice(Device):
    """The GPUs of the driver.

    Parameters
    ----------
    reason
        Why this back-end was chosen.
    mappedWindowBytes
        The most bytes of host memory that this process maps for GPUs.
    pieceBounds
        In what pieces host memory is pinned.

    Raises
    ------
    DeviceUnavailable
        The driver does not start.
    ForkedAfterCuda
        A parent of this process has started the driver before the fork.
    """

    backend = "cuda"
    runsKernelsOnHost = False
    reachesForeignArrays = True
    givesReachAtOnce = False

    def __init__(
        self,
        reason: str = "asked for",
        mappedWindowBytes: int = _MAX_BYTES,
        pieceBounds: PieceBounds = USUAL_BOUNDS,
    ) -> None:
        self.reason = reason
        self.usedBytes: UsedBytes | None = None
        driver.initialise()
        try:
            self._gpus = [Gpu(index) for index in range(int(call(cu.cuDeviceGetCount)))]
            self._version = driver.version()
        except DriverError as error:
            raise typed(error, "the GPUs can not be asked") from error
        self.gpuCount = len(self._gpus)
        self._budget = Budget(mappedWindowBytes)
        self._seams = Seams()
        self._pieceBounds = pieceBounds
        self._links = Links()
        self._contexts = Contexts(self._gpus)
        self._deferredFree = DeferredFree(self._contexts.known)
        self._ipc = IpcMemory(self._deferredFree, self._gpu)
        hostParts = HostParts(
            HostSemaphores(self._contexts.enteredSome), Staging(self._contexts.enteredSome)
        )
        self._streams = StreamTable(self._contexts, hostParts, self._gpu)
        self._copies = Copies(self._gpus, self._contexts, self._seams)

    # --- GPUs ------------------------------------------------------------------------

    def _gpu(self, gpu: int) -> Gpu:
        return self._gpus[self.requireGpu(gpu)]

    def gpuName(self, gpu: int) -> str:
        return str(self._gpu(gpu).name)

    def gpuUuid(self, gpu: int) -> str:
        return self._gpu(gpu).uuidText

    def memoryInfo(self, gpu: int) -> MemoryInfo:
        with self._working(gpu, "the GPU's memory can not be asked"):
            self._deferredFree.drain(_DRAIN_SECONDS)
            return MemoryInfo(*(int(value) for value in call(cu.cuMemGetInfo)))

    def canAccessPeer(self, gpu: int, peer: int) -> bool:
        driver.guard()
        try:
            return self._gpu(gpu).canReach(self._gpu(peer))
        except DriverError as error:
            raise typed(error, "the topology can not be asked") from error

    def link(self, gpu: int, peer: int) -> Link:
        return self._links.between(self._gpu(gpu), self._gpu(peer))

    def site(self, gpu: int) -> Site:
        return self._links.siteOf(self._gpu(gpu))

    def condition(self, gpu: int) -> GpuCondition | None:
        return self._links.nvml.condition(self._gpu(gpu).busId)

    def driverText(self) -> str:
        return self._links.driverText()

    def missingFacts(self) -> str:
        return self._links.nvml.reason

    @contextlib.contextmanager
    def _working(self, gpu: int, what: str) -> Iterator[Gpu]:
        """Enter the primary context of a GPU. An error of the driver inside the block
        becomes an error of Muninn.
        """
        chosen = self._gpu(gpu)
        try:
            self._contexts.notice()
            with chosen.entered(), driver.BeyondCaptures():
                yield chosen
        except DriverError as error:
            raise typed(error, f"GPU {gpu}: {what}") from error

    # --- memory ----------------------------------------------------------------------

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
        _checkSize(sizeBytes)
        with self._working(gpu, f"{sizeBytes} bytes can not be allocated") as chosen:
            try:
                made = self._allocated(chosen, sizeBytes)
            except DriverError as error:
                # Memory that was closed a moment ago may still wait for the work that
                # used it.
                if error.code != "OUT_OF_MEMORY" or not self._deferredFree.drain(_DRAIN_SECONDS):
                    raise
                made = self._allocated(chosen, sizeBytes)
            try:
                self._copies.fill(made.address, filledBytes, made.allocatedBytes, extents, gpu)
            except BaseException:
                made.close()
                raise
            return made

    def _allocated(self, gpu: Gpu, sizeBytes: int) -> Allocation:
        if gpu.hasDescriptors:
            return vmm.allocate(self._deferredFree, gpu, self._gpu, sizeBytes, self._version)
        return self._ipc.allocate(gpu, sizeBytes)

    def importAllocation(
        self, gpu: int, descriptor: int, sizeBytes: int, writable: bool, handle: bytes = b""
    ) -> Allocation:
        self.requireGpu(gpu)
        _checkSize(sizeBytes)
        stated = unpacked(handle, self._version)
        home = self._homeOf(gpu, stated.gpuUuid)
        try:
            self._contexts.notice()
            with home.entered(), driver.BeyondCaptures():
                if stated.transport == "vmm":
                    return vmm.importDescriptor(
                        self._deferredFree,
                        home,
                        self._gpu,
                        descriptor,
                        sizeBytes,
                        writable,
                        stated,
                    )
                return self._ipc.importHandle(home, sizeBytes, stated)
        except DriverError as error:
            raise typed(error, f"GPU {home.index}: {sizeBytes} bytes can not be opened") from error

    def _homeOf(self, gpu: int, gpuUuid: bytes) -> Gpu:
        """The GPU of that UUID, which may have another index here than in the
        exporter's process.
        """
        if self._gpus[gpu].uuid == gpuUuid:
            return self._gpus[gpu]
        found = next((each for each in self._gpus if each.uuid == gpuUuid), None)
        if found is None:
            here = ", ".join(each.uuidText for each in self._gpus)
            raise IpcHandleMismatch(
                f"the memory is on {gpuText(gpuUuid)}, and this process sees {here}",
                "Let both processes see the same GPU (CUDA_VISIBLE_DEVICES)",
            )
        return found

    def lend(self, address: int, sizeBytes: int, owner: object) -> Allocation:
        _checkSize(sizeBytes)
        gpu = self.gpuOf(address)
        if gpu is None:
            raise InvalidArgument(
                f"{address:#x} is not in a GPU's memory", "Share it as a host array"
            )
        with self._working(gpu, "the memory can not be lent") as chosen:
            return self._ipc.lend(chosen, address, sizeBytes, owner)

    def registerHost(
        self,
        address: int,
        sizeBytes: int,
        writable: bool,
        progress: Callable[[int], None] | None = None,
    ) -> Registration:
        mapped = list[int]()

        def counting(part: int) -> None:
            mapped.append(part)
            if progress is not None:
                progress(part)

        with self._working(
            self._contexts.someGpu().index, f"{sizeBytes} bytes of host memory can not be mapped"
        ) as gpu:
            given = (
                self._deferredFree,
                gpu,
                address,
                sizeBytes,
                writable,
                counting,
                self._budget,
                self._seams,
                self._pieceBounds,
            )
            try:
                return registration.register(*given)
            except BarPressureHigh:
                # As in `allocate`, but only if `progress` has counted nothing yet: it
                # would count the same bytes twice.
                if mapped or not self._deferredFree.drain(_DRAIN_SECONDS):
                    raise
                return registration.register(*given)

    def gpuOf(self, address: int) -> int | None:
        return self._contexts.gpuOf(address)

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
        chosen = self._streams.find(stream)
        if sizeBytes:
            self._copies.submit(chosen, target, source, sizeBytes, keepAlive, isMapped)

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
        chosen = self._streams.find(stream, sourceGpu)
        self.requirePeer(targetGpu, sourceGpu)
        if sizeBytes:
            self._copies.across(chosen, target, targetGpu, source, sizeBytes, keepAlive)

    def lane(self, source: int, target: int) -> Lane:
        self.requirePeer(target, source)
        with self._working(source, "no lane can be made") as chosen:
            return PeerLane(chosen, self._gpu(target), self._streams.create(chosen))

    def copyBatch(
        self, copies: Sequence[tuple[int, int, int]], stream: object, keepAlive: object = None
    ) -> None:
        self._copies.batch(self._streams.find(stream), copies, keepAlive)

    def copyNow(self, target: int, source: int, sizeBytes: int, gpu: int) -> None:
        with self._working(gpu, f"{sizeBytes} bytes can not be copied"):
            self._copies.now([(target, source, sizeBytes)], gpu)

    def workingGpu(self) -> int | None:
        driver.guard()
        current = int(call(cu.cuCtxGetCurrent))
        for gpu in self._gpus:
            if gpu.isActive() and (not current or int(gpu.context) == current):
                return gpu.index
        return int(call(cu.cuCtxGetDevice)) if current else None

    # --- streams ---------------------------------------------------------------------

    def createStream(self, gpu: int) -> Stream:
        with self._working(gpu, "no stream can be made") as chosen:
            return self._streams.create(chosen)

    def asStream(self, stream: object, gpu: int = 0) -> Stream:
        return self._streams.find(stream, gpu)

    def onGpu(self, gpu: int) -> Entered:
        return self._gpu(gpu).entered()

    def awaitWork(self, seconds: float) -> bool:
        return self._deferredFree.drain(seconds, isBehindWork=True)

    def recordFence(
        self, stream: object, onReached: OnReached, word: FenceWord | None = None
    ) -> bool:
        chosen = self._streams.find(stream)
        try:
            return chosen.recordFence(onReached, word)
        except DriverError as error:
            raise typed(error, "the fence can not be recorded") from error

    def delayStream(self, stream: object, ready: Ready, word: FenceWord | None = None) -> None:
        chosen = self._streams.find(stream)
        try:
            chosen.delay(ready, word)
        except DriverError as error:
            raise typed(error, "the stream can not wait") from error


def _checkSize(sizeBytes: int) -> None:
    if not 0 < sizeBytes <= _MAX_BYTES:
        raise InvalidArgument(f"{sizeBytes} is not a size in bytes")


def findGpus() -> tuple[int, str]:
    """How many GPUs the driver has, and the reason when there are none.

    Raises
    ------
    ForkedAfterCuda
    """
    try:
        driver.initialise()
        count = int(call(cu.cuDeviceGetCount))
    except (DeviceUnavailable, DriverError) as error:
        return 0, str(error.reason if isinstance(error, DeviceUnavailable) else error)
    return count, "" if count else "the driver sees no GPU"
