"""GPUs behind one port: memory that other processes can map, copies, streams, fences.
No policy, no control block.

Read in this order: `port` (the contract), `choose` (the choice of the back-end),
`worker` (the thread of a stream), `host` (GPUs that are emulated on shared memory),
`cuda` (real ones). Importing this package imports no back-end.
"""

from muninn.devices.choose import chooseDevice
from muninn.devices.port import Allocation, Device, MemoryInfo, Registration, Stream

__all__ = ["Allocation", "Device", "MemoryInfo", "Registration", "Stream", "chooseDevice"]
