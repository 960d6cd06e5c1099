"""The device port: the contract that every back-end keeps. `tests/conformance` holds
each of them to it.

*Who owns what.* A `Device` is this process's view of the GPUs; it shares nothing by
itself. Memory is shared by passing an allocation's descriptor (`SCM_RIGHTS`) or, where
the platform has no descriptors, its `handle` bytes. The port knows no names, no tenants
and no leases; it reads no control block.

*Addresses.* An address is an integer that kernels of this back-end may use, in this
process only: the same memory is elsewhere in another one. Host and device addresses
share one space, so `copy` takes any mixture and finds out itself what is where.

*Lifetime.* Memory stays mapped until its allocation was closed **and** the last
reference to its `anchor` is gone: whoever lends an address out (an array, a copy under
way) holds the anchor. What the bytes outlive is said by the transport: `memfd` and
`vmm` live while any process has a descriptor or a mapping, `cudaIpc` dies with the
process that allocated.

*Order.* Operations of one stream happen in the order of their submission, and those of
two streams in none, unless a fence makes one. A stream's work may begin before the
submitting call has returned, and need not have. The default stream of the host back-end
is synchronous.

*Failure.* A call that can know its failure raises it and has then changed nothing. What
fails later, inside a stream, is kept by the stream: from then on its other work is not
run, and `synchronize`, `query`, `check` and each submission raise that error again, as
long as the stream is there. A stream that is not ours, the default one or another
library's, can not be made anew: of what fails in the host's part of it somebody is told
once. Bytes and integers that came from another process are checked before the driver
sees them.

*Threads and forks.* Every method may be called by any thread. A child made by `fork`
uses nothing of its parent's but host memory.

One module per role: `memory` (allocations and registrations), `streams`, `fences`, and
`device`, which gives them out. Nothing outside of `muninn.devices` asks which back-end
it has: it asks the device what it can do.
"""

from muninn.devices.port.device import Device, UsedBytes
from muninn.devices.port.fences import READY_SLICE_SECONDS, FenceWord, OnReached, Ready
from muninn.devices.port.memory import Allocation, MemoryInfo, Registration
from muninn.devices.port.streams import Stream

__all__ = [
    "READY_SLICE_SECONDS",
    "Allocation",
    "Device",
    "FenceWord",
    "MemoryInfo",
    "OnReached",
    "Ready",
    "Registration",
    "Stream",
    "UsedBytes",
]
