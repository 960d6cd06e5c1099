"""The capsules of DLPack: the C structures of dlpack.h 1.x
(https://github.com/dmlc/dlpack), and Python's functions for capsules.

The legacy structure is `DLManagedTensor`, whose capsule is named `dltensor`. Only
`DLManagedTensorVersioned`, in a capsule named `dltensor_versioned`, can state that
memory is read-only. A capsule is consumed once: its consumer takes the structure,
renames the capsule to `used_...`, and calls the structure's deleter when it is done.
Nothing here is shared between processes.
"""

from __future__ import annotations

import ctypes
import operator

import numpy as np

#: `DLDeviceType` (dlpack.h).
CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
#: Memory that the CPU reads, and whose work no stream orders.
HOST_DEVICES = (CPU, CUDA_HOST)
#: The version that `takeTensor` asks for.
MAX_VERSION = (1, 1)
MAJOR_VERSION = 1
FLAG_READ_ONLY = 1
#: Values of less than a byte take a whole one each.
FLAG_PADDED = 1 << 2
LEGACY, VERSIONED = b"dltensor", b"dltensor_versioned"
#: numpy 2.0 makes only legacy capsules.
NUMPY_IS_VERSIONED = np.lib.NumpyVersion(np.__version__) >= "2.1.0"


class Tensor(ctypes.Structure):
    """`DLTensor`."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("deviceType", ctypes.c_int32),
        ("deviceId", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_uint64),
        ("strides", ctypes.c_uint64),
        ("byteOffset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    """`DLManagedTensor`."""

    _fields_ = (("tensor", Tensor), ("context", ctypes.c_uint64), ("deleter", ctypes.c_uint64))


class ManagedVersioned(ctypes.Structure):
    """`DLManagedTensorVersioned`. The fields before `tensor` are the same in all
    versions.
    """

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_uint64),
        ("deleter", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


MANAGED: dict[bytes, type[Managed | ManagedVersioned]] = {
    LEGACY: Managed,
    VERSIONED: ManagedVersioned,
}
assert (ctypes.sizeof(Tensor), ctypes.sizeof(Managed), ctypes.sizeof(ManagedVersioned)) == (
    48,
    64,
    80,
)


# Prototypes of our own, because the types of `ctypes.pythonapi`'s functions are set for
# every library of the process.
isCapsuleOf = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_capsulePointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
renameCapsule = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_SetName", ctypes.pythonapi)
)
_incref = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("Py_IncRef", ctypes.pythonapi))
#: Called with the GIL. A deleter must not need the GIL, but those of some producers do,
#: and numpy also calls them with it.
Deleter = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)

USED = {LEGACY: b"used_dltensor", VERSIONED: b"used_dltensor_versioned"}
for _name in USED.values():
    # A renamed capsule points at these bytes as long as it is there, which may be
    # longer than this module is.
    _incref(_name)


def managedOf(capsule: object, name: bytes) -> Managed | ManagedVersioned:
    """The structure in a capsule of that name."""
    return MANAGED[name].from_address(_capsulePointer(capsule, name))


def wantsVersioned(maxVersion: object) -> bool:
    """Whether a consumer with this `max_version` takes a versioned capsule, which can
    state that memory is read-only.
    """
    if maxVersion is None:
        return False
    if not isinstance(maxVersion, tuple) or len(maxVersion) != 2:
        raise TypeError("max_version is None or a pair of integers, as (1, 0)")
    return operator.index(maxVersion[0]) >= MAJOR_VERSION
