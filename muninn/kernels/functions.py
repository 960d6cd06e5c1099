"""Functions that kernels call, under one name on every kind of GPU.

A kernel on an emulated GPU, in Numba's simulator or on the host calls the CPU
reference. Where Numba compiles a kernel for a GPU, it writes into the kernel the
function of the same name in `device`. Nothing imports Numba before that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar, Generic, ParamSpec

_P = ParamSpec("_P")


class KernelFunction(Generic[_P]):
    """Makes of a CPU reference a function that kernels for GPUs may call too.

    Attributes
    ----------
    targetoptions, py_func
        The names by which numba-cuda and numba-cuda-mlir (their pass
        `InlineInlinables`) look for a function that is written into its callers.
    _numba_type_
        The name by which they look for the type of a global: the function's own.
    """

    targetoptions: ClassVar[dict[str, Any]] = {"device": True, "inline": "always"}

    def __init__(self, reference: Callable[_P, None]) -> None:
        functools.update_wrapper(self, reference)
        self._reference = reference

    def __call__(self, *arguments: _P.args, **keywords: _P.kwargs) -> None:
        self._reference(*arguments, **keywords)

    def __reduce__(self) -> str:
        return self._reference.__name__

    @property
    def py_func(self) -> Any:
        return self._onGpu().py_func

    @property
    def _numba_type_(self) -> Any:
        return self._onGpu()._numba_type_

    def _onGpu(self) -> Any:
        from muninn.kernels import device

        return getattr(device, self._reference.__name__)
