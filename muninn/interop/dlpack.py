"""DLPack: memory lent to another library of this process, and borrowed from one, as a
capsule around a C structure.

The structures and the rules of capsules are in `capsules`.

*Lending.* The deleter and the destructor of the capsule are numpy's. A consumer may
call them on a thread without the GIL, while an exception is being raised, and after the
interpreter has ended. A ctypes callback survives only the first of these. Python code
can not run while an exception is in flight, so the exception of
`f(torch.from_dlpack(x))` would become a SystemError when the interpreter drops the
argument; and a callback is freed before the last tensor is. So numpy exports a small
array, the carrier, which holds the owner of the lent memory and the shape. Then this
module changes the tensor in the capsule so that it describes the lent memory. numpy
drops the carrier when the deleter runs, and this module has nothing to remember.

*Borrowing.* The statements of another library are checked before they are used, and no
byte of the memory is touched, because it may be on a GPU. An `Imported` calls the
deleter once, when it is collected. At exit it does not: the kernel gives everything
back then.

Nothing here is shared between processes.
"""

from __future__ import annotations

import ctypes
import operator
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from muninn.errors import InvalidArgument
from muninn.interop.capsules import (
    CPU,
    CUDA,
    CUDA_HOST,
    FLAG_PADDED,
    FLAG_READ_ONLY,
    HOST_DEVICES,
    LEGACY,
    MAJOR_VERSION,
    MANAGED,
    MAX_VERSION,
    NUMPY_IS_VERSIONED,
    USED,
    VERSIONED,
    Deleter,
    Managed,
    ManagedVersioned,
    Tensor,
    isCapsuleOf,
    managedOf,
    renameCapsule,
    wantsVersioned,
)
from muninn.interop.elements import BYTE_BITS, DlpackWord, asElement, dlpackElement, dlpackWord
from muninn.interop.layouts import MAX_DIMENSIONS, compactStrides, layoutProblem, packedStrides
from muninn.system.forks import Guard

_MAX_DEVICE_ID = (1 << 31) - 1

#: Between the look at a capsule and its renaming, no other thread may take it. A
#: garbage collection that runs meanwhile may import capsules as well.
_taking = Guard()


class _Carrier(np.ndarray[Any, np.dtype[Any]]):
    """The array that numpy exports for us. It contains the lengths and then the strides
    of the lent array, and refers to the owner of its memory.
    """

    owner: object


class Imported:
    """Memory borrowed from another library, until this object is collected.

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
    deviceType, deviceId
        As the producer states them (`CPU`, `CUDA`, ...).
    readOnly
        Whether the producer forbids writing. A legacy capsule can not state that, and
        gives False.
    holder
        Another object that this object keeps alive.
    """

    __slots__ = (
        "__weakref__",
        "address",
        "deviceId",
        "deviceType",
        "element",
        "holder",
        "readOnly",
        "shape",
        "strides",
    )

    def __init__(self, tensor: Tensor, flags: int, holder: object) -> None:
        self.shape, elementStrides = _extentsOf(tensor)
        bits = int(tensor.bits)
        isPadded = bits < BYTE_BITS and bool(flags & FLAG_PADDED)
        word = DlpackWord(int(tensor.code), bits, int(tensor.lanes), isPadded)
        self.element = dlpackElement(word)
        itemBytes = self.element.itemBytes
        strides = (
            None
            if elementStrides is None
            else tuple(stride * itemBytes for stride in elementStrides)
        )
        self.address = tensor.data + tensor.byteOffset
        if 0 not in self.shape and not tensor.data:
            raise BufferError(f"a tensor of shape {self.shape} has no memory")
        if problem := layoutProblem(self.address, self.shape, strides, itemBytes):
            raise BufferError(f"the tensor can not be: {problem}")
        self.strides = packedStrides(self.shape, strides, itemBytes)
        self.deviceType, self.deviceId = int(tensor.deviceType), int(tensor.deviceId)
        self.readOnly, self.holder = bool(flags & FLAG_READ_ONLY), holder


def exportCapsule(
    address: int,
    shape: Sequence[int],
    element: Any,
    device: tuple[int, int],
    owner: object,
    *,
    readOnly: bool = False,
    maxVersion: tuple[int, int] | None = None,
    strides: Sequence[int] | None = None,
) -> object:
    """Lend memory as a DLPack capsule, which `__dlpack__` returns.

    Parameters
    ----------
    address
        The address of the element with all indices 0, for the device. Not read.
    shape
        Lengths, in elements; empty for one element without dimensions.
    element
        An `ElementType`, or what `asElement` takes for one; a type of the table that
        has a word of DLPack's.
    device
        `(CPU, 0)`, `(CUDA, gpu)` or `(CUDA_HOST, gpu)`.
    owner
        The object that keeps the memory. Held until the consumer calls the deleter, or
        until the capsule is collected without having been consumed.
    readOnly
        Whether the consumer must not write.
    maxVersion
        The newest version that the consumer understands. From `(1, 0)` on it gets a
        versioned capsule, otherwise a legacy one; with numpy 2.0 always a legacy one.
    strides
        In bytes; None when the elements follow each other in C order.

    Raises
    ------
    BufferError
        DLPack can not express the type, or a stride that is no multiple of an element;
        or a legacy capsule can not: read-only memory, values padded to a byte.
    InvalidArgument
        The layout or the device is impossible.
    TypeError
        `maxVersion` is no pair of integers.
    """
    address, lengths, itemType = (
        operator.index(address),
        tuple(operator.index(length) for length in shape),
        asElement(element),
    )
    word, itemBytes = dlpackWord(itemType), itemType.itemBytes
    stepsBytes = None if strides is None else tuple(operator.index(step) for step in strides)
    if problem := layoutProblem(address, lengths, stepsBytes, itemBytes):
        raise InvalidArgument(f"an array can not be lent: {problem}")
    if stepsBytes is None:
        stepsBytes = compactStrides(lengths, itemBytes)
    elif any(step % itemBytes for step in stepsBytes):
        raise BufferError(
            f"strides of {stepsBytes} bytes are not whole elements of {itemType}, in which "
            "DLPack counts them"
        )
    _checkDevice(device)
    name = VERSIONED if wantsVersioned(maxVersion) and NUMPY_IS_VERSIONED else LEGACY
    if readOnly and name == LEGACY:
        raise BufferError(
            "this memory is read-only, which a legacy DLPack capsule can not say: ask with "
            "max_version=(1, 0), numpy 2.1 or newer"
        )
    if word.isPadded and name == LEGACY:
        raise BufferError(
            f"{itemType} is padded to a byte, which a legacy DLPack capsule can not say: ask "
            "with max_version=(1, 1), numpy 2.1 or newer"
        )
    carrier = _Carrier((max(1, 2 * len(lengths)),), np.int64)
    carrier[: 2 * len(lengths)] = (*lengths, *(step // itemBytes for step in stepsBytes))
    carrier.owner = owner
    capsule = (
        carrier.__dlpack__(max_version=(MAJOR_VERSION, 0))
        if name == VERSIONED
        else carrier.__dlpack__()
    )
    managed = managedOf(capsule, name)
    # Strides are always there, also for compact arrays, because consumers of 1.2 and
    # newer rely on them. An array without elements has the address NULL, as the header
    # asks. The carrier's address is not read by its `ctypes`, which imports a module
    # each time; an ending interpreter refuses that.
    extents = carrier.__array_interface__["data"][0]
    managed.tensor = Tensor(
        0 if 0 in lengths else address,
        *device,
        len(lengths),
        word.code,
        word.bits,
        word.lanes,
        extents,
        extents + 8 * len(lengths),
        0,
    )
    if isinstance(managed, ManagedVersioned):
        managed.flags = (FLAG_READ_ONLY if readOnly else 0) | (FLAG_PADDED if word.isPadded else 0)
    return capsule


def importCapsule(capsule: object, holder: object = None) -> Imported:
    """Consume a capsule, legacy or versioned. A capsule that is refused is not
    consumed, and releases its memory when it is collected.

    Raises
    ------
    TypeError
        It is not a capsule of DLPack.
    BufferError
        It was consumed already, its version is not known, or its tensor is impossible.
    """
    with _taking.lock:
        name = next((name for name in MANAGED if isCapsuleOf(capsule, name)), None)
        if name is None:
            if any(isCapsuleOf(capsule, used) for used in USED.values()):
                raise BufferError("this DLPack capsule was consumed already: call __dlpack__ again")
            raise TypeError(f"{type(capsule).__name__} is not a DLPack capsule")
        managed = managedOf(capsule, name)
        flags = 0
        if isinstance(managed, ManagedVersioned):
            if managed.major != MAJOR_VERSION:
                raise BufferError(
                    f"the tensor is of DLPack {managed.major}.{managed.minor}, and only "
                    f"{MAJOR_VERSION}.x is understood"
                )
            flags = int(managed.flags)
        imported = Imported(managed.tensor, flags, holder)
        renameCapsule(capsule, USED[name])
        weakref.finalize(imported, _release, managed).atexit = False
    return imported


def takeTensor(value: Any, stream: int | None) -> Imported:
    """Borrow the memory of an object that has the DLPack protocol.

    Parameters
    ----------
    value
        Has `__dlpack__` and `__dlpack_device__`.
    stream
        The consumer's stream by the rules of `__dlpack__`: the producer makes it wait
        for the work that writes the memory. Not passed to producers of host memory,
        which have no streams.

    Raises
    ------
    TypeError
        `value` does not have the DLPack protocol.
    BufferError
        It can not export its memory, or its tensor is impossible. Other exceptions of
        its own methods are passed on.
    """
    deviceType, _ = deviceOf(value)
    asked = None if deviceType in HOST_DEVICES else stream
    try:
        capsule = value.__dlpack__(stream=asked, max_version=MAX_VERSION)
    except TypeError:  # a producer from before DLPack 1.0
        capsule = value.__dlpack__(stream=asked)
    return importCapsule(capsule)


def deviceOf(value: Any) -> tuple[int, int]:
    """The (`DLDeviceType`, index) that an object states for its memory; `TypeError`
    when it states none.
    """
    if not (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")):
        raise TypeError(f"{type(value).__name__} does not speak DLPack")
    stated = value.__dlpack_device__()
    if not isinstance(stated, tuple) or len(stated) != 2:
        raise TypeError(f"__dlpack_device__ of {type(value).__name__} gives no pair of integers")
    return operator.index(stated[0]), operator.index(stated[1])


def _release(managed: Managed | ManagedVersioned) -> None:
    """Give a tensor back. Its deleter frees the structure too."""
    if managed.deleter:
        Deleter(managed.deleter)(ctypes.addressof(managed))


def _checkDevice(device: tuple[int, int]) -> None:
    deviceType, deviceId = device
    if deviceType not in (CPU, CUDA, CUDA_HOST) or not 0 <= deviceId <= (
        0 if deviceType == CPU else _MAX_DEVICE_ID
    ):
        raise InvalidArgument(
            f"{device} is no device: (1, 0) is the CPU, (2, gpu) a GPU and (3, gpu) pinned "
            "host memory"
        )


def _extentsOf(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """(shape, strides in elements or None). Their number is checked before they are
    read.
    """
    ndim = int(tensor.ndim)
    if not 0 <= ndim <= MAX_DIMENSIONS:
        raise BufferError(f"the tensor has {ndim} dimensions, and {MAX_DIMENSIONS} is the most")
    if not ndim:
        return (), None
    if not tensor.shape:
        raise BufferError(f"the tensor has {ndim} dimensions and no lengths")
    array = ctypes.c_int64 * ndim
    shape = tuple(array.from_address(tensor.shape))
    return shape, tuple(array.from_address(tensor.strides)) if tensor.strides else None
