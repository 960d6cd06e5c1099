"""Kernels: CPU references against their definitions, GPU code against the CPU
references under the simulator, and code for each kind of GPU.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import muninn
from muninn.errors import InvalidArgument
from muninn.kernels import launch, markDirty, references
from support import program

ROOT = Path(__file__).parent.parent
CAPABILITIES = ((7, 5), (8, 0), (9, 0), (10, 0))
_MASK = (1 << 64) - 1


def mixed(value: int) -> int:
    """splitmix64, in Python's integers."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31


words = st.lists(st.integers(0, _MASK), min_size=1, max_size=70)


@given(words)
def test_readSumAddsAndWrapsAround(values: list[int]) -> None:
    result = np.array([5], np.uint64)
    references.readSum(np.array(values, np.uint64), result)
    assert int(result[0]) == (5 + sum(values)) & _MASK


@given(st.integers(1, 200), st.integers(0, _MASK >> 1))
@settings(max_examples=30)
def test_thePatternIsCountedFromItsSeed(count: int, seed: int) -> None:
    data = np.zeros(count, np.uint64)
    references.fillPattern(data, seed)
    assert data.tolist() == [mixed((seed + index) & _MASK) for index in range(count)]
    result = np.zeros(1, np.uint64)
    references.countMismatches(data, seed, result)
    assert result[0] == 0
    data[count // 2] ^= np.uint64(1)
    data[0] ^= np.uint64(1 << 63)
    references.countMismatches(data, seed, result)
    assert result[0] == len({0, count // 2} if count // 2 else set()) or count == 1


def test_thePatternGoesOnBeyondThePartsOfTheReference() -> None:
    data = np.zeros(100_000, np.uint64)
    references.fillPattern(data, 7)
    assert int(data[99_999]) == mixed(7 + 99_999)
    result = np.zeros(1, np.uint64)
    references.countMismatches(data, 8, result)
    assert result[0] == 100_000


@given(words, st.integers(1, 9), st.sets(st.integers(0, 69)))
def test_compareSlicesMarksTheSlicesThatDiffer(
    values: list[int], sliceElements: int, changed: set[int]
) -> None:
    base = np.array(values, np.uint64)
    scratch, flags = base.copy(), np.zeros(-(-len(values) // sliceElements), np.uint8)
    changed = {index for index in changed if index < len(values)}
    for index in changed:
        scratch[index] ^= np.uint64(1)
    references.compareSlices(scratch, base, sliceElements, flags)
    assert set(np.flatnonzero(flags).tolist()) == {index // sliceElements for index in changed}


@pytest.mark.parametrize("sliceElements", [1000, 1024, 70_000])
def test_slicesAreComparedBeyondThePartsOfTheReference(sliceElements: int) -> None:
    base = np.arange(150_001, dtype=np.uint64)
    scratch, flags = base.copy(), np.zeros(-(-base.size // sliceElements), np.uint8)
    changed = (0, 33_000, 140_000, 150_000)
    scratch[list(changed)] += np.uint64(1)
    references.compareSlices(scratch, np.append(base, base), sliceElements, flags)
    assert set(np.flatnonzero(flags).tolist()) == {index // sliceElements for index in changed}


def test_slicesOfBytesThatAreNotThereAreNotCompared() -> None:
    """The comparison is C's, which would read or write beyond an array."""
    words, flags = np.zeros(10, np.uint64), np.zeros(5, np.uint8)
    locked = flags.copy()
    locked.flags.writeable = False
    for scratch, base, elements, marks in (
        (words, words[:-1], 2, flags),
        (words, words.astype(np.uint32), 2, flags),
        (words, words, 2, flags[:-1]),
        (words[::2], words, 2, flags),
        (words, words, 2, np.zeros(10, np.uint8)[::2]),
        (words, words, 2, locked),
        (words, words, 0, flags),
        (words, words, -1, flags),
    ):
        with pytest.raises(InvalidArgument):
            references.compareSlices(scratch, base, elements, marks)
    references.compareSlices(words[:0], words[:0], 2, flags[:0])
    references.compareSlices(words, words + np.uint64(1), 2, flags)
    assert flags.tolist() == [1] * 5


@st.composite
def slicesAt(draw: st.DrawFn) -> tuple[list[int], int, list[int]]:
    """An array, the length of its slices, and the positions of some of them."""
    values, sliceElements = draw(words), draw(st.integers(1, 9))
    count = -(-len(values) // sliceElements)
    return values, sliceElements, draw(st.lists(st.integers(0, count - 1), unique=True))


@given(slicesAt())
def test_slicesAreGatheredAndScatteredByTheirPositions(
    case: tuple[list[int], int, list[int]],
) -> None:
    values, sliceElements, positions = case
    source, packed = (
        np.array(values, np.uint64),
        np.zeros(len(positions) * sliceElements, np.uint64),
    )
    slices = [
        values[sliceElements * position : sliceElements * (position + 1)] for position in positions
    ]
    references.gatherSlices(packed, source, sliceElements, np.array(positions, np.int64))
    assert packed.tolist() == [
        value for each in slices for value in each + [0] * (sliceElements - len(each))
    ]
    references.scatterSlices(source, ~packed, sliceElements, np.array(positions, np.int64))
    assert source.tolist() == [
        value ^ (_MASK if at // sliceElements in positions else 0)
        for at, value in enumerate(values)
    ]


def test_theLastSliceNeedsNoMoreRoomThanItHasElements() -> None:
    source, packed = np.arange(10, dtype=np.uint64), np.zeros(6, np.uint64)
    references.gatherSlices(packed, source, 4, np.array([0, 2]))
    assert packed.tolist() == [0, 1, 2, 3, 8, 9]
    target = np.zeros(10, np.uint64)
    references.scatterSlices(target, packed, 4, np.array([0, 2]))
    assert target.tolist() == [0, 1, 2, 3, 0, 0, 0, 0, 8, 9]


@given(st.integers(1, 70), st.integers(-99, 300), st.integers(-9, 300), st.integers(0, 9))
def test_markDirtyMarksTheSlicesThatARangeTouches(
    sliceBytes: int, offset: int, length: int, count: int
) -> None:
    flags = np.zeros(count, np.uint8)
    markDirty(flags, sliceBytes, offset, length)
    touched = {byte // sliceBytes for byte in range(offset, offset + length)}
    assert set(np.flatnonzero(flags).tolist()) == touched & set(range(count))
    assert set(flags.tolist()) <= {0, 1}


@given(
    st.integers(1, 400),
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 3199), st.integers(0, 99), st.integers(0, 255))),
)
def test_trackedSlicesAreThoseThatDifferAndMaybeMore(
    size: int, sliceElements: int, writes: list[tuple[int, int, int]]
) -> None:
    """Whatever bytes are written, slices that differ are marked, and either kind of
    flags is enough to bring another copy up to date.
    """
    base = np.arange(size, dtype=np.uint64)
    scratch, count = base.copy(), -(-size // sliceElements)
    tracked, compared = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
    for offset, length, value in writes:
        scratch.view(np.uint8)[offset : offset + length] = value
        markDirty(tracked, 8 * sliceElements, offset, length)
    references.compareSlices(scratch, base, sliceElements, compared)
    assert not (compared > tracked).any()
    for flags in (tracked, compared):
        copy, positions = base.copy(), np.flatnonzero(flags)
        packed = np.zeros(positions.size * sliceElements, np.uint64)
        references.gatherSlices(packed, scratch, sliceElements, positions)
        references.scatterSlices(copy, packed, sliceElements, positions)
        assert np.array_equal(copy, scratch)
        copy = base.copy()
        references.copyMarked(copy, scratch, sliceElements, flags)
        assert np.array_equal(copy, scratch)


@given(words, st.integers(1, 9))
def test_sliceDigestsAreThoseOfEachSlice(values: list[int], sliceElements: int) -> None:
    digests = np.zeros(-(-len(values) // sliceElements), np.uint64)
    references.sliceDigests(np.array(values, np.uint64), sliceElements, digests)
    parts = [
        values[first : first + sliceElements] for first in range(0, len(values), sliceElements)
    ]
    assert digests.tolist() == [
        sum(mixed(value ^ mixed(at)) for at, value in enumerate(part)) & _MASK for part in parts
    ]


def test_copyAndScaleAdd() -> None:
    x, y = np.arange(100, dtype=np.float32), np.ones(100, np.float32)
    launch.launch("scaleAdd", y, 2.0, x)
    assert np.array_equal(y, 1 + 2 * np.arange(100, dtype=np.float32))
    target = np.zeros(100, np.uint64)
    launch.launch("copyElements", target, np.arange(100, dtype=np.uint64))
    assert np.array_equal(target, np.arange(100))


def test_unknownKernelsAndArgumentsAreRefused() -> None:
    for name, arguments in (("fillPatterns", ()), ("fillPattern", (np.zeros(3, np.uint64),))):
        with pytest.raises(InvalidArgument, match="kernel"):
            launch.launch(name, *arguments)


def test_importingThemLoadsNoNumba() -> None:
    code = "import sys, numpy, muninn.kernels.launch; from muninn.kernels import markDirty; markDirty(numpy.zeros(1, 'u1'), 1, 0, 1); print('numba' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        == "False\n"
    )


def test_aKernelThatCallsMarkDirtyIsPickled() -> None:
    """Numba pickles the globals of a kernel with it."""
    assert pickle.loads(pickle.dumps(markDirty)) is markDirty


#: Elements, and blocks of 256 threads, for the simulator, which gives each of them a
#: thread of Python.
_SHAPES = "(1, 1), (257, 1)"
_MORE_SHAPES = "(600, 2), (257, 2)"


def test_aCpuReferenceRunsWhenItsStreamComesToIt(domain: str) -> None:
    """Broken: the reference ran at once, before the accesses for which its stream still
    had to wait.
    """
    buffer, stream, semaphore = (
        muninn.array("a", 4, np.uint64, mode="fastMode"),
        muninn.createStream(),
        threading.Event(),
    )
    stream.submit(lambda: semaphore.wait(60))
    with buffer.write(stream=stream) as view:
        launch.launch("fillPattern", view, 42, stream=stream)
    assert not buffer.array.any()
    semaphore.set()
    assert buffer.read().all()


class Foreign:
    """A stream of another library, which has the protocol only."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._handle


@pytest.mark.parametrize(
    "named",
    [lambda stream: stream, lambda stream: stream.handle, lambda stream: Foreign(stream.handle)],
)
def test_aCpuReferenceKeepsTheOrderOfAStreamHoweverThatIsNamed(
    domain: str, named: Callable[[Any], object]
) -> None:
    """Broken: the reference overtook earlier work of the stream, unless the caller
    passed the stream object itself.
    """
    stream, semaphore, data = muninn.createStream(), threading.Event(), np.zeros(8, np.uint64)
    stream.submit(lambda: semaphore.wait(60))
    stream.submit(lambda: data.fill(1))
    launch.launch("fillPattern", data, 42, stream=named(stream))
    semaphore.set()
    stream.synchronize(60)
    mismatches = np.zeros(1, np.uint64)
    for ofDefault in (None, 0, 1):
        launch.launch("countMismatches", data, 42, mismatches, stream=ofDefault)
    assert mismatches[0] == 0


def test_anArgumentThatIsNoStreamOrNoArrayIsNamed(domain: str) -> None:
    """Broken: an argument that is no stream was ignored, and one that is no array
    raised an error of numpy or of Numba.
    """
    data, out = np.zeros(8, np.uint64), np.zeros(1, np.uint64)
    with pytest.raises(InvalidArgument, match="no stream"):
        launch.launch("fillPattern", data, 3, stream=1 << 40)
    with pytest.raises(TypeError, match="str is not a stream"):
        launch.launch("fillPattern", data, 3, stream="x")
    assert not data.any()
    for wrong in ([1, 2], muninn.array("b", 8, np.uint64, mode="fastMode"), None):
        with pytest.raises(TypeError, match=f"readSum takes arrays.*not {type(wrong).__name__}"):
            launch.launch("readSum", wrong, out)


@pytest.mark.parametrize("shapes", [_SHAPES, pytest.param(_MORE_SHAPES, marks=pytest.mark.long)])
def test_theGpuCodeDoesWhatItsReferencesDoUnderTheSimulator(shapes: str) -> None:
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: make test installs it")
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program("simulatedKernels", SHAPES=shapes)],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert ran.stdout == "same\n", ran.stderr


#: Each kernel with a type of words; it matters only where the kernel takes any.
_CODES = [
    (name, word)
    for name, kinds in launch.KERNELS.items()
    for word in ("uint64", "uint32", "uint16", "uint8")[: 4 if "word[::1]" in kinds else 1]
]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        each if each[0] == "readSum" else pytest.param(*each, marks=pytest.mark.long)
        for each in _CODES
    ],
)
def test_compilesAndAssemblesForEachKindOfGpu(name: str, word: str) -> None:
    nvjitlink = pytest.importorskip(
        "cuda.bindings.nvjitlink", reason="cuda-bindings is not installed: make test installs it"
    )
    for major, minor in CAPABILITIES:
        ptx = launch.ptxOf(name, (major, minor), word)
        assert f".target sm_{major}{minor}" in ptx
        assert ".f64" not in ptx, "an integer became a float64"
        assert ".local" not in ptx, "a tuple, or a variable, is kept in memory"
        handle = nvjitlink.create(1, [f"-arch=sm_{major}{minor}"])
        try:
            nvjitlink.add_data(handle, nvjitlink.InputType.PTX, ptx.encode(), len(ptx), name)
            nvjitlink.complete(handle)
            cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
            nvjitlink.get_linked_cubin(handle, cubin)
        finally:
            nvjitlink.destroy(handle)
        assert cubin[:4] == b"\x7fELF" and name.encode() in cubin


def saidByMarkingKernels(hidden: str = "") -> subprocess.CompletedProcess[str]:
    code = hidden + program("markingKernels", CAPABILITIES=repr(CAPABILITIES))
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def test_usersKernelsMarkWhatTheyWriteOnEachKindOfGpu() -> None:
    """The mark is a plain store, within the user's kernel, for integers of any type."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: make test installs it")
    ran = saidByMarkingKernels()
    assert ran.stdout == "right\n", ran.stderr


@pytest.mark.parametrize("isThere", [True, False])
def test_numbaCudaComesBeforeItsSuccessor(tmp_path: Path, isThere: bool) -> None:
    """Where numba-cuda is installed, its target is used, else that of numba-cuda-mlir;
    the test puts an imitation of the latter on the path.
    """
    (tmp_path / "numba_cuda_mlir").mkdir()
    (tmp_path / "numba_cuda_mlir" / "__init__.py").write_text("")
    (tmp_path / "numba_cuda_mlir" / "types.py").write_text("")
    (tmp_path / "numba_cuda_mlir" / "cuda.py").write_text("")
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: make test installs it")
    hidden = "" if isThere else "import sys; sys.modules['numba_cuda'] = None\n"
    ran = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            f"{hidden}from muninn.kernels import numbacuda; print(numbacuda.cuda.__name__)",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert ran.stdout == ("numba.cuda\n" if isThere else "numba_cuda_mlir.cuda\n"), ran.stderr


def test_compilesForTheSuccessorToo() -> None:
    pytest.importorskip(
        "numba_cuda_mlir", reason="numba-cuda-mlir is not installed: pip install numba-cuda-mlir"
    )
    hidden = "import sys; sys.modules['numba_cuda'] = None\n"
    compiled = "from muninn.kernels import launch; print(sum('.f64' in launch.ptxOf(name, (9, 0)) for name in launch.KERNELS))"
    ran = subprocess.run(
        [sys.executable, "-c", hidden + compiled],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    if "CUDA driver library cannot be found" in ran.stderr:
        pytest.skip("numba-cuda-mlir compiles where a driver is: ops/standin.sh has one")
    assert ran.stdout == "0\n", ran.stderr
    marking = saidByMarkingKernels(hidden)
    assert marking.stdout == "right\n", marking.stderr


def kernelsBeside(tmp_path: Path, prepare: str, said: str) -> None:
    """Compile a kernel in a process that first runs `prepare`; its output contains
    `said`.
    """
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: make test installs it")
    code = (
        f"{prepare}\nfrom muninn.kernels import launch, numbacuda\n"
        "try: print('compiled', len(launch.ptxOf('readSum', (9, 0))))\n"
        "except launch.DeviceUnavailable as error: print(error)"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert said in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.long
def test_aNumpyThatNumbaCompilesNothingBesideIsNamed(tmp_path: Path) -> None:
    """Broken: the first launch raised the AttributeError `module 'numpy' has no
    attribute 'row_stack'`.
    """
    prepare = "import numpy, importlib.metadata as m; numpy.__version__, m.version = '2.5.2', lambda name: '{}'"
    wanted = "MNN-0029 DeviceUnavailable: numba-cuda 0.30.4 compiles no kernel beside numpy 2.5.2. Fix: pip install 'numpy<2.5'"
    hidden = "import numba.cuda; " + prepare.format("0.30.4")
    kernelsBeside(tmp_path, hidden, wanted)
    kernelsBeside(tmp_path, f"import numba.cuda; {prepare.format('0.31.0')}", "compiled ")


def test_aLibraryOfTheToolkitThatIsMissingIsNamed(tmp_path: Path) -> None:
    """Broken: where numba-cuda-mlir is installed without its extras, a library of
    NVIDIA's raised `DynamicLibNotFoundError`.
    """
    prepare = (
        "from cuda.pathfinder import DynamicLibNotFoundError\n"
        "import numba.cuda\n"
        "def compile_ptx(*_, **__): raise DynamicLibNotFoundError('Failure finding libnvrtc.so.13\\nlong text')\n"
        "numba.cuda.compile_ptx = compile_ptx"
    )
    kernelsBeside(
        tmp_path,
        prepare,
        "MNN-0029 DeviceUnavailable: kernels can not be compiled: Failure finding libnvrtc.so.13. Fix: Install",
    )
