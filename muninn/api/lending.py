"""Arrays on GPUs: shared by a copy in VRAM that outlives its maker, or lent in place.

Lent memory belongs to its owner. Muninn holds the array as long as the buffer object
that shared it is open, or the process lives. An owner that closes the buffer waits for
the processes that have it open, up to a grace period. Then it takes the memory back,
and their next use is `OwnerDied`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from muninn.api import packing
from muninn.api.buffer import MuninnBuffer
from muninn.api.options import BufferOptions
from muninn.api.specs import specOf
from muninn.errors import DeviceUnavailable, InvalidArgument
from muninn.interop.arrays import ForeignArray, describeArray
from muninn.interop.elements import ElementType
from muninn.interop.tensors import cudaTensor
from muninn.session import creation
from muninn.session.gpus import deviceOf
from muninn.session.membership import current
from muninn.session.spec import LentMemory
from muninn.system import aside
from muninn.system.structures import Extent
from muninn.terms import Mode, asMode, asRenew

if TYPE_CHECKING:
    from muninn.devices.port import Device
    from muninn.session.mappings import Memory

_WORK_SECONDS = 60.0


def shareDevice(caller: str, value: Any, copy: bool, options: BufferOptions) -> MuninnBuffer:
    """`muninn.share` for an array on a GPU; `caller` is the function that the user
    called.
    """
    renewal = asRenew(options.renew, caller)
    device = deviceOf(current())
    source, gpu = _described(device, value)
    awaitWriters([(source, gpu)])
    asked, preferredGpu = (
        Mode.FAST if options.mode is None else asMode(options.mode, caller),
        options.preferredGpu,
    )
    if not copy and (asked is not Mode.FAST or preferredGpu not in (None, gpu)):
        raise InvalidArgument(
            "an array that is shared where it lies is fastMode on its own GPU",
            "Leave mode and preferredGpu out",
        )
    target = gpu if preferredGpu is None and asked is Mode.FAST else preferredGpu
    placed = replace(options, mode=asked.value, preferredGpu=target)
    wanted = specOf(caller, source.shape, source.element, placed)
    if copy or 0 in source.shape:
        copyTo = packing.copier(device, source, gpu)
        openBuffer = creation.create(
            wanted,
            put=lambda address: copyTo(address, wanted.sizeBytes),
            progress=options.progress,
        )
        return MuninnBuffer._of(openBuffer, wanted.access, renewal)
    if source.strides is not None:
        raise InvalidArgument(
            f"the array of shape {source.shape} has strides {source.strides}, and other "
            "processes take an array that is shared where it lies in C order",
            "Share a copy (copy=True)",
        )
    if wanted.manifest:
        raise InvalidArgument(
            f"dtype {source.element} can not be shared where it lies",
            "Share a copy (copy=True)",
        )
    openBuffer = creation.create(
        wanted._replace(lent=LentMemory(source.address, source.keepAlive)),
        progress=options.progress,
    )
    buffer = MuninnBuffer._of(openBuffer, wanted.access, renewal)
    buffer._isLender = True
    openBuffer.context.lent.add(openBuffer.row, openBuffer.incarnation, openBuffer.memory)
    return buffer


class DeviceArray:
    """An array on a GPU that is copied into shared memory. Keeps it until then."""

    def __init__(self, device: Device, array: ForeignArray, gpu: int) -> None:
        self._array = array
        self._copy = packing.copier(device, array, gpu)
        self._gpu = gpu

    @classmethod
    def of(cls, value: Any) -> Self:
        device = deviceOf(current())
        return cls(device, *_described(device, value))

    @property
    def gpu(self) -> int | None:
        return self._gpu

    @property
    def written(self) -> tuple[ForeignArray, int]:
        """What `awaitWriters` waits for."""
        return self._array, self._gpu

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def element(self) -> ElementType:
        return self._array.element

    @property
    def place(self) -> object:
        """Equal for two arrays of the same elements on the same bytes."""
        array = self._array
        return (
            object()
            if 0 in array.shape
            else (array.address, array.shape, array.strides, array.element)
        )

    def extentAt(self, offset: int, mode: Mode) -> Extent | None:
        """The bytes, to be copied to `offset` of VRAM; None if the elements do not follow
        each other in C order, or go to host memory.
        """
        array = self._array
        if mode is not Mode.FAST or array.strides is not None or 0 in array.shape:
            return None
        return Extent(offset, array.address, math.prod(array.shape) * array.element.itemBytes)

    def copyTo(self, memory: Memory, offset: int) -> None:
        """Copy the elements, in C order, into shared memory from `offset` on."""
        self._copy(memory.address + offset, math.prod(self.shape) * self.element.itemBytes)


def awaitWriters(arrays: Iterable[tuple[ForeignArray, int]]) -> None:
    """Wait until the work that writes arrays, each on the GPU of that number, is done:
    once for each stream.
    """
    streams, unordered = dict[tuple[int | None, int], None](), None
    for array, gpu in arrays:
        if 0 in array.shape:
            continue
        if array.isOrdered:
            streams[array.stream, gpu] = None
        else:
            unordered = array
    if not streams and unordered is None:
        return
    aside.refuseOwn()
    device = deviceOf(current())
    for stream, gpu in streams:
        device.asStream(stream, gpu).synchronize()
    if unordered is not None and not device.awaitWork(_WORK_SECONDS):
        raise TimeoutError(
            f"a {type(unordered.keepAlive).__name__} does not say which stream writes it, and "
            f"work is pending after {_WORK_SECONDS:.0f} s"
        )


def _described(device: Device, value: Any) -> tuple[ForeignArray, int]:
    """The array's own description, checked, and its GPU. The work that writes it may not
    be done yet.
    """
    if not device.reachesForeignArrays:
        # Before any call of the array: it is on a GPU that this back-end does not have.
        raise _unreachable(device, value)
    if (tensor := cudaTensor(value)) is not None:
        return tensor, device.requireGpu(tensor.deviceId or 0)
    aside.refuseOwn()  # its producer may wait for a stream
    source = describeArray(value, device.onGpu)
    if 0 in source.shape:
        # It has no address that would tell its GPU.
        return source, source.deviceId or 0
    gpu = device.gpuOf(source.address)
    if gpu is None:
        raise _unreachable(device, value)
    return source, gpu


def _unreachable(device: Device, value: Any) -> DeviceUnavailable:
    return DeviceUnavailable(
        f"a {type(value).__name__} on a GPU is not the {device.backend} back-end's "
        f"({device.reason})",
        "Copy it to the host first",
    )
