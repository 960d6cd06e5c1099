"""Pieces: memory through which bytes go on their way from one GPU to another.

There are two kinds. Pinned host memory, near a GPU, is reached by all GPUs. Memory of
the GPU that sends, to which the receiving GPU has access, is for two GPUs with a link:
a GPU is given access to these pieces once, which takes the driver some milliseconds,
and not to each buffer that is copied.

Pieces are used by one way at a time, and again and again. Only this process has them,
and they go with it.
"""

from __future__ import annotations

import contextlib
import mmap
import weakref
from abc import abstractmethod
from typing import Any

import numpy as np

from muninn.devices.port import Allocation, Device, Registration
from muninn.system import atomics
from muninn.system.closable import Closable
from muninn.system.oserrors import typedErrors

Flat = np.ndarray[Any, np.dtype[np.uint8]]


class Pieces(Closable):
    """Some pieces of one size.

    Attributes
    ----------
    pieceBytes
        The size of each.
    addresses
        Where each begins.
    """

    pieceBytes: int
    addresses: tuple[int, ...]

    def _divide(self, address: int, pieceBytes: int, count: int) -> None:
        self.pieceBytes = pieceBytes
        self.addresses = tuple(address + number * pieceBytes for number in range(count))

    @abstractmethod
    def close(self) -> None: ...


class HostPieces(Pieces):
    """Pinned host memory, on the NUMA node of a GPU if that is known.

    Raises
    ------
    BarPressureHigh
        So much host memory may not be pinned.
    """

    def __init__(self, device: Device, gpu: int, pieceBytes: int, count: int) -> None:
        sizeBytes = count * pieceBytes
        # Shared, because a fork must not make the GPU and this process use different
        # pages.
        with typedErrors("pinned memory for copies"):
            kept: Flat = np.frombuffer(mmap.mmap(-1, sizeBytes), np.uint8)
        address = int(kept.__array_interface__["data"][0])
        node = device.site(gpu).numaNode
        if node is not None:
            # Where the kernel refuses that, as in some containers, the memory is only
            # farther away.
            atomics.bindNode(address, sizeBytes, node)
        # What the driver has pinned is not unmapped before it was unpinned, whatever
        # becomes of this object.
        _pinned[address] = kept
        try:
            registered = device.registerHost(address, sizeBytes, writable=True)
        except BaseException:
            del _pinned[address]
            raise
        self._finalizer = weakref.finalize(self, _unpin, registered, address)
        self._finalizer.atexit = False
        self._divide(address, pieceBytes, count)

    def close(self) -> None:
        """Give the memory back once no GPU uses it any more."""
        self._finalizer()


#: The memory of all pieces of this process, by address.
_pinned: dict[int, Flat] = {}


def _unpin(registered: Registration, address: int) -> None:
    registered.closeThen(lambda: _pinned.pop(address, None))


class PeerPieces(Pieces):
    """Memory of the GPU `source`, which the GPU `target` reaches.

    Raises
    ------
    TopologyNotPeerable
        It can not be given access.
    QuotaExceeded
        The GPU has no room for the pieces.
    """

    def __init__(
        self, device: Device, source: int, target: int, pieceBytes: int, count: int
    ) -> None:
        sizeBytes = count * pieceBytes
        with contextlib.ExitStack() as undo:
            # Zeros would be overwritten before they are read.
            memory = device.allocate(source, sizeBytes, filledBytes=sizeBytes)
            undo.callback(memory.close)
            memory.letReach(target)
            undo.pop_all()
        self._memory: Allocation = memory
        self._divide(memory.address, pieceBytes, count)

    def close(self) -> None:
        self._memory.close()
