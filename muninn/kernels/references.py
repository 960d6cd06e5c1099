"""The CPU references of the kernels: the same names, arguments and results, on numpy
arrays. An emulated GPU runs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from muninn.errors import InvalidArgument
from muninn.kernels.functions import KernelFunction
from muninn.system import atomics

Array = np.ndarray[Any, np.dtype[Any]]
_STEP, _FIRST, _SECOND = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
#: How many elements are mixed at a time; so many stay in the processor's cache.
_PART = 1 << 15


def readSum(data: Array, result: Array) -> None:
    """Add the sum of uint64 `data` to ``result[0]``."""
    result[:1] += data.sum(dtype=np.uint64)


def copyElements(target: Array, source: Array) -> None:
    """``target[:] = source``."""
    target[: source.size] = source


def packElements(
    target: Array,
    source: Array,
    begin: int,
    first: int,
    lengths: tuple[int, ...],
    strides: tuple[int, ...],
) -> None:
    """Write the words of an array with strides in C order: word i of `target` becomes
    word ``begin + i`` of the array (`words.WordLayout`) whose lowest word is
    ``source[0]``.
    """
    axes = [
        (np.int64(length), np.int64(stride))
        for length, stride in zip(lengths, strides, strict=True)
    ]
    for start in range(0, target.size, _PART):
        end = min(start + _PART, target.size)
        rest = np.arange(start, end) + np.int64(begin)
        place = np.full(end - start, first, np.int64)
        for length, stride in axes[:0:-1]:
            rest, position = np.divmod(rest, length)
            place += position * stride
        target[start:end] = source[place + rest * axes[0][1]]


def packTransposed(
    target: Array,
    source: Array,
    first: int,
    lengths: tuple[int, ...],
    strides: tuple[int, ...],
    targetStrides: tuple[int, ...],
) -> None:
    """As `packElements`, the whole array at once, with its axes in the order of
    `words.TileOrder`.
    """
    shape, itemBytes = tuple(map(int, lengths)), target.itemsize
    read, write = (
        tuple(int(stride) * itemBytes for stride in each) for each in (strides, targetStrides)
    )
    as_strided(target, shape, write)[...] = as_strided(source[int(first) :], shape, read)


def scaleAdd(y: Array, a: float, x: Array) -> None:
    """``y += a * x``, float32."""
    y[: x.size] += np.float32(a) * x


def fillPattern(data: Array, seed: int) -> None:
    """Write the pattern of `seed`: element i of uint64 `data` becomes splitmix64(seed +
    i).
    """
    for first in range(0, data.size, _PART):
        data[first : first + _PART] = _pattern(seed, first, min(_PART, data.size - first))


def countMismatches(data: Array, seed: int, result: Array) -> None:
    """Add to ``result[0]`` how many elements are not those of `fillPattern`."""
    for first in range(0, data.size, _PART):
        part = data[first : first + _PART]
        result[:1] += np.uint64(np.count_nonzero(part != _pattern(seed, first, part.size)))


def compareSlices(scratch: Array, base: Array, sliceElements: int, flags: Array) -> None:
    """Set ``flags[i]`` to 1 where slice i of uint64 `scratch` differs from that of
    `base`. A slice has `sliceElements` elements, the last one may have fewer.
    """
    sliceBytes = int(sliceElements) * scratch.itemsize
    if sliceBytes < 1:
        raise InvalidArgument(f"a slice can not have {sliceElements} elements")
    # In C: numpy would make an array of truths, and read it again. C believes what it is
    # told of its memory.
    atomics.compareSlices(
        _addressOf(scratch, scratch.nbytes),
        _addressOf(base, scratch.nbytes),
        scratch.nbytes,
        sliceBytes,
        _addressOf(flags, -(-scratch.nbytes // sliceBytes), isWritten=True),
    )


def copyMarked(target: Array, source: Array, sliceElements: int, flags: Array) -> None:
    """Copy each slice of uint64 `source` whose flag is not 0 to the same place of `target`.
    A slice has `sliceElements` elements, the last one may have fewer. `target` may be
    host memory that the GPU has mapped.
    """
    elements = int(sliceElements)
    for begin in (np.flatnonzero(flags) * elements).tolist():
        target[begin : begin + elements] = source[begin : begin + elements]


def gatherSlices(target: Array, source: Array, sliceElements: int, positions: Array) -> None:
    """Copy slice ``positions[j]`` of uint64 `source` to slice j of `target`, for each j.
    A slice has `sliceElements` elements, the last one of `source` may have fewer. A
    position is that of a slice of `source`.
    """
    for packed, loose, count in _moves(sliceElements, positions, target.size, source.size):
        target[packed : packed + count] = source[loose : loose + count]


def scatterSlices(target: Array, source: Array, sliceElements: int, positions: Array) -> None:
    """Copy slice j of uint64 `source` to slice ``positions[j]`` of `target`, for each j:
    what `gatherSlices` took, back to its place. A position is there once.
    """
    for packed, loose, count in _moves(sliceElements, positions, source.size, target.size):
        target[loose : loose + count] = source[packed : packed + count]


def sliceDigests(data: Array, sliceElements: int, digests: Array) -> None:
    """Add to each ``digests[i]`` the digest of slice i of uint64 `data`: the sum of
    splitmix64(element ^ splitmix64(index in it)).
    """
    positions = _mixed(np.arange(sliceElements, dtype=np.uint64))
    for number in range(digests.size):
        part = data[number * sliceElements : (number + 1) * sliceElements]
        digests[number : number + 1] += _mixed(part ^ positions[: part.size]).sum(dtype=np.uint64)


@KernelFunction
def markDirty(flags: Array, sliceBytes: int, offset: int, length: int) -> None:
    """Mark as dirty the slices that a write of `length` bytes at `offset` touches. Kernels
    call it, on GPUs and on emulated ones, and so does the host.

    Any number of threads may mark at once: they write nothing but ones.

    Parameters
    ----------
    flags
        The uint8 flags of a window, one a slice: those of the touched slices become 1.
    sliceBytes
        The length of a slice in bytes, at least 1.
    offset, length
        The range, in bytes from the beginning of the window. An empty range, and the
        part of a range that is outside the window, mark nothing.
    """
    begin, end = max(int(offset), 0), int(offset) + int(length)
    if begin < end:
        flags[begin // int(sliceBytes) : (end - 1) // int(sliceBytes) + 1] = 1


@KernelFunction
def markUsed(flags: Array, sliceBytes: int, offset: int, length: int) -> None:
    """Mark as used the slices that a read of `length` bytes at `offset` touches, by the
    flags of ``scratch.usedFlags``; otherwise as `markDirty`.
    """
    markDirty(flags, sliceBytes, offset, length)


def _addressOf(array: Array, leastBytes: int, isWritten: bool = False) -> int:
    """Where a contiguous array of so many bytes begins."""
    if not array.flags.c_contiguous or array.nbytes < leastBytes:
        raise InvalidArgument(
            f"{leastBytes} contiguous bytes are compared or written, and an array of shape "
            f"{array.shape} and strides {array.strides} was given",
            "Pass one-dimensional arrays of the same size, and a flag for each slice",
        )
    if isWritten and not array.flags.writeable:
        raise InvalidArgument("the flags are read-only", "Pass an array that may be written")
    return int(array.__array_interface__["data"][0])


def _moves(
    sliceElements: int, positions: Array, packedSize: int, looseSize: int
) -> Iterator[tuple[int, int, int]]:
    """For each slice that is gathered or scattered: its first element among the slices
    that follow each other, its first element in its array, and its length.
    """
    elements = int(sliceElements)
    for number, position in enumerate(positions.tolist()):
        packed, loose = number * elements, position * elements
        yield packed, loose, min(elements, packedSize - packed, looseSize - loose)


def _pattern(seed: int, first: int, count: int) -> Array:
    return _mixed(np.arange(first, first + count, dtype=np.uint64) + np.uint64(seed))


def _mixed(values: Array) -> Array:
    mixed: Array = values + _STEP
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    mixed ^= mixed >> np.uint64(31)
    return mixed
