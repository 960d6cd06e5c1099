"""DLPack: memory lent to another library of this process, and borrowed from one, as a
capsule around a C structure.

The structures and the rules of capsules are in `capsules`.

*Lending.* What is to be lent is checked here, and `loans` makes the capsules.

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

from muninn.errors import InvalidArgument
from muninn.interop.capsules import (
    FLAG_PADDED,
    FLAG_READ_ONLY,
    HOST_DEVICES,
    MAJOR_VERSION,
    MANAGED,
    MAX_VERSION,
    USED,
    Deleter,
    Managed,
    ManagedVersioned,
    Tensor,
    isCapsuleOf,
    managedOf,
    renameCapsule,
)
from muninn.interop.elements import (
    BYTE_BITS,
    DlpackWord,
    ElementType,
    asElement,
    dlpackElement,
    dlpackWord,
)
from muninn.interop.layouts import MAX_DIMENSIONS, compactStrides, layoutProblem, packedStrides
from muninn.interop.loans import Loan
from muninn.system.beside import rest
from muninn.system.forks import Guard

#: Between the look at a capsule and its renaming, no other thread may take it. A
#: garbage collection that runs meanwhile may import capsules as well.
_taking = Guard()


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
    dlpackWord(itemType)  # refuses a type that has none
    itemBytes = itemType.itemBytes
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
    steps = (step // itemBytes for step in stepsBytes)
    loan = Loan([*lengths, *steps], device, owner, readOnly, maxVersion)
    return loan.capsule(0, address, lengths, itemType)


def exportCapsules(
    address: int,
    parts: Sequence[tuple[int, tuple[int, ...], ElementType]],
    device: tuple[int, int],
    owner: object,
    *,
    readOnly: bool = False,
    maxVersion: tuple[int, int] | None = None,
) -> list[object]:
    """Lend many ranges of one memory, as `exportCapsule` does for each.

    Parameters
    ----------
    address
        The address of the memory.
    parts
        The place, the lengths and the type of each range, whose elements follow each
        other in C order. The caller has checked that its layout is possible.
    """
    steps = [compactStrides(shape, 1) for _, shape, _ in parts]
    extents = [
        number
        for (_, shape, _), step in zip(parts, steps, strict=True)
        for number in (*shape, *step)
    ]
    loan, capsules, first = Loan(extents, device, owner, readOnly, maxVersion), [], 0
    for offset, shape, element in parts:
        capsules.append(loan.capsule(first, address + offset, shape, element))
        first += 2 * len(shape)
        rest()
    return capsules


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
