"""The device of the port: the operations of a back-end on its GPUs. A process has one
such object; the head of the package has the rules.
"""

from __future__ import annotations

import contextlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from muninn.devices.port.conditions import GpuCondition
from muninn.devices.port.fences import FenceWord, OnReached, Ready
from muninn.devices.port.lanes import Lane
from muninn.devices.port.links import Link, Site
from muninn.devices.port.memory import Allocation, MemoryInfo, Registration
from muninn.devices.port.streams import Stream
from muninn.errors import DeviceUnavailable, InvalidArgument, TopologyNotPeerable
from muninn.system.structures import Extent

#: Returns how many bytes the whole domain has on a GPU, by the count of its directory.
UsedBytes = Callable[[int], int]


def badCopy(target: int, source: int, sizeBytes: int) -> InvalidArgument:
    """The error for a copy between addresses that are none, or of fewer bytes than 0."""
    return InvalidArgument(f"{sizeBytes} bytes can not be copied from {source:#x} to {target:#x}")


class Device(ABC):
    """The GPUs that this process sees, by index.

    Attributes
    ----------
    backend
        `"host"` or `"cuda"`.
    reason
        The reason for which this back-end was chosen, for people.
    runsKernelsOnHost
        Whether the CPU runs the kernels, on numpy arrays at host addresses. Otherwise
        the GPUs run them, and Numba makes the arrays.
    reachesForeignArrays
        Whether an array that another library of this process has on a GPU lies in the
        memory of one of these GPUs.
    givesReachAtOnce
        Whether `Allocation.letReach` takes no time that counts. Elsewhere it takes longer
        than the copy of some GiB.
    gpuCount
        How many GPUs there are. Any other index is `DeviceUnavailable` everywhere.
    usedBytes
        Set by the layer that reads the domain's directory. Without it, only this
        process's own allocations are known. A driver that counts over all processes
        does not ask it.
    """

    backend: str
    reason: str
    runsKernelsOnHost: bool
    reachesForeignArrays: bool
    givesReachAtOnce: bool
    gpuCount: int
    usedBytes: UsedBytes | None

    def requireGpu(self, gpu: int) -> int:
        """`gpu` itself, or `DeviceUnavailable`."""
        if isinstance(gpu, bool) or not hasattr(gpu, "__index__"):
            raise TypeError(f"a GPU is named by its index, not by {type(gpu).__name__}")
        gpu = operator.index(gpu)
        if not 0 <= gpu < self.gpuCount:
            none = (
                "Use bigMode, or give it some: `devices.hostGpus` of the host back-end, "
                "CUDA_VISIBLE_DEVICES of the other"
            )
            raise DeviceUnavailable(
                f"there is no GPU {gpu}: the {self.backend} back-end has {self.gpuCount}",
                "Use a smaller index" if self.gpuCount else none,
            )
        return gpu

    @abstractmethod
    def gpuName(self, gpu: int) -> str:
        """The name of the GPU, for people."""

    @abstractmethod
    def gpuUuid(self, gpu: int) -> str:
        """The identity of the GPU. It is the same in all processes of this host, in
        whichever order they see the GPUs.
        """

    @abstractmethod
    def memoryInfo(self, gpu: int) -> MemoryInfo:
        """How much of the GPU's memory is free, over all processes. The answer is out
        of date when it comes, so it is for display and admits nothing.
        """

    @abstractmethod
    def canAccessPeer(self, gpu: int, peer: int) -> bool:
        """Whether kernels and copies of `gpu` reach the memory of `peer` directly. True
        for a GPU and itself.
        """

    @abstractmethod
    def link(self, gpu: int, peer: int) -> Link:
        """What the driver states about the way from `gpu` to the memory of `peer`. Its
        `canAccess` is the answer of `canAccessPeer`.
        """

    @abstractmethod
    def site(self, gpu: int) -> Site:
        """Where in this machine the GPU is, and the use of its BAR1 now."""

    def condition(self, gpu: int) -> GpuCondition | None:
        """The heat and the power of the GPU now; None where nothing tells, as of an emulated
        GPU. It may take the driver a millisecond.
        """
        self.requireGpu(gpu)
        return None

    @abstractmethod
    def driverText(self) -> str:
        """The driver and its version. What was measured with another one does not count."""

    def missingFacts(self) -> str:
        """Why `link` and `site` lacked something so far, for people; "" if they did not."""
        return ""

    def requirePeer(self, gpu: int, home: int) -> None:
        """Raise `TopologyNotPeerable` if `gpu` does not reach the memory of `home`."""
        if gpu != home and not self.canAccessPeer(gpu, home):
            raise TopologyNotPeerable(
                f"GPU {gpu} ({self.gpuName(gpu)}) does not reach the memory of GPU {home} "
                f"({self.gpuName(home)}): peerDenied, the driver has no path between them",
                f"Work on it on GPU {home}, or open it with targetGpu={gpu}, which copies it",
            )

    def topology(self) -> dict[str, list[str]]:
        """The pairs of GPUs by name: `p2p` when both reach each other, else `staged`."""
        pairs: dict[str, list[str]] = {"p2p": [], "staged": []}
        for low in range(self.gpuCount):
            for high in range(low + 1, self.gpuCount):
                both = self.canAccessPeer(low, high) and self.canAccessPeer(high, low)
                pairs["p2p" if both else "staged"].append(f"{low}-{high}")
        return pairs

    @abstractmethod
    def allocate(
        self,
        gpu: int,
        sizeBytes: int,
        *,
        admitted: bool = False,
        filledBytes: int = 0,
        extents: Sequence[Extent] = (),
    ) -> Allocation:
        """Allocate memory that other processes can import. Its bytes are copies of the
        extents, and read zero where there is none.

        Parameters
        ----------
        admitted
            The caller's accounting (`usedBytes`) counts these bytes already.
        filledBytes
            So many bytes from the beginning the caller writes before any other process
            gets the memory. Until then they may be those of its last use.
        extents
            In the order of their offsets, none within another.

        Raises
        ------
        QuotaExceeded
            The GPU has less memory left than that.
        HostMemoryFull
            The host memory behind an emulated GPU would run out.
        DescriptorsExhausted
            There is no descriptor left.
        """

    @abstractmethod
    def importAllocation(
        self, gpu: int, descriptor: int, sizeBytes: int, writable: bool, handle: bytes = b""
    ) -> Allocation:
        """Map memory that another process allocated. Memory of this process gives an
        alias, and no error.

        Parameters
        ----------
        descriptor
            The descriptor from the exporter; the caller still has to close it. -1 where
            there is only `handle`.
        sizeBytes
            How many bytes are mapped; all of them must be there.
        writable
            False maps the memory so that this process can not write it.
        handle
            The exporter's `Allocation.handle`.

        Raises
        ------
        IpcHandleMismatch
            No allocation of this back-end and this size exports such a descriptor and
            handle.
        PermissionDenied
            The caller asks for write access, and the descriptor does not give it.
        """

    @abstractmethod
    def lend(self, address: int, sizeBytes: int, owner: object) -> Allocation:
        """Make device memory of this process importable in place, also if another
        library allocated it.

        Parameters
        ----------
        owner
            The object that keeps the memory; held as long as the allocation and its
            anchors are there.

        Raises
        ------
        InvalidArgument
            It is not memory of a GPU, or of a kind that can not be exported.
        """

    @abstractmethod
    def gpuOf(self, address: int) -> int | None:
        """The GPU in whose memory the address lies; None: in no GPU's."""

    @abstractmethod
    def registerHost(
        self,
        address: int,
        sizeBytes: int,
        writable: bool,
        progress: Callable[[int], None] | None = None,
    ) -> Registration:
        """Let kernels on all GPUs use host memory, all of it or none; a failure half
        way leaves nothing registered.

        The caller keeps the memory until the registration is closed (`closeThen`), and
        a byte is registered once at a time. `progress` gets the bytes that were pinned
        since its last call, on the calling thread. An exception that it raises, or that
        a signal handler raises meanwhile, is a failure half way, and is raised after
        the rest was undone.

        Raises
        ------
        BarPressureHigh
            The budget of mapped host memory, or the driver's own, does not allow so
            many bytes more.
        InvalidArgument
            It is no range of addresses, or registered already.
        """

    @abstractmethod
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
        """Copy between host and device in a stream of that GPU, within a GPU, or between
        two GPUs in whichever way the driver takes. The two ranges do not overlap.

        `keepAlive` is held until the copy is done: the anchors of the memory, so that
        closing it meanwhile is no fault.

        `isMapped` says that the memory is a GPU's or registered, on both sides. Otherwise
        the driver is asked.
        """

    @abstractmethod
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
        """Copy from the memory of one GPU straight to that of another one, in a stream of
        `sourceGpu`. One of the two must reach the memory of the other one: see
        `Allocation.letReach`. `keepAlive` as in `copy`.

        A GPU writes to another one faster than it reads from it: copies of 64 KiB take
        2.6 µs in a stream of the source and 8.1 in one of the target (two H200).

        Raises `TopologyNotPeerable` where the GPUs do not reach each other.
        """

    def lane(self, source: int, target: int) -> Lane | None:
        """A lane for copies as by `copyAcross`; None where C can not make them."""
        self.requirePeer(target, source)
        return None

    @abstractmethod
    def copyBatch(
        self, copies: Sequence[tuple[int, int, int]], stream: object, keepAlive: object = None
    ) -> None:
        """Copy each (target, source, bytes) in a stream, in any order among them. All are
        memory of the stream's GPU, or registered.
        """

    @abstractmethod
    def copyNow(self, target: int, source: int, sizeBytes: int, gpu: int) -> None:
        """Copy, and return when the copy is done. It does not wait for any stream, and
        no stream waits for it.
        """

    @abstractmethod
    def workingGpu(self) -> int | None:
        """The current GPU, whose default stream is meant where no GPU is named; None:
        this process can not have given work to any GPU.
        """

    def onGpu(self, gpu: int) -> AbstractContextManager[object]:
        """``with device.onGpu(gpu):`` makes the GPU this thread's current one for other
        libraries.

        Raises `DeviceUnavailable` where there is no such GPU.
        """
        return contextlib.nullcontext(self.requireGpu(gpu))

    @abstractmethod
    def awaitWork(self, seconds: float) -> bool:
        """Wait until the GPUs have done the work that this process gave them so far;
        False when that takes longer than `seconds`.
        """

    @abstractmethod
    def createStream(self, gpu: int) -> Stream:
        """A new stream, independent of all others, the default one included."""

    @abstractmethod
    def asStream(self, stream: object, gpu: int = 0) -> Stream:
        """The stream that the caller means: None (the default stream of `gpu`), a
        `Stream`, an integer handle, or the stream object of another library.

        The handle of a default stream means that of `gpu` too, in this thread's current
        context, if that is one of `gpu`.

        Raises
        ------
        TypeError
            It is no kind of stream.
        InvalidArgument
            It is a stream that is not of this device, or that was closed.
        """

    @abstractmethod
    def recordFence(
        self, stream: object, onReached: OnReached, word: FenceWord | None = None
    ) -> bool:
        """Record a fence at this place of a stream. Returns whether the ticket is
        completed by the device: once the GPU has written `word`, `onReached` can get no
        error any more.

        The port calls `onReached` exactly once, on a thread of its choice, when
        everything before the place is done and its writes are visible: with None, or
        with the stream's error. `onReached` must not block, raise or call the port. A
        back-end that can lets the GPU write `word` at that place, before `onReached`;
        the caller writes it in `onReached` in any case.
        """

    @abstractmethod
    def delayStream(self, stream: object, ready: Ready, word: FenceWord | None = None) -> None:
        """Let the later work of `stream` wait until a fence, of this or any other
        process, is reached.

        `ready` decides. The port calls it on a thread of its choice with at most
        `READY_SLICE_SECONDS`; an exception that it raises becomes the stream's error.
        `ready` must not call the port. A back-end may let the GPU itself wait for
        `word` meanwhile, or ignore it. Pass `word` only if it is also written whenever
        `ready` raises, because nothing else ends the wait of a GPU. After such an end
        the GPU's own work (a kernel, a copy) is done all the same; the host's work in
        the stream is not.
        """
