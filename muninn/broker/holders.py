"""Holders: which leases and owner locks keep a row in use, as the broker reads them
from the words of the members.

The broker only reads here. Members write their leases and owner locks, and the kernel
marks the robust word of a member that ends. A refcount is a scan of the leases, never a
counter; a stale read of a lease costs one more look at the row.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable

from muninn.control import layout, leases
from muninn.control.block import ControlBlock
from muninn.control.memberreader import MemberReader
from muninn.control.members import MemberKey, MemberTable
from muninn.control.rowreader import RowReader
from muninn.control.rows import RowTable
from muninn.errors import BufferExists, ControlBlockInvalid
from muninn.observe import events
from muninn.observe.counters import count
from muninn.system import atomics
from muninn.terms import INTERNAL_PREFIX, WINDOW_PREFIX, Lifetime, Mode

#: A user's lock has one prefix before its name (`sync/lock.py`).
_OWN_LOCK = INTERNAL_PREFIX.encode() * 2
#: The row of the buffer of which a window is, and where it begins
#: (`session/windownames.py`).
_WINDOW = re.compile(re.escape(WINDOW_PREFIX) + r"(\d{1,9})\.\d{1,9}:[^:]*:(\d{1,19})\+")


class Holders:
    """Which rows are in use, and which are not any more."""

    def __init__(self, block: ControlBlock, members: MemberTable, rows: RowTable) -> None:
        self._block = block
        self._members = members
        self._rows = rows

    def endsWithLastClose(self, row: int) -> bool:
        try:
            return self._rows.description(row).lifetime is Lifetime.LAST_CLOSE
        except ControlBlockInvalid:
            return False

    def isLockNotFree(self, row: int) -> bool:
        """Whether the row is a user's `Lock` whose word is not free. If no process has a
        lease on the row, the holder has died. The data that the lock protects may
        outlive every process. So the row stays, and the next process that takes the
        lock learns of the death. A lock of Muninn's own has nothing to tell.
        """
        word = atomics.loadAcquire32(self._block.rowAddress(row) + layout.ROW_OWNER_LOCK_OFFSET)
        return (
            bool(word) and self._rows.isLock(row) and not self._rows.name(row).startswith(_OWN_LOCK)
        )

    def locksOfTheDead(self) -> list[str]:
        """The names of the locks whose holder has died, where no process is in the
        domain. The next process that takes one learns of the death.
        """
        return sorted(
            self._rows.name(row).decode(errors="replace").removeprefix(INTERNAL_PREFIX)
            for row in self._rows.named(0, self._rows.count())
            if self.isLockNotFree(row)
        )

    def isHeld(self, row: int) -> bool:
        return (
            leases.countHolds(self._block, self._members, row, self._rows.state(row).incarnation)
            > 0
        )

    def grantedBefore(self, member: MemberKey, row: int) -> int | None:
        """The incarnation of the row, if this member repeats a request whose answer it
        did not get.
        """
        state = self._rows.state(row)
        return (
            state.incarnation
            if (state.state, state.creator) == (layout.ROW_CREATING, member.slot)
            else None
        )

    def nameTaken(self, name: str, row: int) -> BufferExists:
        """The error of a process that asks for the name of `row`. No list shows a
        buffer that its creator still fills, so the error names the creator.
        """
        state = self._rows.state(row)
        if state.state != layout.ROW_CREATING or state.creator >= self._members.count:
            return BufferExists(f"{name!r} exists already")
        pid = self._members.identity(state.creator).pid
        program = self._members.program(state.creator)
        return BufferExists(
            f"process {pid} ({program}) is creating {name!r}, and has not filled it yet",
            "Wait until it has, end that process, or use another name",
        )

    def isGivenUp(self, row: int) -> bool:
        """Whether the row's creator is suspected dead. The name of the row is free from
        then on, and its memory once the death is confirmed.
        """
        state = self._rows.state(row)
        creator = (
            MemberKey(state.creator, self._members.state(state.creator)[1])
            if state.creator < self._members.count
            else None
        )
        return (
            state.state == layout.ROW_CREATING
            and creator is not None
            and self._members.isSuspectedDead(creator)
        )

    def revoke(self, row: int, reason: str, pid: int = 0) -> int:
        """Revoke the leases on a row, all of them or those of one process; returns how
        many were revoked.
        """
        holds = leases.scanHolds(self._block, self._members, row)
        meant = [hold for hold in holds if pid <= 0 or self._members.identity(hold.slot).pid == pid]
        return revoke(self._block, self._members, self._rows, meant, reason)


def revoke(
    block: ControlBlock,
    members: MemberReader,
    rows: RowReader,
    holds: Iterable[leases.Hold],
    reason: str,
) -> int:
    """Revoke these leases; returns how many were revoked."""
    revoked = [hold for hold in holds if leases.revoke(block, hold, reason)]
    count("revocations", reason, len(revoked))
    for hold in revoked if events.isOn("revocation") else ():
        if members.isSuspectedDead(MemberKey(hold.slot, members.state(hold.slot)[1])):
            continue  # there is nobody any more whom it concerns
        pid, fields = members.identity(hold.slot).pid, fieldsOf(rows, hold.row)
        events.say(
            "revocation",
            holderPid=pid,
            program=members.program(hold.slot),
            reason=reason,
            leaseId=f"{pid}:{fields['bufferId']}",
            **fields,
        )
    return len(revoked)


def fieldsOf(rows: RowReader, row: int) -> dict[str, object]:
    """What a line says of a row: `bufferId`, `tenant`, `gpu`, and `window` in words."""
    name = rows.name(row).decode(errors="replace")
    fields: dict[str, object] = {"window": ""}
    if found := _WINDOW.match(name):
        base, offset = int(found[1]), int(found[2])
        name = rows.name(base).decode(errors="replace") if base < rows.count() else ""
        fields |= {"window": f", the window from {offset} on", "offset": offset}
    # The description of a damaged row says nothing.
    with contextlib.suppress(ControlBlockInvalid):
        description = rows.description(row)
        fields["tenant"] = description.tenant
        fields["gpu"] = description.gpu if description.mode is Mode.FAST else None
    return {"bufferId": name, **fields}
