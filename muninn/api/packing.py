"""Packing: the bytes of an array on a GPU, copied in C order into new memory.

An array without gaps is one copy of the driver. An array with strides is copied by a
kernel on the GPU that holds it, which reads each element once: `packElements`, or
`packTransposed` where words that are neighbours in memory are none in C order. The
kernel writes memory of that GPU directly. Memory of the host and of other GPUs gets the
words piece by piece, through scratch memory on the array's GPU: a second copy of a
large array would not always find room there.

All here is private to the process, and nothing of it is left when the copy fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from muninn.errors import DeviceUnavailable
from muninn.interop import arrays
from muninn.kernels.words import WordLayout, tileOrder, wordLayout

if TYPE_CHECKING:
    from muninn.devices.port import Device, Stream
    from muninn.interop.arrays import ForeignArray

#: The most scratch memory; a multiple of the widest word.
_PIECE_BYTES = 64 << 20


class _Words:
    """Words in memory of a GPU, from which Numba takes an array."""

    __slots__ = ("__cuda_array_interface__",)

    def __init__(self, address: int, count: int, layout: WordLayout) -> None:
        self.__cuda_array_interface__ = arrays.cudaArrayInterface(
            address, (count,), None, layout.dtype, False, None
        )


def copier(device: Device, source: ForeignArray, gpu: int) -> Callable[[int, int], None]:
    """The function that copies an array on `gpu`. It gets the address of the new memory
    and the size of the whole array in bytes, and returns when the copy is done.

    The work that writes the array is done already, and the caller keeps the array.

    Raises
    ------
    InvalidArgument
        The array has more axes that do not follow each other than the kernel takes.
    DeviceUnavailable
        The array has strides, and no kernel can be compiled here.
    """
    strides = source.strides
    if 0 in source.shape:
        return lambda *_: None
    if strides is None:
        return lambda target, sizeBytes: device.copyNow(target, source.address, sizeBytes, gpu)
    layout = wordLayout(source.address, source.shape, strides, source.element.itemBytes)
    _requireKernels(strides)

    def copy(target: int, sizeBytes: int) -> None:
        with device.createStream(gpu) as stream:
            if device.gpuOf(target) == gpu:
                _packWhole(device, stream, layout, target)
                return
            wordBytes = layout.dtype.itemsize
            with device.allocate(gpu, min(sizeBytes, _PIECE_BYTES)) as scratch:
                for offset in range(0, sizeBytes, _PIECE_BYTES):
                    pieceBytes = min(_PIECE_BYTES, sizeBytes - offset)
                    begin, count = offset // wordBytes, pieceBytes // wordBytes
                    _pack(device, stream, layout, scratch.address, begin, count)
                    device.copyNow(target + offset, scratch.address, pieceBytes, gpu)

    return copy


def _packWhole(device: Device, stream: Stream, layout: WordLayout, target: int) -> None:
    """Write an array to an address on the stream's GPU."""
    order = tileOrder(layout)
    if order is None:
        _pack(device, stream, layout, target, 0, layout.total)
    else:
        _run(device, stream, layout, "packTransposed", target, layout.total, layout.first, *order)


def _pack(
    device: Device, stream: Stream, layout: WordLayout, target: int, begin: int, count: int
) -> None:
    """Write `count` words of an array, from word `begin` on, to an address on the
    stream's GPU.
    """
    numbers = begin, layout.first, layout.lengths, layout.strides
    _run(device, stream, layout, "packElements", target, count, *numbers)


def _run(
    device: Device,
    stream: Stream,
    layout: WordLayout,
    kernel: str,
    target: int,
    count: int,
    *numbers: Any,
) -> None:
    """Run a kernel that writes `count` words of an array, and wait for it."""
    from muninn.kernels import launch, numbacuda

    with device.onGpu(stream.gpu):
        written, read = (
            numbacuda.on(None, _Words(address, words, layout))
            for address, words in ((target, count), (layout.lowest, layout.span))
        )
        launch.launch(kernel, written, read, *numbers, stream=stream)
    stream.synchronize()


def _requireKernels(strides: tuple[int, ...]) -> None:
    """Raise `DeviceUnavailable` where no kernel can be compiled. The caller has made
    nothing yet.
    """
    from muninn.kernels import launch

    try:
        launch.requireKernels()
    except DeviceUnavailable as error:
        raise DeviceUnavailable(
            f"a kernel copies an array of strides {strides}, and {error.reason}",
            f"Share a contiguous copy of it. Or: {error.fix}",
        ) from error
