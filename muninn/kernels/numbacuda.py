"""The one place that imports Numba's CUDA target, which takes half a second and needs the CUDA toolkit's libraries.

It is numba-cuda's where that is installed, and else that of its successor numba-cuda-mlir, which compiles the same kernels.
"""

from __future__ import annotations

import _thread
from importlib.util import find_spec
from typing import Any

from cuda.bindings import driver


def _target() -> tuple[Any, Any]:
    """The target, and the types by which its signatures are written."""
    if find_spec("numba_cuda") is None and find_spec("numba_cuda_mlir") is not None:
        from numba_cuda_mlir import cuda, types
    else:
        from numba import cuda, types
    return cuda, types


cuda, types = _target()
#: Numba's table of devices is filled without a lock: two threads that use it first at once get "key already in dictionary".
_entering = _thread.RLock()


def on(gpu: int | None, exposed: object) -> Any:
    """A device array on what has `__cuda_array_interface__`, for kernels of `gpu`, or of the GPU that is worked on; keeps `exposed`."""
    before = driver.cuCtxGetCurrent()[1]
    try:
        with _entering:
            if gpu is None:
                return cuda.as_cuda_array(exposed, sync=False)
            with cuda.gpus[gpu]:
                return cuda.as_cuda_array(exposed, sync=False)
    finally:
        if int(before):  # Numba makes a primary context this thread's; a program may have one of its own
            driver.cuCtxSetCurrent(before)
