"""The device port: the contract that every back-end keeps. `tests/conformance` checks
each of them against it.

*Ownership.* A `Device` is this process's view of the GPUs; it shares nothing by itself.
A process shares memory by passing on an allocation's descriptor (`SCM_RIGHTS`) or,
where the platform has no descriptors, its `handle` bytes. The port knows no names, no
tenants and no leases; it reads no control block.

*Addresses.* An address is an integer that kernels of this back-end may use, in this
process only: the same memory has another address in another process. Host and device
addresses share one space, so `copy` takes any mixture and finds out itself where each
of them is.

*Lifetime.* Memory stays mapped until its allocation was closed **and** the last
reference to its `anchor` is gone. An object that lends an address out (an array, a copy
under way) holds the anchor. The transport says what the bytes outlive: `memfd` and
`vmm` live while any process has a descriptor or a mapping, `cudaIpc` dies with the
process that allocated.

*Order.* The operations of one stream happen in the order of their submission. Those of
two streams have no order, unless a fence makes one. A stream's work may begin before
the submitting call has returned, or after. The default stream of the host back-end is
synchronous.

*Failure.* A call that can know its failure raises it, and has changed nothing then. The
stream keeps an error of work that fails later: from then on it runs no other work, and
`synchronize`, `query`, `check` and each submission raise that error again, as long as
the stream is there. A stream that is not ours, the default one or another library's,
can not be made anew: an error of the host's part in it is raised once and then
forgotten. Bytes and integers that came from another process are checked before the
driver sees them.

*Threads and forks.* Any thread may call every method. A child made by `fork` uses
nothing of its parent's but host memory.

There is one module per role: `memory` (allocations and registrations), `streams`,
`fences`, `links` (what a driver states about its GPUs), `conditions` (their heat and
power), `lanes` (copies that are made again), and `device`, which gives them out. No code
outside of `muninn.devices` asks which back-end it has; it asks the device what it can
do.
"""

from muninn.devices.port.conditions import GpuCondition, Slowdown
from muninn.devices.port.device import Device, UsedBytes, badCopy
from muninn.devices.port.fences import READY_SLICE_SECONDS, FenceWord, OnReached, Ready
from muninn.devices.port.lanes import Lane
from muninn.devices.port.links import SAME_GPU, Link, Site
from muninn.devices.port.memory import Allocation, MemoryInfo, Registration
from muninn.devices.port.streams import Mark, Stream

__all__ = [
    "READY_SLICE_SECONDS",
    "SAME_GPU",
    "Allocation",
    "GpuCondition",
    "Device",
    "FenceWord",
    "Lane",
    "Link",
    "Mark",
    "MemoryInfo",
    "OnReached",
    "Ready",
    "Registration",
    "Site",
    "Slowdown",
    "Stream",
    "UsedBytes",
    "badCopy",
]
