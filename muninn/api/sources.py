"""The arrays that users pass, as numpy arrays on the host."""

from __future__ import annotations

from typing import Any

import numpy as np

from muninn.api import lending
from muninn.errors import InvalidArgument
from muninn.interop.arrays import isOnDevice


def asArray(value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """`value` as a numpy array. A list or a number is refused, because its dtype would
    be a guess.
    """
    if isinstance(value, np.ndarray):
        if hasattr(value, "mask"):
            raise TypeError(
                "can not share a masked array, which would lose its mask: share its data and "
                "its mask"
            )
        source = value
    elif isOnDevice(value):
        source = lending.hostCopy(value)
    elif hasattr(value, "__array_interface__") or hasattr(value, "__array__"):
        source = np.asarray(value)
    elif hasattr(value, "__dlpack__"):
        source = np.from_dlpack(value)
    else:
        try:
            source = np.asarray(memoryview(value))
        except TypeError:
            raise TypeError(
                f"can not share a {type(value).__name__}: pass an array (numpy.asarray makes one)"
            ) from None
    if source.size == 0:
        raise InvalidArgument(
            f"an array of shape {source.shape} has no bytes to share", "Share at least one element"
        )
    return source
