"""The directory: the transitions of a row, and that a row leaves nothing behind at its
end.
"""

from __future__ import annotations

import os

import pytest
from lab import Lab, describe, usage

from muninn.broker import journal
from muninn.broker.journal import Journal
from muninn.broker.policy.limits import Limits
from muninn.control import layout
from muninn.control.index import NameIndex
from muninn.errors import (
    BufferExists,
    BufferFreed,
    ControlBlockInvalid,
    HostMemoryFull,
    ProtocolViolation,
    QuotaExceeded,
)
from muninn.storage import segments
from muninn.system import atomics
from muninn.system.clock import monotonicMs
from muninn.terms import Lifetime, Mode
from support import Background


def test_aCommittedRowIsFoundByItsNameWithoutTheBroker(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    made = lab.make(directory, member, "a")
    assert NameIndex(lab.block).candidates(b"a") == [made]
    assert directory.find("a") == (*made, True)


def test_aNameIsGrantedToOneMember(lab: Lab) -> None:
    directory, first, second = lab.directory(1), lab.member(), lab.member()
    granted = directory.grant(first.key, usage(), 0)
    with pytest.raises(BufferExists):
        directory.grant(second.key, usage(), 0)
    assert directory.grant(first.key, usage(), 0) == granted, "the creator may repeat its request"


def test_theNameOfADeadCreatorIsGrantedAtOnce(lab: Lab) -> None:
    """The creator is suspected, not confirmed dead: the memory has to wait, the name
    has not.
    """
    directory, dead, other = lab.directory(1), lab.member(), lab.member()
    old = directory.grant(dead.key, usage(), 0)
    dead.die()
    new = directory.grant(other.key, usage(), 0)
    assert old != new and directory.find("a") == (*new, False)
    directory.orphaned(old[0])
    assert directory.find("a") == (*new, False)


def test_theNameOfAnEndedLifetimeIsFree(lab: Lab) -> None:
    """Broken: the broker ends lifetimes last at the beginning of a term; until then the
    buffer was found by its name, and no process could make it anew.
    """
    directory, member, other = lab.directory(1), lab.member(), lab.member()
    over = lab.make(directory, member, "a", deadlineMs=monotonicMs() - 1)
    lease = other.leases.take(*over, 1000)
    granted = directory.grant(other.key, usage("a"), 0)
    assert granted[0] != over[0] and directory.find("a") == (*granted, False)
    assert (
        other.leases.revocation(lease) == "lifetimeEnded"
        and lab.rows.state(over[0]).state == layout.ROW_DYING
    )
    row, _ = lab.make(directory, member, "b", deadlineMs=monotonicMs() - 1)
    assert directory.tryReclaim(row).state == layout.ROW_FREE and directory.find("b") is None
    lasts = lab.make(directory, member, "c", deadlineMs=monotonicMs() + 3_600_000)
    assert directory.tryReclaim(lasts[0]).state == layout.ROW_LIVE and directory.find("c") == (
        *lasts,
        True,
    )


def test_aSuccessorKnowsTheNamesThatWereGranted(lab: Lab) -> None:
    """Broken: the catalog was built without the journals: a repeated request left a
    second row behind.
    """
    member = lab.member()
    granted = lab.directory(1).grant(member.key, usage("half", sizeBytes=4096), 0)
    for epoch in (2, 3):
        successor = lab.directory(epoch)
        assert successor.grant(member.key, usage("half"), 0) == granted
        os.unlink(lab.paths.journalPath(epoch - 1))


def test_aSuccessorCopiesTheGrantsOfTheOlderJournals(lab: Lab) -> None:
    """The copy may begin before any request has needed a name."""
    row, incarnation = lab.directory(1).grant(lab.member().key, usage("half"), 0)
    records = lab.directory(2).halfMade()
    assert [(each["row"], each["incarnation"]) for each in records] == [(row, incarnation)]


@pytest.mark.parametrize("state", ["abandoned", "orphaned"])
def test_aHalfMadeRowGoesWithItsMemoryAndItsIndexEntry(lab: Lab, state: str) -> None:
    directory, member = lab.directory(1), lab.member()
    row, incarnation = directory.grant(member.key, usage(), 0)
    os.close(segments.create(lab.paths, row, incarnation, 4096))
    directory.rows.describe(row, describe())
    # The broker died right after this step of the commit.
    directory._index.insert(b"a", row, incarnation)
    directory.abandon(member.key, row, incarnation) if state == "abandoned" else directory.orphaned(
        row
    )
    assert directory.rows.state(row).state == layout.ROW_FREE
    assert (
        lab.paths.segments() == []
        and directory._index.candidates(b"a") == []
        and directory.find("a") is None
    )


def test_onlyItsCreatorCommitsARow(lab: Lab) -> None:
    directory, creator, other = lab.directory(1), lab.member(), lab.member()
    row, incarnation = directory.grant(creator.key, usage(), 0)
    directory.rows.describe(row, describe())
    reading, writing = os.pipe()
    with pytest.raises(ProtocolViolation):
        directory.commit(other.key, row, incarnation, writing)
    assert os.read(reading, 1) == b"", "the descriptor of the request is closed"
    os.close(reading)
    directory.commit(creator.key, row, incarnation, None)


def test_aCommitThatIsRepeatedAfterTheFreeSaysSo(lab: Lab) -> None:
    """The answer was lost with its broker, and another process freed the buffer
    meanwhile. Broken: the creator was told of a protocol violation.
    """
    directory, creator = lab.directory(1), lab.member()
    row, incarnation = lab.make(directory, creator)
    creator.leases.take(row, incarnation, 1000)
    directory.free(row, incarnation)
    with pytest.raises(BufferFreed):
        lab.directory(2).commit(creator.key, row, incarnation, None)


def test_aCommitOfAnotherDamagesNothingInTheDescriptorStore(lab: Lab) -> None:
    """Broken: `commit` put the descriptor into the descriptor store before it looked at
    the creator of the row, and dropped the right descriptor with it.
    """
    directory, creator, other = lab.directory(1), lab.member(), lab.member()
    row, incarnation = directory.grant(creator.key, usage(mode=Mode.FAST, gpu=0), 1 << 30)
    directory.rows.describe(row, describe(mode=Mode.FAST, gpu=0))
    mine = os.open("/dev/null", os.O_RDONLY)
    directory.descriptorStore.put(row, incarnation, mine)
    with pytest.raises(ProtocolViolation):
        directory.commit(other.key, row, incarnation, os.dup(mine))
    assert directory.descriptorStore.get(row, incarnation) == mine
    directory.descriptorStore.close()


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
    assert directory.find("granted") is None and directory.find("described") == (
        row,
        incarnation,
        True,
    )


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
    member.leases.giveBack(lease)
    directory.tryReclaim(row)
    with pytest.raises(BufferFreed):
        directory.free(row, incarnation + 1)
    assert directory.rows.state(row).state == layout.ROW_FREE and directory.find("a") == (
        *again,
        True,
    )


def test_lastCloseGoesWithItsLastLeaseAndKeepDoesNot(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    keep, brief = (
        lab.make(directory, member, "keep"),
        lab.make(directory, member, "brief", lifetime=Lifetime.LAST_CLOSE),
    )
    lease = member.leases.take(*brief, 1000)
    assert directory.tryReclaim(brief[0]).state == layout.ROW_LIVE
    member.leases.giveBack(lease)
    assert directory.tryReclaim(brief[0]).state == layout.ROW_FREE
    assert directory.tryReclaim(keep[0]).state == layout.ROW_LIVE


def test_theJournalTellsEachStep(lab: Lab) -> None:
    """Broken: one of the four records was left out."""
    directory, member = lab.directory(1), lab.member()
    row, incarnation = lab.make(directory, member)
    lease = member.leases.take(row, incarnation, 1000)

    def told() -> list[object]:
        return [record["op"] for record in journal.read(lab.paths, 1)]

    assert told() == ["create", "live"]
    directory.free(row, incarnation)
    assert told() == ["create", "live", "free"]
    member.leases.giveBack(lease)
    directory.tryReclaim(row)
    assert told() == ["create", "live", "free", "gone"]


def test_theFinishedBufferOfADeadCreatorKeepsItsName(lab: Lab) -> None:
    """Broken: the names of all buffers of a dead member were given away."""
    directory, dead, other = lab.directory(1), lab.member(), lab.member()
    made = lab.make(directory, dead)
    dead.die()
    with pytest.raises(BufferExists):
        directory.grant(other.key, usage(), 0)
    assert directory.find("a") == (*made, True)
    assert lab.rows.countInState(layout.ROW_CREATING) == 0, "no row was taken for it"


def test_onlyItsCreatorGivesARowUp(lab: Lab) -> None:
    """Broken: `abandon` compared the state only."""
    directory, creator, other = lab.directory(1), lab.member(), lab.member()
    row, incarnation = directory.grant(creator.key, usage(), 0)
    directory.abandon(other.key, row, incarnation)
    directory.abandon(creator.key, row, incarnation + 1)
    assert lab.rows.state(row).state == layout.ROW_CREATING
    directory.abandon(creator.key, row, incarnation)
    assert lab.rows.state(row).state == layout.ROW_FREE


def test_aFreeIsOfOneIncarnation(lab: Lab) -> None:
    """Broken: a free that came late freed the row's next buffer."""
    directory, member = lab.directory(1), lab.member()
    row, incarnation = lab.make(directory, member)
    directory.free(row, incarnation)
    again = lab.make(directory, member)
    assert again == (row, incarnation + 1)
    with pytest.raises(BufferFreed):
        directory.free(row, incarnation)
    assert directory.find("a") == (*again, True)


def test_namesThatComeAndGoAreTold(lab: Lab) -> None:
    """Broken: `commit` or `_unname` woke no waiter; the look every half second hid
    this.
    """
    directory, member = lab.directory(1), lab.member()

    address = NameIndex(lab.block).wakeAddress(b"a")

    def told() -> int:
        return int(atomics.loadAcquire32(address))

    before = told()
    row, incarnation = lab.make(directory, member)
    member.leases.take(row, incarnation, 1000)
    assert told() == before + 1
    directory.free(row, incarnation)
    assert told() == before + 2
    waiting = Background(lambda: atomics.futexWait32(address, told(), 60_000_000_000)).asleep()
    lab.make(directory, member, "a")
    waiting.ended()


def test_aNameWithoutADescriptionIsToldWhenItGoes(lab: Lab) -> None:
    """Broken: only a name in a description woke its waiters, and a process that waited
    for an abandoned creation slept on.
    """
    directory, member = lab.directory(1), lab.member()
    row, incarnation = directory.grant(member.key, usage("a"), 0)
    before = int(atomics.loadAcquire32(NameIndex(lab.block).wakeAddress(b"a")))
    directory.abandon(member.key, row, incarnation)
    assert int(atomics.loadAcquire32(NameIndex(lab.block).wakeAddress(b"a"))) == before + 1


def test_nothingOfAReclaimedRowCountsOrStaysOpen(lab: Lab) -> None:
    """Broken: `_reclaim` left out the descriptor store, the catalog or the segment."""
    directory, member = lab.directory(1), lab.member()
    row, incarnation = directory.grant(member.key, usage(mode=Mode.FAST, gpu=0), 1 << 30)
    directory.rows.describe(row, describe(mode=Mode.FAST, gpu=0))
    reading, writing = os.pipe()
    directory.commit(member.key, row, incarnation, writing)
    assert directory.catalog.quotas.used(0) == layout.PAGE_BYTES
    directory.free(row, incarnation)
    assert directory.catalog.quotas.used(0) == 0 and len(directory.descriptorStore) == 0
    assert os.read(reading, 1) == b"", "the descriptor store's descriptor is closed"
    os.close(reading)
    row, incarnation = lab.make(directory, member)
    os.close(segments.create(lab.paths, row, incarnation, layout.PAGE_BYTES))
    directory.free(row, incarnation)
    assert lab.paths.segments() == [] and directory._index.candidates(b"a") == []


def test_aSizeThatNoQuotaAllowsIsNotGranted(lab: Lab) -> None:
    """Broken: `grant` did not ask the catalog."""
    directory, member = lab.directory(1), lab.member()
    directory.catalog.quotas._limits = Limits(layout.PAGE_BYTES, 0, layout.PAGE_BYTES, 0, 0, 0, 1)
    lab.make(directory, member, "fits")
    with pytest.raises(QuotaExceeded):
        directory.grant(member.key, usage("more"), 0)
    assert directory.find("more") is None and len(lab.rows.notFree()) == 1


def test_aCommitThatIsRepeatedChangesNothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the commit was done again, and on a full `/dev/shm` it then reclaimed a
    living buffer.
    """
    directory, member = lab.directory(1), lab.member()
    row, incarnation = lab.make(directory, member)

    def full(op: str, **fields: object) -> None:
        raise HostMemoryFull("full")

    monkeypatch.setattr(directory._journal, "append", full)
    directory.commit(member.key, row, incarnation, None)
    assert lab.rows.isLive(row, incarnation)


@pytest.mark.parametrize(
    "changes",
    [
        {"row": []},
        {"row": None},
        {"slot": None},
        {"name": 3},
        {"sizeBytes": "4096"},
        {"tenant": {}},
        {"mode": "none"},
    ],
)
def test_aGrantThatTheJournalTellsWrongIsNoGrant(lab: Lab, changes: dict[str, object]) -> None:
    """The records are whole, as a program of another version may write them. Broken:
    each successor resigned when it read them.
    """
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
    written = Journal(lab.paths, 1)
    written.append("create", **{**plain, **changes})
    written.close()
    assert lab.directory(2).catalog.find("half") is None
