"""Loans: memory that is lent by DLPack, as capsules that keep its owner.

The deleter and the destructor of a capsule are numpy's. A consumer may call them on a
thread without the GIL, while an exception is being raised, and after the interpreter
has ended. A ctypes callback survives only the first of these. Python code can not run
while an exception is in flight, so the exception of `f(torch.from_dlpack(x))` would
become a SystemError when the interpreter drops the argument; and a callback is freed
before the last tensor is. So numpy exports a small array, the carrier, which holds the
owner of the lent memory and the shapes. Then this module changes the tensor in the
capsule so that it describes the lent memory. numpy drops the carrier when the deleter
of its last capsule runs, and this module has nothing to remember.

The caller has checked the layouts. Nothing here is shared between processes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from muninn.errors import InvalidArgument
from muninn.interop.capsules import (
    CPU,
    CUDA,
    CUDA_HOST,
    FLAG_PADDED,
    FLAG_READ_ONLY,
    LEGACY,
    MAJOR_VERSION,
    NUMPY_IS_VERSIONED,
    VERSIONED,
    ManagedVersioned,
    Tensor,
    managedOf,
    wantsVersioned,
)
from muninn.interop.elements import ElementType, dlpackWord

_MAX_DEVICE_ID = (1 << 31) - 1


class _Carrier(np.ndarray[Any, np.dtype[Any]]):
    """The array that numpy exports for us. It contains the lengths and then the strides
    of each lent array, and refers to the owner of their memory.
    """

    owner: object


class Loan:
    """Memory that is lent as one capsule or as several.

    Parameters
    ----------
    extents
        The lengths and then the strides, in elements, of one array after the other.
    """

    __slots__ = ("_carrier", "_device", "_extents", "_flags", "_name")

    def __init__(
        self,
        extents: list[int],
        device: tuple[int, int],
        owner: object,
        readOnly: bool,
        maxVersion: tuple[int, int] | None,
    ) -> None:
        _checkDevice(device)
        self._device, self._flags = device, FLAG_READ_ONLY if readOnly else 0
        self._name = VERSIONED if wantsVersioned(maxVersion) and NUMPY_IS_VERSIONED else LEGACY
        if readOnly and self._name == LEGACY:
            raise BufferError(
                "this memory is read-only, which a legacy DLPack capsule can not say: ask with "
                "max_version=(1, 0), numpy 2.1 or newer"
            )
        self._carrier = _Carrier((max(1, len(extents)),), np.int64)
        self._carrier[: len(extents)] = extents
        self._carrier.owner = owner
        # The carrier's address is not read by its `ctypes`, which imports a module each
        # time; an ending interpreter refuses that.
        self._extents = self._carrier.__array_interface__["data"][0]

    def capsule(
        self, first: int, address: int, lengths: tuple[int, ...], element: ElementType
    ) -> object:
        """A capsule of one array. `first` is the place of its lengths in the extents."""
        word = dlpackWord(element)
        if word.isPadded and self._name == LEGACY:
            raise BufferError(
                f"{element} is padded to a byte, which a legacy DLPack capsule can not say: ask "
                "with max_version=(1, 1), numpy 2.1 or newer"
            )
        capsule = (
            self._carrier.__dlpack__(max_version=(MAJOR_VERSION, 0))
            if self._name == VERSIONED
            else self._carrier.__dlpack__()
        )
        managed = managedOf(capsule, self._name)
        # Strides are always there, also for compact arrays, because consumers of 1.2
        # and newer rely on them. An array without elements has the address NULL, as the
        # header asks.
        managed.tensor = Tensor(
            0 if 0 in lengths else address,
            *self._device,
            len(lengths),
            word.code,
            word.bits,
            word.lanes,
            self._extents + 8 * first,
            self._extents + 8 * (first + len(lengths)),
            0,
        )
        if isinstance(managed, ManagedVersioned):
            managed.flags = self._flags | (FLAG_PADDED if word.isPadded else 0)
        return capsule


def _checkDevice(device: tuple[int, int]) -> None:
    deviceType, deviceId = device
    if deviceType not in (CPU, CUDA, CUDA_HOST) or not 0 <= deviceId <= (
        0 if deviceType == CPU else _MAX_DEVICE_ID
    ):
        raise InvalidArgument(
            f"{device} is no device: (1, 0) is the CPU, (2, gpu) a GPU and (3, gpu) pinned "
            "host memory"
        )
