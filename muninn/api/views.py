"""Views: a range of a buffer's bytes as an array for kernels and other libraries.

On real GPUs a view is a Numba device array, a `__cuda_array_interface__` or a DLPack
tensor, all on the same bytes, and each of them keeps the memory mapped. On emulated
GPUs the CPU references of the kernels run, and take a numpy array.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from muninn.errors import ControlBlockInvalid, DeviceUnavailable, InvalidArgument
from muninn.interop import arrays, dlpack, hostarrays
from muninn.interop.capsules import CPU, CUDA
from muninn.interop.dtypes import elementOf
from muninn.interop.elements import ElementType, asElement
from muninn.interop.hostarrays import MappedMemory
from muninn.interop.layouts import layoutProblem

if TYPE_CHECKING:
    from muninn.session.mappings import Memory
    from muninn.session.openbuffer import OpenBuffer

Array = np.ndarray[Any, np.dtype[Any]]


class Region(NamedTuple):
    """A range of a buffer's bytes, as an array.

    Attributes
    ----------
    offset
        Bytes from the beginning of the buffer.
    shape
        Lengths, in elements, which follow each other in C order.
    segment
        Of a bundle on several GPUs, the segment that `offset` counts in: 0 is its first.
    """

    offset: int
    shape: tuple[int, ...]
    element: ElementType
    segment: int = 0

    @classmethod
    def of(cls, openBuffer: OpenBuffer) -> Self:
        """All of an open buffer, as its array. Raises `ControlBlockInvalid` if its row is
        damaged.
        """
        description = openBuffer.description
        region = cls(0, description.shape, elementOf(openBuffer))
        if region.sizeBytes != description.sizeBytes or not region.isPossible:
            raise ControlBlockInvalid(
                f"the row of {description.name!r} states a shape that its bytes do not have"
            )
        return region

    @property
    def isPossible(self) -> bool:
        """Whether there can be such an array: beside a length of 0 others may be too
        large for any library.
        """
        return layoutProblem(0, self.shape, None, self.element.itemBytes) is None

    @property
    def sizeBytes(self) -> int:
        return math.prod(self.shape) * self.element.itemBytes


class Exposed:
    """A range that kernels of real GPUs reach, from which Numba, CuPy and others take
    an array. It keeps the memory mapped.
    """

    __slots__ = ("__cuda_array_interface__", "_memory")

    def __init__(self, memory: Memory, address: int, region: Region, writable: bool) -> None:
        self._memory = memory
        self.__cuda_array_interface__ = arrays.cudaArrayInterface(
            address, region.shape, None, region.element, not writable, None
        )


def hostArray(memory: MappedMemory, region: Region, writable: bool) -> Array:
    """The live bytes as an array of the host.

    Raises
    ------
    NotHostVisible
        The bytes are in VRAM.
    InvalidDtype
        numpy does not have the type.
    """
    return hostarrays.arrayOf(memory, region.element, region.shape, region.offset, writable)


def asType(region: Region, dtype: Any) -> Region:
    """The same bytes as elements of another type. As in numpy, the last length changes
    where the elements have another size.
    """
    wanted = asElement(dtype)
    if wanted.itemBytes == region.element.itemBytes:
        return region._replace(element=wanted)
    lastBytes = region.shape[-1] * region.element.itemBytes if region.shape else 0
    if not region.shape or lastBytes % wanted.itemBytes:
        raise InvalidArgument(
            f"elements of {region.element} in shape {region.shape} can not be viewed as {wanted}: "
            "the last length, in bytes, is no multiple of its size",
            "View them as a type of the same size, or of fewer bytes",
        )
    return region._replace(
        element=wanted, shape=(*region.shape[:-1], lastBytes // wanted.itemBytes)
    )


def deviceArray(memory: Memory, region: Region, writable: bool, gpu: int | None = None) -> Any:
    """The array for kernels of `gpu`: Numba's device array on a real one, numpy's on an
    emulated one. No copy, no fence.

    Raises
    ------
    DeviceUnavailable
        There is no such GPU, or Numba is not installed.
    TopologyNotPeerable
        The bytes are in the VRAM of another GPU, and not mapped for this one.
    InvalidDtype
        Numba has no such type.
    """
    device = memory.device
    assert device is not None, "the caller has chosen a device"
    home = memory.gpu if gpu is None else device.requireGpu(gpu)
    if home is not None and memory.gpu is not None:
        device.requirePeer(home, memory.gpu)
        memory.requireReach(home)
    if device.runsKernelsOnHost:
        return hostArray(memory, region, writable)
    address = memory.devicePointer(device) + region.offset
    return _numba().on(home, Exposed(memory, address, region, writable))


def _numba() -> Any:
    try:
        from muninn.kernels import numbacuda
    except ImportError as error:
        raise DeviceUnavailable(
            f"Numba's device arrays need numba-cuda: {error}",
            "In Muninn's source, pip install '.[cuda]'",
        ) from error
    return numbacuda


def tensor(
    memory: MappedMemory,
    region: Region,
    writable: bool,
    *,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """A DLPack capsule; the keywords are those of `__dlpack__`."""
    device = tensorDevice(memory)
    if dl_device is not None and tuple(dl_device) != device:
        where = "in host memory" if memory.isHostVisible else f"in the VRAM of GPU {memory.gpu}"
        raise BufferError(f"the bytes are {where}, and are not copied to device {tuple(dl_device)}")
    if copy:
        raise BufferError("this is a view of shared memory; copy the tensor that you get")
    return dlpack.exportCapsule(
        memory.address + region.offset,
        region.shape,
        region.element,
        device,
        memory,
        readOnly=not writable,
        maxVersion=max_version,
    )


def tensors(
    memory: MappedMemory,
    regions: Mapping[str, Region],
    writable: bool,
    maxVersion: tuple[int, int],
) -> dict[str, object]:
    """A DLPack capsule of each range, as `tensor` makes one."""
    lent = dlpack.exportCapsules(
        memory.address,
        [(each.offset, each.shape, each.element) for each in regions.values()],
        tensorDevice(memory),
        memory,
        readOnly=not writable,
        maxVersion=maxVersion,
    )
    return dict(zip(regions, lent, strict=True))


def tensorDevice(memory: MappedMemory) -> tuple[int, int]:
    """DLPack's (kind, index) of the device on which the bytes are."""
    return (CPU, 0) if memory.isHostVisible else (CUDA, memory.gpu or 0)
