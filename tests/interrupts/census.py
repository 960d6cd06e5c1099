"""The census: it lists the damage after an interrupted call, in the interrupted process
and in the domain.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from interrupts.calls import STANDING
from muninn.control import layout, leases
from muninn.session import connections, membership

_REPAIR_SECONDS = 3.0


def lasting(look: Callable[[], list[str]]) -> list[str]:
    """The damage that is left once the background threads have had time to repair it."""
    deadline = time.monotonic() + _REPAIR_SECONDS
    while (wrong := look()) and time.monotonic() < deadline:
        time.sleep(0.001)
    return wrong


def descriptors() -> list[str]:
    """The target of each descriptor of this process, without the numbers that differ
    each time.
    """
    folder = "/proc/self/fd"
    found = []
    for entry in os.listdir(folder):
        try:
            found.append(os.readlink(f"{folder}/{entry}").partition(":[")[0])
        except FileNotFoundError:  # the descriptor by which the folder was listed
            continue
    return sorted(found)


def mappings() -> int:
    """How many segments, and how much memory of GPUs, this process has mapped."""
    with open("/proc/self/maps") as file:
        return sum(
            ("/dev/shm/muninn-" in line and "/segment-" in line) or "/memfd:muninn-gpu" in line
            for line in file
        )


def inProcess(threads: int, files: list[str]) -> list[str]:
    """The damage in this process, which has closed everything.

    Parameters
    ----------
    threads, files
        The number of threads, and the descriptors, that it had before the interruption.
    """
    return lasting(lambda: _inProcess(threads, files))


def _inProcess(threads: int, files: list[str]) -> list[str]:
    member = membership.current()
    wrong = []
    held = leases.holdsOf(member.block, member.members, member.key.slot)
    wrong += [f"slot {hold.position} still has a lease on row {hold.row}" for hold in held]
    if found := mappings():
        wrong.append(f"{found} mappings without a user")
    if member.openBuffers.creating._byName:
        wrong.append(f"{list(member.openBuffers.creating._byName)} are being created for ever")
    if any(
        each._open or each._left
        for each in (member.openBuffers.creating.cleanups, member.gpus.signalling)
    ):
        wrong.append("a begun operation is never undone")
    if any(
        openBuffer is not None and openBuffer.hasScopes()
        for openBuffer in [each() for each in member.openBuffers._all.valuerefs()]
    ):
        wrong.append("a lock is held for ever, or an access")
    if (there := threading.active_count()) > threads:
        wrong.append(
            f"{there - threads} threads too many: {[thread.name for thread in threading.enumerate()]}"
        )
    left = descriptors()
    # A request in the middle of another one has a connection of its own.
    for each in [*files, *["socket"] * connections.KEPT]:
        if each in left:
            left.remove(each)
    broker = member.role.broker
    for _ in range(
        len(member.client._lines._idle) + (0 if broker is None else len(broker._server.sessions))
    ):
        if "socket" in left:
            left.remove("socket")  # kept for the next request, or another member's
    if left:
        wrong.append(f"descriptors without a user: {left}")
    return wrong


def ofDomain(pids: list[int]) -> list[str]:
    """The damage in the domain, seen from another member. `pids` are all members."""
    return lasting(lambda: _ofDomain(pids))


def _ofDomain(pids: list[int]) -> list[str]:
    member = membership.current()
    wrong = []
    names = []
    for row, state in member.rows.notFree():
        if state.state == layout.ROW_CREATING:
            wrong.append(f"row {row} is CREATING")
            continue
        names.append(member.rows.description(row).name)
    known = {*STANDING, "\x01common"}
    wrong += [f"{name!r} is there without an owner" for name in names if name not in known]
    wrong += [f"{name!r} is gone" for name in known if name not in names]
    found = sorted(member.members.identity(slot).pid for slot in member.members.occupied())
    if found != sorted(pids):
        wrong.append(f"the members are {found} and not {sorted(pids)}")
    segments = len(member.paths.segments())
    if segments != len(STANDING):
        wrong.append(f"{segments} segments of {len(STANDING)} buffers")
    return wrong
