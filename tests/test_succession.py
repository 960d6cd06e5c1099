"""Succession: a new version takes a name in one step, whichever step its broker dies
at, and the version before stays with its holders.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import pytest
from lab import PAGE, Lab, Member, describe, usage

from muninn.broker import journal as journals
from muninn.broker import repair, vouching
from muninn.broker.directory import Directory
from muninn.broker.journal import Journal
from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.index import NameIndex
from muninn.control.replacement import Exchange, Replacement
from muninn.control.rows import Deposed
from muninn.errors import (
    BufferExists,
    BufferMismatch,
    ControlBlockInvalid,
    HostMemoryFull,
    PermissionDenied,
)
from muninn.storage import segments
from muninn.storage.paths import SegmentKey
from muninn.system import atomics
from muninn.system.clock import monotonicMs
from muninn.terms import Lifetime, Mode

_NEXT = "\x01\x01next:1"


class Died(BaseException):
    """The broker dies here."""


def half(
    lab: Lab, directory: Directory, creator: Member, name: str = "a", **changes: Any
) -> tuple[int, int]:
    """Grant and describe a new version, up to its commit; it has a segment."""
    row, incarnation = directory.grant(creator.key, usage(_NEXT), 0)
    os.close(segments.create(lab.paths, row, incarnation, PAGE))
    directory.rows.describe(row, describe(name, **changes))
    return row, incarnation


def publish(
    lab: Lab, directory: Directory, creator: Member, name: str = "a", **changes: Any
) -> tuple[int, int]:
    row, incarnation = half(lab, directory, creator, name, **changes)
    old = directory.commit(creator.key, row, incarnation, None, True)
    if old is not None:
        directory.tryReclaim(old)
    return row, incarnation


def states(lab: Lab, *rows: tuple[int, int]) -> list[int]:
    return [lab.rows.state(row).state for row, _ in rows]


def word(lab: Lab) -> int:
    return int(atomics.loadAcquire64(lab.block.replacementAddress)) & 0xFFFFFFFFFF


def test_aVersionTakesTheNameAndTheOneBeforeStaysWithItsHolders(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    old = lab.make(directory, member)
    lease = member.leases.take(*old, 1000)
    seen = atomics.loadAcquire32(NameIndex(lab.block).wakeAddress(b"a"))
    new = publish(lab, directory, member)
    assert directory.find("a") == (*new, True)
    assert states(lab, old, new) == [layout.ROW_REPLACED, layout.ROW_LIVE] and word(lab) == 0
    assert NameIndex(lab.block).candidates(b"a") == [new]
    assert atomics.loadAcquire32(NameIndex(lab.block).wakeAddress(b"a")) != seen
    rows = lab.rows
    assert rows.mayBeUsed(*old) and rows.isReplaced(*old) and not rows.isLive(*old)
    assert not rows.mayBeFreed(*old) and rows.mayBeUsed(*new) and not rows.isReplaced(*new)
    assert not rows.mayBeUsed(old[0], old[1] + 1)
    member.leases.giveBack(lease)
    assert directory.tryReclaim(old[0]).state == layout.ROW_FREE
    assert directory.find("a") == (*new, True) and directory.find(_NEXT) is None


def test_withoutAVersionBeforeItIsTheFirst(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    new = publish(lab, directory, member)
    assert directory.find("a") == (*new, True) and word(lab) == 0


def test_aVersionThatNoProcessHoldsGoesAtOnce(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    first = publish(lab, directory, member)
    second = publish(lab, directory, member)
    assert states(lab, first, second) == [layout.ROW_FREE, layout.ROW_LIVE]
    assert lab.paths.segments() == [second]


def test_aCommitThatDoesNotSayThatItReplacesIsRefused(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    old = lab.make(directory, member)
    row, incarnation = half(lab, directory, member)
    with pytest.raises(BufferExists):
        directory.commit(member.key, row, incarnation, None)
    assert directory.find("a") == (*old, True)
    assert states(lab, (row, incarnation)) == [layout.ROW_FREE] and lab.paths.segments() == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"kind": layout.ROW_KIND_BUNDLE}, BufferMismatch),
        ({"tenant": "another"}, PermissionDenied),
    ],
)
def test_aVersionOfAnotherKindOrTenantIsRefused(
    lab: Lab, changes: dict[str, Any], error: type[Exception]
) -> None:
    directory, member = lab.directory(1), lab.member()
    old = lab.make(directory, member)
    row, incarnation = half(lab, directory, member, **changes)
    with pytest.raises(error, match="'a'"):
        directory.commit(member.key, row, incarnation, None, True)
    assert directory.find("a") == (*old, True) and word(lab) == 0
    assert states(lab, (row, incarnation)) == [layout.ROW_FREE] and lab.paths.segments() == []


def test_aNameThatAnotherProcessIsCreatingIsNotTaken(lab: Lab) -> None:
    directory, member, other = lab.directory(1), lab.member(), lab.member()
    creating = directory.grant(other.key, usage("a"), 0)
    row, incarnation = half(lab, directory, member)
    with pytest.raises(BufferExists, match="is creating 'a'"):
        directory.commit(member.key, row, incarnation, None, True)
    assert directory.find("a") == (*creating, False)
    other.die()
    new = publish(lab, directory, member)
    assert directory.find("a") == (*new, True), "the name of a dead creator is free"


def test_aVersionWhoseLifetimeIsOverIsFreedAndNotReplaced(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    over = lab.make(directory, member, deadlineMs=monotonicMs() - 1)
    member.leases.take(*over, 1000)
    new = publish(lab, directory, member)
    assert states(lab, over, new) == [layout.ROW_DYING, layout.ROW_LIVE]


def test_theLifetimeOfAReplacedVersionEnds(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    old = lab.make(directory, member, deadlineMs=monotonicMs() + 3_600_000)
    lease = member.leases.take(*old, 1000)
    new = publish(lab, directory, member)
    assert not directory.endLifetime(old[0])
    lab.block.put(
        lab.block.rowsOffset + old[0] * layout.ROW_BYTES + layout.ROW_DEADLINE_MS_OFFSET,
        (1).to_bytes(8, "little"),
    )
    assert directory.endLifetime(old[0])
    assert member.leases.revocation(lease) == "lifetimeEnded"
    assert states(lab, old, new) == [layout.ROW_REPLACED, layout.ROW_LIVE]
    member.leases.giveBack(lease)
    assert directory.tryReclaim(old[0]).state == layout.ROW_FREE


def test_aFreeThatComesAfterAReplacementFreesNothing(lab: Lab) -> None:
    """It was asked for when the old version had the name: it came before."""
    directory, member = lab.directory(1), lab.member()
    old = lab.make(directory, member)
    lease = member.leases.take(*old, 1000)
    new = publish(lab, directory, member)
    directory.free(*old)
    assert states(lab, old, new) == [layout.ROW_REPLACED, layout.ROW_LIVE]
    assert member.leases.revocation(lease) == ""


def test_theOwnerOfLentMemoryTakesItBackFromAReplacedVersion(lab: Lab) -> None:
    directory, owner, holder = lab.directory(1), lab.member(), lab.member()
    old = lab.make(directory, owner, mode=Mode.FAST, gpu=0, transport="cudaIpc")
    lease = holder.leases.take(*old, 1000)
    new = publish(lab, directory, holder)
    assert lab.rows.ownedBy(owner.key.slot) == [old[0]]
    directory.recall(owner.key, *old)
    assert holder.leases.revocation(lease) == "ownerDied"
    assert directory.find("a") == (*new, True)
    holder.leases.giveBack(lease)
    assert directory.tryReclaim(old[0]).state == layout.ROW_FREE


def test_bothVersionsCountAgainstTheQuotas(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    old = lab.make(directory, member)
    member.leases.take(*old, 1000)
    publish(lab, directory, member)
    for each in (directory, lab.directory(2)):
        assert each.catalog.quotas._sums[Mode.BIG,] == 2 * PAGE


def test_aVersionOfAnEarlierTermIsReplaced(lab: Lab) -> None:
    """The catalog knows it by the index only, or by the rows only."""
    member = lab.member()
    old = lab.make(lab.directory(1), member)
    member.leases.take(*old, 1000)
    second = lab.directory(2)
    new = publish(lab, second, member)
    assert second.find("a") == (*new, True)
    member.leases.take(*new, 1000)
    lab.directory(3)
    NameIndex(lab.block, 3).remove(b"a", *new)
    fourth = lab.directory(4)
    newest = publish(lab, fourth, member)
    assert fourth.find("a") == (*newest, True)
    while fourth.catalog.indexNames(1000):
        pass
    assert fourth.find("a") == (*newest, True) and fourth.catalog.find("a") == newest[0]
    assert states(lab, old, new, newest) == [6, 6, layout.ROW_LIVE]


def test_aNameThatHasNoRoomInTheIndexIsReplaced(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, member = lab.directory(1), lab.member()
    monkeypatch.setattr(NameIndex, "insert", lambda *_: False)
    old = lab.make(directory, member)
    member.leases.take(*old, 1000)
    new = publish(lab, directory, member)
    assert directory.find("a") == (*new, True) and not directory.lacks("a")
    successor = lab.directory(2)
    while successor.catalog.indexNames(1000):
        pass
    newest = publish(lab, successor, member)
    assert successor.find("a") == (*newest, True) and not successor.lacks("a")


def test_aRepeatedCommitIsAnsweredAlsoAfterTheNextVersion(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    lab.make(directory, member)
    new = publish(lab, directory, member)
    assert directory.commit(member.key, *new, None, True) is None
    member.leases.take(*new, 1000)
    newest = publish(lab, directory, member)
    assert lab.directory(2).commit(member.key, *new, None, True) is None
    assert states(lab, new, newest) == [layout.ROW_REPLACED, layout.ROW_LIVE]


def test_aVersionThatTheJournalHasNoRoomForChangesNothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the name was taken from the version before already."""
    directory, member = lab.directory(1), lab.member()
    old = lab.make(directory, member)
    row, incarnation = half(lab, directory, member)

    def full(*_: Any, **__: Any) -> None:
        raise HostMemoryFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        with pytest.raises(HostMemoryFull):
            directory.commit(member.key, row, incarnation, None, True)
    assert directory.find("a") == (*old, True) and not directory.lacks("a")
    assert states(lab, old, (row, incarnation)) == [layout.ROW_LIVE, layout.ROW_FREE]
    assert word(lab) == 0
    new = publish(lab, directory, member)
    assert directory.find("a") == (*new, True)


def test_replacedRowsAreReclaimedByASuccessor(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    old = lab.make(directory, member, lifetime=Lifetime.LAST_CLOSE)
    lease = member.leases.take(*old, 1000)
    publish(lab, directory, member)
    broker = lab.afterMaintenance(lab.broker(lab.member()))
    assert states(lab, old) == [layout.ROW_REPLACED]
    member.leases.giveBack(lease)
    broker._maintenance.tryReclaimUnheld()
    assert states(lab, old) == [layout.ROW_FREE]


# --- deaths ---------------------------------------------------------------------------

#: The steps of a commit that replaces, in their order: what is called, and how.
_STEPS: tuple[tuple[str, Callable[[Directory], object], str], ...] = (
    ("intent", lambda directory: directory.succession._word, "begin"),
    ("record", lambda directory: directory._journal, "append"),
    ("index", lambda directory: directory._index, "insert"),
    ("live", lambda directory: directory.rows, "change"),
    ("replaced", lambda directory: directory.rows, "change"),
    ("unindex", lambda directory: directory._index, "remove"),
    ("cleared", lambda directory: directory.succession._word, "end"),
    ("told", lambda directory: directory._index, "tell"),
)
_DEATHS = [(step, isBefore) for step in range(len(_STEPS)) for isBefore in (True, False)]


def dieAt(directory: Directory, step: int, isBefore: bool, death: BaseException) -> None:
    """Let the directory raise at a step of its next commit."""
    what, ownerOf, method = _STEPS[step]
    owner = ownerOf(directory)
    real, passes = getattr(owner, method), 2 if what == "replaced" else 1

    def call(*arguments: Any, **fields: Any) -> Any:
        nonlocal passes
        passes -= 1
        if passes == 0 and isBefore:
            raise death
        result = real(*arguments, **fields)
        if passes == 0:
            raise death
        return result

    setattr(owner, method, call)


@pytest.mark.parametrize("step", range(len(_STEPS)))
@pytest.mark.parametrize("isBefore", [True, False])
@pytest.mark.parametrize("isIndexed", [True, False])
def test_anUnexpectedErrorLeavesNoExchangeBehind(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, step: int, isBefore: bool, isIndexed: bool
) -> None:
    """The broker goes on after it. Broken: the word stayed, and the name was the row's
    that was reclaimed.
    """
    directory, member = lab.directory(1), lab.member()
    if not isIndexed:
        monkeypatch.setattr(NameIndex, "insert", lambda *_: False)
    old = lab.make(directory, member)
    member.leases.take(*old, 1000)
    new = half(lab, directory, member)
    dieAt(directory, step, isBefore, RuntimeError("unexpected"))
    with pytest.raises(RuntimeError):
        directory.commit(member.key, *new, None, True)
    isNew = step > 3 or (step == 3 and not isBefore)
    if step == 4 or (step, isBefore) == (6, True):
        # The state of the old row, or the word itself, could not be changed: a successor
        # finishes what the word says.
        assert word(lab) != 0
        directory = lab.directory(2)
        directory.succession.finishLeft()
    assert word(lab) == 0 and directory.find("a") == (*(new if isNew else old), True)
    assert states(lab, old, new) == (
        [layout.ROW_REPLACED, layout.ROW_LIVE] if isNew else [layout.ROW_LIVE, layout.ROW_FREE]
    )
    newest = publish(lab, directory, member)
    assert directory.find("a") == (*newest, True) and word(lab) == 0


@pytest.mark.parametrize(("step", "isBefore"), _DEATHS)
@pytest.mark.parametrize("isHeld", [True, False])
def test_aDeathAtAnyStepLeavesOneOfTheTwoVersions(
    lab: Lab, step: int, isBefore: bool, isHeld: bool
) -> None:
    member = lab.member()
    directory = lab.directory(1)
    old = lab.make(directory, member)
    if isHeld:
        member.leases.take(*old, 1000)
    new = half(lab, directory, member)
    dieAt(directory, step, isBefore, Died())
    with pytest.raises(Died):
        directory.commit(member.key, *new, None, True)
    isNew = step > 3 or (step == 3 and not isBefore)
    # Openers do not wait for the successor: the index gives them a live row.
    rows = lab.rows
    assert [pair for pair in NameIndex(lab.block).candidates(b"a") if rows.isLive(*pair)]
    successor = lab.directory(2)
    successor.succession.finishLeft()
    assert word(lab) == 0
    assert successor.find("a") == (*(new if isNew else old), True)
    assert states(lab, old) == [layout.ROW_REPLACED if isNew else layout.ROW_LIVE]
    assert states(lab, new) == [layout.ROW_LIVE if isNew else layout.ROW_CREATING]
    # The creator repeats its commit.
    successor.commit(member.key, *new, None, True)
    assert successor.find("a") == (*new, True)
    assert NameIndex(lab.block).candidates(b"a") == [new]
    assert successor.tryReclaim(old[0]).state == (
        layout.ROW_REPLACED if isHeld else layout.ROW_FREE
    )
    assert lab.paths.segments() == [new]


@pytest.mark.parametrize(("step", "isBefore"), _DEATHS)
def test_aDeathOfBrokerAndCreatorLeavesOneOfTheTwoVersions(
    lab: Lab, step: int, isBefore: bool
) -> None:
    """And when the control block is lost after that, the journals say the same."""
    member = lab.member()
    directory = lab.directory(1)
    old = publish(lab, directory, member)
    new = half(lab, directory, member)
    dieAt(directory, step, isBefore, Died())
    with pytest.raises(Died):
        directory.commit(member.key, *new, None, True)
    isNew = step > 3 or (step == 3 and not isBefore)
    successor = lab.directory(2)
    successor.succession.finishLeft()
    successor.orphaned(new[0])
    successor.tryReclaim(old[0])
    kept = new if isNew else old
    assert successor.find("a") == (*kept, True)
    assert lab.paths.segments() == [kept]
    living, _, _ = vouching.livingRows([(lab.paths, 1), (lab.paths, 2)])
    assert set(living) == {SegmentKey(lab.paths.identity, *kept)}


@pytest.mark.parametrize(("step", "isBefore"), _DEATHS)
def test_aDeathOfEveryProcessLeavesOneOfTheTwoVersionsToRepair(
    lab: Lab, step: int, isBefore: bool
) -> None:
    """No successor has looked: repair reads the journal, and the old block if it can."""
    member = lab.member()
    directory = lab.directory(1)
    old = publish(lab, directory, member, createdMs=9)
    new = half(lab, directory, member, createdMs=5)  # it was begun before the other one
    dieAt(directory, step, isBefore, Died())
    with pytest.raises(Died):
        directory.commit(member.key, *new, None, True)
    isLive = lab.rows.isLive(*new)
    older = [(lab.paths, 1)]
    for block in (None, lab.block):
        living, unread, ended = vouching.livingRows(older)
        repair.Adoption(block)._addRows(living, unread, ended)
        there = set(lab.paths.segmentKeys())
        (found,) = vouching.newestOfName(living, there)
        assert (found.row, found.incarnation) in (old, new)
        assert not isLive or (found.row, found.incarnation) == new
        assert lab.paths.segmentName(found.row, found.incarnation)


def test_theOldBlockIsBelievedWhereTheJournalOnlyKnowsAnExchangeThatWasTakenBack(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor had no room for the record that vouches for the old version."""
    member = lab.member()
    directory = lab.directory(1)
    old = publish(lab, directory, member)
    new = half(lab, directory, member)
    dieAt(directory, 3, True, Died())
    with pytest.raises(Died):
        directory.commit(member.key, *new, None, True)
    successor = lab.directory(2)
    monkeypatch.setattr(Journal, "note", lambda *_, **__: False)
    successor.succession.finishLeft()
    successor.orphaned(new[0])
    living, unread, ended = vouching.livingRows([(lab.paths, 1), (lab.paths, 2)])
    repair.Adoption(lab.block)._addRows(living, unread, ended)
    there = set(lab.paths.segmentKeys())
    assert {(key.row, key.incarnation) for key in vouching.newestOfName(living, there)} == {old}


@pytest.mark.parametrize(("step", "isBefore"), _DEATHS)
def test_aDeposedBrokerTakesNoNameAfterItsSuccessorHasLooked(
    lab: Lab, step: int, isBefore: bool
) -> None:
    """The broker is stopped at a step, and goes on when its successor serves already."""
    member = lab.member()
    directory = lab.directory(1)
    old = lab.make(directory, member)
    member.leases.take(*old, 1000)
    new = half(lab, directory, member)
    what, ownerOf, method = _STEPS[step]
    owner = ownerOf(directory)
    real, passes, seen = getattr(owner, method), 2 if what == "replaced" else 1, list[list[int]]()

    def call(*arguments: Any, **fields: Any) -> Any:
        nonlocal passes
        passes -= 1
        if passes == 0 and isBefore:
            seen.append(succeed())
        result = real(*arguments, **fields)
        if passes == 0 and not isBefore:
            seen.append(succeed())
        return result

    def succeed() -> list[int]:
        successor = lab.directory(2)
        successor.succession.finishLeft()
        return states(lab, old, new)

    setattr(owner, method, call)
    isOver = step == 7 or (step, isBefore) == (6, False)
    if isOver:
        directory.commit(member.key, *new, None, True)
    else:
        with pytest.raises(Deposed):
            directory.commit(member.key, *new, None, True)
    assert [states(lab, old, new)] == seen and word(lab) == 0
    successor = lab.directory(3)
    successor.commit(member.key, *new, None, True)
    assert successor.find("a") == (*new, True)


def test_anExchangeThatIsNoneIsNotFinished(lab: Lab) -> None:
    """The word of a damaged block may name anything."""
    directory, member = lab.directory(1), lab.member()
    first, second = lab.make(directory, member, "a"), lab.make(directory, member, "b")
    replacement = Replacement(lab.block)
    for exchange in (
        Exchange(first[0], second[0]),
        Exchange(first[0], first[0]),
        Exchange(first[0], lab.rows.count()),
        Exchange(-1, second[0]),
        Exchange(first[0], lab.block.geometry.maxBuffers + 5),
    ):
        replacement.begin(1, exchange)
        directory.succession.finishLeft()
        assert states(lab, first, second) == [layout.ROW_LIVE, layout.ROW_LIVE]
    assert directory.find("a") == (*first, True) and directory.find("b") == (*second, True)


def test_aBrokerBeginsItsTermInADamagedBlock(lab: Lab) -> None:
    """A row carries an epoch that has not come yet. Broken: every broker gave up at its
    first step.
    """
    directory, member = lab.directory(1), lab.member()
    old, new = lab.make(directory, member, "a"), lab.make(directory, member, "b")
    lab.rows.describe(new[0], describe("a"))
    state = lab.rows.state(old[0])
    atomics.exchangeSeqCst64(
        lab.block.rowAddress(old[0]), state._replace(epoch=layout.ROW_EPOCH.top).word()
    )
    Replacement(lab.block).begin(1, Exchange(old[0], new[0]))
    broker = lab.broker(member)
    assert not broker.isDeposed() and states(lab, old) == [layout.ROW_LIVE]


def test_aBrokerThatIsDeposedInTheMiddleOfAFenceKeepsTheRow(lab: Lab) -> None:
    """Its successor has stamped the word and not the rows. Broken: the broker took the
    new row from its creator, whose repeated commit the successor then refused.
    """
    directory, member = lab.directory(1), lab.member()
    old = lab.make(directory, member)
    new = half(lab, directory, member)
    epoch = layout.REPLACEMENT_EPOCH
    atomics.raiseField64(lab.block.replacementAddress, 8, 1, epoch.mask, epoch.put(2))
    with pytest.raises(Deposed):
        directory.commit(member.key, *new, None, True)
    assert states(lab, old, new) == [layout.ROW_LIVE, layout.ROW_CREATING]
    successor = lab.directory(2)
    successor.commit(member.key, *new, None, True)
    assert successor.find("a") == (*new, True) and lab.paths.segments() == [new]


def test_theWordIsFenced(lab: Lab) -> None:
    directory = lab.directory(1)
    lab.directory(2)
    for act in (
        lambda: directory.succession._word.begin(1, Exchange(0, 1)),
        lambda: directory.succession._word.end(1),
    ):
        with pytest.raises(Deposed):
            act()


def test_aSnapshotBetweenTwoVersionsVouchesForTheNewOne(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy has the old version already when the new one takes its name, or has it
    not yet; the rows before the new one may be copied already.
    """
    monkeypatch.setattr(journals, "SLACK_BYTES", 0)
    own = lab.member()
    broker = lab.afterMaintenance(lab.broker(own))
    directory, snapshot, epoch = broker._directory, broker._maintenance.snapshot, 1
    for copied in range(4):
        old = lab.make(directory, own, f"n{copied}", createdMs=9)
        os.close(segments.create(lab.paths, *old, PAGE))
        snapshot.want()
        snapshot._retryAt = 0.0
        for _ in range(copied):
            snapshot.workOnce()
        new = publish(lab, directory, own, f"n{copied}", createdMs=5)
        for _ in range(20):
            if snapshot.isUnderWay() or snapshot.isDue():
                snapshot.workOnce()
        assert not snapshot.isUnderWay()
        living, _, _ = vouching.livingRows([(lab.paths, epoch)])
        there = set(lab.paths.segmentKeys())
        ours = {
            (key.row, key.incarnation)
            for key, description in vouching.newestOfName(living, there).items()
            if description.name == f"n{copied}"
        }
        assert ours == {new}


@pytest.mark.parametrize("isLaterTerm", [False, True])
def test_aSnapshotSaysWhichVersionsAreReplaced(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, isLaterTerm: bool
) -> None:
    """The journal of the term before is still there, and vouches for the old version,
    which a process held to the end. Broken: of two versions the one counted whose
    description is younger.
    """
    monkeypatch.setattr(ControlBlock, "dropJournals", lambda *_: None)
    own = lab.member()
    old = publish(lab, lab.directory(1), own, createdMs=9)
    own.leases.take(*old, 1000)
    lab.elect(None)
    broker = lab.broker(own)
    epoch = lab.election.epoch()
    new = publish(lab, broker._directory, own, createdMs=5)
    if isLaterTerm:
        broker = lab.broker(own)
    lab.afterMaintenance(broker)
    snapshot = broker._maintenance.snapshot
    snapshot.want()
    snapshot._retryAt = 0.0
    for _ in range(20):
        if snapshot.isUnderWay() or snapshot.isDue():
            snapshot.workOnce()
    assert not snapshot.isUnderWay() and states(lab, old) == [layout.ROW_REPLACED]
    without = [(lab.paths, 1), (lab.paths, lab.election.epoch())]
    for read in (without, [*without[:1], (lab.paths, epoch), *without[1:]]):
        assert set(vouching.livingRows(read)[0]) == {SegmentKey(lab.paths.identity, *new)}


@pytest.mark.parametrize("origin", [None, "5", [5], 1.5])
def test_aRecordOfAReplacedRowWithAnotherIdeaOfItsOriginEndsNothing(
    lab: Lab, origin: object
) -> None:
    directory = lab.directory(1)
    old = publish(lab, directory, lab.member())
    directory._journal.append("replaced", row=old[0], incarnation=old[1], origin=origin)
    assert set(vouching.livingRows([(lab.paths, 1)])[0]) == {SegmentKey(lab.paths.identity, *old)}


@pytest.mark.parametrize("how", ["replaced", "freed", "exchanged"])
def test_aRowThatTheOldBlockShowsAsOverIsNotAdopted(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The journal could not be written, or has lost what it said. Broken: the older
    version was adopted, since its description is younger; or what was freed came back.
    """
    member = lab.member()
    directory = lab.directory(1)
    old = publish(lab, directory, member, createdMs=9)
    member.leases.take(*old, 1000)
    descriptions = {SegmentKey(lab.paths.identity, *old): lab.rows.description(old[0])}
    if how == "freed":
        monkeypatch.setattr(Journal, "note", lambda *_, **__: False)
        directory.free(*old)
        wanted = set()
    else:
        new = half(lab, directory, member, createdMs=5)
        wanted = {new}
        if how == "exchanged":
            dieAt(directory, 4, True, Died())
        with pytest.raises(Died) if how == "exchanged" else contextlib.nullcontext():
            directory.commit(member.key, *new, None, True)
        descriptions |= {
            SegmentKey(lab.paths.identity, *pair): lab.rows.description(pair[0]) for pair in wanted
        }
    living, unread, ended = dict(descriptions), set(descriptions), set[SegmentKey]()
    repair.Adoption(lab.block)._addRows(living, unread, ended)
    found = vouching.newestOfName(living, set(lab.paths.segmentKeys()))
    assert {(key.row, key.incarnation) for key in found} == wanted
    assert {(key.row, key.incarnation) for key in unread} == wanted


def test_aWordThatNamesNoExchangeEndsNoRow(lab: Lab) -> None:
    """Broken: a damaged word cost the buffer of another name its adoption."""
    directory, member = lab.directory(1), lab.member()
    first, second = publish(lab, directory, member, "a"), publish(lab, directory, member, "b")
    keys = {SegmentKey(lab.paths.identity, *pair) for pair in (first, second)}
    for exchange in (
        Exchange(first[0], second[0]),
        Exchange(first[0], lab.rows.count()),
        Exchange(lab.block.geometry.maxBuffers - 1, second[0]),
    ):
        Replacement(lab.block).begin(1, exchange)
        living, unread, ended = dict[SegmentKey, Any](), set[SegmentKey](), set[SegmentKey]()
        repair.Adoption(lab.block)._addRows(living, unread, ended)
        assert set(living) == keys and not ended


@pytest.mark.parametrize("replaced", [None, 5, [1], [1, "2"], [1, 2, 3], {"a": 1}, [[1], 2]])
def test_aRecordWithAnotherIdeaOfWhatItReplacesEndsNothing(lab: Lab, replaced: object) -> None:
    member = lab.member()
    directory = lab.directory(1)
    old = publish(lab, directory, member, "a")
    other = publish(lab, directory, member, "b")
    directory._journal.append(
        "live",
        row=other[0],
        incarnation=other[1],
        description=lab.rows.packed(other[0]),
        replaced=replaced,
    )
    living, _, _ = vouching.livingRows([(lab.paths, 1)])
    assert {(key.row, key.incarnation) for key in living} == {old, other}


def test_aDamagedVersionIsNotReplaced(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    old = lab.make(directory, member)
    row, incarnation = half(lab, directory, member)
    lab.rows.describe(old[0], describe("a"))
    lab.block.put(
        lab.block.rowsOffset + old[0] * layout.ROW_BYTES + layout.ROW_MODE_OFFSET, b"\xff"
    )
    with pytest.raises(ControlBlockInvalid):
        directory.commit(member.key, row, incarnation, None, True)
    assert states(lab, old, (row, incarnation)) == [layout.ROW_LIVE, layout.ROW_FREE]
