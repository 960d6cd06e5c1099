"""Kernels, and the one place that imports Numba's CUDA target."""
