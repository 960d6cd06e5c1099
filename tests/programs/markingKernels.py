import itertools
import muninn.kernels
from muninn.kernels import markDirty
from muninn.kernels.numbacuda import cuda, types


def halve(data, flags):
    # Without a loop: numba-cuda-mlir (0.6.0) checks the step of a range by an atomic.
    index = cuda.grid(1)
    if index < data.size and data[index] > 5:
        data[index] //= 2
        markDirty(flags, 65536, 8 * index, 8)


def byModule(data, flags):
    muninn.kernels.markDirty(flags, 65536, 8 * cuda.grid(1), data.size)


def mark(flags, sliceBytes, offset, length):
    markDirty(flags, sliceBytes, offset, length)


def isRight(function, capability, *arguments):
    ptx, _ = cuda.compile_ptx(function, types.void(*arguments), cc=capability)
    assert f".target sm_{capability[0]}{capability[1]}" in ptx
    assert "st.global.u8" in ptx or "st.global.b8" in ptx, "nothing is marked"
    for wrong in (".f64", ".local", "call", "atom.", "red."):
        assert wrong not in ptx, (wrong, function, arguments)


words, flags = types.uint64[::1], types.uint8[::1]
for capability in CAPABILITIES:
    isRight(halve, capability, words, flags)
    isRight(byModule, capability, words, flags)
for integers in itertools.product((types.int64, types.uint64, types.int32), repeat=3):
    isRight(mark, (9, 0), flags, *integers)
print("right")
