"""The one module that imports Numba's CUDA target, which takes half a second and needs
the CUDA toolkit's libraries.

The target is numba-cuda's where that is installed, else that of its successor
numba-cuda-mlir, which compiles the same kernels.
"""

from __future__ import annotations

import _thread
import re
from importlib.util import find_spec
from typing import Any

from cuda.bindings import driver

from muninn.errors import DeviceUnavailable

#: The last numba-cuda that compiles nothing with numpy 2.5: it uses a part of numpy
#: that is gone there.
_LAST_WITHOUT_NUMPY_2_5 = (0, 30, 4)


def _target() -> tuple[Any, Any]:
    """The target, and the module of types for its signatures."""
    if find_spec("numba_cuda") is None and find_spec("numba_cuda_mlir") is not None:
        from numba_cuda_mlir import cuda, types
    else:
        from numba import cuda, types
    return cuda, types


cuda, types = _target()


def _obstacle() -> str:
    """The reason why this target compiles no kernel, by the versions of the installed
    packages; empty if it compiles them.
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
    """Raise `DeviceUnavailable` where no kernel can be compiled. `on` compiles nothing,
    and works there.
    """
    if _OBSTACLE:
        raise DeviceUnavailable(
            _OBSTACLE, "pip install 'numpy<2.5', or put numba-cuda-mlir in the place of numba-cuda"
        )


#: Numba fills its table of devices without a lock: two threads whose first uses come at
#: once get "key already in dictionary".
_entering = _thread.RLock()


def on(gpu: int | None, exposed: object) -> Any:
    """A device array on an object with `__cuda_array_interface__`, for kernels of `gpu`
    or of the current GPU. It keeps `exposed`.
    """
    before = driver.cuCtxGetCurrent()[1]
    try:
        with _entering:
            if gpu is None:
                return cuda.as_cuda_array(exposed, sync=False)
            with cuda.gpus[gpu]:
                return cuda.as_cuda_array(exposed, sync=False)
    finally:
        # Numba makes a primary context current; the program may have had one of its
        # own.
        if int(before):
            driver.cuCtxSetCurrent(before)
