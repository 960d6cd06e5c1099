"""The CUDA back-end: GPUs through the driver's own API, by `cuda.bindings`.

Read in this order: `driver` (calls of the driver, and their errors), `gpu` (a device
and its primary context), `vmm` and `ipc` (the two kinds of memory that processes can
share), `events`, `deferredfree` (gives memory back after the work that uses it),
`budget`, `pace`, `seams`, `pieces` and `registration` (host memory that kernels use),
`pinned` and `staging` (host memory through which copies go), `semaphores`, `contexts`
(of this process), `hostparts` (the work of a stream worker), `streams`, `streamtable`
(finds the stream that a caller means), `copies`, `lanes` (copies that C makes again),
`nvml` and `links` (where the GPUs are, and what is between them), and `device`, which
puts them together. Importing this package loads the driver's bindings; only
`muninn.devices.choose` imports it.
"""

from muninn.devices.cuda.device import CudaDevice

__all__ = ["CudaDevice"]
