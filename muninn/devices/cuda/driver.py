"""The driver: every call goes through `call`, which raises the driver's error. `guard`
refuses calls in a forked child.

A process that was forked after CUDA was initialised has the parent's contexts as dead
memory: each of its calls answers NOT_INITIALIZED (seen on an H100, driver 580), or
worse. So this module remembers the process that initialised, and any other process gets
`ForkedAfterCuda` at once.

While some thread captures a stream for a graph, a call that might wait or allocate
breaks that capture, also from another thread (seen on an H200, driver 580:
cuEventSynchronize, cuMemAlloc and the like), unless the calling thread has relaxed its
capture mode. Muninn's calls relax it: they touch nothing that is captured.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from itertools import starmap
from types import TracebackType
from typing import Any

from cuda.bindings import driver as cu

from muninn.errors import (
    DescriptorsExhausted,
    DeviceUnavailable,
    ForkedAfterCuda,
    InvalidArgument,
    MuninnError,
    QuotaExceeded,
)

_SUCCESS = cu.CUresult.CUDA_SUCCESS
_RELAXED = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
#: For streams that wait for no default stream.
NON_BLOCKING = int(cu.CUstream_flags.CU_STREAM_NON_BLOCKING)
_NOT_CAPTURED = int(cu.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE)
_POINTER_API_VERSION = 4000
#: The pid of the process that initialised CUDA; empty before that. A forked child
#: inherits the value, which is not its own pid.
_owner: list[int] = []


class DriverError(Exception):
    """An error that the driver answered.

    Parameters
    ----------
    name
        The driver's name of the error, with or without its prefix.

    Attributes
    ----------
    code
        The name of the error without its prefix, as `"OUT_OF_MEMORY"`.
    """

    def __init__(self, function: str, name: str) -> None:
        self.function = function
        self.code = name.removeprefix("CUDA_").removeprefix("ERROR_")
        super().__init__(f"{function} answered {self.code}")


def call(function: Callable[..., tuple[Any, ...]], *arguments: object) -> Any:
    """The value of a driver call, a tuple of several, or None; `DriverError` when it
    failed.
    """
    try:
        answer = function(*arguments)
    except RuntimeError as error:
        raise _missing(function, error) from error
    if answer[0] != _SUCCESS:
        raise DriverError(function.__name__, str(answer[0].name))
    return answer[1] if len(answer) == 2 else answer[1:] if len(answer) > 2 else None


def _missing(function: Callable[..., object], error: RuntimeError) -> DriverError:
    """The bindings raise `error` for a function that the driver does not have."""
    return DriverError(function.__name__, f"nothing ({error})")


#: The answer of a driver call that has made something, while that is there.
Made = list[tuple[Any, ...]]


def make(made: Made, function: Callable[..., tuple[Any, ...]], *arguments: object) -> Any:
    """`call` of a function that makes something. `made` gets the answer in the step in
    which the function returns: no interruption comes between the two.
    """
    try:
        made.extend(starmap(function, (arguments,)))
    except RuntimeError as error:
        raise _missing(function, error) from error
    if made[-1][0] != _SUCCESS:
        raise DriverError(function.__name__, str(made.pop()[0].name))
    return made[-1][1] if len(made[-1]) > 1 else None


def unmake(made: Made, function: Callable[..., tuple[Any, ...]], *more: object) -> None:
    """Call `function` with what is in `made`, and take it from there; `DriverError` if it
    is still there.
    """
    while made:
        # An interruption here loses it; an interruption after the call would free what is
        # another's by the second time.
        answer = made.pop()
        try:
            call(function, answer[1], *more)
        except DriverError:
            made.append(answer)
            raise


def initialise() -> None:
    """Initialise CUDA in this process. Further calls do nothing.

    Raises
    ------
    ForkedAfterCuda
        A parent of this process initialised CUDA before the fork.
    DeviceUnavailable
        The driver does not start.
    """
    guard()
    try:
        call(cu.cuInit, 0)
    except DriverError as error:
        if error.code == "NOT_INITIALIZED":
            raise ForkedAfterCuda(
                "a parent of this process initialised CUDA before the fork"
            ) from error
        raise DeviceUnavailable(f"the CUDA driver does not start: {error}") from error
    _owner[:] = [os.getpid()]


def guard() -> None:
    """`ForkedAfterCuda` in a child of the process that initialised CUDA."""
    if isForked():
        raise ForkedAfterCuda(f"CUDA was initialised by process {_owner[0]} before the fork")


def isForked() -> bool:
    """Whether this is a child of the process that initialised CUDA. The child gives
    nothing back, because all of it is the parent's.
    """
    return _owner != [] and _owner[0] != os.getpid()


def leaveCaptures() -> None:
    """Relax the capture mode of a thread of ours, once: from then on no capture forbids
    its calls, and they break no capture.
    """
    call(cu.cuThreadExchangeStreamCaptureMode, _RELAXED)


class BeyondCaptures:
    """``with BeyondCaptures():`` does the same for a caller's thread, for the time of
    the block.
    """

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = call(cu.cuThreadExchangeStreamCaptureMode, _RELAXED)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        call(cu.cuThreadExchangeStreamCaptureMode, self._before)


def refuseCaptured(handle: int) -> None:
    """`InvalidArgument` for a stream that is being captured. For a default stream the
    caller has entered its context.
    """
    try:
        isCaptured = int(call(cu.cuStreamIsCapturing, handle)) != _NOT_CAPTURED
    except DriverError as error:
        if error.code != "STREAM_CAPTURE_IMPLICIT":
            raise
        isCaptured = True
    if isCaptured:
        raise InvalidArgument(
            f"stream {handle:#x} is being captured for a graph",
            "Fence before the capture, or around the launch of the graph",
        )


def ordinalOf(address: int) -> int:
    """The index of the GPU whose memory an address lies in. Raises `DriverError`.

    Not by the bindings' function: for this attribute it returns a part of the answer
    that the driver has not written, which is 0 (cuda-bindings 13.3, NVIDIA/cuda-python
    #2928).
    """
    ordinal = ctypes.c_int(-1)
    attribute = int(cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
    status = _pointerGetAttribute()(ctypes.byref(ordinal), attribute, address)
    if status:
        raise DriverError("cuPointerGetAttribute", cu.CUresult(status).name)
    return ordinal.value


@functools.cache
def _pointerGetAttribute() -> Any:
    address, _ = call(cu.cuGetProcAddress, b"cuPointerGetAttribute", _POINTER_API_VERSION, 0)
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64)(
        int(address)
    )


def version() -> int:
    """The driver's version as CUDA counts: 13000 is 13.0."""
    return int(call(cu.cuDriverGetVersion))


def typed(error: DriverError, what: str) -> MuninnError:
    """The error of Muninn for an error of the driver in `what`."""
    if error.code == "OUT_OF_MEMORY":
        return QuotaExceeded(
            f"{what}: the GPU has no memory left ({error})",
            "Free buffers on this GPU, or use another one",
        )
    if error.code == "OPERATING_SYSTEM" and not _hasDescriptorLeft():
        return DescriptorsExhausted(f"{what}: {error}")
    if error.code == "NOT_INITIALIZED":
        return ForkedAfterCuda(f"{what}: {error}")
    return DeviceUnavailable(f"{what}: {error}")


@contextlib.contextmanager
def typedDriver(what: str) -> Iterator[None]:
    """An error of the driver inside the block becomes an error of Muninn."""
    try:
        yield
    except DriverError as error:
        raise typed(error, what) from error


def _hasDescriptorLeft() -> bool:
    try:
        os.close(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
