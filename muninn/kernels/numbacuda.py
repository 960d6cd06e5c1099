"""The one place that imports Numba's CUDA target, which takes half a second and needs
the CUDA toolkit's libraries.

It is numba-cuda's where that is installed, and else that of its successor
numba-cuda-mlir, which compiles the same kernels.
"""

from __future__ import annotations

import _thread
import re
from importlib.util import find_spec
from typing import Any

from cuda.bindings import driver

from muninn.errors import DeviceUnavailable

#: The last numba-cuda that compiles nothing beside numpy 2.5, of which it takes what is
#: no more there.
_LAST_WITHOUT_NUMPY_2_5 = (0, 30, 4)


def _target() -> tuple[Any, Any]:
    """The target, and the types by which its signatures are written."""
    if find_spec("numba_cuda") is None and find_spec("numba_cuda_mlir") is not None:
        from numba_cuda_mlir import cuda, types
    else:
        from numba import cuda, types
    return cuda, types


cuda, types = _target()


def _obstacle() -> str:
    """Why this target compiles no kernel, going by the versions of what is installed;
    empty if it does.
    """
    import numpy

    if _version(numpy.__version__) < (2, 5) or cuda.__name__ != "numba.cuda":
        return ""
    from importlib import metadata

    try:
        installed = metadata.version("numba-cuda")
    except metadata.PackageNotFoundError:
        return ""
    return f"numba-cuda {installed} compiles no kernel beside numpy {numpy.__version__}" * (
        _version(installed) <= _LAST_WITHOUT_NUMPY_2_5
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)[:3]))


_OBSTACLE = _obstacle()


def requireCompiler() -> None:
    """Raise `DeviceUnavailable` where no kernel can be compiled. To make arrays of `on`
    nothing is compiled.
    """
    if _OBSTACLE:
        raise DeviceUnavailable(
            _OBSTACLE, "pip install 'numpy<2.5', or put numba-cuda-mlir in the place of numba-cuda"
        )


#: Numba's table of devices is filled without a lock: two threads that use it first at
#: once get "key already in dictionary".
_entering = _thread.RLock()


def on(gpu: int | None, exposed: object) -> Any:
    """A device array on what has `__cuda_array_interface__`, for kernels of `gpu`, or
    of the GPU that is worked on; keeps `exposed`.
    """
    before = driver.cuCtxGetCurrent()[1]
    try:
        with _entering:
            if gpu is None:
                return cuda.as_cuda_array(exposed, sync=False)
            with cuda.gpus[gpu]:
                return cuda.as_cuda_array(exposed, sync=False)
    finally:
        # Numba makes a primary context this thread's; a program may have one of its own
        if int(before):
            driver.cuCtxSetCurrent(before)
