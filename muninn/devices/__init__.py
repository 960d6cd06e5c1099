"""GPUs behind one port: memory that other processes can map, copies, streams, fences. No policy, no control block.

Read in this order: `port` (the contract), `choose` (which back-end, and why), `host` with `memfd`, `room` and `streams` (GPUs that
are pretended on shared memory), `foreign` (what other libraries call a stream). Importing this package imports no back-end.
"""

from muninn.devices.choose import chooseDevice
from muninn.devices.port import Allocation, Device, MemoryInfo, Registration, Stream

__all__ = ["Allocation", "Device", "MemoryInfo", "Registration", "Stream", "chooseDevice"]
