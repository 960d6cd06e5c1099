"""The protocols by which other libraries take a range of an open buffer: numpy's array,
Python's buffer protocol, DLPack, the CUDA array interface.

numpy gets the bytes of VRAM as a copy; kernels of real GPUs get them in place. Only
`__dlpack__` with a stream waits for a writer.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import numpy as np

from muninn.api import views
from muninn.api.views import Region
from muninn.errors import InvalidArgument
from muninn.interop import arrays, readonly
from muninn.interop.elements import shown
from muninn.observe.calls import named
from muninn.session.gpus import deviceOf
from muninn.session.mappings import Memory
from muninn.session.openbuffer import OpenBuffer
from muninn.session.privatememory import PrivateMemory
from muninn.sync import fences
from muninn.sync.snapshots import READ_BOUND_SECONDS, snapshotOf
from muninn.terms import Access, Mode


class Exposure(NamedTuple):
    """What an object lends: a range of an open buffer, and whether it may be written.

    Attributes
    ----------
    memory
        The buffer's memory, or the private memory of an object that is open
        copyOnWrite.
    gpu
        The GPU whose kernels use it by default; None: its own.
    """

    openBuffer: OpenBuffer
    memory: Memory | PrivateMemory
    region: Region
    isWritable: bool
    gpu: int | None = None

    def lend(self) -> None:
        """Note that the program gets the bytes in place, if it may write them."""
        if self.isWritable and isinstance(self.memory, Memory):
            self.openBuffer.letWriteInPlace()

    def hostArray(self) -> np.ndarray[Any, np.dtype[Any]]:
        self.lend()
        return views.hostArray(self.memory, self.region, self.isWritable)


def privateForKernels(name: str) -> InvalidArgument:
    """The error for an operation of GPUs on an object that is open copyOnWrite. To pin a
    private mapping for a GPU, the kernel copies all of its pages.
    """
    return InvalidArgument(
        f"{name!r} is open copyOnWrite, and kernels of GPUs do not reach private memory",
        "Open it readOnly for kernels, or copy its array to the GPU",
    )


class Protocols:
    """The array of a range of an open buffer, and the protocols by which other
    libraries get it.
    """

    __slots__ = ()

    @abstractmethod
    def _exposed(self) -> Exposure:
        """What this object lends now. Raises if it may not be used any more."""

    @property
    def array(self) -> np.ndarray[Any, np.dtype[Any]]:
        """The live bytes as a numpy array: no copy, no fence. Read-only unless opened
        for writing.

        Raises
        ------
        NotHostVisible
            The bytes are in VRAM.
        InvalidDtype
            numpy does not have the type: bfloat16 and its like need ml_dtypes.
        """
        return self._exposed().hostArray()

    @named
    def view(self, dtype: Any) -> np.ndarray[Any, np.dtype[Any]]:
        """The live bytes as a numpy array of another type, such as the unsigned
        integers of their size: no copy, no fence. The last length changes where the
        elements have another size.
        """
        exposed = self._exposed()
        return exposed._replace(region=views.asType(exposed.region, dtype)).hostArray()

    @named
    def deviceArray(self, gpu: int | None = None, *, dtype: Any = None) -> Any:
        """The live bytes as an array that kernels take: Numba's device array, no copy,
        no fence.

        On emulated GPUs, where kernels are their CPU references, it is `array`.

        Parameters
        ----------
        gpu
            The GPU whose kernels will use it; by default the buffer's own GPU, or for
            host memory the current one.
        dtype
            Another type for the same bytes, as for `view`, where Numba does not have
            the buffer's own.

        Raises
        ------
        DeviceUnavailable
            There is no such GPU, or Numba is not installed.
        InvalidDtype
            Numba has no such type.
        TopologyNotPeerable
            The bytes are in the VRAM of another GPU, and were not mapped for this one:
            `muninn.open` with ``route="mapped"`` does that.
        BarPressureHigh
            The host memory can not be mapped for GPUs: the budget is used up.
        InvalidArgument
            This object is open copyOnWrite.
        """
        return self._deviceView(gpu, dtype=dtype, isLent=True)

    def _deviceView(
        self, gpu: int | None = None, *, dtype: Any = None, isLent: bool = False
    ) -> Any:
        """The same for an access, after which the generation tells of what was written."""
        exposed = self._exposed()
        openBuffer, memory, region, isWritable, usual = exposed
        if isinstance(memory, PrivateMemory):
            raise privateForKernels(openBuffer.description.name)
        if isLent:
            exposed.lend()
        memory.device = deviceOf(openBuffer.context)
        if dtype is not None:
            region = views.asType(region, dtype)
        return views.deviceArray(memory, region, isWritable, usual if gpu is None else gpu)

    def __array__(
        self, dtype: Any = None, copy: bool | None = None
    ) -> np.ndarray[Any, np.dtype[Any]]:
        openBuffer, memory, region, _, _ = self._exposed()
        if not memory.isHostVisible:
            if copy is False:
                raise ValueError(
                    f"{openBuffer.description.name!r} is in VRAM: an array on the host is a "
                    "copy of it"
                )
            out = np.empty(region.shape, region.element.dtype)
            assert isinstance(memory, Memory), "private memory is the host's"
            snapshotOf(openBuffer, out, region.offset, READ_BOUND_SECONDS, memory)
            return np.asarray(out, dtype)
        array = self.array
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(f"a view as {shown(dtype)} is not possible without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __buffer__(self, flags: int) -> memoryview:
        return memoryview(self.array)  # type: ignore[arg-type]  # numpy declares the protocol from Python 3.12 on

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """For real GPUs: VRAM, and host memory that `open` or `deviceArray` has mapped.
        Any other buffer has no such attribute.
        """
        exposed = self._exposed()
        openBuffer, memory, region, isWritable, _ = exposed
        if (
            isinstance(memory, PrivateMemory)
            or memory.device is None
            or not memory.isMapped()
            or memory.device.runsKernelsOnHost
        ):
            raise AttributeError(f"{openBuffer.description.name!r} is not mapped for a GPU")
        exposed.lend()
        address = memory.devicePointer(memory.device) + region.offset
        # The library that takes the array waits for the stream named in it: the default
        # stream, when that one itself waits for a writer.
        isBehind = fences.behindWriters(openBuffer, memory.gpu)
        stream = arrays.LEGACY_STREAM if isBehind else None
        return arrays.cudaArrayInterface(
            address, region.shape, None, region.element, not isWritable, stream
        )

    def __dlpack__(self, *, stream: Any = None, **keywords: Any) -> Any:
        exposed = self._exposed()
        openBuffer, memory, region, isWritable, _ = exposed
        if not isWritable:
            description = openBuffer.description
            mayBeWritten = description.access is not Access.READ_ONLY
            mayBePrivate = description.mode is Mode.BIG
            readonly.tellBorrower(description.name, mayBeWritten, mayBePrivate, keywords)
        if memory.isHostVisible and region.element.isNumpys:
            return self.array.__dlpack__(stream=stream, **keywords)
        if not memory.isHostVisible and (consumer := arrays.consumerStream(stream)) is not None:
            fences.holdBack(openBuffer, consumer, writing=False, timeout=None, gpu=memory.gpu)
        exposed.lend()
        return views.tensor(memory, region, isWritable, **keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return views.tensorDevice(self._exposed().memory)

    def __len__(self) -> int:
        shape = self._exposed().region.shape
        if not shape:
            raise TypeError("an array without dimensions has no length")
        return shape[0]
