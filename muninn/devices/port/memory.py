"""Memory of the port: allocations of a GPU, which other processes can import, and host
memory that kernels may use.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from muninn.devices.port.closable import Closable
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
        Whose memory it is.
    sizeBytes, allocatedBytes
        What was asked for, and what it takes in whole pages or granules.
    writable
        Whether this process may write it.
    transport, transportReason
        `memfd`, `vmm` or `cudaIpc`, and why that one.
    handle
        What an importer needs beside, or instead of, the descriptor; at most 128 bytes,
        empty where a descriptor is all.
    isHostVisible
        Whether the CPU may use its address too.
    isOwned
        Whether the memory goes with this process, whoever else has it open: the
        transport `cudaIpc`, on its exporter's side.
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

        It goes with the object: whoever closes its number instead lets the object's end
        close what has the number by then.

        With `writable=False` the kernel refuses to map it for writing, where the
        platform can do that (memfds); elsewhere it is as good as the allocation's own.
        Raises `PermissionDenied` when this process has no more than read access itself,
        `BufferFreed` once closed, `IpcHandleMismatch` when this transport has no
        descriptors, and `DescriptorsExhausted`.
        """

    def closeThen(self, closed: Callable[[], object]) -> None:
        """Close, and call `closed` once, when this process can do nothing more to
        memory that is another's: now, or behind its work.
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
