"""The device of the port: what a back-end can do with its GPUs. One object a process;
the head of the package has the rules.
"""

from __future__ import annotations

import contextlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager

from muninn.devices.port.fences import FenceWord, OnReached, Ready
from muninn.devices.port.memory import Allocation, MemoryInfo, Registration
from muninn.devices.port.streams import Stream
from muninn.errors import DeviceUnavailable, TopologyNotPeerable

#: Bytes held on a GPU by the whole domain, as whoever keeps the directory counts them.
UsedBytes = Callable[[int], int]


class Device(ABC):
    """The GPUs that this process sees, by index.

    Attributes
    ----------
    backend
        `"host"` or `"cuda"`.
    reason
        Why this back-end was chosen, for people.
    runsKernelsOnHost
        Whether the CPU runs the kernels, on numpy arrays at host addresses. Otherwise
        the GPUs run them, and Numba makes the arrays.
    reachesForeignArrays
        Whether an array that another library of this process has on a GPU lies in the
        memory of one of these GPUs.
    gpuCount
        How many GPUs there are. Any other index is `DeviceUnavailable` everywhere.
    usedBytes
        Set by whoever keeps the domain's directory; None: nobody does, and only this
        process's own allocations are known. A driver that counts over all processes
        does not ask it.
    """

    backend: str
    reason: str
    runsKernelsOnHost: bool
    reachesForeignArrays: bool
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
        """What people call it."""

    @abstractmethod
    def gpuUuid(self, gpu: int) -> str:
        """The same in all processes of this host, whatever order they see the GPUs in."""

    @abstractmethod
    def memoryInfo(self, gpu: int) -> MemoryInfo:
        """How much of the GPU's memory is free, over all processes. Out of date when it
        returns: a display, not an admission.
        """

    @abstractmethod
    def canAccessPeer(self, gpu: int, peer: int) -> bool:
        """Whether kernels and copies of `gpu` reach the memory of `peer` directly. True
        for a GPU and itself.
        """

    def requirePeer(self, gpu: int, home: int) -> None:
        """Raise `TopologyNotPeerable` if `gpu` does not reach the memory of `home`."""
        if gpu != home and not self.canAccessPeer(gpu, home):
            raise TopologyNotPeerable(
                f"GPU {gpu} ({self.gpuName(gpu)}) does not reach the memory of GPU {home} "
                f"({self.gpuName(home)})",
                f"Work on it on GPU {home}, or copy it by the host: buffer.read()",
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
    def allocate(self, gpu: int, sizeBytes: int, *, admitted: bool = False) -> Allocation:
        """Allocate memory that other processes can import. Its bytes read zero.

        Parameters
        ----------
        admitted
            The caller's accounting (`usedBytes`) counts these bytes already.

        Raises
        ------
        QuotaExceeded
            The GPU has less memory left than that.
        HostMemoryFull
            The host memory that stands behind an emulated GPU would end.
        DescriptorsExhausted
            There is no descriptor left.
        """

    @abstractmethod
    def importAllocation(
        self, gpu: int, descriptor: int, sizeBytes: int, writable: bool, handle: bytes = b""
    ) -> Allocation:
        """Map what another process allocated, or this one: that gives an alias, and not
        an error.

        Parameters
        ----------
        descriptor
            What came from the peer; stays the caller's to close. -1 where `handle` is
            all there is.
        sizeBytes
            How much is mapped; all of it must be there.
        writable
            False maps it so that this process can not write it.
        handle
            The exporter's `Allocation.handle`.

        Raises
        ------
        IpcHandleMismatch
            It is not what an allocation of this back-end and this size would have
            exported.
        PermissionDenied
            Write access was asked for and the descriptor does not give it.
        """

    @abstractmethod
    def lend(self, address: int, sizeBytes: int, owner: object) -> Allocation:
        """Make device memory that this process has, whoever allocated it, importable
        where it lies.

        Parameters
        ----------
        owner
            Whatever keeps the memory; held as long as the allocation and its anchors
            are.

        Raises
        ------
        InvalidArgument
            It is not memory of a GPU, or of a kind that can not be exported.
        """

    @abstractmethod
    def gpuOf(self, address: int) -> int | None:
        """Whose device memory the address lies in; None: in no GPU's."""

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

        The memory outlives the registration by the caller's care (`closeThen`), and a
        byte is registered once at a time. `progress` gets the bytes that were pinned
        since its last call.

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
    ) -> None:
        """Copy between host and device, within a GPU, or across GPUs that reach each
        other, on a stream. The two ranges do not overlap.

        `keepAlive` is held until the copy is done: the anchors of what it touches, so
        that closing them meanwhile is no fault.

        Raises `TopologyNotPeerable` where one of the GPUs does not reach the other's
        memory: there is no route through the host here.
        """

    @abstractmethod
    def copyNow(self, target: int, source: int, sizeBytes: int, gpu: int) -> None:
        """Copy, and return when it is done. It waits for no stream, and no stream for
        it.
        """

    @abstractmethod
    def workingGpu(self) -> int | None:
        """The GPU whose default stream is meant where nothing is named; None: no GPU
        can have been given work by this process.
        """

    def onGpu(self, gpu: int) -> AbstractContextManager[object]:
        """``with device.onGpu(gpu):`` makes it the GPU that other libraries take as
        this thread's current one.

        Raises `DeviceUnavailable` where there is no such GPU.
        """
        return contextlib.nullcontext(self.requireGpu(gpu))

    @abstractmethod
    def awaitWork(self, seconds: float) -> bool:
        """Wait until the GPUs have done what this process gave them so far; False when
        it takes longer than that.
        """

    @abstractmethod
    def createStream(self, gpu: int) -> Stream:
        """A new stream, independent of all others, the default one included."""

    @abstractmethod
    def asStream(self, stream: object, gpu: int = 0) -> Stream:
        """The stream that the caller means: None (the default stream of `gpu`), a
        `Stream`, an integer handle, or what another library has.

        The handle of a default stream means that of `gpu` too, in the context that is
        this thread's, if that is one of `gpu`.

        Raises
        ------
        TypeError
            It is nothing that has ever been a stream.
        InvalidArgument
            It is a stream, and not one of this device, or one that was closed.
        """

    @abstractmethod
    def recordFence(
        self, stream: object, onReached: OnReached, word: FenceWord | None = None
    ) -> bool:
        """Mark a place in a stream; returns whether `word` is sure: once the GPU has
        written it, `onReached` can get no error any more.

        `onReached` is called exactly once, on a thread of the port's choice, when
        everything before the place is done, and what that wrote is visible to whoever
        is told so: with None, or with the stream's error. It must not block, raise or
        call the port. A back-end that can lets the GPU write `word` at that place,
        before `onReached`; the caller writes it in `onReached` in any case.
        """

    @abstractmethod
    def delayStream(self, stream: object, ready: Ready, word: FenceWord | None = None) -> None:
        """Run nothing that is submitted to `stream` later before a fence, of this or
        any other process, is reached.

        `ready` is the truth, and is called on a thread of the port's choice with at
        most `READY_SLICE_SECONDS`; what it raises becomes the stream's error. It must
        not call the port. A back-end may let the GPU itself wait for `word` meanwhile,
        and may ignore it: pass it only if whoever makes `ready` raise writes the word
        as well, for nothing else ends that wait. What the GPU does by itself behind it
        (a kernel, a copy) is then done all the same; what the host does there is not.
        """
