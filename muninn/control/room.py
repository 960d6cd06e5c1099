"""How much memory the host can still give. Reading only; the answer is old when it arrives, so what is small may have that of a moment ago:
to read it takes longer than to share an array.

A memfd has no file system that could be full. Allocating its pages goes on until the kernel's out-of-memory killer ends some
process, perhaps another one; so a pretended GPU asks first, before each chunk. The sources are `/proc/meminfo` and the memory
controllers of this process's control group and its ancestors (versions 2 and 1).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from muninn.config.sizes import exactly
from muninn.control import clock
from muninn.control.files import openFile
from muninn.errors import HostMemoryFull

_CONTROL_GROUPS = "/sys/fs/cgroup"
#: (limit, usage) by version of the interface.
_FILES = {2: ("memory.max", "memory.current"), 1: ("memory.limit_in_bytes", "memory.usage_in_bytes")}
_UNLIMITED_BYTES = 1 << 60
#: For what is at most so small an answer is kept for so long.
_SMALL_BYTES, _KEPT_SECONDS = 1 << 20, 0.02
_kept = (0.0, 0)  # until when, and how much of it is left


def availableBytes() -> int:
    """What this process could allocate without reclaiming other processes' memory, swap included."""
    fields = {line.partition(":")[0]: line.partition(":")[2] for line in _text("/proc/meminfo").splitlines()}
    if fields:
        host = sum(int(fields.get(key, "0 kB").split()[0]) * 1024 for key in ("MemAvailable", "SwapFree"))
    else:  # a /proc with subset=pid; this is sysinfo(2), which does not count what the page cache would give back
        host = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([host, *_groupRooms(_text("/proc/thread-self/cgroup"))])


def roomFor(sizeBytes: int) -> int:
    """The same, for an allocation of so much, which is about to be made where there is room."""
    global _kept
    until, available = _kept
    if sizeBytes > min(available, _SMALL_BYTES) or clock.now() >= until:
        until, available = clock.now() + _KEPT_SECONDS, availableBytes()
    _kept = until, available - sizeBytes
    return available


def requireRoom(sizeBytes: int, spareBytes: int = 0) -> None:
    """Raise `HostMemoryFull` where there is no room for an allocation of so much that leaves `spareBytes`."""
    if sizeBytes > (left := roomFor(sizeBytes) - spareBytes):
        raise HostMemoryFull(
            f"{exactly(sizeBytes)} do not fit: this machine's memory, or this control group's, has room for {exactly(max(0, left))}",
            "Free buffers, end programs, or raise the limit of the container or control group; a larger /dev/shm does not help",
        )


def _groupRooms(membership: str) -> Iterator[int]:
    for line in membership.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            version, root = 2, _CONTROL_GROUPS
        elif "memory" in controllers.split(","):
            version, root = 1, f"{_CONTROL_GROUPS}/memory"
        else:
            continue
        # In a container the path may be the host's, and then only the root is mounted: what can not be read does not limit.
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            room = _groupRoom("/".join([root, *parts[:depth]]), *_FILES[version])
            if room is not None:
                yield room


def _groupRoom(directory: str, limitFile: str, usageFile: str) -> int | None:
    limit = _text(os.path.join(directory, limitFile)).strip()
    if not limit.isdigit() or int(limit) >= _UNLIMITED_BYTES:  # missing, "max", or version 1's way to say it
        return None
    usage = _text(os.path.join(directory, usageFile)).strip()
    if not usage.isdigit():
        return None
    # The page cache counts as usage until the kernel needs the room; only what is clean and not in use is sure to be given back.
    statistics = dict(line.split(maxsplit=1) for line in _text(os.path.join(directory, "memory.stat")).splitlines())
    return max(0, int(limit) - int(usage) + int(statistics.get("inactive_file", 0)))


def _text(path: str) -> str:
    try:
        with openFile(path) as file:
            return file.read()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # that says nothing about memory
        return ""
