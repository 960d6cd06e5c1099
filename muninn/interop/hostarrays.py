"""Arrays of the host on shared memory: the one module in which a range of addresses
becomes a numpy array, and back.

An array keeps the memory under it mapped. The memory is any object that has the address
of its bytes, so this module does not depend on a session.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from muninn.errors import NotHostVisible
from muninn.interop.dlpack import Imported
from muninn.interop.elements import ElementType
from muninn.system.structures import Extent

Flat: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]


class MappedMemory(Protocol):
    """Memory of one buffer, as a session has mapped it: shared, or private.

    Attributes
    ----------
    isHostVisible
        Whether the CPU may use its address.
    gpu
        The GPU whose VRAM it is, or None.
    """

    isHostVisible: bool

    @property
    def address(self) -> int: ...
    @property
    def gpu(self) -> int | None: ...


class SharedMemory(MappedMemory, Protocol):
    """The memory of a buffer that is being filled."""

    def copyIn(self, source: int, sizeBytes: int, offset: int = 0) -> None: ...


class HostArray(NamedTuple):
    """An array of the host.

    Attributes
    ----------
    array
        Its memory as numpy's array, of any strides. Where numpy alone lacks the type of
        the elements, they may be unsigned integers of the same size.
    element
        The type of the elements.
    """

    array: np.ndarray[Any, np.dtype[Any]]
    element: ElementType

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def gpu(self) -> None:
        """No GPU has it."""

    @property
    def place(self) -> object:
        """Equal for two arrays of the same elements on the same bytes."""
        if not self.array.size:
            return object()
        address = self.array.__array_interface__["data"][0]
        return address, self.shape, self.array.strides, self.element

    def extentAt(self, offset: int, _: object) -> Extent | None:
        """The bytes, to be copied to `offset` of any memory; None if the elements do not
        follow each other in C order. The caller keeps the array.
        """
        if not self.array.flags.c_contiguous:
            return None
        return Extent(offset, addressOf(self.array), self.array.nbytes)

    def copyTo(self, memory: SharedMemory, offset: int) -> None:
        """Copy the elements, in C order, into shared memory from `offset` on."""
        if memory.isHostVisible:
            target = flatOf(memory, self.array.nbytes, offset)
            np.copyto(target.view(self.array.dtype).reshape(self.shape), self.array)
        elif self.array.size:
            compact = np.ascontiguousarray(self.array)
            memory.copyIn(addressOf(compact), compact.nbytes, offset)


class _Exposed:
    """An object from which numpy takes an array. The array keeps it, and it keeps the
    memory.
    """

    __slots__ = ("__array_interface__", "_memory")

    def __init__(
        self,
        memory: object,
        address: int,
        shape: tuple[int, ...],
        readOnly: bool,
        typestr: str = "|u1",
        strides: tuple[int, ...] | None = None,
    ) -> None:
        self._memory = memory
        self.__array_interface__ = {
            "version": 3,
            "typestr": typestr,
            "shape": shape,
            "strides": strides,
            "data": (address, readOnly),
        }


def addressOf(array: np.ndarray[Any, Any]) -> int:
    """The address of a C-contiguous array.

    Not by its `ctypes`, for which numpy imports a module each time; so does the
    interface of a structured array, which is viewed as bytes first.
    """
    address: int = np.asarray(array).reshape(-1).view(np.uint8).__array_interface__["data"][0]
    return address


def flatOf(memory: MappedMemory, sizeBytes: int, offset: int = 0, writable: bool = True) -> Flat:
    """`sizeBytes` bytes from `offset` as an array that keeps the memory mapped. Raises
    `NotHostVisible`.
    """
    if not memory.isHostVisible:
        raise _notHere(memory)
    return np.asarray(_Exposed(memory, memory.address + offset, (sizeBytes,), not writable))


def _notHere(memory: MappedMemory) -> NotHostVisible:
    return NotHostVisible(f"these bytes are in the VRAM of GPU {memory.gpu}")


def arrayOf(
    memory: MappedMemory, element: ElementType, shape: tuple[int, ...], offset: int, writable: bool
) -> np.ndarray[Any, np.dtype[Any]]:
    """The elements from `offset` as an array that keeps the memory mapped.

    Raises
    ------
    NotHostVisible
        They are in VRAM.
    InvalidDtype
        numpy does not have the type.
    """
    if not element.hasTypestr:
        flat = flatOf(memory, math.prod(shape) * element.itemBytes, offset, writable)
        return flat.view(element.dtype).reshape(shape)
    if not memory.isHostVisible:
        raise _notHere(memory)
    return np.asarray(_Exposed(memory, memory.address + offset, shape, not writable, element.text))


def borrowed(taken: Imported) -> np.ndarray[Any, np.dtype[Any]]:
    """Host memory that another library lent by DLPack, as a read-only array of the bits
    of its elements.
    """
    strides = taken.strides
    return np.asarray(
        _Exposed(taken, taken.address, taken.shape, True, taken.element.bits.str, strides)
    )


def fill(memory: SharedMemory, sizeBytes: int, write: Callable[[Flat], object]) -> None:
    """Let `write` fill the first bytes of a memory. For VRAM it writes into an array on
    the host, which is then copied.
    """
    if memory.isHostVisible:
        write(flatOf(memory, sizeBytes))
        return
    stage = np.zeros(sizeBytes, np.uint8)
    write(stage)
    memory.copyIn(addressOf(stage), stage.nbytes)
