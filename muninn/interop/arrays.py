"""Arrays of other libraries in GPU memory, described in one way for both protocols that
they have.

This module asks `__cuda_array_interface__` first (versions 0 to 3,
https://nvidia.github.io/numba-cuda/user/cuda_array_interface.html): since its third
version it names the stream for which a consumer must wait. Where it names none
(PyTorch's is of the second version), the module asks `__dlpack__`: there the producer
orders its work before a given stream, and refuses arrays whose bytes alone do not tell
their values, such as a conjugate that was put off. Other libraries wrote these
descriptions, so each field is checked, and no byte of the memory is touched.

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
from muninn.interop.dtypes import DAMAGE
from muninn.interop.elements import ElementType, asElement

#: CUDA's handle of its legacy default stream where 0 would be ambiguous (cuda.h).
LEGACY_STREAM = 1
#: The stream that a DLPack consumer passes when it orders the work itself.
_NO_ORDER = -1
_INTERFACE_VERSION = 3
_MAX_HANDLE_BITS = 64
#: A typestr of numpy's array interface, except for bit fields and Python objects. numpy
#: itself would accept much more.
_TYPESTR = re.compile(r"[<>|=]?[biufcmMSUV][0-9]{1,9}(\[[0-9]{0,9}[A-Za-z]{1,2}\])?", re.ASCII)
_SHOWN_CHARACTERS = 40

_Dtype = np.dtype[Any]


class ForeignArray(NamedTuple):
    """Another library's array in GPU memory.

    Attributes
    ----------
    address
        The address of the element with all indices 0; may be 0 without elements.
    shape
        Lengths, in elements.
    strides
        In bytes; None when the elements follow each other in C order.
    element
        The type of the elements.
    readOnly
        Whether its owner forbids writing.
    stream
        The handle of the stream for which a consumer must wait before it touches the
        memory; None: there is nothing to wait for.
    deviceId
        The GPU, as CUDA counts in this process; None when the array does not tell.
    isOrdered
        Whether it is enough to wait for `stream`. Otherwise the array does not tell
        which stream writes it, and a consumer must wait for all work of this process.
    keepAlive
        An object that must be held while the memory is used.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    element: ElementType
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
        # A property of another library may raise: PyTorch's does for tensors that need
        # a gradient. DLPack tells where those are.
        interface = None
    if interface is not None:
        return True
    try:
        return dlpack.deviceOf(value)[0] not in capsules.HOST_DEVICES
    except Exception:
        # The caller takes an object without a known place for host memory, and its
        # conversion raises the error.
        return False


def describeArray(
    value: Any, onGpu: Callable[[int], AbstractContextManager[object]] = nullcontext
) -> ForeignArray:
    """The description of another library's array.

    Parameters
    ----------
    value
        Has `__cuda_array_interface__`, or `__dlpack__` and `__dlpack_device__`.
    onGpu
        Makes a GPU, by its index, the current one while the producer is asked: PyTorch
        exports only tensors of the current GPU.

    Returns
    -------
    ForeignArray
        For a DLPack tensor, `stream` is the legacy default stream, before which the
        producer has ordered its work.

    Raises
    ------
    TypeError
        It has neither protocol, its memory is not CUDA's, it has a mask, or a field has
        a wrong type.
    InvalidArgument
        A field has an impossible value.
    InvalidDtype
        The bytes alone do not tell its elements; a `TypeError` as well.
    BufferError
        Its DLPack tensor is impossible. Other exceptions of its own methods are passed
        on.
    """
    try:
        interface = getattr(value, "__cuda_array_interface__", None)
    except (TypeError, KeyError):  # PyTorch: a dtype without a typestr; DLPack may have a word
        interface = None
    if interface is None:
        return _fromTensor(value, onGpu)
    isTensor = hasattr(value, "__dlpack__")
    if isTensor and _isBareFloat(interface):
        return _fromTensor(value, onGpu)
    described = _fromInterface(interface, value)
    if not isTensor or (described.isOrdered and not described.element.isOpaque):
        return described
    try:
        return _fromTensor(value, onGpu)
    except (InvalidDtype, BufferError) as error:  # DLPack may have no word for the elements
        if isinstance(error, BufferError) and not described.isOrdered:
            raise  # the bytes alone may not tell the values
        return described


def _isBareFloat(interface: object) -> bool:
    """Whether the typestr is ml_dtypes' own for float8_e5m2, which numpy does not know."""
    return isinstance(interface, dict) and interface.get("typestr") in ("<f1", "|f1")


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
        taken.element,
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
    element: Any,
    readOnly: bool,
    stream: int | None,
) -> dict[str, Any]:
    """The dict of `__cuda_array_interface__`, version 3.

    Parameters
    ----------
    address
        The address of the element with all indices 0, for the device.
    shape, strides
        Lengths in elements, and strides in bytes; None when the elements follow each
        other in C order.
    element
        An `ElementType`, or what `asElement` takes for one; a type of numpy's own.
        Fields are described as in numpy's array interface.
    readOnly
        Whether the consumer must not write.
    stream
        The handle of the stream that the consumer must wait for; None: there is nothing
        to wait for.

    Raises
    ------
    InvalidArgument
        `stream` is 0, which the interface forbids as ambiguous, or no handle; or the
        layout is impossible.
    InvalidDtype
        The interface has no typestr for the elements.
    """
    given = asElement(element)
    if not given.isNumpys:
        raise InvalidDtype(
            f"__cuda_array_interface__ has no word for {given}",
            "Take the array by DLPack, or its bits as unsigned integers: "
            f"deviceArray(dtype={given.bits.str[1:]!r})",
        )
    itemType = given.dtype
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
    """The handle of the consumer's stream that must wait, from the argument of
    `__dlpack__(stream=)`.

    Parameters
    ----------
    stream
        None or 1: the legacy default stream; 2: the one of this thread; above: a
        handle; -1: the consumer orders the work itself.

    Returns
    -------
    int or None
        None when no stream has to wait.

    Raises
    ------
    InvalidArgument
        `stream` is 0, which the protocol forbids as ambiguous, or no handle.
    TypeError
        `stream` is no integer.
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
    # The key came with the third version. It is obeyed in older ones too, because to
    # wait is never wrong.
    stream = _streamOf(interface.get("stream"))
    isOrdered = "stream" in interface
    return ForeignArray(
        address,
        shape,
        layouts.packedStrides(shape, strides, dtype.itemsize),
        asElement(dtype),
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
    """The dtype by its typestr; for a structure, by the list of fields that may come
    with it.
    """
    if not isinstance(typestr, str):
        raise TypeError(f"its typestr is a {type(typestr).__name__}")
    if not _TYPESTR.fullmatch(typestr):
        raise InvalidArgument(f"its typestr {typestr[:_SHOWN_CHARACTERS]!r} is not known")
    try:
        dtype: _Dtype = np.dtype(typestr)
        # numpy's own arrays come with [("", typestr)], which adds nothing.
        if dtype.kind == "V" and isinstance(descr, list) and descr != [("", typestr)]:
            structure = np.lib.format.descr_to_dtype(descr)
            if structure.itemsize != dtype.itemsize:
                raise InvalidArgument(
                    f"its fields take {structure.itemsize} bytes, and its typestr {typestr} "
                    f"says {dtype.itemsize}"
                )
            dtype = structure
    except DAMAGE as error:
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
    """The handle of a stream to wait for, by the rules of both protocols."""
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
    """An integer that can be printed: Python refuses to print one of thousands of
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
