"""The CUDA back-end: GPUs through the driver's own API, by `cuda.bindings`.

Read in this order: `driver` (calls of the driver, and their errors), `gpu` (a device
and its primary context), `handle` (the bytes from an exporter for its importers), `vmm`
and `ipc` (the two kinds of memory that processes can share), `deferredfree` (gives
memory back after the work that uses it), `registration` (host memory that kernels use),
`contexts` (of this process), `hostparts` (the work of a stream worker), `streams`,
`streamtable` (finds the stream that a caller means), `copies`, and `device`, which puts
them together. Importing this package loads the driver's bindings; only
`muninn.devices.choose` imports it.
"""

from muninn.devices.cuda.device import CudaDevice

__all__ = ["CudaDevice"]
