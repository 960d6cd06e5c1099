"""The CUDA back-end: GPUs through the driver's own API, by `cuda.bindings`.

Read in this order: `driver` (how it is called, and what its errors become), `gpu` (a
device and its primary context), `handle` (what an exporter tells an importer), `vmm`
and `ipc` (the two kinds of memory that processes can share), `deferredfree` (memory is
given back behind the work that uses it), `registration` (host memory that kernels use),
`contexts` (of this process), `hostparts` (what a worker does in a stream), `streams`,
`streamtable` (which stream is meant), `copies`, and `device`, which puts them together.
Importing this package loads the driver's bindings; only `muninn.devices.choose` does
so.
"""

from muninn.devices.cuda.device import CudaDevice

__all__ = ["CudaDevice"]
