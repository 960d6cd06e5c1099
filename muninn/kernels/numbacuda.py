"""The one place that imports `numba.cuda`, which takes half a second and needs the CUDA toolkit's libraries."""

from __future__ import annotations

import _thread
from typing import Any

from cuda.bindings import driver
from numba import cuda as _cuda

cuda: Any = _cuda
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
