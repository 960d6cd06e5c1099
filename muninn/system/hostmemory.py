"""How much memory the host can still give. Reading only; the answer is old when it
arrives, so what is small may have that of a moment ago: to read it takes longer than to
share an array.

A memfd has no file system that could be full. Allocating its pages goes on until the
kernel's out-of-memory killer ends some process, perhaps another one; so an emulated GPU
asks first, before each chunk. The sources are `/proc/meminfo` and the memory
controllers of this process's control group and its ancestors (versions 2 and 1).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from muninn.config.sizes import exactly
from muninn.errors import HostMemoryFull
from muninn.system import cgroups, clock

_CONTROL_GROUPS = cgroups.ROOT
#: (limit, usage) by version of the interface.
_FILES = {
    2: ("memory.max", "memory.current"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}
#: For what is at most so small an answer is kept for so long.
_SMALL_BYTES, _KEPT_SECONDS = 1 << 20, 0.02
_kept = (0.0, 0)  # until when, and how much of it is left


class GroupLimit(NamedTuple):
    """What a control group may use, and what is left of that."""

    path: str
    limitBytes: int
    leftBytes: int


def availableBytes() -> int:
    """What this process could allocate without reclaiming other processes' memory, swap
    included.
    """
    fields = {
        line.partition(":")[0]: line.partition(":")[2]
        for line in cgroups.textOf("/proc/meminfo").splitlines()
    }
    if fields:
        host = sum(
            int(fields.get(key, "0 kB").split()[0]) * 1024 for key in ("MemAvailable", "SwapFree")
        )
    else:
        # a /proc with subset=pid; this is sysinfo(2), which does not count what the
        # page cache would give back
        host = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([host, *_groupsAvailable(_membership())])


def availableFor(sizeBytes: int) -> int:
    """The same, for an allocation of so much, which is about to be made where there is
    room.
    """
    global _kept
    until, available = _kept
    if sizeBytes > min(available, _SMALL_BYTES) or clock.now() >= until:
        until, available = clock.now() + _KEPT_SECONDS, availableBytes()
    _kept = until, available - sizeBytes
    return available


def requireAvailable(sizeBytes: int, spareBytes: int = 0) -> None:
    """Raise `HostMemoryFull` where there is no room for an allocation of so much that
    leaves `spareBytes`.
    """
    if sizeBytes <= (available := availableFor(sizeBytes)) - spareBytes:
        return
    group, kept = (
        groupLimit(),
        f" (and {exactly(spareBytes)} more, for the host's own work)" if spareBytes else "",
    )
    what = f"{exactly(sizeBytes)} do not fit{kept}"
    if group is not None and group.leftBytes <= available:
        raise HostMemoryFull(
            f"{what}: {group.path} allows {exactly(group.limitBytes)}, and has room for "
            f"{exactly(group.leftBytes)}",
            "Free buffers, end programs of the control group, or raise its limit (`docker run "
            "--memory=…`, the pod's `resources.limits`); "
            "a larger /dev/shm does not help",
        )
    raise HostMemoryFull(
        f"{what}: this machine's memory has room for {exactly(available)}",
        "Free buffers, or end programs: it is not a control group that limits them, and a "
        "larger /dev/shm does not help",
    )


def groupLimit() -> GroupLimit | None:
    """The group of this process that leaves it least; None where none of them limits
    memory.
    """
    return min(_groupLimits(_membership()), key=lambda found: found.leftBytes, default=None)


def _groupsAvailable(membership: str) -> Iterator[int]:
    return (found.leftBytes for found in _groupLimits(membership))


def _groupLimits(membership: str) -> Iterator[GroupLimit]:
    for version, directory in cgroups.directories("memory", membership, _CONTROL_GROUPS):
        limitPath, usagePath = (os.path.join(directory, name) for name in _FILES[version])
        limit, usage = cgroups.limitIn(limitPath), cgroups.textOf(usagePath).strip()
        if limit is None or not usage.isdigit():
            continue
        # The page cache counts as usage until the kernel needs the room; only what is
        # clean and not in use is sure to be given back.
        statistics = dict(
            line.split(maxsplit=1)
            for line in cgroups.textOf(os.path.join(directory, "memory.stat")).splitlines()
        )
        yield GroupLimit(
            limitPath, limit, max(0, limit - int(usage) + int(statistics.get("inactive_file", 0)))
        )


def _membership() -> str:
    return cgroups.textOf("/proc/thread-self/cgroup")
