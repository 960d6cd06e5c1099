"""The directory: what a row may become, and what is left of it afterwards: nothing."""

from __future__ import annotations

import os

import pytest
from lab import Lab, describe, usage

from muninn.broker.journal import Journal
from muninn.control import layout, segments
from muninn.errors import BufferExists, BufferFreed, ControlBlockInvalid, ProtocolViolation
from muninn.terms import Lifetime, Mode


def test_aCommittedRowIsFoundByItsNameWithoutTheBroker(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    made = lab.make(directory, member, "a")
    from muninn.control.index import NameIndex

    assert NameIndex(lab.block).candidates(b"a") == [made]
    assert directory.find("a") == (*made, True)


def test_aNameIsGrantedToOneMember(lab: Lab) -> None:
    directory, first, second = lab.directory(1), lab.member(), lab.member()
    granted = directory.grant(first.key, usage(), 0)
    with pytest.raises(BufferExists):
        directory.grant(second.key, usage(), 0)
    assert directory.grant(first.key, usage(), 0) == granted, "a request that is repeated"


def test_theNameOfADeadCreatorIsGrantedAtOnce(lab: Lab) -> None:
    """Its death was noticed and not proven: the memory waits, the name need not."""
    directory, dead, other = lab.directory(1), lab.member(), lab.member()
    old = directory.grant(dead.key, usage(), 0)
    dead.die()
    new = directory.grant(other.key, usage(), 0)
    assert old != new and directory.find("a") == (*new, False)
    directory.orphaned(old[0])
    assert directory.find("a") == (*new, False)


def test_aSuccessorKnowsTheNamesThatWereGranted(lab: Lab) -> None:
    """Broken: the catalog without the journals: a repeated request leaves a second row behind."""
    member = lab.member()
    granted = lab.directory(1).grant(member.key, usage("half", sizeBytes=4096), 0)
    for epoch in (2, 3):
        successor = lab.directory(epoch)
        assert successor.grant(member.key, usage("half"), 0) == granted
        os.unlink(lab.places.journalPath(epoch - 1))


@pytest.mark.parametrize("state", ["abandoned", "orphaned"])
def test_aHalfMadeRowGoesWithItsMemoryAndItsIndexEntry(lab: Lab, state: str) -> None:
    directory, member = lab.directory(1), lab.member()
    row, incarnation = directory.grant(member.key, usage(), 0)
    os.close(segments.create(lab.places, row, incarnation, 4096))
    directory.rows.describe(row, describe())
    directory._index.insert(b"a", row, incarnation)  # its broker died right after this step of the commit
    directory.abandon(member.key, row, incarnation) if state == "abandoned" else directory.orphaned(row)
    assert directory.rows.state(row).state == layout.ROW_FREE
    assert lab.places.segments() == [] and directory._index.candidates(b"a") == [] and directory.find("a") is None


def test_onlyItsCreatorCommitsARow(lab: Lab) -> None:
    directory, creator, other = lab.directory(1), lab.member(), lab.member()
    row, incarnation = directory.grant(creator.key, usage(), 0)
    directory.rows.describe(row, describe())
    reading, writing = os.pipe()
    with pytest.raises(ProtocolViolation):
        directory.commit(other.key, row, incarnation, writing)
    assert os.read(reading, 1) == b"", "the descriptor that came with it is closed"
    os.close(reading)
    directory.commit(creator.key, row, incarnation, None)


def test_aCommitOfAnotherDamagesNothingInTheVault(lab: Lab) -> None:
    """Broken: `commit` put the descriptor into the vault before it looked whose row it is, and dropped the right one with it."""
    directory, creator, other = lab.directory(1), lab.member(), lab.member()
    row, incarnation = directory.grant(creator.key, usage(mode=Mode.FAST, gpu=0), 1 << 30)
    directory.rows.describe(row, describe(mode=Mode.FAST, gpu=0))
    mine = os.open("/dev/null", os.O_RDONLY)
    directory.vault.put(row, incarnation, mine)
    with pytest.raises(ProtocolViolation):
        directory.commit(other.key, row, incarnation, os.dup(mine))
    assert directory.vault.get(row, incarnation) == mine
    directory.vault.close()


def test_aCommitThatSaysNonsenseIsRefusedAndItsRowCollected(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    row, incarnation = directory.grant(member.key, usage(), 0)
    directory.rows.describe(row, describe(sizeBytes=1 << 40))
    with pytest.raises(ControlBlockInvalid):
        directory.commit(member.key, row, incarnation, None)
    assert directory.rows.state(row).state == layout.ROW_FREE and directory.find("a") is None


def test_aCommitUnderAnotherNameFreesTheGrantedOne(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    row, incarnation = directory.grant(member.key, usage("granted"), 0)
    directory.rows.describe(row, describe("described"))
    directory.commit(member.key, row, incarnation, None)
    assert directory.find("granted") is None and directory.find("described") == (row, incarnation, True)


def test_fastModeNeedsItsDescriptor(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    row, incarnation = directory.grant(member.key, usage(mode=Mode.FAST, gpu=0), 1 << 30)
    directory.rows.describe(row, describe(mode=Mode.FAST, gpu=0))
    with pytest.raises(ProtocolViolation):
        directory.commit(member.key, row, incarnation, None)


def test_aFreedNameIsFreeAtOnceAndItsMemoryWithTheLastHolder(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    row, incarnation = lab.make(directory, member)
    lease = member.leases.take(row, incarnation, 1000)
    directory.free(row, incarnation)
    assert directory.find("a") is None and directory.rows.state(row).state == layout.ROW_DYING
    again = lab.make(directory, member)
    assert again[0] != row
    member.leases.release(lease)
    directory.settle(row)
    with pytest.raises(BufferFreed):
        directory.free(row, incarnation + 1)
    assert directory.rows.state(row).state == layout.ROW_FREE and directory.find("a") == (*again, True)


def test_lastCloseGoesWithItsLastLeaseAndKeepDoesNot(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    keep, brief = lab.make(directory, member, "keep"), lab.make(directory, member, "brief", lifetime=Lifetime.LAST_CLOSE)
    lease = member.leases.take(*brief, 1000)
    assert directory.settle(brief[0]).state == layout.ROW_LIVE
    member.leases.release(lease)
    assert directory.settle(brief[0]).state == layout.ROW_FREE
    assert directory.settle(keep[0]).state == layout.ROW_LIVE


@pytest.mark.parametrize(
    "changes", [{"row": []}, {"row": None}, {"slot": None}, {"name": 3}, {"sizeBytes": "4096"}, {"tenant": {}}, {"mode": "none"}]
)
def test_aGrantThatTheJournalTellsWrongIsNoGrant(lab: Lab, changes: dict[str, object]) -> None:
    """Whole records, as a program of another version may write them; broken, each successor resigned over them."""
    member = lab.member()
    row, incarnation = lab.directory(1).grant(member.key, usage("half"), 0)
    plain = {
        "row": row,
        "incarnation": incarnation,
        "slot": 0,
        "name": "half",
        "tenant": "default",
        "mode": "bigMode",
        "gpu": -1,
        "sizeBytes": 4096,
    }
    written = Journal(lab.places, 1)
    written.append("create", **{**plain, **changes})
    written.close()
    assert lab.directory(2).catalog.find("half") is None
