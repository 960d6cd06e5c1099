"""Freed memory: segments that were freed, and that processes still map without a lease.
Mostly these are children that were forked while the buffer was open.

The control block does not know of it: the row and the name are gone, and the kernel
gives the memory back with the last mapping. `/proc/<pid>/maps` shows it: a segment
whose name is gone is `(deleted)` there. `lingering` reads that file for the processes
of this user, first for those that are no members, within a bound of time; it does not
show memory that it has not reached then.

That takes longer than all the rest of a list. So it is done only where there may be
such memory: when a member has forked, or until this process has looked once and found
nothing, because children from the time of an earlier control block may have some.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from muninn.storage.paths import SegmentKey
from muninn.system import atomics, clock
from muninn.system.files import openFile
from muninn.system.oserrors import typedErrors
from muninn.terms import Access, Lifetime, Mode

if TYPE_CHECKING:
    from muninn.control.block import ControlBlock
    from muninn.session.tables import Tables

#: The time for a look, on a machine with many processes.
_BOUND_SECONDS = 0.2
#: The control blocks in which this process has looked and found nothing. Later freed
#: memory comes from forks, which the block counts.
_unburdened: weakref.WeakSet[ControlBlock] = weakref.WeakSet()


class Mapper(NamedTuple):
    """A process that still maps a freed segment."""

    pid: int
    sizeBytes: int


def lingering(tables: Tables, known: set[str]) -> list[dict[str, Any]]:
    """A dict as of `describe()` for each freed segment that other processes map, except
    those whose `bufferId` is `known`.
    """
    # SYNC forked: pairs with Membership.forgetInChild.
    if tables.block in _unburdened and not atomics.loadAcquire32(tables.block.forkedAddress):
        return []
    found: dict[SegmentKey, list[Mapper]] = {}
    deadline = clock.now() + _BOUND_SECONDS
    for pid in _pids({tables.members.identity(key.slot).pid for key in tables.members.live()}):
        if clock.now() > deadline:
            break
        for key, sizeBytes in _freed(tables, pid).items():
            found.setdefault(key, []).append(Mapper(pid, sizeBytes))
    if not found:
        _unburdened.add(tables.block)
    identity = tables.paths.identity
    return [
        _described(tables, key, mappers)
        for key, mappers in sorted(found.items())
        if key.origin != identity or f"{key.row}.{key.incarnation}" not in known
    ]


def _pids(members: set[int]) -> list[int]:
    """The other processes of this user. Members come last, because their leases show
    which memory they map.
    """
    own, uid, pids = os.getpid(), os.geteuid(), list[int]()
    with typedErrors("/proc"):
        try:
            entries = list(os.scandir("/proc"))
        except FileNotFoundError:  # after a chroot
            return []
    for entry in entries:
        if entry.name.isdecimal() and int(entry.name) != own:
            with contextlib.suppress(OSError):  # it has ended
                if entry.stat().st_uid == uid:
                    pids.append(int(entry.name))
    return sorted(pids, key=lambda pid: pid in members)


def _freed(tables: Tables, pid: int) -> dict[SegmentKey, int]:
    """The freed segments of this domain that a process maps, with their bytes."""
    mark, sizes = tables.paths.segmentMark.encode(), dict[SegmentKey, int]()
    try:
        with openFile(f"/proc/{pid}/maps", "rb") as maps:
            raw = maps.read()
    except OSError:  # it has ended, or may not be read
        return sizes
    if mark not in raw:
        return sizes
    for line in raw.splitlines():
        if mark in line and line.endswith(b" (deleted)"):
            key = tables.paths.segmentOf(
                line.partition(mark)[2].removesuffix(b" (deleted)").decode(errors="replace")
            )
            addresses, _, offset = line.split(b" ", 3)[:3]
            first, _, last = addresses.partition(b"-")
            if key is not None:
                # A process may map a segment more than once, and each mapping in parts.
                end = int(offset, 16) + int(last, 16) - int(first, 16)
                sizes[key] = max(sizes.get(key, 0), end)
    return sizes


def _described(tables: Tables, key: SegmentKey, mappers: list[Mapper]) -> dict[str, Any]:
    sizeBytes = max(mapper.sizeBytes for mapper in mappers)
    return {
        "bufferId": f"{key.row}.{key.incarnation}",
        "name": f"(freed {key.row}.{key.incarnation})",
        "kind": "unknown",
        "mode": Mode.BIG.value,
        "gpu": None,
        "size": sizeBytes,
        "shape": [sizeBytes],
        "dtype": None,
        "access": Access.READ_ONLY.value,
        "tenant": "-",
        "state": "freed",
        "generation": 0,
        "lifetime": Lifetime.LAST_CLOSE.value,
        "leaseTtlMs": tables.settings.security.leaseTtlMs,
        "ageMs": 0,
        "endsInMs": None,
        "reserve": "full",
        "transport": "segment",
        "transportReason": "freed: it goes with the last process that maps it",
        "segment": None,
        "hugePages": None,
        "peerable": True,
        "topology": {"p2p": [], "staged": []},
        "importers": [
            {
                "pid": mapper.pid,
                "program": _program(mapper.pid),
                "slot": None,
                "lease": "mapped",
                "leaseExpiresMs": 0,
                "revoked": None,
            }
            for mapper in mappers
        ],
    }


def _program(pid: int) -> str:
    try:
        with openFile(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return "?"
