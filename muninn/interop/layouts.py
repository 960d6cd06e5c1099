"""Layouts of arrays in memory: their strides, and whether a layout is possible. This
module computes with numbers, and touches no byte of the memory.
"""

from __future__ import annotations

import math

#: numpy's own limit.
MAX_DIMENSIONS = 64
_MAX_BYTES = (1 << 63) - 1
_MAX_ADDRESS = 1 << 64
_TOO_FAR = "its elements reach beyond the addresses that there are"


def compactStrides(shape: tuple[int, ...], itemBytes: int) -> tuple[int, ...]:
    """The strides, in bytes, of an array whose elements follow each other in C order."""
    steps, step = [], itemBytes
    for length in reversed(shape):
        steps.append(step)
        step *= max(1, length)
    return tuple(reversed(steps))


def packedStrides(
    shape: tuple[int, ...], strides: tuple[int, ...] | None, itemBytes: int
) -> tuple[int, ...] | None:
    """`strides`, in bytes, or None when they are those of C order. The stride of an
    axis with one element does not matter.
    """
    if strides is None or 0 in shape:
        return None
    axes = zip(shape, strides, compactStrides(shape, itemBytes), strict=True)
    return (
        None
        if all(length == 1 or stride == compact for length, stride, compact in axes)
        else strides
    )


def layoutProblem(
    address: int, shape: tuple[int, ...], strides: tuple[int, ...] | None, itemBytes: int
) -> str | None:
    """The reason why a layout (strides in bytes) is impossible, or None. The text shows
    no number that Python may be unable to print.
    """
    if len(shape) > MAX_DIMENSIONS:
        return f"it has {len(shape)} dimensions, and {MAX_DIMENSIONS} is the most"
    if strides is not None and len(strides) != len(shape):
        return f"it has {len(strides)} strides for {len(shape)} dimensions"
    if not 0 <= address < _MAX_ADDRESS:
        return "its address is not one of 64 bits"
    if any(length < 0 for length in shape):
        return "a length is negative"
    if strides is None and 0 < (total := math.prod(shape) * itemBytes) <= _MAX_BYTES:
        # The common case, which needs no look at each axis.
        return None if address + total <= _MAX_ADDRESS else _TOO_FAR
    # Without the lengths of 0, because numpy bounds the product of the others as well.
    if math.prod(length for length in shape if length) * itemBytes > _MAX_BYTES:
        return "its size does not fit 63 bits"
    steps = compactStrides(shape, itemBytes) if strides is None else strides
    if any(abs(step) > _MAX_BYTES for step in steps):
        return "a stride does not fit 63 bits"
    if 0 in shape:
        return None
    reaches = [(length - 1) * step for length, step in zip(shape, steps, strict=True)]
    low, high = (
        sum(reach for reach in reaches if reach < 0),
        sum(reach for reach in reaches if reach > 0) + itemBytes,
    )
    if address + low < 0 or address + high > _MAX_ADDRESS:
        return _TOO_FAR
    return None
