"""Views: the bytes of a buffer as arrays for kernels and other libraries.

On real GPUs a view is a Numba device array, a `__cuda_array_interface__` or a DLPack
tensor, all on the same bytes, and each of them keeps the memory mapped. On emulated
GPUs the CPU references of the kernels run, and take a numpy array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muninn.errors import DeviceUnavailable
from muninn.interop import arrays, dlpack, hostarrays

if TYPE_CHECKING:
    from muninn.session.mappings import Memory

_CPU, _CUDA = 1, 2  # kDLCPU, kDLCUDA (dlpack.h)


class Exposed:
    """A range that kernels of real GPUs reach, from which Numba, CuPy and others take
    an array. It keeps the memory mapped.
    """

    __slots__ = ("__cuda_array_interface__", "_memory")

    def __init__(
        self,
        memory: Memory,
        address: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        writable: bool,
    ) -> None:
        self._memory = memory
        self.__cuda_array_interface__ = arrays.cudaArrayInterface(
            address, shape, None, dtype, not writable, None
        )


def deviceArray(
    memory: Memory,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    writable: bool,
    gpu: int | None = None,
) -> Any:
    """The array for kernels of `gpu`: Numba's device array on a real one, numpy's on an
    emulated one. No copy, no fence.

    Raises
    ------
    DeviceUnavailable
        There is no such GPU, or Numba is not installed.
    TopologyNotPeerable
        The bytes are in the VRAM of another GPU, which this one does not reach.
    """
    device = memory.device
    assert device is not None, "the caller has chosen a device"
    home = memory.gpu if gpu is None else device.requireGpu(gpu)
    if home is not None and memory.gpu is not None:
        device.requirePeer(home, memory.gpu)
    if device.runsKernelsOnHost:
        sizeBytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return hostarrays.flatOf(memory, sizeBytes, offset, writable).view(dtype).reshape(shape)
    address = memory.devicePointer(device) + offset
    return _numba().on(home, Exposed(memory, address, shape, dtype, writable))


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
    memory: Memory,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    writable: bool,
    *,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """A DLPack capsule of VRAM; the keywords are those of `__dlpack__`."""
    device = tensorDevice(memory)
    if dl_device is not None and tuple(dl_device) != device:
        raise BufferError(
            f"the bytes are in the VRAM of GPU {memory.gpu}, and are not copied to device "
            f"{tuple(dl_device)}"
        )
    if copy:
        raise BufferError("this is a view of shared memory; copy the tensor that you get")
    return dlpack.exportCapsule(
        memory.source.address,
        shape,
        dtype,
        device,
        memory,
        readOnly=not writable,
        maxVersion=max_version,
    )


def tensorDevice(memory: Memory) -> tuple[int, int]:
    """DLPack's (kind, index) of the device on which the bytes are."""
    return (_CPU, 0) if memory.isHostVisible else (_CUDA, memory.gpu or 0)
