"""Available memory of the host. This module only reads, and the kernel's answer may be
out of date when it arrives. So a small request may be answered from a recent reading:
reading anew takes longer than sharing an array.

A memfd has no file system that could be full. Allocating its pages goes on until the
kernel's out-of-memory killer ends some process, perhaps an unrelated one. So an
emulated GPU asks first, before each chunk. The sources are `/proc/meminfo` and the
memory controllers of this process's control group and its ancestors (versions 2 and 1).
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
#: A request of at most so many bytes may use an answer that is at most so old.
_SMALL_BYTES, _KEPT_SECONDS = 1 << 20, 0.02
_kept = (0.0, 0)  # how long the answer is kept, and how much of it is left


class GroupLimit(NamedTuple):
    """The memory limit of a control group, and how much of it is left."""

    path: str
    limitBytes: int
    leftBytes: int


def availableBytes() -> int:
    """The bytes that this process could allocate, swap included, while other processes
    keep their memory.
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
        # A /proc with subset=pid has no meminfo. This is sysinfo(2), which does not
        # count the pages that the page cache would give back.
        host = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([host, *_groupsAvailable(_membership())])


def availableFor(sizeBytes: int) -> int:
    """The same, for an allocation of `sizeBytes` that the caller makes next if there is
    room.
    """
    global _kept
    until, available = _kept
    if sizeBytes > min(available, _SMALL_BYTES) or clock.now() >= until:
        until, available = clock.now() + _KEPT_SECONDS, availableBytes()
    _kept = until, available - sizeBytes
    return available


def requireAvailable(sizeBytes: int, spareBytes: int = 0) -> None:
    """Raise `HostMemoryFull` if an allocation of `sizeBytes` does not leave
    `spareBytes`.
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
    """The control group of this process that leaves it least; None if no group limits
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
        # The page cache counts as usage until the kernel needs the room. The kernel
        # gives back for sure only pages that are clean and not in use.
        statistics = dict(
            line.split(maxsplit=1)
            for line in cgroups.textOf(os.path.join(directory, "memory.stat")).splitlines()
        )
        yield GroupLimit(
            limitPath, limit, max(0, limit - int(usage) + int(statistics.get("inactive_file", 0)))
        )


def _membership() -> str:
    return cgroups.textOf("/proc/thread-self/cgroup")
