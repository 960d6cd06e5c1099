"""Memory: the mapping of an open buffer, with the lease that covers it, and how the CPU
and kernels reach its bytes.

The CPU reaches host memory directly. Kernels of real GPUs reach host memory once it is
registered, which happens at the first `devicePointer` and lasts as long as the mapping.
Kernels reach VRAM directly, and the CPU reaches it through copies.
"""

from __future__ import annotations

import _thread
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from muninn.arguments import requireCallable
from muninn.devices.port import Allocation
from muninn.errors import TopologyNotPeerable
from muninn.observe.progressbar import expect
from muninn.storage.segments import Mapping
from muninn.system import atomics

if TYPE_CHECKING:
    from muninn.devices.port import Device, Registration
    from muninn.session.leases import LeaseIndex
    from muninn.system.descriptors import Descriptor


class Bytes(Protocol):
    """A range of this process's addresses: a segment's mapping, or a device's
    allocation.
    """

    @property
    def address(self) -> int: ...
    @property
    def sizeBytes(self) -> int: ...
    @property
    def writable(self) -> bool: ...
    def close(self) -> None: ...
    def closeThen(self, closed: Callable[[], object]) -> None: ...


class NoBytes:
    """Stands for the memory of a lock, which has none."""

    address = sizeBytes = 0
    writable = True

    def close(self) -> None:
        """Nothing to close."""

    def closeThen(self, closed: Callable[[], object]) -> None:
        closed()


class Memory:
    """Mapped memory and the lease that covers it. Both end when the last open buffer
    *and* the last array that use it are gone.

    Attributes
    ----------
    isHostVisible
        Whether the CPU may use its address.

    Parameters
    ----------
    mayBeWritten
        Whether the buffer allows any process to write.
    """

    __slots__ = (
        "__weakref__",
        "_kernelsOn",
        "_lease",
        "_mapped",
        "_mapping",
        "device",
        "isHostVisible",
        "leaseIndex",
        "mayBeWritten",
        "source",
    )

    def __init__(
        self,
        source: Bytes,
        leaseIndex: LeaseIndex,
        device: Device | None = None,
        mayBeWritten: bool = True,
    ) -> None:
        self.source = source
        self.mayBeWritten = mayBeWritten
        self.leaseIndex = int(leaseIndex)
        self._lease = lease = leaseIndex.lease  # the lease ends with this object
        self.device = device
        #: The other GPUs whose kernels were let use it. Copies may be let reach it too.
        self._kernelsOn: frozenset[int] = frozenset()
        self.isHostVisible = not isinstance(source, Allocation) or source.isHostVisible
        self._mapping = _thread.RLock()
        #: At most one registration; a list that the lease's tenure has too, which
        #: outlives the memory.
        self._mapped: list[Registration] = lease.tenure.mapped

    @staticmethod
    def end(source: Bytes, mapped: list[Registration], closed: Callable[[], object]) -> None:
        """End the registration and the mapping of a memory that is gone, and then call
        `closed`.
        """
        _gone(source, mapped, closed)

    @property
    def address(self) -> int:
        """The address of its bytes, for the CPU if the CPU may use it."""
        return self.source.address

    @property
    def gpu(self) -> int | None:
        """The GPU in whose VRAM it is, as this process numbers GPUs; None for host
        memory.
        """
        return self.source.gpu if isinstance(self.source, Allocation) else None

    # --- the CPU ---------------------------------------------------------------------

    def copyOut(self, target: int, sizeBytes: int, offset: int = 0) -> None:
        """Copy bytes to a host address, and wait for the copy. The bytes may be in
        VRAM.
        """
        self._copy(target, self.source.address + offset, sizeBytes)

    def copyIn(self, source: int, sizeBytes: int, offset: int = 0) -> None:
        """Copy bytes from a host address, and wait for the copy. They may go to VRAM."""
        self._copy(self.source.address + offset, source, sizeBytes)

    def copyBytes(self, sizeBytes: int, offset: int) -> bytes:
        """A private copy of a range."""
        out = bytearray(sizeBytes)
        self.copyOut(atomics.addressOfBytes(out), sizeBytes, offset)
        return bytes(out)

    def put(self, raw: bytes, offset: int) -> None:
        """Write a range."""
        source = bytearray(raw)
        self.copyIn(atomics.addressOfBytes(source), len(raw), offset)

    def _copy(self, target: int, source: int, sizeBytes: int) -> None:
        if self.device is None or self.isHostVisible:
            atomics.copy(target, source, sizeBytes)
        else:
            self.device.copyNow(target, source, sizeBytes, self.gpu or 0)

    # --- kernels ---------------------------------------------------------------------

    def devicePointer(self, device: Device, progress: Callable[[int], None] | None = None) -> int:
        """The address at which kernels of all GPUs find it. Host memory is registered
        for that at the first call. The address never changes.

        It is registered for writing if the buffer allows that, even if this process may
        only read. Otherwise the registration would have to be replaced while kernels
        use it, when this process opens the buffer for writing.

        Raises
        ------
        BarPressureHigh, DeviceUnavailable
        """
        if isinstance(self.source, Allocation):
            return self.source.address
        with self._mapping:
            if not self._mapped:
                if progress is not None:
                    requireCallable("open: progress", progress)
                source, isWritable = self.source, self.source.writable
                expect(progress, source.sizeBytes)
                with contextlib.ExitStack() as meanwhile:
                    if self.mayBeWritten and isinstance(source, Mapping):
                        meanwhile.enter_context(source.writableMeanwhile())
                        isWritable = True
                    self._mapped.append(
                        device.registerHost(source.address, source.sizeBytes, isWritable, progress)
                    )
            return self._mapped[0].devicePointer

    def letReach(self, gpu: int, device: Device) -> None:
        """Let kernels of `gpu` use it where it is. Host memory is for all GPUs.

        Raises
        ------
        TopologyNotPeerable
        """
        home = self.gpu
        if isinstance(self.source, Allocation) and home is not None:
            device.requirePeer(gpu, home)
            self.source.letReach(gpu)
            self._kernelsOn |= {gpu}

    def requireReach(self, gpu: int) -> None:
        """Raise `TopologyNotPeerable` if kernels of `gpu` may not use it as it is."""
        home = self.gpu
        if home not in (None, gpu) and gpu not in self._kernelsOn:
            raise TopologyNotPeerable(
                f"kernels of GPU {gpu} do not reach the memory of GPU {home} as it is",
                f'Open it with targetGpu={gpu}, which copies it, or with route="mapped" too',
            )

    def isBorrowed(self) -> bool:
        """Whether the memory belongs to another process, which may take it back."""
        return (
            isinstance(self.source, Allocation)
            and self.source.transport == "cudaIpc"
            and not self.source.isOwned
        )

    def isMapped(self) -> bool:
        """Whether kernels of real GPUs reach it now."""
        return bool(self._mapped) or not self.isHostVisible


def _gone(source: Bytes, mapped: list[Registration], closed: Callable[[], object]) -> None:
    """End memory that is not used any more, and then call `closed`: now, or when the
    kernels that may still use it are done. If this is interrupted, it is done again, and
    `closed` may be called twice.
    """

    def close() -> None:
        source.closeThen(closed)

    if mapped:
        # It stays in the list: done again without it, the memory would be unmapped while
        # kernels still use it.
        mapped[0].closeThen(close)
    else:
        close()


def exported(source: Bytes) -> tuple[Descriptor, ...]:
    """A new descriptor of memory that has no name and can be handed on, with the rights
    that this process has; nothing for all other memory.
    """
    return (
        (source.exportDescriptor(source.writable),)
        if isinstance(source, Allocation) and source.transport != "cudaIpc"
        else ()
    )
