"""Kernels as users launch them: on a GPU against their CPU references, and on the
stand-in through the CPU references that its driver calls.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import numpy as np
import pytest

import muninn
from muninn.errors import InvalidArgument
from muninn.kernels import launch, markDirty, references
from support import Actor, ActorError, eventually

Start = Callable[..., Actor]


def test_numbaConfiguresALaunchInOneStreamOnce(domain: str) -> None:
    """Broken: Numba got another object for the stream each time, and took a third longer."""
    from muninn.kernels import device

    array = muninn.array("a", 5000, np.uint64, mode="fastMode").deviceArray()
    # Numba's compiler leaves a circle of frames, and these have the arguments of the first
    # launch until the garbage collector comes.
    launch.launch("fillPattern", array, 1)
    stream, made = muninn.createStream(), device.fillPattern.configure.cache_info
    launch.launch("fillPattern", array, 1, stream=stream)
    before = made().misses
    launch.launch("fillPattern", array, 2, stream=stream)
    assert made().misses == before
    stream.synchronize(30)
    gone = weakref.ref(stream)
    del stream
    eventually(lambda: gone() is None, "the stream ends as it did without")


@pytest.mark.parametrize("mode", ["fastMode", "bigMode"])
def test_aKernelWritesSharedMemory(domain: str, actor: Start, mode: str) -> None:
    buffer = muninn.array("a", 5000, np.uint64, mode=mode)
    other = actor(
        "from muninn.kernels import launch; from numba import cuda\nb = muninn.open('a', access='readWrite')\nwith b.write(stream=None) as view: launch.launch('fillPattern', view, 42)"
    )
    expected = np.zeros(5000, np.uint64)
    references.fillPattern(expected, 42)
    assert np.array_equal(buffer.read(), expected)
    other.do(
        "result = cuda.to_device(np.zeros(1, np.uint64))\nwith b.read(stream=None) as view: launch.launch('countMismatches', view, 42, result)"
    )
    assert other.do("int(result.copy_to_host()[0])") == 0


def test_aKernelRunsInAStreamOfMuninn(domain: str) -> None:
    """Broken: `launch` passed the stream on unchanged, and Numba takes only its own."""
    from numba import cuda

    buffer, stream, semaphore = (
        muninn.array("a", 5000, np.uint64, mode="fastMode"),
        muninn.createStream(),
        threading.Event(),
    )
    # A driver may wait for all work of its context when it loads a kernel.
    launch.launch("fillPattern", buffer.deviceArray(), 1, stream=stream)
    stream.submit(lambda: semaphore.wait(60))
    expected = np.zeros(5000, np.uint64)
    references.fillPattern(expected, 42)
    with buffer.write(stream=stream) as view:
        launch.launch("fillPattern", view, 42, stream=stream)
    assert not stream.query()
    semaphore.set()
    assert np.array_equal(buffer.read(), expected)
    # One stream for the program's own kernels, and the same stream for Muninn.
    theirs = cuda.external_stream(stream.handle)
    wrong = cuda.to_device(np.zeros(1, np.uint64))
    with buffer.read(stream=theirs) as view:
        launch.launch("countMismatches", view, 42, wrong, stream=theirs)
    stream.synchronize(30)
    assert int(wrong.copy_to_host()[0]) == 0
    stream.close()
    with pytest.raises(InvalidArgument):
        launch.launch("fillPattern", buffer.deviceArray(), 42, stream=stream)


@pytest.mark.parametrize("mode", ["fastMode", "bigMode"])
def test_aKernelCanNotWriteWhatIsOpenForReading(domain: str, actor: Start, mode: str) -> None:
    shared = np.arange(5000, dtype=np.uint64)
    buffer = muninn.share(shared, "a", mode=mode, access="readOnly")
    reader = actor(
        "from muninn.kernels import launch; from numba import cuda; b = muninn.open('a')"
    )
    result = "result = cuda.to_device(np.zeros(1, np.uint64)); launch.launch('readSum', b.deviceArray(), result); int(result.copy_to_host()[0])"
    assert reader.do(result) == shared.sum()
    with pytest.raises(ActorError) as raised:
        reader.do("launch.launch('fillPattern', b.deviceArray(), 42); cuda.synchronize()")
    assert raised.value.kind == "CudaAPIError"
    assert np.array_equal(buffer.read(), shared)


def test_slicesThatDifferAreGatheredAndScattered(domain: str) -> None:
    """As a writeback does it: compare, gather, scatter; the last slice is a shorter one,
    and no other slice changes.
    """
    from numba import cuda

    size, slices = 100_003, 1024
    base = np.random.default_rng(1).integers(0, 1 << 64, size, np.uint64)
    scratch, flags = base.copy(), cuda.to_device(np.zeros(-(-size // slices), np.uint8))
    changed = np.array([0, 1023, 1024, 50_000, size - 1])
    scratch[changed] ^= np.uint64(1 << 63)
    onGpu, other = cuda.to_device(scratch), cuda.to_device(base)
    launch.launch("compareSlices", onGpu, other, slices, flags)
    positions = np.flatnonzero(flags.copy_to_host())
    assert positions.tolist() == sorted({*(changed // slices).tolist()})
    back = cuda.to_device(other.copy_to_host())
    launch.launch("copyMarked", back, onGpu, slices, flags)
    assert np.array_equal(back.copy_to_host(), scratch)
    packed, where = (
        cuda.to_device(np.zeros(positions.size * slices, np.uint64)),
        cuda.to_device(positions),
    )
    launch.launch("gatherSlices", packed, onGpu, slices, where)
    expected = np.zeros(positions.size * slices, np.uint64)
    references.gatherSlices(expected, scratch, slices, positions)
    assert np.array_equal(packed.copy_to_host(), expected)
    launch.launch("scatterSlices", other, packed, slices, where)
    assert np.array_equal(other.copy_to_host(), scratch)
    launch.launch("scatterSlices", other, cuda.to_device(~expected), slices, where)
    references.scatterSlices(scratch, ~expected, slices, positions)
    assert np.array_equal(other.copy_to_host(), scratch)


@pytest.mark.gpu
def test_usersKernelsMarkWhatTheyWrite() -> None:
    """Many threads mark one slice at once, and the marked slices are those that differ."""
    from numba import cuda

    @cuda.jit
    def changeSome(data, flags, every):  # type: ignore[no-untyped-def]
        for index in range(cuda.grid(1), data.size, cuda.gridsize(1)):
            if data[index] % every == 0:
                data[index] += np.uint64(1)
                markDirty(flags, 4096, 8 * index, 8)

    for every in (1, 3, 7001, 1 << 40):
        base = np.arange(1, 1_000_004, dtype=np.uint64)
        data, flags = cuda.to_device(base), cuda.to_device(np.zeros(-(-base.size // 512), np.uint8))
        changeSome[1024, 256](data, flags, np.uint64(every))
        compared = np.zeros(flags.size, np.uint8)
        references.compareSlices(data.copy_to_host(), base, 512, compared)
        assert np.array_equal(flags.copy_to_host(), compared)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [1, 255, 257, 1_000_003])
def test_everyKernelDoesOnTheGpuWhatItsReferenceDoes(size: int) -> None:
    from numba import cuda

    rng = np.random.default_rng(size)
    data = rng.integers(0, 1 << 64, size, np.uint64)
    changed = data.copy()
    changed[size // 2] ^= np.uint64(1)
    slices = 1000
    count = -(-size // slices)
    some = rng.permutation(count)[: 1 + count // 2]
    calls = {
        "readSum": (data, np.array([3], np.uint64)),
        "copyElements": (np.zeros(size, np.uint64), data),
        "packElements": (
            np.zeros(size - size // 2, np.uint64),
            data,
            size // 2,
            size - 1,
            (size, *(1,) * 8),
            (-1, *(0,) * 8),
        ),
        "packTransposed": (
            np.zeros(2 * size, np.uint64),
            np.concatenate((data, changed)),
            0,
            (*(1,) * 7, 2, size),
            (*(0,) * 7, 1, 2),
            (*(0,) * 7, size, 1),
        ),
        "scaleAdd": (np.ones(size, np.float32), 3.0, np.arange(size, dtype=np.float32) % 1000),
        "fillPattern": (np.zeros(size, np.uint64), (1 << 64) - 5),
        "countMismatches": (data, 9, np.zeros(1, np.uint64)),
        "compareSlices": (changed, data, slices, np.zeros(count, np.uint8)),
        "copyMarked": (np.zeros_like(data), data, slices, rng.integers(0, 2, count, np.uint8)),
        "gatherSlices": (np.zeros(len(some) * slices, np.uint64), data, slices, some),
        "scatterSlices": (data, np.arange(len(some) * slices, dtype=np.uint64), slices, some),
        "sliceDigests": (data, slices, np.zeros(count, np.uint64)),
    }
    assert calls.keys() == launch.KERNELS.keys()
    for name, arguments in calls.items():
        onGpu = [
            cuda.to_device(argument) if isinstance(argument, np.ndarray) else argument
            for argument in arguments
        ]
        launch.launch(name, *onGpu)
        mine = [
            argument.copy() if isinstance(argument, np.ndarray) else argument
            for argument in arguments
        ]
        launch.launch(name, *mine)
        for got, expected in zip(onGpu, mine, strict=True):
            if isinstance(expected, np.ndarray):
                assert np.array_equal(got.copy_to_host(), expected), name
