import numpy as np
import muninn
from muninn.kernels import device, references

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
    changed = data.copy()
    changed[size // 2] ^= np.uint64(1)
    changed[-1] ^= np.uint64(1)
    for slices in (100, 1000):
        both("markDirty", changed, data, slices, np.zeros(-(-size // slices), np.uint8))
        if size // slices < 8:
            both("sliceDigests", data, slices, np.zeros(-(-size // slices), np.uint64))
print("same")
