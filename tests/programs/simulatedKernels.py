import itertools

import numpy as np
import muninn
from muninn.kernels import device, markDirty, references
from muninn.kernels.words import tileOrder, wordLayout

cuda, rng = device.cuda, np.random.default_rng(1)
for size, blocks in SHAPES:
    data = rng.integers(0, 1 << 64, size, np.uint64)

    def both(name, *arguments):
        results = []
        for run in (
            getattr(references, name),
            getattr(device, name)[blocks, device.BLOCK_THREADS],
        ):
            given = [
                argument.copy() if isinstance(argument, np.ndarray) else argument
                for argument in arguments
            ]
            run(*given)
            results.append(given)
        for mine, theirs in zip(*results):
            assert np.array_equal(mine, theirs), (name, size, blocks, mine, theirs)

    both("readSum", data, np.array([3], np.uint64))
    both("copyElements", np.zeros(size, np.uint64), data)
    both("scaleAdd", np.ones(size, np.float32), np.float32(3), np.arange(size, dtype=np.float32))
    both("fillPattern", np.zeros(size, np.uint64), np.uint64((1 << 64) - 5))
    both("countMismatches", data, np.uint64(9), np.zeros(1, np.uint64))
    for word in (np.uint8, np.uint16, np.uint32, np.uint64):
        cube = data[: 6 * (size // 6)].astype(word).reshape(-1, 2, 3)
        for array in (
            cube[::-1, :, 1:],
            cube.transpose(2, 0, 1),
            np.broadcast_to(cube, (2, *cube.shape)),
        ):
            if array.size:
                address = array.__array_interface__["data"][0]
                layout = wordLayout(address, array.shape, array.strides, array.itemsize)
                skipped = (layout.lowest - cube.ctypes.data) // layout.dtype.itemsize
                source = cube.reshape(-1).view(layout.dtype)[skipped:]
                packed = np.zeros(layout.total - 1, layout.dtype)
                numbers = np.uint64(1), np.int64(layout.first)
                lengths = tuple(map(np.uint64, layout.lengths))
                strides = tuple(map(np.int64, layout.strides))
                both("packElements", packed, source, *numbers, lengths, strides)
        sheets = rng.integers(0, 256, (2, 34, 40)).astype(word)[:, ::-1].transpose(0, 2, 1)
        layout = wordLayout(0, sheets.shape, sheets.strides, sheets.itemsize)
        if size > 256:  # several tiles, whole and partial ones
            lengths, strides, targetStrides = tileOrder(layout)
            packed = np.zeros(sheets.size, word)
            source = sheets.base.reshape(-1)
            both("packTransposed", packed, source, layout.first, lengths, strides, targetStrides)
    changed = data.copy()
    changed[size // 2] ^= np.uint64(1)
    changed[-1] ^= np.uint64(1)
    for slices in (100, 1000):
        both("compareSlices", changed, data, slices, np.zeros(-(-size // slices), np.uint8))
        if size // slices < 8:
            both("sliceDigests", data, slices, np.zeros(-(-size // slices), np.uint64))
        count = -(-size // slices)
        positions = rng.permutation(count)[: max(1, 2 * count // 3)]
        packed = rng.integers(0, 1 << 64, min(len(positions) * slices, size), np.uint64)
        both("gatherSlices", np.zeros_like(packed), data, slices, positions)
        both("scatterSlices", data, packed, slices, positions)
        marks = rng.integers(0, 2, count, np.uint8)
        both("copyMarked", np.zeros_like(data), data, slices, marks)

# Slices that are more than one part for a block, the last of them a shorter one.
large = rng.integers(0, 1 << 64, 7000, np.uint64)
for positions in ([0, 2], [2, 1, 0], [1]):
    packed = rng.integers(0, 1 << 64, 3000 * len(positions), np.uint64)
    both("gatherSlices", packed, large, 3000, np.array(positions))
    both("scatterSlices", large, packed, 3000, np.array(positions))
    marks = np.zeros(3, np.uint8)
    marks[positions] = 1
    both("copyMarked", np.zeros_like(large), large, 3000, marks)


# A user's kernels: one with the code for GPUs, one with the name that users import. Each
# range has flags of its own.
@cuda.jit
def markAsOnAGpu(flags, sliceBytes, offsets, lengths):
    for index in range(cuda.grid(1), offsets.size, cuda.gridsize(1)):
        device.markDirty(flags[index], sliceBytes, offsets[index], lengths[index])


@cuda.jit
def markAsUsersDo(flags, sliceBytes, offsets, lengths):
    for index in range(cuda.grid(1), offsets.size, cuda.gridsize(1)):
        markDirty(flags[index], sliceBytes, offsets[index], lengths[index])


offsets, lengths = np.array(
    list(itertools.product((-30, -1, 0, 1, 15, 16, 47, 240), (-1, 0, 1, 16, 17, 90)))
).T.copy()
for sliceBytes in (1, 16, 24, 4096):
    windows = np.zeros((offsets.size, 5), np.uint8)
    for window, offset, length in zip(windows, offsets, lengths):
        references.markDirty(window, sliceBytes, offset, length)
    for kernel in (markAsOnAGpu, markAsUsersDo):
        marked = np.zeros_like(windows)
        kernel[2, 8](marked, sliceBytes, offsets, lengths)
        assert np.array_equal(marked, windows), (kernel, sliceBytes)
print("same")
