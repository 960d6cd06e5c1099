"""What other libraries call a stream, as the integer that CUDA calls it. Imports none
of them.

Asked in this order: the `__cuda_stream__` protocol (cuda.core, and newer Numba, CuPy
and PyTorch), then the attributes that older versions have: `handle` (Numba), `ptr`
(CuPy), `cuda_stream` (PyTorch), then plain integers and `CUstream` of cuda.bindings.
"""

from __future__ import annotations

import operator

from muninn.errors import InvalidArgument

_ATTRIBUTES = ("handle", "ptr", "cuda_stream")
#: The driver's names for the default stream: NULL, CU_STREAM_LEGACY,
#: CU_STREAM_PER_THREAD (cuda.h).
DEFAULT_HANDLES = LEGACY_HANDLE, _, PER_THREAD_HANDLE = (0, 1, 2)
_PROTOCOL_VERSION = 0


def streamHandle(stream: object) -> int:
    """The handle of anything that stands for a stream; 0 for None.

    Raises
    ------
    TypeError
        It stands for none.
    InvalidArgument
        Its protocol version is not known, or its handle is negative.
    """
    if stream is None:
        return 0
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:
        # A method by the protocol; its first implementations had a property.
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
        return operator.index(value)  # type: ignore[arg-type]  # it says so itself
    except TypeError:
        # CUstream of cuda.bindings has __int__ only, as a float has; `getPtr` tells
        # them apart.
        return int(value) if hasattr(value, "getPtr") else None  # type: ignore[call-overload]
