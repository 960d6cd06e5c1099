"""The CUDA back-end of the device port: its nouns put together.

Streams and memory of other libraries in this process (Numba, CuPy, PyTorch) are the driver's own, so theirs and Muninn's mix freely.
Memory is `vmm` where the GPU exports descriptors, else `cudaIpc`; what others allocated is lent by `cudaIpc` where it lies.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver, registration, vmm
from muninn.devices.cuda.deferredfree import Reaper
from muninn.devices.cuda.driver import DriverError, call, typed
from muninn.devices.cuda.events import Events
from muninn.devices.cuda.gpu import Entered, Gpu
from muninn.devices.cuda.ipc import LegacyMemory
from muninn.devices.cuda.semaphores import Gates
from muninn.devices.cuda.staging import Staging
from muninn.devices.cuda.streams import CudaStream, HostParts, refuseCaptured
from muninn.devices.handle import gpuText, unpacked
from muninn.devices.port import Allocation, Device, FenceWord, MemoryInfo, OnReached, Ready, Registration, Stream, UsedBytes
from muninn.errors import BarPressureHigh, DeviceUnavailable, InvalidArgument, IpcHandleMismatch, TopologyNotPeerable
from muninn.interop.streams import DEFAULT_HANDLES, LEGACY_HANDLE, PER_THREAD_HANDLE, streamHandle
from muninn.system import atomics, green

_NON_BLOCKING = int(cu.CUstream_flags.CU_STREAM_NON_BLOCKING)
_MEMORY_TYPE = cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
_ON_DEVICE = int(cu.CUmemorytype.CU_MEMORYTYPE_DEVICE)
_MAX_BYTES = 1 << 47
#: How long an allocation that found no room waits for memory that was closed and is not given back yet.
_DRAIN_SECONDS = 5.0
#: How many wrappers of other libraries' streams are kept: their errors must outlive the call that wrapped them.
_MAX_FOREIGN = 256


class CudaDevice(Device):
    """The GPUs of the driver.

    Parameters
    ----------
    reason
        Why this back-end was chosen.
    mappedWindowBytes
        The most bytes of host memory that this process maps for GPUs.
    windowBytes
        The most bytes that one registration call gets.

    Raises
    ------
    DeviceUnavailable
        The driver does not start.
    ForkedAfterCuda
        A parent of this process has started it before the fork.
    """

    backend = "cuda"
    runsKernelsOnHost = False
    reachesForeignArrays = True

    def __init__(
        self, reason: str = "asked for", mappedWindowBytes: int = _MAX_BYTES, windowBytes: int = registration.WINDOW_BYTES
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
        self._budget = registration.Budget(mappedWindowBytes)
        self._seams = registration.Seams()
        self._windowBytes = windowBytes
        self._reaper = Reaper(self._contexts)
        self._legacy = LegacyMemory(self._reaper)
        self._hostParts = HostParts(Gates(self._enteredSome), Staging(self._enteredSome))
        #: By the context's id: its address may become another's.
        self._events: dict[int, Events] = {}
        self._noticed: set[int] = set()
        self._defaults: dict[int, CudaStream] = {}
        #: `streams`, by the context's id: each thread has its own.
        self._perThread = green.Local()
        self._copiers: dict[int, Any] = {}
        #: By the stream's id, likewise.
        self._own: weakref.WeakValueDictionary[int, CudaStream] = weakref.WeakValueDictionary()
        self._foreign: dict[int, CudaStream] = {}
        self._making = _thread.RLock()
        self._peers: dict[int, list[Gpu]] = {}

    # --- GPUs --------------------------------------------------------------------------------------------------------

    def _gpu(self, gpu: int) -> Gpu:
        return self._gpus[self.requireGpu(gpu)]

    def gpuName(self, gpu: int) -> str:
        return str(self._gpu(gpu).name)

    def gpuUuid(self, gpu: int) -> str:
        return self._gpu(gpu).uuidText

    def memoryInfo(self, gpu: int) -> MemoryInfo:
        with self._working(gpu, "the GPU's memory can not be asked"):
            self._reaper.drain(_DRAIN_SECONDS)
            return MemoryInfo(*(int(value) for value in call(cu.cuMemGetInfo)))

    def canAccessPeer(self, gpu: int, peer: int) -> bool:
        driver.guard()
        try:
            return self._gpu(gpu).canReach(self._gpu(peer))
        except DriverError as error:
            raise typed(error, "the topology can not be asked") from error

    @contextlib.contextmanager
    def _working(self, gpu: int, what: str) -> Iterator[Gpu]:
        """In the primary context of a GPU; what the driver refuses becomes an error of Muninn."""
        chosen = self._gpu(gpu)
        try:
            self._notice()
            with chosen.entered(), driver.BeyondCaptures():
                yield chosen
        except DriverError as error:
            raise typed(error, f"GPU {gpu}: {what}") from error

    def _peersOf(self, gpu: Gpu) -> list[Gpu]:
        """Who may map its memory: the GPUs that reach it. They are asked once."""
        if gpu.index not in self._peers:
            self._peers[gpu.index] = [peer for peer in self._gpus if peer is not gpu and peer.canReach(gpu)]
        return self._peers[gpu.index]

    # --- memory ------------------------------------------------------------------------------------------------------

    def allocate(self, gpu: int, sizeBytes: int, *, admitted: bool = False) -> Allocation:
        self.requireGpu(gpu)
        _checkSize(sizeBytes)
        with self._working(gpu, f"{sizeBytes} bytes can not be allocated") as chosen:
            try:
                made = self._allocated(chosen, sizeBytes)
            except DriverError as error:
                # What was closed a moment ago may still wait for the work that used it.
                if error.code != "OUT_OF_MEMORY" or not self._reaper.drain(_DRAIN_SECONDS):
                    raise
                made = self._allocated(chosen, sizeBytes)
            self._zero(made)
            return made

    def _allocated(self, gpu: Gpu, sizeBytes: int) -> Allocation:
        if gpu.hasDescriptors:
            return vmm.allocate(self._reaper, gpu, self._peersOf(gpu), sizeBytes, self._version)
        return self._legacy.allocate(gpu, sizeBytes)

    def _zero(self, made: Allocation) -> None:
        copier = self._copier(made.gpu)
        call(cu.cuMemsetD8Async, made.address, 0, made.allocatedBytes, copier)
        call(cu.cuStreamSynchronize, copier)

    def importAllocation(self, gpu: int, descriptor: int, sizeBytes: int, writable: bool, handle: bytes = b"") -> Allocation:
        self.requireGpu(gpu)
        _checkSize(sizeBytes)
        stated = unpacked(handle, self._version)
        home = self._homeOf(gpu, stated.gpuUuid)
        try:
            self._notice()
            with home.entered(), driver.BeyondCaptures():
                if stated.transport == "vmm":
                    return vmm.importDescriptor(self._reaper, home, self._peersOf(home), descriptor, sizeBytes, writable, stated)
                return self._legacy.importHandle(home, sizeBytes, stated)
        except DriverError as error:
            raise typed(error, f"GPU {home.index}: {sizeBytes} bytes can not be opened") from error

    def _homeOf(self, gpu: int, gpuUuid: bytes) -> Gpu:
        """The GPU of that UUID; its index may be another one here than in the exporter's process."""
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
            raise InvalidArgument(f"{address:#x} is not in a GPU's memory", "Share it as a host array")
        with self._working(gpu, "the memory can not be lent") as chosen:
            return self._legacy.lend(chosen, address, sizeBytes, owner)

    def gpuOf(self, address: int) -> int | None:
        if self._memoryType(address) != _ON_DEVICE:
            return None
        with self._someGpu().entered():
            return driver.ordinalOf(address)

    def _enteredSome(self) -> Entered:
        return self._someGpu().entered()

    def _someGpu(self) -> Gpu:
        """For what needs a context and does not mind which: one that is there already, since a context takes memory."""
        return next((gpu for gpu in self._gpus if gpu.isActive()), self._gpus[0])

    def _memoryType(self, address: int) -> int | None:
        """What the driver calls the memory at an address; None: it does not know it."""
        driver.guard()
        try:
            with self._someGpu().entered():
                return int(call(cu.cuPointerGetAttribute, _MEMORY_TYPE, address))
        except DriverError as error:
            if error.code != "INVALID_VALUE":
                raise typed(error, f"{address:#x} can not be asked for") from error
            return None

    def registerHost(self, address: int, sizeBytes: int, writable: bool, progress: Callable[[int], None] | None = None) -> Registration:
        mapped = list[int]()

        def counting(part: int) -> None:
            mapped.append(part)
            if progress is not None:
                progress(part)

        with self._working(self._someGpu().index, f"{sizeBytes} bytes of host memory can not be mapped") as gpu:
            given = (self._reaper, gpu, address, sizeBytes, writable, counting, self._budget, self._seams, self._windowBytes)
            try:
                return registration.register(*given)
            except BarPressureHigh:
                # As in `allocate`; but what was counted is counted once.
                if mapped or not self._reaper.drain(_DRAIN_SECONDS):
                    raise
                return registration.register(*given)

    def copy(self, target: int, source: int, sizeBytes: int, stream: object = None, keepAlive: object = None) -> None:
        if sizeBytes < 0 or (sizeBytes > 0 and (target <= 0 or source <= 0)):
            raise InvalidArgument(f"{sizeBytes} bytes can not be copied from {source:#x} to {target:#x}")
        chosen = self._stream(stream)
        if not sizeBytes:
            return
        parts = self._seams.parts(target, source, sizeBytes)
        try:
            # The driver lets the caller wait for memory that it does not know, for as long as the stream does; our lane waits instead.
            # So it does for a copy from host memory to host memory, whether it knows them or not.
            intoType, fromType = self._memoryType(target), self._memoryType(source)
            isOnGpu = _ON_DEVICE in (intoType, fromType)
            if (isOnGpu and None not in (intoType, fromType)) or (chosen.handle in DEFAULT_HANDLES and chosen.isQuiet()):
                chosen.copy(target, source, parts, keepAlive)
            elif isOnGpu and fromType is None:
                chosen.copyIn(target, source, parts, keepAlive)
            elif isOnGpu:
                chosen.copyOut(target, source, parts, keepAlive)
            else:
                chosen.submit(functools.partial(_copyOnHost, target, source, sizeBytes, keepAlive))
        except DriverError as error:
            self._refuseApart(error, target, source, chosen.gpu)
            raise typed(error, f"{sizeBytes} bytes can not be copied") from error

    def copyNow(self, target: int, source: int, sizeBytes: int, gpu: int) -> None:
        with self._working(gpu, f"{sizeBytes} bytes can not be copied"):
            copier = self._copier(gpu)
            try:
                for offset, partBytes in self._seams.parts(target, source, sizeBytes):
                    call(cu.cuMemcpyAsync, target + offset, source + offset, partBytes, copier)
            except DriverError as error:
                self._refuseApart(error, target, source, gpu)
                raise
            call(cu.cuStreamSynchronize, copier)

    def _refuseApart(self, error: DriverError, target: int, source: int, gpu: int) -> None:
        """Of a copy in a stream of `gpu` that failed: raises `TopologyNotPeerable` if that is because of the GPUs between which it was."""
        gpus = {gpu, *(each for each in map(self.gpuOf, (target, source)) if each is not None)}
        if error.code == "INVALID_VALUE" and len(gpus) > 1:  # its word for what one of them has not mapped
            raise TopologyNotPeerable(
                f"the driver copies nothing between GPUs {sorted(gpus)} in a stream of GPU {gpu}: {error}",
                "Copy it by the host: from the GPU to host memory, and from there to the other one",
            ) from error

    def _copier(self, gpu: int) -> Any:
        """The stream of what is waited for at once. Nothing in it ever waits for anybody else."""
        with self._making:
            if gpu not in self._copiers:
                with self._gpus[gpu].entered(), driver.BeyondCaptures():
                    self._copiers[gpu] = call(cu.cuStreamCreate, _NON_BLOCKING)
            return self._copiers[gpu]

    def workingGpu(self) -> int | None:
        driver.guard()
        current = int(call(cu.cuCtxGetCurrent))
        for gpu in self._gpus:
            if gpu.isActive() and (not current or int(gpu.context) == current):
                return gpu.index
        return int(call(cu.cuCtxGetDevice)) if current else None

    # --- streams -----------------------------------------------------------------------------------------------------

    def createStream(self, gpu: int) -> Stream:
        with self._working(gpu, "no stream can be made") as chosen:
            raw = int(call(cu.cuStreamCreate, _NON_BLOCKING))
            stream = CudaStream(gpu, raw, self._eventsOf(chosen.context), self._hostParts, isOwned=True)
            self._own[int(call(cu.cuStreamGetId, raw))] = stream
        return stream

    def asStream(self, stream: object, gpu: int = 0) -> Stream:
        return self._stream(stream, gpu)

    def _stream(self, stream: object, gpu: int = 0) -> CudaStream:
        driver.guard()
        if isinstance(stream, CudaStream):
            stream.checkOpen()
            return stream
        if isinstance(stream, Stream):
            raise InvalidArgument(
                f"{type(stream).__name__} is a stream of another back-end", "Use a stream of muninn.createStream, or None"
            )
        raw = streamHandle(stream)
        if raw in DEFAULT_HANDLES:
            return self._default(raw, gpu)
        try:
            refuseCaptured(raw)  # before its id is asked for: that ends the capture
            streamId = int(call(cu.cuStreamGetId, raw))
            known = self._own.get(streamId) or self._foreign.get(streamId)
            if known is None or not (known.isOwned or known.isOpen()):
                known = self._adopt(raw, streamId)
        except DriverError as error:
            raise InvalidArgument(f"{raw:#x} is no stream of this process: {error}") from error
        known.checkOpen()
        return known

    def _default(self, raw: int, gpu: int) -> CudaStream:
        """A default stream of a GPU: of the context that is this thread's, if that is one of this GPU, else of the primary one."""
        chosen = self._gpu(gpu)
        context, current = chosen.context, call(cu.cuCtxGetCurrent)
        if int(current) not in (0, int(context)) and int(call(cu.cuCtxGetDevice)) == gpu:
            context = current
        events = self._eventsOf(context)
        handle = raw if raw == PER_THREAD_HANDLE else LEGACY_HANDLE
        with self._making:
            known = vars(self._perThread).setdefault("streams", {}) if handle == PER_THREAD_HANDLE else self._defaults
            if id(events) not in known:
                known[id(events)] = CudaStream(gpu, handle, events, self._hostParts, isOwned=False, isDefault=True)
            return known[id(events)]

    def _adopt(self, raw: int, streamId: int) -> CudaStream:
        """A stream that another library made, perhaps in a context of its own."""
        context = call(cu.cuStreamGetCtx, raw)
        context = context[0] if isinstance(context, tuple) else context
        with Entered(context):
            gpu = int(call(cu.cuCtxGetDevice))
        made = CudaStream(gpu, raw, self._eventsOf(context), self._hostParts, isOwned=False)
        with self._making:
            for old in [each for each, wrapper in self._foreign.items() if wrapper.isQuiet()][: max(0, len(self._foreign) - _MAX_FOREIGN)]:
                del self._foreign[old]
            there = self._foreign.get(streamId)
            if there is None or not there.isOpen():  # a wrapper that somebody closed: the stream is not
                there = self._foreign[streamId] = made
            return there

    def _eventsOf(self, context: Any) -> Events:
        return self._events.setdefault(int(call(cu.cuCtxGetId, context)), Events(context))

    def _notice(self) -> None:
        """The context that is this thread's may be one of its program's own, and get the memory that is asked for."""
        current = int(call(cu.cuCtxGetCurrent))
        if current and current not in self._noticed:
            self._eventsOf(cu.CUcontext(current))
            self._noticed.add(current)

    def _contexts(self) -> dict[int, Any]:
        """Where this process may have given GPUs work: the primary contexts, and those that we were shown. By their ids."""
        for gpu in self._gpus:
            if gpu.isActive():
                self._eventsOf(gpu.context)
        return {contextId: events.context for contextId, events in list(self._events.items())}

    def onGpu(self, gpu: int) -> Entered:
        return self._gpu(gpu).entered()

    def awaitWork(self, seconds: float) -> bool:
        return self._reaper.drain(seconds, isBehindWork=True)

    def recordFence(self, stream: object, onReached: OnReached, word: FenceWord | None = None) -> bool:
        chosen = self._stream(stream)
        try:
            return chosen.recordFence(onReached, word)
        except DriverError as error:
            raise typed(error, "the fence can not be recorded") from error

    def delayStream(self, stream: object, ready: Ready, word: FenceWord | None = None) -> None:
        chosen = self._stream(stream)
        try:
            chosen.delay(ready, word)
        except DriverError as error:
            raise typed(error, "the stream can not wait") from error


def _copyOnHost(target: int, source: int, sizeBytes: int, held: object) -> None:
    atomics.copy(target, source, sizeBytes)


def _checkSize(sizeBytes: int) -> None:
    if not 0 < sizeBytes <= _MAX_BYTES:
        raise InvalidArgument(f"{sizeBytes} is not a size in bytes")


def findGpus() -> tuple[int, str]:
    """How many GPUs the driver has, and what it says when there are none.

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
