"""Silence: a process that has memory without a name, and does not bring it to the
broker that has taken over.

Usually that process is stopped, or has changed its uid. The memory is not lost while
the process lives, so the name can not be used for a new buffer. A caller that asks for
the name gets an error that names the process, and says that the same call may work
later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muninn.control import leases
from muninn.control.members import MemberKey
from muninn.errors import HolderSilent
from muninn.terms import INTERNAL_PREFIX

if TYPE_CHECKING:
    from muninn.session.tables import Tables


def holderSilent(tables: Tables, name: str, row: int | None = None) -> HolderSilent:
    """The error that names the processes with a lease on the buffer, except this
    process and the broker, which do not have its memory.

    Parameters
    ----------
    row
        Where the buffer is; looked up by its name if not given.
    """
    encoded, rows = name.encode(), tables.rows
    shown = repr(name.lstrip(INTERNAL_PREFIX))
    if row is None:
        found = (
            row
            for row, incarnation in tables.index.candidates(encoded)
            if rows.isLive(row, incarnation)
        )
        row = next((row for row in found if rows.nameIs(row, encoded)), None)
    holders = [] if row is None else _others(tables, row)
    if not holders:  # a former broker may have the memory, without a lease
        return HolderSilent(
            f"no process has brought the memory of {shown} to the new broker, and a process that "
            "may have it stands still"
        )
    names = [
        f"process {tables.members.identity(slot).pid} ({tables.members.program(slot)})"
        for slot in holders
    ]
    pids = " ".join(str(tables.members.identity(slot).pid) for slot in holders)
    stands, it, isStopped = (
        ("stands", "it", "it is") if len(names) == 1 else ("stand", "them", "they are")
    )
    return HolderSilent(
        f"the memory of {shown} has not come to the new broker: {' and '.join(names)} may "
        f"have it and {stands} still",
        f"Let {it} go on (`kill -CONT {pids}` if {isStopped} stopped) or end {it}, and try "
        "again; to give the memory up, free the name",
    )


def _others(tables: Tables, row: int) -> list[int]:
    """The slots of the other members that have a lease on the row and are not suspected
    dead.
    """
    members = tables.members
    without = {tables.key.slot, tables.election.term().slot}
    slots = {hold.slot for hold in leases.scanHolds(tables.block, members, row)} - without
    return [
        slot
        for slot in sorted(slots)
        if not members.isSuspectedDead(MemberKey(slot, members.state(slot)[1]))
    ]
