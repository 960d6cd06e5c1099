"""Memory of the port: allocations of a GPU, which other processes can import, and host
memory that kernels may use.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from muninn.system.closable import Closable
from muninn.system.descriptors import Descriptor


class MemoryInfo(NamedTuple):
    """A GPU's memory, over all processes of the domain."""

    freeBytes: int
    totalBytes: int


class Allocation(Closable):
    """Memory of one GPU, mapped into this process.

    Attributes
    ----------
    gpu
        The GPU whose memory it is.
    sizeBytes, allocatedBytes
        The size that was asked for, and the size in whole pages or granules.
    writable
        Whether this process may write it.
    transport, transportReason
        `memfd`, `vmm` or `cudaIpc`, and the reason for it.
    handle
        The bytes that an importer needs beside, or instead of, the descriptor; at most
        128, empty where the descriptor is enough.
    isHostVisible
        Whether the CPU may use its address too.
    isOwned
        Whether the memory is freed with this process, although others may have it open:
        the transport `cudaIpc`, on its exporter's side.
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
        """Its address in this process. Raises `BufferFreed` once closed."""

    @property
    @abstractmethod
    def anchor(self) -> object:
        """The memory stays mapped while any reference to this object is there. Raises
        `BufferFreed` once closed.
        """

    @abstractmethod
    def letReach(self, gpu: int) -> None:
        """Let kernels and copies of `gpu` use the memory at its address. Done once, and
        given back with the mapping; `gpu` may be its own.

        Raises
        ------
        TopologyNotPeerable
            That GPU does not reach this one, or access can not be set.
        """

    @abstractmethod
    def countCopy(self, gpu: int) -> None:
        """Count a copy to or from a GPU that does not reach the memory. It is let reach it,
        if it can, once there were so many of them that this pays.
        """

    @abstractmethod
    def refusesReach(self, gpu: int) -> bool:
        """Whether there were enough copies, and the GPU could not be let reach it."""

    @abstractmethod
    def isReachedBy(self, gpu: int) -> bool:
        """Whether kernels and copies of `gpu` may use it: its own GPU, or one that
        `letReach` has let.
        """

    @abstractmethod
    def exportDescriptor(self, writable: bool = True) -> Descriptor:
        """A new descriptor of the memory, for the caller to pass on.

        The object closes it. A caller must not close the number: the end of the object
        would then close another file that has got the number.

        With `writable=False` the kernel refuses to map the descriptor for writing,
        where the platform can do that (memfds); elsewhere it allows what the
        allocation's own allows. Raises `PermissionDenied` when this process has no more
        than read access itself, `BufferFreed` once closed, `IpcHandleMismatch` when
        this transport has no descriptors, and `DescriptorsExhausted`.
        """

    def closeThen(self, closed: Callable[[], object]) -> None:
        """Close, and call `closed` once, when this process can no longer change memory
        that is another's: now, or after its work.
        """
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
        """Close, and call `closed` once when no work uses the memory any more: now, or
        later on a thread of the port's choice.
        """
