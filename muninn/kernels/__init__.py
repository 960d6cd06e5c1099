"""Kernels, each in two versions: for GPUs, by Numba, and for the CPU, as a CPU
reference of the same name and the same meaning.

`device` has the kernels for GPUs, and `references` those for numpy arrays. `launch`
runs a kernel by its name, in the version that fits its arguments, and gives its code.
`words` describes arrays with strides to the kernel that packs them. `numbacuda` is the
one module that imports Numba's CUDA target. `functions` has the functions that users'
own kernels call: `markDirty` and `markUsed`. Importing this package imports neither `device` nor
Numba.

Arrays are one-dimensional and C-contiguous; sums have 64 bits and wrap around, so that
a result does not depend on an order.
"""

from muninn.kernels.references import markDirty, markUsed

__all__ = ["markDirty", "markUsed"]
