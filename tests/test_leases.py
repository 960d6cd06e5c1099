"""Leases: the slots of each member, counted by a scan, revoked with a reason, and
cleared only for dead members.
"""

from __future__ import annotations

import pytest
from lab import Lab

from muninn.control import layout, leases
from muninn.errors import TableFull
from muninn.session.leases import LeaseTable
from muninn.system import atomics
from muninn.system.clock import monotonicMs


def _setReading(table: LeaseTable, index: int, isReading: bool) -> None:
    """Set or clear in a lease that this process reads, as the C part does."""
    reading = layout.LEASE_READING.mask
    table._changeExpiry(index, layout.LEASE_EXPIRY.mask, reading if isReading else 0)


def test_aHeldRowIsFoundByItsHolder(lab: Lab) -> None:
    member = lab.member()
    index = member.leases.take(7, 3, 1000)
    (hold,) = leases.scanHolds(lab.block, lab.members, 7)
    assert (hold.slot, hold.position, hold.row, hold.incarnation, hold.reason) == (
        member.key.slot,
        index,
        7,
        3,
        "",
    )
    assert leases.scanHolds(lab.block, lab.members, 8) == []
    member.leases.giveBack(index)
    assert leases.countHolds(lab.block, lab.members, 7) == 0


def test_aReleasedSlotIsUsedAgain(lab: Lab) -> None:
    member = lab.member()
    indices = [member.leases.take(row, 1, 1000) for row in range(3)]
    member.leases.giveBack(indices[1])
    assert member.leases.take(9, 1, 1000) == indices[1]
    assert lab.members.leaseHigh(member.key.slot) == 3


def test_moreLeasesThanTheTableHasAreRefused(lab: Lab) -> None:
    member = lab.member()
    for _ in range(lab.block.geometry.maxLeases):
        last = member.leases.take(1, 1, 1000)
    with pytest.raises(TableFull):
        member.leases.take(1, 1, 1000)
    member.leases.giveBack(last)
    member.leases.take(1, 1, 1000)


def test_aLeaseWithoutAnObjectIsAmongThoseThatAreGone(lab: Lab) -> None:
    """Broken: an exception between the taking of a lease and its bookkeeping left the
    lease taken for ever.
    """
    member = lab.member()
    index = member.leases.take(7, 3, 1000)
    assert not member.leases.gone
    number = int(index)
    del index
    (tenure,) = member.leases.gone
    assert (tenure.index, tenure.row, tenure.incarnation) == (
        number,
        7,
        3,
    ) and member.leases.isOwner(tenure)
    assert leases.countHolds(lab.block, lab.members, 7) == 1, (
        "the lease is held until the cleanup gives it back"
    )
    member.leases.giveBack(tenure.index)
    assert not member.leases.isOwner(tenure)


def test_aSlotHasOneOwnerWhateverTheHintsSay(lab: Lab) -> None:
    """An interruption while a lease is taken or given back may put a number into the
    list of hints twice.
    """
    member = lab.member()
    first = member.leases.take(7, 3, 1000)
    member.leases._free += [int(first), int(first)]
    second = member.leases.take(8, 3, 1000)
    assert (
        second != first
        and leases.countHolds(lab.block, lab.members, 7)
        == leases.countHolds(lab.block, lab.members, 8)
        == 1
    )


def test_aNumberThatWasLostIsFoundAgain(lab: Lab) -> None:
    member = lab.member()
    held = [member.leases.take(1, 1, 1000) for _ in range(lab.block.geometry.maxLeases)]
    member.leases.giveBack(held.pop())
    member.leases._free.clear()
    held.append(member.leases.take(1, 1, 1000))
    with pytest.raises(TableFull):
        member.leases.take(1, 1, 1000)


def test_renewingMovesTheExpiryOnly(lab: Lab) -> None:
    member = lab.member()
    index = member.leases.take(1, 1, 0)
    assert member.leases.expiryMs(index) <= monotonicMs()
    assert member.leases.renew(index, 60_000) == member.leases.expiryMs(index) > monotonicMs()
    assert leases.countHolds(lab.block, lab.members, 1) == 1


def test_aRevocationHitsTheLeaseThatWasSeenAndNoLaterOne(lab: Lab) -> None:
    member = lab.member()
    index = member.leases.take(1, 1, 1000)
    (hold,) = leases.scanHolds(lab.block, lab.members, 1)
    member.leases.giveBack(index)
    assert not leases.revoke(lab.block, hold, "evicted")
    assert member.leases.take(1, 2, 1000) == index
    assert not leases.revoke(lab.block, hold, "evicted")
    assert member.leases.revocation(index) == ""


@pytest.mark.parametrize("reason", leases.REVOCATION_REASONS[1:])
def test_theFirstReasonStands(lab: Lab, reason: str) -> None:
    member = lab.member()
    index = member.leases.take(1, 1, 1000)
    (hold,) = leases.scanHolds(lab.block, lab.members, 1)
    assert leases.revoke(lab.block, hold, reason)
    assert not leases.revoke(lab.block, hold, "drained")
    assert member.leases.revocation(index) == reason


def test_aReasonFromTheFutureHasAName() -> None:
    assert leases.reasonName(200) == "reason 200"


def test_clearingTheDeadNamesTheirRowsAndLeavesTheOthers(lab: Lab) -> None:
    dead, living = lab.member(), lab.member()
    for row in (1, 2, 2):
        dead.leases.take(row, 1, 1000)
    living.leases.take(2, 1, 1000)
    assert leases.clearDead(lab.block, lab.members, dead.key) == [1, 2, 2]
    assert leases.clearDead(lab.block, lab.members, dead.key) == []
    assert leases.countHolds(lab.block, lab.members, 2) == 1


def test_aRevocationRevivesNoLeaseThatWasGivenBackMeanwhile(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the reason was stored without a comparison, and made a lease that no
    process would ever give back.
    """
    member = lab.member()
    index = member.leases.take(7, 3, 1000)
    (hold,) = leases.scanHolds(lab.block, lab.members, 7)
    load = atomics.loadSeqCst64

    def releasedNow(address: int) -> int:
        seen = int(load(address))
        member.leases.giveBack(index)
        return seen

    with monkeypatch.context() as patch:
        patch.setattr(atomics, "loadSeqCst64", releasedNow)
        assert not leases.revoke(lab.block, hold, "evicted")
    assert leases.countHolds(lab.block, lab.members, 7) == 0


def test_readersAreThoseThatSaySo(lab: Lab) -> None:
    one, two = lab.member(), lab.member()
    held = {member: member.leases.take(7, 3, 60_000) for member in (one, two)}

    def isRead(incarnation: int = 3, row: int = 7) -> bool:
        return leases.readersOf(lab.block, row, incarnation)

    assert not isRead()
    _setReading(two.leases, held[two], True)
    assert isRead() and not isRead(row=8) and not isRead(incarnation=4)
    _setReading(one.leases, held[one], True)
    _setReading(two.leases, held[two], False)
    assert isRead()
    one.leases.giveBack(held[one])
    assert not isRead(), "a process without a lease does not read"
    assert one.leases.take(7, 3, 60_000) == held[one] and not isRead(), (
        "the slot's next lease does not read either"
    )


def test_aReaderIsFoundAmongManyLeases(lab: Lab) -> None:
    """Broken: the scan looked at eight leases only, and each close behind a kernel
    leaves a lease until the kernel is over.
    """
    member = lab.member()
    held = [member.leases.take(7, 3, 60_000) for _ in range(40)]
    _setReading(member.leases, held[-1], True)
    assert leases.readersOf(lab.block, 7, 3)
    _setReading(member.leases, held[-1], False)
    assert not leases.readersOf(lab.block, 7, 3)


def test_readingAndTheExpiryLeaveEachOtherAlone(lab: Lab) -> None:
    member = lab.member()
    index = member.leases.take(7, 3, 1000)
    expiry = member.leases.expiryMs(index)
    _setReading(member.leases, index, True)
    assert (
        member.leases.expiryMs(index) == expiry
        and leases.scanHolds(lab.block, lab.members, 7)[0].expiryMs == expiry
    )
    renewed = member.leases.renew(index, 60_000)
    assert renewed == member.leases.expiryMs(index) > expiry and leases.readersOf(lab.block, 7, 3)
    _setReading(member.leases, index, False)
    assert member.leases.expiryMs(index) == renewed and not leases.readersOf(lab.block, 7, 3)


def test_aDeadReaderIsNone(lab: Lab) -> None:
    dead = lab.member()
    _setReading(dead.leases, dead.leases.take(7, 3, 60_000), True)
    assert leases.readersOf(lab.block, 7, 3)
    leases.clearDead(lab.block, lab.members, dead.key)
    assert not leases.readersOf(lab.block, 7, 3)


def test_allLeasesAreFoundInOneScan(lab: Lab) -> None:
    members = [lab.member() for _ in range(3)]
    for number, member in enumerate(members):
        for row in range(number + 1):
            member.leases.take(row, 1, 1000)
    lab.members.markDead(members[0].key)
    lab.members.release(members[0].key, layout.MEMBER_DEAD)
    holds = leases.scanHolds(lab.block, lab.members)
    slots = [member.key.slot for member in members]
    assert [(hold.slot, hold.position, hold.row) for hold in holds] == [
        (slots[1], 0, 0),
        (slots[1], 1, 1),
        (slots[2], 0, 0),
        (slots[2], 1, 1),
        (slots[2], 2, 2),
    ]
    assert leases.countHolds(lab.block, lab.members, 0) == 2, "a slot that is FREE has no leases"
    assert [leases.heldBy(lab.block, lab.members, slot) for slot in slots[1:]] == [2, 3]
    members[2].leases.giveBack(1)
    assert leases.heldBy(lab.block, lab.members, slots[2]) == 2


def test_aScanDoesNotGoBeyondAnArea(lab: Lab) -> None:
    """Broken: the scan believed the number of leases in a damaged slot, and read the
    next area as part of this one.
    """
    first, second = lab.member(), lab.member()
    second.leases.take(5, 1, 1000)
    high = lab.block.memberAddress(first.key.slot) + layout.MEMBER_LEASE_HIGH_OFFSET
    atomics.exchangeSeqCst32(high, 0xFFFFFFFF)
    assert leases.countHolds(lab.block, lab.members, 5) == 1
    assert [hold.slot for hold in leases.scanHolds(lab.block, lab.members)] == [second.key.slot]


def test_leasesThatComeDuringAScanAreFound(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan makes room for the leases that its first look counted. Broken: further
    leases were cut off, or written beyond that room.
    """
    member, scan = lab.member(), atomics.scanLeases
    member.leases.take(0, 1, 1000)

    def grownMeanwhile(*arguments: int) -> int:
        found = int(scan(*arguments))
        if found < 20:
            for row in range(1, 20):
                member.leases.take(row, 1, 1000)
        return found

    monkeypatch.setattr(atomics, "scanLeases", grownMeanwhile)
    assert [hold.row for hold in leases.scanHolds(lab.block, lab.members)] == list(range(20))
