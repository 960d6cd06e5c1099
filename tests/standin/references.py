"""CPU references of kernels, for programs that run on the stand-in driver:
`register("vectorAdd", function)`.

A CPU reference belongs to the process that registers it; the driver calls it on the
worker thread of the stream on which the kernel was launched.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

LAUNCH_FAILED = 719
#: The parameters by which Numba passes an array: meminfo, parent, item count, item
#: size, data, then shape and strides.
NUMBA_DATA = 4


class Launch(ctypes.Structure):
    """`Launch` of kernels.c."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("sharedBytes", ctypes.c_uint),
        ("parameterCount", ctypes.c_int),
        ("parameters", ctypes.POINTER(ctypes.c_void_p)),
        ("parameterBytes", ctypes.POINTER(ctypes.c_uint)),
        ("stream", ctypes.c_void_p),
    ]

    def value(self, index: int) -> int:
        """The parameter as an unsigned integer of its own size."""
        return int.from_bytes(
            ctypes.string_at(self.parameters[index], self.parameterBytes[index]), "little"
        )

    def values(self) -> list[int]:
        return [self.value(index) for index in range(self.parameterCount)]


CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Launch), ctypes.c_void_p)
kept: list[Any] = []


def driver() -> ctypes.CDLL:
    """The driver that this process has loaded; with a real driver a later call fails
    with AttributeError.
    """
    library = ctypes.CDLL("libcuda.so.1")
    library.standinHostPointer.restype = ctypes.c_void_p
    library.standinHostPointer.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int]
    return library


def deviceView(address: int, count: int, dtype: Any, writable: bool = True) -> np.ndarray[Any, Any]:
    """The bytes at a device address; only a CPU reference may read them."""
    size = count * np.dtype(dtype).itemsize
    where = driver().standinHostPointer(address, size, int(writable))
    if not where:
        raise ValueError(f"no device memory of {size} bytes at {address:#x}")
    return np.frombuffer((ctypes.c_char * size).from_address(where), dtype=dtype)


def numbaArray(launch: Launch, first: int, dtype: Any) -> np.ndarray[Any, Any]:
    """The one-dimensional contiguous array whose seven parameters begin at `first`."""
    return deviceView(launch.value(first + NUMBA_DATA), launch.value(first + 2), dtype)


def register(part: str, function: Callable[[Launch], None]) -> None:
    """Run `function` for each kernel whose mangled name contains `part`. When it
    raises, the context fails as after a failed launch.
    """

    def call(launch: Any, _: object) -> int:
        try:
            function(launch.contents)
        except Exception as error:
            print(f"CPU reference of {part}: {error!r}")
            return LAUNCH_FAILED
        return 0

    kept.append(CALLBACK(call))
    assert driver().standinRegisterKernel(part.encode(), kept[-1], None) == 0
