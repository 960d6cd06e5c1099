"""Kernels for GPUs. Each strides over its elements, so any number of blocks is right.
`references` has the same kernels in numpy.

Integers are kept unsigned by hand: Numba makes a float64 of an int64 and a uint64,
which would be slow, and wrong above 2**53.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from muninn.kernels.numbacuda import cuda

#: Threads of a block, and the length of the shared arrays.
BLOCK_THREADS = 256
#: The elements of a slice that a block copies at a time.
_COPIED = 8 * BLOCK_THREADS
#: The side of a tile, in words: the threads of a warp.
_TILE = 32
#: A row of a tile in shared memory: with one word more, the words of a column lie in
#: different banks.
_TILE_ROW = _TILE + 1


# Numba's decorators have no types.
@cuda.jit(device=True, inline="always")  # type: ignore[untyped-decorator]
def _mixed(value: Any) -> Any:
    # splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
    # OOPSLA 2014). Its constants are written here because numba-cuda-mlir (0.6.0) takes
    # no global above 2**63.
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@cuda.jit(device=True, inline="always")  # type: ignore[untyped-decorator]
def _addUp(partial: Any, result: Any, position: Any) -> None:
    """Add each thread's `partial` to ``result[position]``, by one atomic a block."""
    sums = cuda.shared.array(BLOCK_THREADS, np.uint64)
    thread = cuda.threadIdx.x
    sums[thread] = partial
    cuda.syncthreads()
    half = BLOCK_THREADS // 2
    while half > 0:
        if thread < half:
            sums[thread] = sums[thread] + sums[thread + half]
        cuda.syncthreads()
        half //= 2
    if thread == 0:
        cuda.atomic.add(result, position, sums[0])


@cuda.jit  # type: ignore[untyped-decorator]
def readSum(data: Any, result: Any) -> None:
    """Add the sum of uint64 `data` to ``result[0]``. Reads every byte once, and writes
    hardly any.
    """
    partial = np.uint64(0)
    for index in range(cuda.grid(1), data.size, cuda.gridsize(1)):
        partial = partial + data[index]
    _addUp(partial, result, 0)


@cuda.jit  # type: ignore[untyped-decorator]
def copyElements(target: Any, source: Any) -> None:
    """``target[:] = source``."""
    for index in range(cuda.grid(1), source.size, cuda.gridsize(1)):
        target[index] = source[index]


@cuda.jit(device=True, inline="always")  # type: ignore[untyped-decorator]
def _along(rest: Any, place: Any, length: Any, stride: Any) -> Any:
    """One axis of an array with strides: the index that is left for the axes around it,
    and the place with this axis's part.
    """
    # The same branch in all threads. It spares the division, which costs most here.
    if length > np.uint64(1):
        place = place + np.int64(rest % length) * stride
        rest = rest // length
    return rest, place


@cuda.jit(device=True, inline="always")  # type: ignore[untyped-decorator]
def _around(rest: Any, place: Any, lengths: Any, strides: Any) -> Any:
    """The place with the parts of all axes around the last two."""
    # Written out, since tuples that are indexed by a variable would be kept in memory.
    rest, place = _along(rest, place, lengths[6], strides[6])
    rest, place = _along(rest, place, lengths[5], strides[5])
    rest, place = _along(rest, place, lengths[4], strides[4])
    rest, place = _along(rest, place, lengths[3], strides[3])
    rest, place = _along(rest, place, lengths[2], strides[2])
    rest, place = _along(rest, place, lengths[1], strides[1])
    return place + np.int64(rest) * strides[0]


@cuda.jit  # type: ignore[untyped-decorator]
def packElements(
    target: Any, source: Any, begin: Any, first: Any, lengths: Any, strides: Any
) -> None:
    """Write the words of an array with strides in C order: word i of `target` becomes
    word ``begin + i`` of the array (`words.WordLayout`) whose lowest word is
    ``source[0]``.
    """
    for index in range(cuda.grid(1), target.size, cuda.gridsize(1)):
        rest, place = begin + np.uint64(index), first
        rest, place = _along(rest, place, lengths[8], strides[8])
        rest, place = _along(rest, place, lengths[7], strides[7])
        place = _around(rest, place, lengths, strides)
        # Unsigned, or Numba would add the length to a negative index.
        target[np.uint64(index)] = source[np.uint64(place)]


@cuda.jit  # type: ignore[untyped-decorator]
def packTransposed(
    target: Any, source: Any, first: Any, lengths: Any, strides: Any, targetStrides: Any
) -> None:
    """As `packElements`, the whole array at once, by tiles of its last two axes
    (`words.TileOrder`): a tile is read along the last but one and written along the
    last.
    """
    tile = cuda.shared.array((_TILE, _TILE_ROW), np.uint64)
    lane, line = cuda.threadIdx.x % _TILE, cuda.threadIdx.x // _TILE
    rows, columns = np.int64(lengths[7]), np.int64(lengths[8])
    across, down = (columns + _TILE - 1) // _TILE, (rows + _TILE - 1) // _TILE
    tiles = across * down
    # Written out: see `_around`.
    tiles *= np.int64(lengths[0] * lengths[1] * lengths[2] * lengths[3])
    tiles *= np.int64(lengths[4] * lengths[5] * lengths[6])
    for number in range(cuda.blockIdx.x, tiles, cuda.gridDim.x):
        column, row = number % across * _TILE, number // across % down * _TILE
        rest = np.uint64(number // across // down)
        place, targetPlace = (
            _around(rest, first, lengths, strides),
            _around(rest, np.int64(0), lengths, targetStrides),
        )
        for step in range(line, _TILE, BLOCK_THREADS // _TILE):
            if row + lane < rows and column + step < columns:
                read = place + (row + lane) * strides[7] + (column + step) * strides[8]
                tile[step, lane] = source[np.uint64(read)]
        cuda.syncthreads()
        for step in range(line, _TILE, BLOCK_THREADS // _TILE):
            if row + step < rows and column + lane < columns:
                write = targetPlace + (row + step) * targetStrides[7] + column + lane
                target[np.uint64(write)] = tile[lane, step]
        cuda.syncthreads()  # the next tile of the block uses its memory again


@cuda.jit  # type: ignore[untyped-decorator]
def scaleAdd(y: Any, a: Any, x: Any) -> None:
    """``y += a * x``, float32."""
    for index in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        y[index] = y[index] + a * x[index]


@cuda.jit  # type: ignore[untyped-decorator]
def fillPattern(data: Any, seed: Any) -> None:
    """Write the pattern of `seed`: element i of uint64 `data` becomes splitmix64(seed +
    i).
    """
    for index in range(cuda.grid(1), data.size, cuda.gridsize(1)):
        data[index] = _mixed(seed + np.uint64(index))


@cuda.jit  # type: ignore[untyped-decorator]
def countMismatches(data: Any, seed: Any, result: Any) -> None:
    """Add to ``result[0]`` how many elements are not those of `fillPattern`."""
    partial = np.uint64(0)
    for index in range(cuda.grid(1), data.size, cuda.gridsize(1)):
        if data[index] != _mixed(seed + np.uint64(index)):
            partial = partial + np.uint64(1)
    _addUp(partial, result, 0)


@cuda.jit  # type: ignore[untyped-decorator]
def compareSlices(scratch: Any, base: Any, sliceElements: Any, flags: Any) -> None:
    """Set ``flags[i]`` to 1 where slice i of uint64 `scratch` differs from that of
    `base`. A slice has `sliceElements` elements, the last one may have fewer. Several
    threads may write a flag; all write the same value.
    """
    index, step, size = cuda.grid(1), cuda.gridsize(1), scratch.size
    # Four pairs are loaded before a flag is stored, since a load does not move over a store.
    while index + 3 * step < size:
        second, third, fourth = index + step, index + 2 * step, index + 3 * step
        differs = scratch[index] != base[index]
        differsSecond = scratch[second] != base[second]
        differsThird = scratch[third] != base[third]
        differsFourth = scratch[fourth] != base[fourth]
        if differs:
            flags[index // sliceElements] = 1
        if differsSecond:
            flags[second // sliceElements] = 1
        if differsThird:
            flags[third // sliceElements] = 1
        if differsFourth:
            flags[fourth // sliceElements] = 1
        index += 4 * step
    while index < size:
        if scratch[index] != base[index]:
            flags[index // sliceElements] = 1
        index += step


@cuda.jit  # type: ignore[untyped-decorator]
def copyMarked(target: Any, source: Any, sliceElements: Any, flags: Any) -> None:
    """Copy each slice of uint64 `source` whose flag is not 0 to the same place of `target`.
    A slice has `sliceElements` elements, the last one may have fewer. `target` may be
    host memory that the GPU has mapped.
    """
    parts = (sliceElements + _COPIED - 1) // _COPIED
    for number in range(cuda.blockIdx.x, parts * flags.size, cuda.gridDim.x):
        if flags[number // parts]:
            end = min((number // parts + 1) * sliceElements, source.size)
            begin = number // parts * sliceElements + number % parts * _COPIED
            for index in range(begin + cuda.threadIdx.x, min(begin + _COPIED, end), BLOCK_THREADS):
                target[index] = source[index]


@cuda.jit(device=True, inline="always")  # type: ignore[untyped-decorator]
def _move(number: Any, sliceElements: Any, positions: Any, packedSize: Any, looseSize: Any) -> Any:
    """A part of a slice that is gathered or scattered: its first element among the
    slices that follow each other, its first element in its array, and its length.
    """
    # A large slice is several parts, so that few slices occupy the whole GPU too.
    parts = (sliceElements + _COPIED - 1) // _COPIED
    skipped = number % parts * _COPIED
    packed = number // parts * sliceElements + skipped
    loose = positions[number // parts] * sliceElements + skipped
    # In pairs, since numba-cuda-mlir (0.6.0) takes the least of no more.
    count = min(min(sliceElements - skipped, _COPIED), min(packedSize - packed, looseSize - loose))
    return packed, loose, count


@cuda.jit  # type: ignore[untyped-decorator]
def gatherSlices(target: Any, source: Any, sliceElements: Any, positions: Any) -> None:
    """Copy slice ``positions[j]`` of uint64 `source` to slice j of `target`, for each j.
    A slice has `sliceElements` elements, the last one of `source` may have fewer. A
    position is that of a slice of `source`.
    """
    parts = (sliceElements + _COPIED - 1) // _COPIED * positions.size
    for number in range(cuda.blockIdx.x, parts, cuda.gridDim.x):
        packed, loose, count = _move(number, sliceElements, positions, target.size, source.size)
        for index in range(cuda.threadIdx.x, count, BLOCK_THREADS):
            target[packed + index] = source[loose + index]


@cuda.jit  # type: ignore[untyped-decorator]
def scatterSlices(target: Any, source: Any, sliceElements: Any, positions: Any) -> None:
    """Copy slice j of uint64 `source` to slice ``positions[j]`` of `target`, for each j:
    what `gatherSlices` took, back to its place. A position is there once.
    """
    parts = (sliceElements + _COPIED - 1) // _COPIED * positions.size
    for number in range(cuda.blockIdx.x, parts, cuda.gridDim.x):
        packed, loose, count = _move(number, sliceElements, positions, source.size, target.size)
        for index in range(cuda.threadIdx.x, count, BLOCK_THREADS):
            target[loose + index] = source[packed + index]


@cuda.jit(device=True, inline="always")  # type: ignore[untyped-decorator]
def markDirty(flags: Any, sliceBytes: Any, offset: Any, length: Any) -> None:
    """Set to 1 the flags of the slices that a write of `length` bytes at `offset`
    touches, as `references.markDirty` says. Several threads may write a flag; all write
    the same value.
    """
    # A caller may count in any integer type.
    size = np.uint64(sliceBytes)
    begin = np.uint64(max(np.int64(offset), np.int64(0)))
    end = np.uint64(max(np.int64(offset) + np.int64(length), np.int64(0)))
    if begin < end:
        number = begin // size
        while number < np.uint64(flags.size) and number * size < end:
            flags[number] = 1
            number += np.uint64(1)


#: Other flags, marked in the same way.
markUsed = markDirty


@cuda.jit  # type: ignore[untyped-decorator]
def sliceDigests(data: Any, sliceElements: Any, digests: Any) -> None:
    """Add to each ``digests[i]`` the digest of slice i of uint64 `data`: the sum of
    splitmix64(element ^ splitmix64(index in it)).
    """
    for number in range(cuda.blockIdx.x, digests.size, cuda.gridDim.x):
        first = number * sliceElements
        partial = np.uint64(0)
        for index in range(cuda.threadIdx.x, min(sliceElements, data.size - first), BLOCK_THREADS):
            partial = partial + _mixed(data[first + index] ^ _mixed(np.uint64(index)))
        _addUp(partial, digests, number)
        cuda.syncthreads()  # the next slice of the block uses its sums again
