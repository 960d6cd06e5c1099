"""The device port: the contract that every back-end keeps. `tests/conformance` holds each of them to it.

*Who owns what.* A `Device` is this process's view of the GPUs; it shares nothing by itself. Memory is shared by passing an
allocation's descriptor (`SCM_RIGHTS`) or, where the platform has no descriptors, its `handle` bytes. The port knows no names, no
tenants and no leases; it reads no control block.

*Addresses.* An address is an integer that kernels of this back-end may use, in this process only: the same memory is elsewhere in
another one. Host and device addresses share one space, so `copy` takes any mixture and finds out itself what is where.

*Lifetime.* Memory stays mapped until its allocation was closed **and** the last reference to its `anchor` is gone: whoever lends an
address out (an array, a copy under way) holds the anchor. What the bytes outlive is said by the transport: `memfd` and `vmm` live
while any process has a descriptor or a mapping, `cudaIpc` dies with the process that allocated.

*Order.* Operations of one stream happen in the order of their submission, and those of two streams in none, unless a fence makes
one. A stream's work may begin before the submitting call has returned, and need not have. The default stream of the host back-end
is synchronous.

*Failure.* A call that can know its failure raises it and has then changed nothing. What fails later, inside a stream, is kept by
the stream: from then on its other work is not run, and `synchronize`, `query`, `check` and each submission raise that error again, as
long as the stream is there. A stream that is not ours, the default one or another library's, can not be made anew: of what fails in
the host's part of it somebody is told once. Bytes and integers that came from another process are checked before the driver sees them.

*Threads and forks.* Every method may be called by any thread. A child made by `fork` uses nothing of its parent's but host memory.
"""

from __future__ import annotations

import contextlib
import operator
import types
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple, Self

from muninn.errors import DeviceUnavailable, TopologyNotPeerable
from muninn.system.descriptors import Descriptor

#: For how long a back-end lets `ready` block at a time: how late it may notice that the wait has become pointless.
READY_SLICE_SECONDS = 0.2

#: Bytes held on a GPU by the whole domain, as whoever keeps the directory counts them.
UsedBytes = Callable[[int], int]
#: Is the fence reached? Blocks for at most the seconds given; raises when it never will be (`OwnerDied`).
Ready = Callable[[float], bool]
#: Called once when a fence is reached: with None, or with the error because of which it never will be.
OnReached = Callable[[BaseException | None], None]


class FenceWord(NamedTuple):
    """A word of shared memory that CPUs and GPUs of several processes reach, and the value that says that a fence is reached.

    Attributes
    ----------
    address
        Of eight bytes; for the GPU, as a `Registration` gives it.
    value
        Reached is this value, or a greater one.
    """

    address: int
    value: int


class MemoryInfo(NamedTuple):
    """A GPU's memory, over all processes of the domain."""

    freeBytes: int
    totalBytes: int


class Closable(ABC):
    """What is given back by `close`, twice if need be, and at the latest when it is collected. Never at exit: the kernel does it then."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        self.close()


class Allocation(Closable):
    """Memory of one GPU, mapped into this process.

    Attributes
    ----------
    gpu
        Whose memory it is.
    sizeBytes, allocatedBytes
        What was asked for, and what it takes in whole pages or granules.
    writable
        Whether this process may write it.
    transport, transportReason
        `memfd`, `vmm` or `cudaIpc`, and why that one.
    handle
        What an importer needs beside, or instead of, the descriptor; at most 128 bytes, empty where a descriptor is all.
    isHostVisible
        Whether the CPU may use its address too.
    isOwned
        Whether the memory goes with this process, whoever else has it open: the transport `cudaIpc`, on its exporter's side.
    """

    gpu: int
    sizeBytes: int
    allocatedBytes: int
    writable: bool
    transport: str
    transportReason: str
    handle: bytes
    isHostVisible: bool
    isOwned: bool

    @property
    @abstractmethod
    def address(self) -> int:
        """Where it is in this process. Raises `BufferFreed` once closed."""

    @property
    @abstractmethod
    def anchor(self) -> object:
        """Hold it, and the memory stays mapped. Raises `BufferFreed` once closed."""

    @abstractmethod
    def exportDescriptor(self, writable: bool = True) -> Descriptor:
        """A new descriptor of the memory, the caller's to pass on.

        It goes with the object: whoever closes its number instead lets the object's end close what has the number by then.

        With `writable=False` the kernel refuses to map it for writing, where the platform can do that (memfds); elsewhere it is as
        good as the allocation's own. Raises `PermissionDenied` when this process has no more than read access itself, `BufferFreed`
        once closed, `IpcHandleMismatch` when this transport has no descriptors, and `DescriptorsExhausted`.
        """

    def closeThen(self, closed: Callable[[], object]) -> None:
        """Close, and call `closed` once, when this process can do nothing more to memory that is another's: now, or behind its work."""
        self.close()
        closed()


class Registration(Closable):
    """Host memory that kernels may use.

    Attributes
    ----------
    devicePointer
        Its address for kernels on all GPUs; contiguous. Invalid once closed.
    """

    devicePointer: int
    sizeBytes: int
    writable: bool

    @abstractmethod
    def closeThen(self, closed: Callable[[], object]) -> None:
        """Close, and call `closed` once when no work uses the memory any more: now, or later on a thread of the port's choice."""


class Stream(Closable):
    """A queue of work on one GPU. What was submitted before it was closed is still done; anything else is refused from then on.

    Attributes
    ----------
    gpu
        Where its work runs.
    handle
        The integer that `asStream` takes back for this stream; 0 for the default stream.
    isSynchronous
        Whether what it is given is done, and what it waits for is waited for, before the call returns.
    """

    gpu: int
    handle: int
    isSynchronous = False

    @abstractmethod
    def submit(self, work: Callable[[], object]) -> None:
        """Run `work` on the host after everything before it. It must not call the port; what it raises becomes the stream's error."""

    @abstractmethod
    def synchronize(self, timeout: float | None = None) -> None:
        """Wait for everything submitted before this call; raises the stream's error, or `TimeoutError` after `timeout` seconds."""

    @abstractmethod
    def query(self) -> bool:
        """Whether everything submitted has been done; raises the stream's error."""

    @abstractmethod
    def check(self) -> None:
        """Raise what the host's part of the stream has failed with, without asking for its work."""

    def place(self) -> int:
        """For `errorSince`: how many errors were told so far and forgotten, of a stream that goes on behind them."""
        return 0

    def errorSince(self, place: int) -> BaseException | None:
        """The last error that was told and forgotten since `place`; None: there was none."""
        return None


class Device(ABC):
    """The GPUs that this process sees, by index.

    Attributes
    ----------
    backend
        `"host"` or `"cuda"`.
    reason
        Why this back-end was chosen, for people.
    gpuCount
        How many GPUs there are. Any other index is `DeviceUnavailable` everywhere.
    usedBytes
        Set by whoever keeps the domain's directory; None: nobody does, and only this process's own allocations are known. A driver
        that counts over all processes does not ask it.
    """

    backend: str
    reason: str
    gpuCount: int
    usedBytes: UsedBytes | None

    def requireGpu(self, gpu: int) -> int:
        """`gpu` itself, or `DeviceUnavailable`."""
        if isinstance(gpu, bool) or not hasattr(gpu, "__index__"):
            raise TypeError(f"a GPU is named by its index, not by {type(gpu).__name__}")
        gpu = operator.index(gpu)
        if not 0 <= gpu < self.gpuCount:
            none = "Use bigMode, or give it some: `devices.hostGpus` of the host back-end, CUDA_VISIBLE_DEVICES of the other"
            raise DeviceUnavailable(
                f"there is no GPU {gpu}: the {self.backend} back-end has {self.gpuCount}", "Use a smaller index" if self.gpuCount else none
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
        """How much of the GPU's memory is free, over all processes. Out of date when it returns: a display, not an admission."""

    @abstractmethod
    def canAccessPeer(self, gpu: int, peer: int) -> bool:
        """Whether kernels and copies of `gpu` reach the memory of `peer` directly. True for a GPU and itself."""

    def requirePeer(self, gpu: int, home: int) -> None:
        """Raise `TopologyNotPeerable` if `gpu` does not reach the memory of `home`."""
        if gpu != home and not self.canAccessPeer(gpu, home):
            raise TopologyNotPeerable(
                f"GPU {gpu} ({self.gpuName(gpu)}) does not reach the memory of GPU {home} ({self.gpuName(home)})",
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
            The host memory that stands behind a pretended GPU would end.
        DescriptorsExhausted
            There is no descriptor left.
        """

    @abstractmethod
    def importAllocation(self, gpu: int, descriptor: int, sizeBytes: int, writable: bool, handle: bytes = b"") -> Allocation:
        """Map what another process allocated, or this one: that gives an alias, and not an error.

        Parameters
        ----------
        descriptor
            What came from the peer; stays the caller's to close. -1 where `handle` is all there is.
        sizeBytes
            How much is mapped; all of it must be there.
        writable
            False maps it so that this process can not write it.
        handle
            The exporter's `Allocation.handle`.

        Raises
        ------
        IpcHandleMismatch
            It is not what an allocation of this back-end and this size would have exported.
        PermissionDenied
            Write access was asked for and the descriptor does not give it.
        """

    @abstractmethod
    def lend(self, address: int, sizeBytes: int, owner: object) -> Allocation:
        """Make device memory that this process has, whoever allocated it, importable where it lies.

        Parameters
        ----------
        owner
            Whatever keeps the memory; held as long as the allocation and its anchors are.

        Raises
        ------
        InvalidArgument
            It is not memory of a GPU, or of a kind that can not be exported.
        """

    @abstractmethod
    def gpuOf(self, address: int) -> int | None:
        """Whose device memory the address lies in; None: in no GPU's."""

    @abstractmethod
    def registerHost(self, address: int, sizeBytes: int, writable: bool, progress: Callable[[int], None] | None = None) -> Registration:
        """Let kernels on all GPUs use host memory, all of it or none; a failure half way leaves nothing registered.

        The memory outlives the registration by the caller's care (`closeThen`), and a byte is registered once at a time. `progress`
        gets the bytes that were pinned since its last call.

        Raises
        ------
        BarPressureHigh
            The budget of mapped host memory, or the driver's own, does not allow so many bytes more.
        InvalidArgument
            It is no range of addresses, or registered already.
        """

    @abstractmethod
    def copy(self, target: int, source: int, sizeBytes: int, stream: object = None, keepAlive: object = None) -> None:
        """Copy between host and device, within a GPU, or across GPUs that reach each other, on a stream. The two ranges do not overlap.

        `keepAlive` is held until the copy is done: the anchors of what it touches, so that closing them meanwhile is no fault.

        Raises `TopologyNotPeerable` where one of the GPUs does not reach the other's memory: there is no route through the host here.
        """

    @abstractmethod
    def copyNow(self, target: int, source: int, sizeBytes: int, gpu: int) -> None:
        """Copy, and return when it is done. It waits for no stream, and no stream for it."""

    @abstractmethod
    def workingGpu(self) -> int | None:
        """The GPU whose default stream is meant where nothing is named; None: no GPU can have been given work by this process."""

    def onGpu(self, gpu: int) -> AbstractContextManager[object]:
        """``with device.onGpu(gpu):`` makes it the GPU that other libraries take as this thread's current one.

        Raises `DeviceUnavailable` where there is no such GPU.
        """
        return contextlib.nullcontext(self.requireGpu(gpu))

    @abstractmethod
    def awaitWork(self, seconds: float) -> bool:
        """Wait until the GPUs have done what this process gave them so far; False when it takes longer than that."""

    @abstractmethod
    def createStream(self, gpu: int) -> Stream:
        """A new stream, independent of all others, the default one included."""

    @abstractmethod
    def asStream(self, stream: object, gpu: int = 0) -> Stream:
        """The stream that the caller means: None (the default stream of `gpu`), a `Stream`, an integer handle, or what another library has.

        The handle of a default stream means that of `gpu` too, in the context that is this thread's, if that is one of `gpu`.

        Raises
        ------
        TypeError
            It is nothing that has ever been a stream.
        InvalidArgument
            It is a stream, and not one of this device, or one that was closed.
        """

    @abstractmethod
    def recordFence(self, stream: object, onReached: OnReached, word: FenceWord | None = None) -> bool:
        """Mark a place in a stream; returns whether `word` is sure: once the GPU has written it, `onReached` can get no error any more.

        `onReached` is called exactly once, on a thread of the port's choice, when everything before the place is done, and what
        that wrote is visible to whoever is told so: with None, or with the stream's error. It must not block, raise or call the
        port. A back-end that can lets the GPU write `word` at that place, before `onReached`; the caller writes it in `onReached`
        in any case.
        """

    @abstractmethod
    def delayStream(self, stream: object, ready: Ready, word: FenceWord | None = None) -> None:
        """Run nothing that is submitted to `stream` later before a fence, of this or any other process, is reached.

        `ready` is the truth, and is called on a thread of the port's choice with at most `READY_SLICE_SECONDS`; what it raises
        becomes the stream's error. It must not call the port. A back-end may let the GPU itself wait for `word` meanwhile, and may
        ignore it: pass it only if whoever makes `ready` raise writes the word as well, for nothing else ends that wait. What the GPU
        does by itself behind it (a kernel, a copy) is then done all the same; what the host does there is not.
        """
