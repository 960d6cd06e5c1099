"""The CPU references of the kernels: the same names, arguments and results, on numpy
arrays. An emulated GPU runs them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

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
    """Set ``flags[i]`` to 1 where any of the `sliceElements` uint64 elements of slice i
    differ.
    """
    flags[np.unique(np.flatnonzero(scratch != base[: scratch.size]) // sliceElements)] = 1


def sliceDigests(data: Array, sliceElements: int, digests: Array) -> None:
    """Add to each ``digests[i]`` the digest of slice i of uint64 `data`: the sum of
    splitmix64(element ^ splitmix64(index in it)).
    """
    positions = _mixed(np.arange(sliceElements, dtype=np.uint64))
    for number in range(digests.size):
        part = data[number * sliceElements : (number + 1) * sliceElements]
        digests[number : number + 1] += _mixed(part ^ positions[: part.size]).sum(dtype=np.uint64)


def _pattern(seed: int, first: int, count: int) -> Array:
    return _mixed(np.arange(first, first + count, dtype=np.uint64) + np.uint64(seed))


def _mixed(values: Array) -> Array:
    mixed: Array = values + _STEP
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    mixed ^= mixed >> np.uint64(31)
    return mixed
