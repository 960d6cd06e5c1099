"""Running a kernel by its name, on a GPU or by its CPU reference; and its PTX code,
which can be read without a GPU.
"""

from __future__ import annotations

import functools
import math
import weakref
from types import ModuleType
from typing import Any

import numpy as np

from muninn.devices.host.streams import workerOf
from muninn.devices.port import Stream
from muninn.errors import DeviceUnavailable, InvalidArgument
from muninn.interop.streams import DEFAULT_HANDLES, streamHandle
from muninn.kernels.words import MAX_AXES

#: Every kernel, and the types of its arguments: of arrays, by their elements, of
#: numbers, and of tuples, by their numbers. A `word` is any unsigned integer.
KERNELS: dict[str, tuple[str, ...]] = {
    "readSum": ("uint64[::1]", "uint64[::1]"),
    "copyElements": ("uint64[::1]", "uint64[::1]"),
    "packElements": ("word[::1]", "word[::1]", "uint64", "int64", "uint64 * 9", "int64 * 9"),
    "packTransposed": ("word[::1]", "word[::1]", "int64", "uint64 * 9", "int64 * 9", "int64 * 9"),
    "scaleAdd": ("float32[::1]", "float32", "float32[::1]"),
    "fillPattern": ("uint64[::1]", "uint64"),
    "countMismatches": ("uint64[::1]", "uint64", "uint64[::1]"),
    "compareSlices": ("uint64[::1]", "uint64[::1]", "int64", "uint8[::1]"),
    "copyMarked": ("uint64[::1]", "uint64[::1]", "int64", "uint8[::1]"),
    "gatherSlices": ("uint64[::1]", "uint64[::1]", "int64", "int64[::1]"),
    "scatterSlices": ("uint64[::1]", "uint64[::1]", "int64", "int64[::1]"),
    "sliceDigests": ("uint64[::1]", "int64", "uint64[::1]"),
}
#: Enough blocks to fill the largest GPU of today several times; more would only wait.
_MAX_BLOCKS = 4096
#: Numba warns of fewer blocks. More than there is work for end at once.
_MIN_BLOCKS = 128
#: The kernels whose source says how much there is to do, and not their target.
_BY_SOURCE = {"copyElements", "copyMarked", "scatterSlices"}
#: The ends of the types of arrays and tuples.
_ARRAY, _TUPLE = "[::1]", f" * {MAX_AXES}"
_NUMBERS = {"uint64": np.uint64, "int64": np.int64, "float32": np.float32}


def launch(name: str, *arguments: Any, stream: Any = None) -> None:
    """Run a kernel: on a GPU when its arrays are there, else its CPU reference in this
    call.

    Parameters
    ----------
    name
        One of `KERNELS`.
    arguments
        The arguments of the kernel's CPU reference. Arrays are numpy's, or have
        `__cuda_array_interface__`; all of one kind.
    stream
        The stream in which the kernel runs: of `createStream`, or any other that Muninn
        takes; None is the default stream. The call does not wait for it.

    Raises
    ------
    InvalidArgument
        There is no such kernel, or it takes another number of arguments.
    DeviceUnavailable
        The arrays are on a GPU, and Numba or its compiler is not installed, or does not
        work with this version of numpy.
    """
    types = KERNELS.get(name)
    if types is None or len(types) != len(arguments):
        raise InvalidArgument(
            f"no kernel {name!r} takes {len(arguments)} arguments",
            f"Use one of {', '.join(KERNELS)}",
        )
    arrays = [
        argument for argument, kind in zip(arguments, types, strict=True) if kind.endswith(_ARRAY)
    ]
    for array in arrays:
        if not isinstance(array, np.ndarray) and not hasattr(array, "__cuda_array_interface__"):
            raise TypeError(
                f"{name} takes arrays of numpy or of a GPU, not {type(array).__name__}: of a "
                "buffer pass its deviceArray()"
            )
    for argument, kind in zip(arguments, types, strict=True):
        if kind.endswith(_TUPLE) and len(argument) != MAX_AXES:
            raise InvalidArgument(
                f"{name} takes the lengths and strides of {MAX_AXES} axes, not of {len(argument)}",
                "Take them from muninn.kernels.words.wordLayout",
            )
    if all(isinstance(array, np.ndarray) for array in arrays):
        from muninn.kernels import references

        reference = functools.partial(getattr(references, name), *arguments)
        # The stream may have to wait for an access of another process first, which a
        # direct call would not do.
        queue = _queueOf(stream)
        reference() if queue is None else queue.submit(reference)
        return
    if blocks := _blocksFor(name, arrays, _deviceKernels().BLOCK_THREADS):
        _onGpu(name, arguments, blocks, stream)


def prepare(name: str, *arguments: Any, stream: Any) -> None:
    """Run a kernel on a GPU with empty arrays, by which it is compiled for their types and
    loaded. The parameters and the errors are those of `launch`.
    """
    _onGpu(name, arguments, _MIN_BLOCKS, stream)


def _onGpu(name: str, arguments: tuple[Any, ...], blocks: int, stream: Any) -> None:
    device, given = _deviceKernels(), tuple(map(_converted, arguments, KERNELS[name]))
    try:
        getattr(device, name)[blocks, device.BLOCK_THREADS, _streamOf(stream)](*given)
    except _libraryMissing() as error:
        raise _typed(error) from error


def requireKernels() -> None:
    """Raise `DeviceUnavailable` where `launch` would find no compiler for a GPU."""
    _deviceKernels()


def ptxOf(name: str, computeCapability: tuple[int, int], word: str = "uint64") -> str:
    """The PTX of a kernel for one kind of GPU, such as ``(9, 0)``, and one type of words
    if it takes any. Needs Numba and the CUDA toolkit, and no GPU.
    """
    device = _deviceKernels()
    from muninn.kernels.numbacuda import types

    def typed(kind: str) -> Any:
        element = kind.removesuffix(_ARRAY).removesuffix(_TUPLE)
        number = getattr(types, word if element == "word" else element)
        if kind.endswith(_ARRAY):
            return number[::1]
        return types.UniTuple(number, MAX_AXES) if kind.endswith(_TUPLE) else number

    signature = types.void(*map(typed, KERNELS[name]))
    try:
        ptx, _ = device.cuda.compile_ptx(
            getattr(device, name).py_func, signature, cc=computeCapability
        )
    except _libraryMissing() as error:
        raise _typed(error) from error
    return str(ptx)


def _converted(argument: Any, kind: str) -> Any:
    """An argument as a kernel for GPUs takes it."""
    if kind.endswith(_TUPLE):
        return tuple(map(_NUMBERS[kind.removesuffix(_TUPLE)], argument))
    return _NUMBERS[kind](argument) if kind in _NUMBERS else argument


@functools.cache
def _deviceKernels() -> ModuleType:
    """The kernels for GPUs. An error is raised at each call."""
    try:
        from muninn.kernels import device, numbacuda
    except ImportError as error:
        raise DeviceUnavailable(
            f"kernels need numba-cuda: {error}", "In Muninn's source, pip install '.[cuda]'"
        ) from error
    numbacuda.requireCompiler()
    return device


def _libraryMissing() -> type[Exception]:
    """The error of a compilation where a library of the CUDA toolkit is not installed."""
    from cuda.pathfinder import DynamicLibNotFoundError

    missing: type[Exception] = DynamicLibNotFoundError
    return missing


def _typed(error: Exception) -> DeviceUnavailable:
    why = str(error).strip().partition("\n")[0]
    return DeviceUnavailable(
        f"kernels can not be compiled: {why}",
        "Install the CUDA toolkit's libraries: in Muninn's source, pip install '.[cuda]'",
    )


def _blocksFor(name: str, arrays: list[Any], blockThreads: int) -> int:
    """The number of blocks: one per slice for the digests of slices, else so many that
    each thread gets one element; within bounds, and 0 where there is nothing to do.
    """
    sizes = [math.prod(array.shape) for array in arrays]
    wanted = sizes[-1] if name == "sliceDigests" else -(-sizes[name in _BY_SOURCE] // blockThreads)
    return min(max(wanted, _MIN_BLOCKS), _MAX_BLOCKS) if wanted else 0


def _queueOf(stream: Any) -> Stream | None:
    """The stream in which a CPU reference runs, by a stream object or a handle. None
    for a default stream: there the caller runs the reference itself.
    """
    if isinstance(stream, Stream):
        return stream
    handle = streamHandle(stream)
    if handle in DEFAULT_HANDLES:
        return None
    queue = workerOf(handle)
    if queue is None:
        reason = (
            f"{type(stream).__name__} {handle:#x} is no stream in which the CPU works, "
            "and the arrays are the CPU's"
        )
        raise InvalidArgument(reason, "Use a stream of createStream, or None")
    return queue


#: Numba's objects for streams of Muninn's. With another object each time Numba would make
#: the configuration of the launch anew, which is a third of what a launch takes.
_numbaStreams: weakref.WeakKeyDictionary[Stream, Any] = weakref.WeakKeyDictionary()


def _streamOf(stream: Any) -> Any:
    """The stream as Numba takes it."""
    from muninn.kernels.numbacuda import cuda

    handle = streamHandle(stream)
    if not handle:
        return 0
    if not isinstance(stream, Stream):
        return cuda.external_stream(handle)
    known = _numbaStreams.get(stream)
    if known is None:
        known = _numbaStreams.setdefault(stream, cuda.external_stream(handle))
    return known
