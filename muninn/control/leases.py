"""Lease slots: which member holds which buffer, until when.

Each member has an area of lease slots that only it fills. The refcount of a buffer is a
scan of these slots, never a counter: a death at any instruction leaves nothing but the
slots of the dead member, which can be found.

A lease is two words, {hold, expiry}. The holder raises `leaseHigh` past the slot,
stores the expiry, exchanges `hold` into the slot, and reads the state of the row
afterwards. The broker may CAS a revocation reason into `hold`, and clears the slots of
a member that is confirmed dead. A lease that is expired or revoked refuses new
operations; the memory stays until the holder releases the lease or dies. A stale read
of a lease makes the broker keep a buffer until its next look.

A bit beside the expiry says whether the holder is inside a read access. A writer waits
until the bit is set in no lease of the buffer (`readersOf`). When a reader dies, the
broker clears its lease, and with it the bit.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.members import MemberKey, MemberTable
from muninn.system import atomics
from muninn.system.structures import Holds

_ROW_MASK = layout.LEASE_ROW.mask
_REASON_SHIFT, _REASON_MASK = layout.LEASE_REASON.shift, layout.LEASE_REASON.top
_GENERATION_SHIFT, _GENERATION_MASK = layout.LEASE_GENERATION.shift, layout.LEASE_GENERATION.top
_INCARNATION_SHIFT, _INCARNATION_MASK = layout.LEASE_INCARNATION.shift, layout.LEASE_INCARNATION.top
_READING, _EXPIRY_MASK = layout.LEASE_READING.mask, layout.LEASE_EXPIRY.mask
#: `struct mnnLease`: slot, position, hold, expiry.
_LEASE = struct.Struct("<IIQQ")

#: The reasons for a revocation; the word stores the position.
OWNER_DIED = "ownerDied"
REVOCATION_REASONS = ("", "evicted", "drained", "lifetimeEnded", "quota", OWNER_DIED)


class Hold(NamedTuple):
    """One held lease slot, as a scan found it."""

    slot: int
    position: int
    row: int
    incarnation: int
    reason: str
    expiryMs: int


def reasonName(reason: int) -> str:
    return REVOCATION_REASONS[reason] if reason < len(REVOCATION_REASONS) else f"reason {reason}"


def scanHolds(block: ControlBlock, members: MemberTable, row: int | None = None) -> list[Hold]:
    """Every lease on `row`, or every lease at all. The leases of a member that has
    ended count until they are reclaimed.
    """
    # SYNC release: pairs with LeaseTable.release and clearDead. A holder has used the
    # memory for the last time before the word says that it holds nothing.
    mask, value = (0, 0) if row is None else (_ROW_MASK, row + 1)
    return [_holdOf(*lease) for lease in _leases(block, mask, value)]


def countHolds(
    block: ControlBlock, members: MemberTable, row: int, incarnation: int | None = None
) -> int:
    """Count the leases on `row`: the refcount.

    With an incarnation, only the leases on that count: a creator that gave up releases
    its memory later than its row.
    """
    return _scan(
        block, *((_ROW_MASK, row + 1) if incarnation is None else _holdsOn(row, incarnation))
    )


def heldBy(block: ControlBlock, members: MemberTable, slot: int) -> int:
    """How many leases a member has."""
    high = members.leaseHigh(slot)
    return (
        high
        - int(
            atomics.scan64(block.areaAddress(slot), layout.LEASE_BYTES, high, _ROW_MASK, 0, None, 0)
        )
        if high
        else 0
    )


def _leases(block: ControlBlock, mask: int, value: int) -> list[tuple[int, ...]]:
    """(slot, position, hold, expiry) of the leases of all members whose words match."""
    return [*_LEASE.iter_unpack(packed(block, mask, value))]


def packed(block: ControlBlock, mask: int = 0, value: int = 0) -> bytearray:
    """The leases of all members whose words match, each as `struct mnnLease`: slot and
    position of 32 bits, hold and expiry of 64.
    """
    room = _scan(block, mask, value)
    while True:
        leases = bytearray(_LEASE.size * room)
        found = _scan(block, mask, value, leases)
        if found <= room:
            return leases[: _LEASE.size * found]
        room = 2 * found


def _scan(block: ControlBlock, mask: int, value: int, into: bytearray | None = None) -> int:
    """Count the leases of all members whose words match, and store as many as `into`
    has room for.
    """
    address, room = (atomics.addressOfBytes(into), len(into) // _LEASE.size) if into else (None, 0)
    return int(atomics.scanLeases(*_areasOf(block), mask, value, address, room))


def _areasOf(block: ControlBlock) -> tuple[int, int, int, int, int]:
    """Where C finds all leases: the first parameters of `mnnScanLeases`."""
    sizes = block.geometry
    return (
        block.address,
        sizes.areasOffset,
        sizes.areaBytes,
        sizes.maxMembers,
        sizes.maxLeases,
    )


def _holdOf(slot: int, position: int, word: int, expiry: int) -> Hold:
    reason = word >> _REASON_SHIFT & _REASON_MASK
    return Hold(
        slot,
        position,
        (word & _ROW_MASK) - 1,
        word >> _INCARNATION_SHIFT,
        reasonName(reason) if reason else "",
        expiry & _EXPIRY_MASK,
    )


def readersOf(block: ControlBlock, row: int, incarnation: int) -> bool:
    """Whether any holder of (row, incarnation) is inside a read access."""
    # SYNC reading: pairs with beginReading. The writer took the owner lock before it reads
    # these words. A reader sets its bit before it reads the lock.
    held = _leases(block, *_holdsOn(row, incarnation))
    return any(expiry & _READING for *_, expiry in held)


def holdsOn(block: ControlBlock, row: int, incarnation: int) -> Holds:
    """Where C finds the leases on one incarnation of a row."""
    return Holds(*_areasOf(block), *_holdsOn(row, incarnation))


def _holdsOn(row: int, incarnation: int) -> tuple[int, int]:
    """(mask, value) of the holds on one incarnation of a row."""
    return (
        _ROW_MASK | _INCARNATION_MASK << _INCARNATION_SHIFT,
        row + 1 | incarnation << _INCARNATION_SHIFT,
    )


def holdsOf(block: ControlBlock, members: MemberTable, slot: int) -> list[Hold]:
    """The leases in one member's area."""
    first, holds = block.areaAddress(slot), []
    for index in range(members.leaseHigh(slot)):
        address = first + index * layout.LEASE_BYTES
        word = int(atomics.loadSeqCst64(address))
        if word & _ROW_MASK:
            holds.append(
                _holdOf(
                    slot,
                    index,
                    word,
                    int(atomics.loadAcquire64(address + layout.LEASE_EXPIRY_OFFSET)),
                )
            )
    return holds


def revoke(block: ControlBlock, hold: Hold, reason: str) -> bool:
    """CAS a reason into a lease. Returns False if the holder has released it meanwhile.

    A revocation forbids new operations until the holder opens the buffer anew, and frees
    nothing. So a deposed broker that revokes late does no harm.
    """
    address = block.areaAddress(hold.slot) + hold.position * layout.LEASE_BYTES
    word = atomics.loadSeqCst64(address)
    same = (word & _ROW_MASK) == hold.row + 1 and word >> _INCARNATION_SHIFT == hold.incarnation
    if not same or word >> _REASON_SHIFT & _REASON_MASK:
        return False
    # SYNC revoke: pairs with LeaseTable.revocation and LeaseTable.takeAgain. The holder
    # refuses its next operation; an operation that is under way goes on to its end.
    return bool(
        atomics.casSeqCst64(address, word, word | REVOCATION_REASONS.index(reason) << _REASON_SHIFT)
        == word
    )


def clearDead(block: ControlBlock, members: MemberTable, key: MemberKey) -> list[int]:
    """Clear all leases of a member that is confirmed dead and marked dead; returns the
    rows that it held.

    Each word contains the slot's generation, so no lease of the slot's next member can
    match.
    """
    rows = []
    for index in range(members.leaseHigh(key.slot)):
        address = block.areaAddress(key.slot) + index * layout.LEASE_BYTES
        word = atomics.loadSeqCst64(address)
        # SYNC release: pairs with scanHolds. The member is confirmed dead, so all its
        # stores come before this.
        if (
            word
            and word >> _GENERATION_SHIFT & _GENERATION_MASK == key.generation & _GENERATION_MASK
            and atomics.casSeqCst64(address, word, 0) == word
        ):
            rows.append((word & _ROW_MASK) - 1)
    return rows
