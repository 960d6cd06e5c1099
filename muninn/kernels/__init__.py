"""Kernels, each twice: for GPUs, by Numba, and for the CPU, as a CPU reference of the
same name and the same meaning.

`device` has the kernels for GPUs, `references` those for numpy arrays, `launch` runs a
kernel by its name on whatever its arguments are, and shows its code, and `numbacuda` is
the one place that imports Numba's CUDA target. Importing this package imports none of
it.

Arrays are one-dimensional and C-contiguous; sums are of 64 bits and wrap around, so
that a result does not depend on an order.
"""
