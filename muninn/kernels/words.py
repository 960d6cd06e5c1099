"""An array with any strides as words in memory, as `packElements` and `packTransposed`
read it.

An element has any size, and strides may be no multiples of it. So the array is seen as
bytes, with one more axis inside: the bytes of an element. Neighbouring axes that follow
each other without a gap become one axis. The word is the widest one of which every
stride, the innermost axis and the address are multiples.

This module computes with numbers, and touches no byte of the memory.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from muninn.errors import InvalidArgument
from muninn.interop.layouts import compactStrides

#: The most axes of an array that are left after merging.
_MAX_DIMENSIONS = 8
#: The most axes of the words: those of the array, and the words of an element.
MAX_AXES = _MAX_DIMENSIONS + 1
_WIDEST_BYTES = 8
#: So many bytes a GPU reads at once; of words that are farther apart it reads more than
#: it needs, in any order.
_SECTOR_BYTES = 32
#: Tiles of 32 × 32 words pay from this length on.
_TILE_LEAST = 16


class WordLayout(NamedTuple):
    """Where the words of an array are.

    Attributes
    ----------
    dtype
        The type of a word: an unsigned integer.
    lowest
        The address of the lowest byte of the array.
    span
        How many words there are from the lowest one to the highest one, gaps included.
    first
        The position of the first word of the array, in words from `lowest`.
    lengths, strides
        Of `MAX_AXES` axes, the outermost first; strides in words. The axes between the
        outermost one and the last ones that are not there have the length 1.
    total
        How many words the array has.
    """

    dtype: np.dtype[np.unsignedinteger]
    lowest: int
    span: int
    first: int
    lengths: tuple[int, ...]
    strides: tuple[int, ...]
    total: int


class TileOrder(NamedTuple):
    """The axes of a `WordLayout` in the order of `packTransposed`: the last one is the
    innermost one of the array, and the last but one that along which words are nearest
    to each other in memory. Strides in words: of the array, and of its copy in C order.
    """

    lengths: tuple[int, ...]
    strides: tuple[int, ...]
    targetStrides: tuple[int, ...]


def wordLayout(
    address: int, shape: tuple[int, ...], strides: tuple[int, ...], itemBytes: int
) -> WordLayout:
    """The words of an array that has at least one element.

    Parameters
    ----------
    address
        The address of the element with all indices 0.
    shape, strides
        Lengths in elements, strides in bytes.

    Raises
    ------
    InvalidArgument
        More than 8 axes are left after neighbouring ones were merged.
    """
    axes = _merged([*zip(shape, strides, strict=True), (itemBytes, 1)])
    runBytes = axes.pop()[0] if axes and axes[-1][1] == 1 else 1
    if len(axes) > _MAX_DIMENSIONS:
        raise InvalidArgument(
            f"an array of shape {shape} and strides {strides} has {len(axes)} axes that do not "
            f"follow each other, and {_MAX_DIMENSIONS} is the most",
            "Share a contiguous copy of it",
        )
    lowest = address + sum((length - 1) * stride for length, stride in axes if stride < 0)
    highest = address + sum((length - 1) * stride for length, stride in axes if stride > 0)
    wordBytes = math.gcd(_WIDEST_BYTES, address, runBytes, *(stride for _, stride in axes))
    words = [(length, stride // wordBytes) for length, stride in axes]
    if runBytes > wordBytes:
        words.append((runBytes // wordBytes, 1))
    outermost, *inner = words or [(1, 0)]
    padded = [outermost, *[(1, 0)] * (MAX_AXES - 1 - len(inner)), *inner]
    return WordLayout(
        dtype=np.dtype(f"u{wordBytes}"),
        lowest=lowest,
        span=(highest + runBytes - lowest) // wordBytes,
        first=(address - lowest) // wordBytes,
        lengths=tuple(length for length, _ in padded),
        strides=tuple(stride for _, stride in padded),
        total=math.prod(length for length, _ in padded),
    )


def tileOrder(layout: WordLayout) -> TileOrder | None:
    """The order of the axes for `packTransposed`, or None where that is no faster than
    `packElements`: the words are as near to each other along the innermost axis, or
    there are too few for tiles.
    """
    targetStrides = compactStrides(layout.lengths, 1)
    *axes, columns = zip(layout.lengths, layout.strides, targetStrides, strict=True)
    near = [
        axis
        for axis in axes
        if axis[0] >= _TILE_LEAST and 0 < abs(axis[1]) * layout.dtype.itemsize < _SECTOR_BYTES
    ]
    rows = min(near, key=lambda axis: abs(axis[1]), default=columns)
    if columns[0] < _TILE_LEAST or abs(rows[1]) >= abs(columns[1]):
        return None
    axes.remove(rows)
    return TileOrder(*zip(*axes, rows, columns, strict=True))


def _merged(axes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The axes of (length, stride), without those of length 1, and with those as one
    whose elements follow each other.
    """
    merged: list[tuple[int, int]] = []
    for length, stride in axes:
        if length == 1:
            continue
        if merged and merged[-1][1] == length * stride:
            merged[-1] = (merged[-1][0] * length, stride)
        else:
            merged.append((length, stride))
    return merged
