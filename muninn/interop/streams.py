"""Streams of other libraries, as the integer handles of CUDA. This module imports none
of the libraries.

It tries, in this order: the `__cuda_stream__` protocol (cuda.core, and newer Numba,
CuPy and PyTorch), the attributes that older versions have (`handle` of Numba, `ptr` of
CuPy, `cuda_stream` of PyTorch), and then plain integers and `CUstream` of
cuda.bindings.
"""

from __future__ import annotations

import operator

from muninn.errors import InvalidArgument

_ATTRIBUTES = ("handle", "ptr", "cuda_stream")
#: The driver's handles of the default stream: NULL, CU_STREAM_LEGACY,
#: CU_STREAM_PER_THREAD (cuda.h).
DEFAULT_HANDLES = LEGACY_HANDLE, _, PER_THREAD_HANDLE = (0, 1, 2)
_PROTOCOL_VERSION = 0


def streamHandle(stream: object) -> int:
    """The handle of a stream, from any object that represents one; 0 for None.

    Raises
    ------
    TypeError
        `stream` represents no stream.
    InvalidArgument
        Its protocol version is not known, or its handle is negative.
    """
    if stream is None:
        return 0
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        # The protocol asks for a method; its first implementations had a property.
        version, value = protocol() if callable(protocol) else protocol
        if version != _PROTOCOL_VERSION:
            raise InvalidArgument(
                f"{type(stream).__name__} speaks version {version} of __cuda_stream__, not "
                f"{_PROTOCOL_VERSION}"
            )
    else:
        value = next(
            (getattr(stream, name) for name in _ATTRIBUTES if hasattr(stream, name)), stream
        )
    handle = _integer(value)
    if handle is None:
        raise TypeError(
            f"{type(stream).__name__} is not a stream: pass None, an integer, or an object "
            "with __cuda_stream__"
        )
    if handle < 0:
        raise InvalidArgument(f"{handle} is not a stream's handle")
    return handle


def _integer(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    # ctypes.c_void_p, which Numba had, keeps its number in `value`, and NULL as None.
    if hasattr(value, "value"):
        value = value.value or 0
    try:
        return operator.index(value)  # type: ignore[arg-type]  # raises TypeError itself
    except TypeError:
        # CUstream of cuda.bindings has only __int__, which a float has too; `getPtr`
        # distinguishes them.
        return int(value) if hasattr(value, "getPtr") else None  # type: ignore[call-overload]
