"""The door of a domain: a slot in its control block for who comes, and the end of the
block after the last who goes.

Who joins has its slot first and reads the block's version second. Who withdraws the
block takes the version first and reads the slots second. Both are sequentially
consistent, so one of two that meet sees the other: the one steps back and opens the
block anew, or the other gives the version back. Every step may be the last of a
process: a block that is left without its version is whole, and the next process gives
it back (`control/block.py`).
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from muninn.broker.repair import RENEWAL_EPOCH, adopt, renew
from muninn.config.settings import Control
from muninn.control import layout
from muninn.control.block import ControlBlock, openOrCreate
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
    """A claimed slot, CLAIMING until the member's thread enters it."""

    block: ControlBlock
    members: MemberTable
    key: MemberKey


def enter(
    paths: Paths, lockFile: LockFile, control: Control, preferred: bool, undo: contextlib.ExitStack
) -> Entry:
    """Claim a slot in the domain's block, made if there is none; what takes it back is
    pushed to `undo`.

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
                mayRenew = False  # if somebody is in it, the next one will
                renew(paths, lockFile, limits)
                continue
            members = MemberTable(block)
            key = _claim(members, preferred, deadline)
            attempt.callback(lockFile.unlockSlot, key.slot)
            attempt.callback(members.release, key, layout.MEMBER_CLAIMING)
            # SYNC retire: pairs with `retire` and with Withdrawal. Slot first and
            # version second here, the other way round there.
            if not block.isRetired() and block.hasName():
                undo.push(attempt.pop_all())
                return Entry(block, members, key)
        if clock.now() > deadline:
            raise ControlBlockInvalid(
                f"{paths.blockName} was withdrawn again and again", "Try again"
            )


def _claim(members: MemberTable, preferred: bool, deadline: float) -> MemberKey:
    """A member slot. A full table with dead members in it is not full for long: the
    broker is about to take their slots back.
    """
    while True:
        try:
            return members.claim(preferred)
        except TableFull:
            if not members.anyEnded() or clock.now() > deadline:
                raise
            clock.sleep(_FULL_PAUSE_SECONDS)


def retire(entry: Entry, rows: RowTable) -> None:
    """Withdraw the control block, if nobody else is in it, nothing is shared, and it
    does not drain.

    The names go before the journals, so no death leaves a block whose journals are
    gone. The lock file stays: its bytes mean something only while it is one file.
    """
    block, paths = entry.block, entry.block.paths
    if not block.hasName():
        return  # and the lock file may be closed: what was removed is abandoned by itself
    with block.lockFile.creating():
        if not block.hasName():
            # withdrawn by another who left at the same time: who claims a slot in it
            # now must go on noticing
            return
        if _isWanted(entry, rows):
            return
        version = block.address + layout.VERSION_OFFSET
        # SYNC retire: pairs with `enter`. Version first and slots second here, slot
        # first and version second there.
        atomics.exchangeSeqCst32(version, 0)
        if _isWanted(entry, rows):
            atomics.exchangeSeqCst32(version, layout.VERSION)
            return
        unlinkBlock(paths)
        block.dropJournals(MAX_EPOCH + 1)


def _isWanted(entry: Entry, rows: RowTable) -> bool:
    """Whether others are in the block, or it says what is shared, or that nothing is to
    be. Then its version is not touched: a death would leave it without one.
    """
    others = any(slot != entry.key.slot for slot in entry.members.occupied())
    return (
        others
        or Drain(entry.block).isOn()
        or bool(rows.notFree() or entry.block.paths.segmentKeys())
    )
