"""DLPack capsules of device memory, made and taken by hand: numpy makes them of host memory only.

The structures are those of dlpack.h 1.x (dmlc/dlpack). A capsule that is made keeps its owner until its consumer calls the deleter, on
whatever thread, or until it is collected unconsumed. A capsule that is taken is kept until what was made of it is collected.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from typing import Any

import numpy as np

CPU, CUDA, CUDA_HOST = 1, 2, 3
_VERSION = (1, 1)
_READ_ONLY = 1  # DLPACK_FLAG_BITMASK_READ_ONLY
_LEGACY, _VERSIONED = b"dltensor", b"dltensor_versioned"
_USED = {_LEGACY: b"used_dltensor", _VERSIONED: b"used_dltensor_versioned"}
_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}
_KINDS = {code: kind for kind, code in _CODES.items()}
_BFLOAT = 4
_MAX_NDIM = 64
_MAX_BYTES = 1 << 47


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("deviceType", ctypes.c_int32),
        ("deviceId", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byteOffset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Legacy(ctypes.Structure):
    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_api = ctypes.pythonapi
_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_newCapsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)(("PyCapsule_New", _api))
_isValid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointerOf = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_setName = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _api))
# By address, for the destructor: the capsule's count of references is 0 then, and an object made of it would end it again.
_isValidAt = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointerAt = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))

#: What keeps an exported tensor, by the address of its structure: the structure, its shape and strides, and the owner.
_exported: dict[int, tuple[object, ...]] = {}


def _delete(address: int | None, exported: dict[int, tuple[object, ...]] = _exported) -> None:
    exported.pop(address or 0, None)


def _destroy(
    capsule: int, exported: dict[int, tuple[object, ...]] = _exported, isValid: Any = _isValidAt, pointer: Any = _pointerAt
) -> None:
    for name in (b"dltensor", b"dltensor_versioned"):
        if isValid(capsule, name):  # nobody consumed it
            exported.pop(pointer(capsule, name) or 0, None)


def _immortal(function: Any) -> Any:
    """`function`, which others call until the process is gone, when this module is not there any more: so nothing of it may be global."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(function))
    return function


_DELETER = _immortal(_Deleter(_delete))
_DESTRUCTOR = _immortal(_Destructor(_destroy))


def exportCapsule(
    address: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    device: tuple[int, int],
    owner: object,
    *,
    readOnly: bool = False,
    maxVersion: tuple[int, int] | None = None,
) -> Any:
    """A capsule of the C-contiguous memory at `address`.

    Parameters
    ----------
    device
        DLPack's (kind, index).
    owner
        Kept until the consumer lets go.
    maxVersion
        What the consumer understands; None, or below 1: the legacy capsule.

    Raises
    ------
    BufferError
        DLPack has no such dtype, or the memory is read-only and the legacy capsule can not say so.
    """
    isVersioned = maxVersion is not None and maxVersion[0] >= 1
    if readOnly and not isVersioned:
        raise BufferError("read-only memory can not be passed by a legacy DLPack capsule; open it readWrite, or copy it")
    made: Any = _Versioned() if isVersioned else _Legacy()
    lengths = (ctypes.c_int64 * max(1, len(shape)))(*shape)
    steps = (ctypes.c_int64 * max(1, len(shape)))(*(math.prod(shape[at + 1 :]) for at in range(len(shape))))
    tensor = made.tensor
    tensor.data, tensor.deviceType, tensor.deviceId = address, *device
    tensor.ndim, tensor.dtype = len(shape), _dataType(dtype)
    tensor.shape = ctypes.cast(lengths, ctypes.POINTER(ctypes.c_int64))
    tensor.strides = ctypes.cast(steps, ctypes.POINTER(ctypes.c_int64))
    made.deleter = ctypes.cast(_DELETER, ctypes.c_void_p)
    if isVersioned:
        made.major, made.minor = _VERSION
        made.flags = _READ_ONLY if readOnly else 0
    place = ctypes.addressof(made)
    _exported[place] = (made, lengths, steps, owner)
    return _newCapsule(place, _VERSIONED if isVersioned else _LEGACY, _DESTRUCTOR)


def _dataType(dtype: np.dtype[Any]) -> _DataType:
    if dtype.name == "bfloat16":
        return _DataType(_BFLOAT, 16, 1)
    if dtype.fields is not None or dtype.kind not in _CODES or not dtype.isnative:
        raise BufferError(f"DLPack has no dtype {dtype}; use a view as another one")
    return _DataType(_CODES[dtype.kind], dtype.itemsize * 8, 1)


class Imported:
    """A tensor that somebody else made.

    Attributes
    ----------
    address, shape, dtype, readOnly
        Of its first element, and as numpy's.
    strides
        In bytes; None when it is C-contiguous.
    deviceType, deviceId
        DLPack's kind of device, and which one.
    """

    __slots__ = ("__weakref__", "address", "deviceId", "deviceType", "dtype", "readOnly", "shape", "strides")

    def __init__(self, tensor: _Tensor, readOnly: bool) -> None:
        if not 0 <= tensor.ndim <= _MAX_NDIM:
            raise BufferError(f"a DLPack tensor states {tensor.ndim} dimensions")
        self.shape = tuple(int(tensor.shape[at]) for at in range(tensor.ndim))
        self.dtype = _dtypeOf(tensor.dtype)
        itemBytes = self.dtype.itemsize
        if any(length < 0 for length in self.shape) or math.prod(self.shape) * itemBytes > _MAX_BYTES:
            raise BufferError(f"a DLPack tensor states shape {self.shape}")
        strides = tuple(int(tensor.strides[at]) * itemBytes for at in range(tensor.ndim)) if tensor.strides else None
        self.strides = None if strides is None or isCompact(self.shape, strides, itemBytes) else strides
        self.address = int(tensor.data or 0) + int(tensor.byteOffset)
        self.deviceType, self.deviceId, self.readOnly = int(tensor.deviceType), int(tensor.deviceId), readOnly
        if math.prod(self.shape) and not 0 < self.address < _MAX_BYTES:
            raise BufferError(f"a DLPack tensor states the address {self.address:#x}")


def importCapsule(capsule: Any) -> Imported:
    """Take a capsule over: it can not be taken again, and its producer's memory stays as long as the result does.

    Raises
    ------
    BufferError
        It is no capsule, was taken already, is of a later major version, or states what can not be.
    """
    name = next((each for each in (_VERSIONED, _LEGACY) if type(capsule).__name__ == "PyCapsule" and _isValid(capsule, each)), None)
    if name is None:
        raise BufferError("this is no DLPack capsule, or one that was consumed already")
    place = _pointerOf(capsule, name)
    made: Any = (_Versioned if name == _VERSIONED else _Legacy).from_address(place)
    if name == _VERSIONED and made.major > 1:
        raise BufferError(f"the DLPack capsule has version {made.major}.{made.minor}, and this is {_VERSION[0]}.{_VERSION[1]}")
    imported = Imported(made.tensor, name == _VERSIONED and bool(made.flags & _READ_ONLY))
    deleter = made.deleter
    _setName(capsule, _USED[name])
    weakref.finalize(imported, _letGo, deleter, place).atexit = False
    return imported


def takeTensor(value: Any, stream: int | None) -> Imported:
    """The tensor of an object with `__dlpack__`, after what its producer's stream has to do before `stream` may use it."""
    wanted = stream if value.__dlpack_device__()[0] == CUDA else None
    try:
        capsule = value.__dlpack__(stream=wanted, max_version=_VERSION)
    except TypeError:  # a producer of before DLPack 1.0
        capsule = value.__dlpack__(stream=wanted)
    return importCapsule(capsule)


def isCompact(shape: tuple[int, ...], strides: tuple[int, ...], itemBytes: int) -> bool:
    """Whether the strides, in bytes, are those of a C-contiguous array."""
    expected = itemBytes
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length == 0:
            return True
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def _dtypeOf(stated: _DataType) -> np.dtype[Any]:
    if stated.lanes != 1 or stated.bits % 8 or (stated.code not in _KINDS and stated.code != _BFLOAT):
        raise BufferError(f"a DLPack tensor states type code {stated.code} with {stated.bits} bits and {stated.lanes} lanes")
    if stated.code == _BFLOAT:
        return np.dtype(np.uint16)  # numpy has no such type: the bits are kept
    try:
        return np.dtype(f"{_KINDS[stated.code]}{stated.bits // 8}")
    except TypeError as error:
        raise BufferError(f"a DLPack tensor states type code {stated.code} with {stated.bits} bits") from error


def _letGo(deleter: int | None, place: int) -> None:
    if deleter:
        _Deleter(deleter)(place)
