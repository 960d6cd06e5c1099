"""The protocols by which other libraries take a buffer: numpy's array, Python's buffer
protocol, DLPack, the CUDA array interface.

numpy gets the bytes of VRAM as a copy; kernels of real GPUs get them in place. Only
`__dlpack__` with a stream waits for a writer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from muninn.api import views
from muninn.api.attachment import Attachment
from muninn.config.sizes import asText
from muninn.errors import ControlBlockInvalid
from muninn.interop import arrays, readonly
from muninn.interop.dtypes import dtypeOf, shown
from muninn.interop.hostarrays import flatOf
from muninn.session.openbuffer import OpenBuffer
from muninn.sync import fences
from muninn.sync.snapshots import READ_BOUND_SECONDS, snapshot
from muninn.terms import Access


class Protocols(Attachment):
    """The array of a buffer, and the protocols by which other libraries get it."""

    __slots__ = ()

    @property
    def array(self) -> np.ndarray[Any, np.dtype[Any]]:
        """The live bytes as an array of `shape` and `dtype`: no copy, no fence.
        Read-only unless opened for writing.

        `torch.from_dlpack` takes a read-only array without a warning, where
        `torch.from_numpy` has one; see `Bundle.__getitem__`.
        """
        return self._view(self._checked())

    def _view(self, openBuffer: OpenBuffer) -> np.ndarray[Any, np.dtype[Any]]:
        if self._array is None:
            description = openBuffer.description
            flat = flatOf(openBuffer.memory, description.sizeBytes, writable=self._writable)
            try:
                self._array = flat.view(dtypeOf(openBuffer)).reshape(description.shape)
            except ValueError as error:
                raise ControlBlockInvalid(
                    f"the row of {description.name!r} states a shape that its bytes do not "
                    f"have: {error}"
                ) from error
        # Each caller gets an array object of its own, whose shape and flags it may
        # change.
        return self._array.view()

    def __array__(
        self, dtype: Any = None, copy: bool | None = None
    ) -> np.ndarray[Any, np.dtype[Any]]:
        if not self._checked().memory.isHostVisible:
            if copy is False:
                raise ValueError(f"{self.name!r} is in VRAM: an array on the host is a copy of it")
            return np.asarray(snapshot(self._checked(), None, READ_BOUND_SECONDS), dtype)
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
        openBuffer = self._checked()
        memory = openBuffer.memory
        if memory.device is None or not memory.isMapped() or memory.device.runsKernelsOnHost:
            raise AttributeError(f"{self.name!r} is not mapped for a GPU")
        address = memory.devicePointer(memory.device)
        # The library that takes the array waits for the stream named in it: the default
        # stream, when that one itself waits for a writer.
        stream = arrays.LEGACY_STREAM if fences.behindWriters(openBuffer) else None
        return arrays.cudaArrayInterface(
            address, self.shape, None, dtypeOf(openBuffer), not self._writable, stream
        )

    def __dlpack__(self, *, stream: Any = None, **keywords: Any) -> Any:
        openBuffer = self._checked()
        if not self._writable:
            description = openBuffer.description
            mayBeWritten = description.access is not Access.READ_ONLY
            readonly.tellBorrower(description.name, mayBeWritten, keywords)
        if openBuffer.memory.isHostVisible:
            return self.array.__dlpack__(stream=stream, **keywords)
        if (consumer := arrays.consumerStream(stream)) is not None:
            fences.holdBack(openBuffer, consumer, writing=False, timeout=None)
        return views.tensor(
            openBuffer.memory, self.shape, dtypeOf(openBuffer), self._writable, **keywords
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return views.tensorDevice(self._checked().memory)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a buffer without dimensions has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        if self._openBuffer is None:
            return "<MuninnBuffer closed>"
        description = self._openBuffer.description
        where = (
            description.mode.value
            if self.gpu is None
            else f"{description.mode.value} gpu={self.gpu}"
        )
        return (
            f"<MuninnBuffer {description.name!r} "
            f"{description.dtype}{list(description.shape)} {asText(description.sizeBytes)} "
            f"{where}>"
        )
