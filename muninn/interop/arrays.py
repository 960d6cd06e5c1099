"""Arrays of other libraries in GPU memory, described alike, whichever of the two
protocols they speak.

`__cuda_array_interface__` (versions 0 to 3,
https://nvidia.github.io/numba-cuda/user/cuda_array_interface.html) is asked first:
since its third version it says which stream the memory must be waited for. Where it
does not (PyTorch's is of the second), `__dlpack__` is asked: there the producer orders
its work before a stream that it is given, and refuses what its bytes alone do not say,
such as a conjugate that was put off. What the objects say was written by others; each
field is checked, and no byte of the memory is touched.

Nothing here is shared between processes.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from muninn.errors import InvalidArgument, InvalidDtype
from muninn.interop import capsules, dlpack, layouts

#: What CUDA calls its legacy default stream where 0 would be ambiguous (cuda.h).
LEGACY_STREAM = 1
#: What a DLPack consumer passes when it orders the work itself.
_NO_ORDER = -1
_INTERFACE_VERSION = 3
_MAX_HANDLE_BITS = 64
#: A typestr of numpy's array interface, but for bit fields and Python objects; numpy
#: itself would read much more.
_TYPESTR = re.compile(r"[<>|=]?[biufcmMSUV][0-9]{1,9}(\[[0-9]{0,9}[A-Za-z]{1,2}\])?", re.ASCII)
_SHOWN_CHARACTERS = 40

_Dtype = np.dtype[Any]


class ForeignArray(NamedTuple):
    """Another library's array in GPU memory.

    Attributes
    ----------
    address
        Of the element with all indices 0; may be 0 where there are no elements.
    shape
        Lengths, in elements.
    strides
        In bytes; None when the elements follow each other in C order.
    dtype
        Of the elements; has no Python objects.
    readOnly
        Whether its owner forbids writing.
    stream
        The handle of the stream that must be waited for before the memory is touched;
        None: there is nothing to wait for.
    deviceId
        The GPU, as CUDA counts in this process; None when the array does not say.
    isOrdered
        Whether waiting for `stream` is enough. Otherwise the array does not say what is
        under way, and all work of this process is to be waited for.
    keepAlive
        Hold it for as long as the memory is used.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: _Dtype
    readOnly: bool
    stream: int | None
    deviceId: int | None
    isOrdered: bool
    keepAlive: object


def isOnDevice(value: Any) -> bool:
    """Whether an object says that its memory is on a GPU or the like, out of the CPU's
    reach. Never raises.
    """
    try:
        interface = getattr(value, "__cuda_array_interface__", None)
    except Exception:
        # a stranger's property: PyTorch's raises for tensors that need a gradient, and
        # DLPack says where they are
        interface = None
    if interface is not None:
        return True
    try:
        return dlpack.deviceOf(value)[0] not in capsules.HOST_DEVICES
    except Exception:
        # what does not know where it is, the caller takes as host memory, and hears why
        # it is not
        return False


def describeArray(
    value: Any, onGpu: Callable[[int], AbstractContextManager[object]] = nullcontext
) -> ForeignArray:
    """The array that an object stands for.

    Parameters
    ----------
    value
        Has `__cuda_array_interface__`, or `__dlpack__` and `__dlpack_device__`.
    onGpu
        Makes a GPU, by its index, the current one while the producer is asked: PyTorch
        exports tensors of the current one only.

    Returns
    -------
    ForeignArray
        Of a DLPack tensor, `stream` is the legacy default stream, before which the
        producer has put its work.

    Raises
    ------
    TypeError
        It speaks neither protocol, its memory is not CUDA's, it has a mask, or a field
        is not of the type that it must be.
    InvalidArgument
        A field has a value that can not be.
    InvalidDtype
        Its elements can not be told from their bytes; a `TypeError` as well.
    BufferError
        What it exports by DLPack can not be. Whatever else its own methods raise is
        passed on.
    """
    try:
        interface = getattr(value, "__cuda_array_interface__", None)
    except TypeError:  # PyTorch: a dtype that has no typestr; DLPack may still have a word for it
        interface = None
    if interface is not None:
        described = _fromInterface(interface, value)
        if described.isOrdered or not hasattr(value, "__dlpack__"):
            return described
        try:
            return _fromTensor(value, onGpu)
        except InvalidDtype:
            return described
    return _fromTensor(value, onGpu)


def _fromTensor(value: Any, onGpu: Callable[[int], AbstractContextManager[object]]) -> ForeignArray:
    deviceType, deviceId = dlpack.deviceOf(value)
    if deviceType not in (capsules.CUDA, capsules.CUDA_MANAGED):
        where = (
            "host memory"
            if deviceType in capsules.HOST_DEVICES
            else f"memory of DLPack's device type {deviceType}"
        )
        raise TypeError(f"{type(value).__name__} is in {where}, not on a CUDA device")
    with onGpu(deviceId):
        taken = dlpack.takeTensor(value, LEGACY_STREAM)
    if taken.deviceType != deviceType:
        raise TypeError(
            f"{type(value).__name__} states device type {deviceType} and exports memory of "
            f"{taken.deviceType}"
        )
    if taken.deviceId < 0:
        raise InvalidArgument(
            f"{type(value).__name__} is on GPU {taken.deviceId}, which can not be"
        )
    return ForeignArray(
        taken.address,
        taken.shape,
        taken.strides,
        taken.dtype,
        taken.readOnly,
        LEGACY_STREAM,
        taken.deviceId,
        True,
        keepAlive=taken,
    )


def cudaArrayInterface(
    address: int,
    shape: Sequence[int],
    strides: Sequence[int] | None,
    dtype: Any,
    readOnly: bool,
    stream: int | None,
) -> dict[str, Any]:
    """What `__cuda_array_interface__` returns, version 3.

    Parameters
    ----------
    address
        Of the element with all indices 0, for the device.
    shape, strides
        Lengths in elements, and strides in bytes; None when the elements follow each
        other in C order.
    dtype
        Any of fixed size without Python objects; fields are described as numpy's array
        interface does.
    readOnly
        Whether the consumer must not write.
    stream
        The handle of the stream that the consumer must wait for; None: there is nothing
        to wait for.

    Raises
    ------
    InvalidArgument
        `stream` is 0, which the interface forbids as ambiguous, or can be no handle; or
        the layout can not be.
    InvalidDtype
        The interface has no word for `dtype`.
    """
    itemType: _Dtype = np.dtype(dtype)
    if (
        itemType.hasobject
        or not itemType.itemsize
        or (itemType.kind == "V" and itemType.type is not np.void)
    ):
        raise InvalidDtype(
            f"__cuda_array_interface__ has no word for dtype {itemType}", "Take the array by DLPack"
        )
    lengths, steps = (
        _integers(tuple(shape), "the shape"),
        None if strides is None else _integers(tuple(strides), "the strides"),
    )
    if problem := layouts.layoutProblem(address, lengths, steps, itemType.itemsize):
        raise InvalidArgument(f"an array can not be lent: {problem}")
    interface = {
        "shape": lengths,
        "typestr": itemType.str,
        "data": (0 if 0 in lengths else address, readOnly),
        "version": _INTERFACE_VERSION,
        "strides": layouts.packedStrides(lengths, steps, itemType.itemsize),
        "stream": _streamOf(stream),
    }
    if itemType.fields is not None:
        try:
            interface["descr"] = np.lib.format.dtype_to_descr(itemType)
        except ValueError as error:
            raise InvalidDtype(f"dtype {itemType} can not be described: {error}") from None
    return interface


def consumerStream(stream: object) -> int | None:
    """The handle of the stream that a consumer wants to be made to wait, as it passed
    it to our `__dlpack__(stream=)`.

    Parameters
    ----------
    stream
        None or 1: the legacy default stream; 2: the one of this thread; above: a
        handle; -1: the consumer orders the work itself.

    Returns
    -------
    int or None
        None when no stream is to wait.

    Raises
    ------
    InvalidArgument
        0, which the protocol forbids as ambiguous, or no handle.
    TypeError
        No integer.
    """
    if stream is None:
        return LEGACY_STREAM
    return None if _integer(stream, "a stream") == _NO_ORDER else _streamOf(stream)


def _fromInterface(interface: Any, value: object) -> ForeignArray:
    if not isinstance(interface, dict):
        raise TypeError(f"__cuda_array_interface__ is a {type(interface).__name__}, not a dict")
    if missing := [key for key in ("shape", "typestr", "data", "version") if key not in interface]:
        raise InvalidArgument(f"__cuda_array_interface__ has no {' and no '.join(missing)}")
    if not 0 <= (version := _integer(interface["version"], "its version")) <= _INTERFACE_VERSION:
        raise InvalidArgument(
            f"__cuda_array_interface__ of version {version} is not known; "
            f"{_INTERFACE_VERSION} is the newest that is"
        )
    if interface.get("mask") is not None:
        raise TypeError("the array has a mask, without which its elements mean nothing")
    address, readOnly = _dataOf(interface["data"])
    shape = _integers(interface["shape"], "its shape")
    strides = (
        None if interface.get("strides") is None else _integers(interface["strides"], "its strides")
    )
    dtype = _dtypeOf(interface["typestr"], interface.get("descr"))
    if problem := layouts.layoutProblem(address, shape, strides, dtype.itemsize):
        raise InvalidArgument(f"the array can not be: {problem}")
    if not address and 0 not in shape:
        raise InvalidArgument(f"the array of shape {shape} has no memory")
    # Honoured whatever the version: it came with the third, and to wait is never wrong.
    stream = _streamOf(interface.get("stream"))
    isOrdered = "stream" in interface
    return ForeignArray(
        address,
        shape,
        layouts.packedStrides(shape, strides, dtype.itemsize),
        dtype,
        readOnly,
        stream,
        None,
        isOrdered,
        value,
    )


def _dataOf(data: Any) -> tuple[int, bool]:
    """(address, read-only)."""
    if not isinstance(data, tuple) or len(data) != 2:
        raise TypeError("its data is not a pair of an address and a flag")
    if not isinstance(data[1], (bool, np.bool_, int)):
        raise TypeError(f"its read-only flag is a {type(data[1]).__name__}")
    return _integer(data[0], "its address"), bool(data[1])


def _dtypeOf(typestr: Any, descr: Any) -> _Dtype:
    """The dtype by its text; of a structure, by the list of fields that may come with
    it.
    """
    if not isinstance(typestr, str):
        raise TypeError(f"its typestr is a {type(typestr).__name__}")
    if not _TYPESTR.fullmatch(typestr):
        raise InvalidArgument(f"its typestr {typestr[:_SHOWN_CHARACTERS]!r} is not known")
    try:
        dtype: _Dtype = np.dtype(typestr)
        # numpy's own arrays come with [("", typestr)], which says nothing more.
        if dtype.kind == "V" and isinstance(descr, list) and descr != [("", typestr)]:
            structure = np.lib.format.descr_to_dtype(descr)
            if structure.itemsize != dtype.itemsize:
                raise InvalidArgument(
                    f"its fields take {structure.itemsize} bytes, and its typestr {typestr} "
                    f"says {dtype.itemsize}"
                )
            dtype = structure
    # What numpy raises for descriptions that it did not write.
    except (
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
        SyntaxError,
        RecursionError,
    ) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise InvalidArgument(
            f"its typestr {typestr[:_SHOWN_CHARACTERS]!r}, or its descr, is not one of "
            f"numpy's: {error}"
        ) from None
    if dtype.hasobject or dtype.itemsize == 0:
        raise InvalidDtype(f"its dtype {dtype} has no size, or holds Python objects")
    return dtype


def _streamOf(stream: object) -> int | None:
    """The handle of a stream to wait for, by the rules that both protocols have."""
    if stream is None:
        return None
    handle = _integer(stream, "its stream")
    if handle == 0:
        raise InvalidArgument(
            "stream 0 is ambiguous and so forbidden",
            "Pass 1 for the legacy default stream, 2 for that of the thread",
        )
    if handle < 0:
        raise InvalidArgument(f"{handle} is not a stream's handle")
    return handle


def _integers(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, (tuple, list)):
        raise TypeError(f"{what} is a {type(values).__name__}, not a tuple")
    if len(values) > layouts.MAX_DIMENSIONS:
        raise InvalidArgument(
            f"{what} has {len(values)} dimensions, and {layouts.MAX_DIMENSIONS} is the most"
        )
    return tuple(_integer(each, what) for each in values)


def _integer(value: Any, what: str) -> int:
    """An integer that can be shown: Python refuses to print those of thousands of
    digits.
    """
    if isinstance(value, bool):
        raise TypeError(f"{what} is no integer but a bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what} is no integer but a {type(value).__name__}") from None
    if number.bit_length() > _MAX_HANDLE_BITS:
        raise InvalidArgument(f"{what} does not fit {_MAX_HANDLE_BITS} bits")
    return number
