"""Arrays of the host on shared memory: the one place where a range of addresses becomes
an array of numpy, and back.

An array keeps the memory under it mapped. The memory itself is any object that says
where its bytes are, so nothing here knows a session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np

from muninn.errors import NotHostVisible

Flat: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]


class SharedMemory(Protocol):
    """What a session has mapped of one buffer.

    Attributes
    ----------
    isHostVisible
        Whether the CPU may use its address.
    gpu
        Whose VRAM it is.
    """

    isHostVisible: bool

    @property
    def address(self) -> int: ...
    @property
    def gpu(self) -> int | None: ...
    def copyIn(self, source: int, sizeBytes: int, offset: int = 0) -> None: ...


class _Exposed:
    """What numpy takes an array from; the array keeps it, and it keeps the memory."""

    __slots__ = ("__array_interface__", "_memory")

    def __init__(self, memory: SharedMemory, address: int, sizeBytes: int, readOnly: bool) -> None:
        self._memory = memory
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (sizeBytes,),
            "data": (address, readOnly),
        }


def addressOf(array: np.ndarray[Any, Any]) -> int:
    """The address of a C-contiguous array.

    Not by its `ctypes`, for which numpy imports something each time; nor does the
    interface of a structured array do without.
    """
    address: int = np.asarray(array).reshape(-1).view(np.uint8).__array_interface__["data"][0]
    return address


def flatOf(memory: SharedMemory, sizeBytes: int, offset: int = 0, writable: bool = True) -> Flat:
    """`sizeBytes` bytes from `offset` as an array that keeps the memory mapped. Raises
    `NotHostVisible`.
    """
    if not memory.isHostVisible:
        raise NotHostVisible(f"these bytes are in the VRAM of GPU {memory.gpu}")
    return np.asarray(_Exposed(memory, memory.address + offset, sizeBytes, not writable))


def fill(memory: SharedMemory, sizeBytes: int, write: Callable[[Flat], object]) -> None:
    """Let `write` put the first bytes of a memory in place. For VRAM it writes on the
    host, and what it wrote is copied.
    """
    if memory.isHostVisible:
        write(flatOf(memory, sizeBytes))
        return
    stage = np.zeros(sizeBytes, np.uint8)
    write(stage)
    memory.copyIn(addressOf(stage), stage.nbytes)
