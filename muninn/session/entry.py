"""Entry: how a process takes a slot in the control block of a domain, and how the last
member withdraws the block.

Join.

1. The process opens the control block, or creates it if there is none. If the epochs of
   the block are half used up and no member is in it, the process first replaces it by a
   new block (`broker/repair.py`).
2. It claims a member slot: FREE → CLAIMING. If all slots are taken but some belong to
   dead members, it waits, since the broker is about to reclaim those.
3. Then it reads the block's version word and checks that the name still leads to this
   block. If the version is gone or the name leads elsewhere, it gives the slot back and
   starts again.
4. The background thread of the new member enters the slot: CLAIMING → LIVE
   (`worker.py`).

Withdraw (`retire`).

1. The last member holds the lock CREATE, and checks that the block still has its name,
   that no other slot is taken, that nothing is shared, and that the domain does not
   drain.
2. It exchanges the version word for 0.
3. Then it reads the slots again. If a process has come, it puts the version back.
4. Otherwise it removes the names of the block, and then its journals.

A joining process writes its slot first and reads the version second; a withdrawing
process writes the version first and reads the slots second. All four operations are
sequentially consistent, so at least one of the two processes sees the other: either the
first opens the block again, or the second puts the version back. A stale read costs one
more round, never a slot in a block that no process can find.

A process may die after any step. A block that is left without its version is whole, and
the next process puts the version back (`control/withdrawal.py`).
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from muninn.broker.repair import RENEWAL_EPOCH, adopt, renew
from muninn.config.settings import Control
from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.creation import openOrCreate
from muninn.control.drain import Drain
from muninn.control.election import Election
from muninn.control.geometry import Geometry
from muninn.control.header import unlinkBlock
from muninn.control.lockfile import LockFile
from muninn.control.members import MemberKey, MemberTable
from muninn.control.rows import RowTable
from muninn.control.rowstate import MAX_EPOCH
from muninn.errors import ControlBlockInvalid, TableFull
from muninn.storage.paths import Paths
from muninn.system import atomics, clock

_BOUND_SECONDS = 10.0
_FULL_PAUSE_SECONDS = 0.01


class Entry(NamedTuple):
    """A claimed slot, which is CLAIMING until the member's thread enters it."""

    block: ControlBlock
    members: MemberTable
    key: MemberKey


def enter(
    paths: Paths, lockFile: LockFile, control: Control, preferred: bool, undo: contextlib.ExitStack
) -> Entry:
    """Claim a slot in the domain's block, which is created if there is none. The calls
    that undo this are pushed to `undo`.

    Raises
    ------
    ControlBlockInvalid, HostMemoryFull, BrokerUnavailable, TableFull
    """
    limits = Geometry.of(control.maxMembers, control.maxBuffers, control.maxLeases)
    deadline = clock.now() + _BOUND_SECONDS
    mayRenew = True
    while True:
        with contextlib.ExitStack() as attempt:
            block = openOrCreate(paths, lockFile, limits, adopt)
            attempt.callback(block.close)
            if mayRenew and Election(block).epoch() >= RENEWAL_EPOCH:
                mayRenew = False  # while a member is in it, it stays as it is
                renew(paths, lockFile, limits)
                continue
            members = MemberTable(block)
            key = _claim(members, preferred, deadline)
            attempt.callback(lockFile.unlockSlot, key.slot)
            attempt.callback(members.release, key, layout.MEMBER_CLAIMING)
            # SYNC retire: pairs with retire, and with Withdrawal. The slot is written
            # before the version is read here; the other way round there.
            if not block.isRetired() and block.hasName():
                undo.push(attempt.pop_all())
                return Entry(block, members, key)
        if clock.now() > deadline:
            raise ControlBlockInvalid(
                f"{paths.blockName} was withdrawn again and again", "Try again"
            )


def _claim(members: MemberTable, preferred: bool, deadline: float) -> MemberKey:
    """Claim a member slot. While a full table has dead members in it, wait: the broker
    is about to take their slots back.
    """
    while True:
        try:
            return members.claim(preferred)
        except TableFull:
            if not members.anyEnded() or clock.now() > deadline:
                raise
            clock.sleep(_FULL_PAUSE_SECONDS)


def retire(entry: Entry, rows: RowTable) -> None:
    """Withdraw the control block, if no other member is in it, nothing is shared, and
    the domain does not drain.

    The names are removed before the journals, so a death in between leaves no block
    with a name and without journals. The lock file stays: its byte locks exclude each
    other only while all processes open the same file.
    """
    block, paths = entry.block, entry.block.paths
    if not block.hasName():
        return  # The block was removed, and its members give it up by themselves.
    with block.lockFile.creating():
        if not block.hasName():
            # Another member that left at the same time has withdrawn it. The version
            # must stay 0, so that a process that claims a slot in it sees that.
            return
        if _isWanted(entry, rows):
            return
        version = block.address + layout.VERSION_OFFSET
        # SYNC retire: pairs with enter. The version is written before the slots are
        # read here; the slot is written before the version is read there.
        atomics.exchangeSeqCst32(version, 0)
        if _isWanted(entry, rows):
            atomics.exchangeSeqCst32(version, layout.VERSION)
            return
        unlinkBlock(paths)
        block.dropJournals(MAX_EPOCH + 1)


def _isWanted(entry: Entry, rows: RowTable) -> bool:
    """Whether other members are in the block, something is shared in it, or the domain
    drains. Then its version is not touched: a death would leave the block without one.
    """
    others = any(slot != entry.key.slot for slot in entry.members.occupied())
    return (
        others
        or Drain(entry.block).isOn()
        or bool(rows.notFree() or entry.block.paths.segmentKeys())
    )
