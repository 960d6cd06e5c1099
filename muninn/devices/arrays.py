"""Arrays of other libraries, described in one way: `__cuda_array_interface__` (versions 0 to 3), and DLPack.

What a foreign object says of itself is checked before anybody uses it. Imports none of the libraries.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from muninn.devices import dlpack
from muninn.errors import InvalidArgument

_MAX_NDIM = 64
_MAX_BYTES = 1 << 47
_HOST_KINDS = (dlpack.CPU, dlpack.CUDA_HOST)


class ForeignArray(NamedTuple):
    """
    Attributes
    ----------
    address
        Where it begins, on its device.
    shape, dtype
        As numpy's.
    strides
        In bytes; None when it is C-contiguous.
    readOnly
        Whether its owner forbids to write it.
    stream
        The handle of the stream whose work must be done before it may be read; None: there is none.
    keepAlive
        Hold it, and the memory stays.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: np.dtype[Any]
    readOnly: bool
    stream: int | None
    keepAlive: object


def isOnDevice(value: Any) -> bool:
    """Whether it is an array that the CPU does not reach."""
    try:
        if getattr(value, "__cuda_array_interface__", None) is not None:
            return True
    except (TypeError, RuntimeError):  # PyTorch, of a tensor that it can not describe so
        pass
    try:
        return hasattr(value, "__dlpack_device__") and int(value.__dlpack_device__()[0]) not in _HOST_KINDS
    except (BufferError, RuntimeError, TypeError):
        return False  # what does not say where it is, numpy may still know


def describeArray(value: Any) -> ForeignArray:
    """What an array on a device says of itself, checked.

    Raises
    ------
    TypeError
        It is no such array.
    InvalidArgument
        It says what can not be.
    """
    try:
        interface = getattr(value, "__cuda_array_interface__", None)
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"a {type(value).__name__} can not be described: {error}") from error
    if interface is not None:
        return _ofInterface(interface, value)
    if hasattr(value, "__dlpack__"):
        tensor = dlpack.takeTensor(value, stream=1)
        return ForeignArray(tensor.address, tensor.shape, tensor.strides, tensor.dtype, tensor.readOnly, None, tensor)
    raise TypeError(f"a {type(value).__name__} is no array on a device")


def _ofInterface(interface: Any, owner: object) -> ForeignArray:
    if not isinstance(interface, dict):
        raise InvalidArgument(f"__cuda_array_interface__ is a {type(interface).__name__} and no dict")
    if interface.get("mask") is not None:
        raise TypeError("can not share a masked array, which would lose its mask: share its data and its mask")
    try:
        address, readOnly = interface["data"]
        shape = tuple(_integer(length) for length in interface["shape"])
        dtype = np.dtype(_text(interface["typestr"]))
        address = _integer(address) if address is not None else 0
        strides = interface.get("strides")
        strides = None if strides is None else tuple(_integer(stride) for stride in strides)
        stream = interface.get("stream")
        stream = None if stream is None else _integer(stream)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(f"__cuda_array_interface__ is not as it is specified: {error!r}") from error
    if dtype.hasobject or dtype.itemsize == 0 or len(shape) > _MAX_NDIM or any(length < 0 for length in shape):
        raise InvalidArgument(f"__cuda_array_interface__ states shape {shape} and dtype {dtype}")
    sizeBytes = math.prod(shape) * dtype.itemsize
    if sizeBytes > _MAX_BYTES or not 0 <= address < _MAX_BYTES or (sizeBytes and not address):
        raise InvalidArgument(f"__cuda_array_interface__ states {sizeBytes} bytes at {address:#x}")
    if strides is not None and len(strides) != len(shape):
        raise InvalidArgument(f"__cuda_array_interface__ states {len(strides)} strides for {len(shape)} dimensions")
    if stream is not None and stream <= 0:
        raise InvalidArgument(f"stream {stream} in __cuda_array_interface__ is not allowed", "Use 1 for the default stream")
    if strides is not None and dlpack.isCompact(shape, strides, dtype.itemsize):
        strides = None
    return ForeignArray(address, shape, strides, dtype, bool(readOnly), stream, owner)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{value!r} is no integer")
    return int(value.__index__())


def cudaArrayInterface(
    address: int, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: np.dtype[Any], readOnly: bool, stream: int | None
) -> dict[str, Any]:
    """`__cuda_array_interface__`, version 3."""
    described: dict[str, Any] = {
        "version": 3,
        "shape": shape,
        "strides": strides,
        "typestr": dtype.str,
        "data": (address, readOnly),
        "stream": stream,
    }
    if dtype.fields is not None:
        described["descr"] = dtype.descr
    return described


def consumerStream(stream: Any) -> int | None:
    """The handle of the stream that a consumer's `__dlpack__(stream=…)` means: it is to wait for who writes. None: nobody is to wait.

    Raises
    ------
    InvalidArgument
        Stream 0, which DLPack forbids because it is ambiguous, or a number below -1.
    """
    if stream is None:
        return 1  # the legacy default stream, by the protocol
    handle = _integer(stream)
    if handle == -1:
        return None
    if handle <= 0:
        raise InvalidArgument(f"stream {handle} is not allowed in __dlpack__", "Use 1 for the legacy default stream, or -1 for none")
    return handle
