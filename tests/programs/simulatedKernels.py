import numpy as np
import muninn
from muninn.kernels import device, references
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
print("same")
