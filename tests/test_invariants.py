"""The invariants I-1 to I-10 of the design, each with a test that fails when it is
taken away.

Each docstring gives the change to the code that made its test fail. Deposed brokers are
in-process objects with an older epoch (`lab.py`); a test that needs a death uses real
processes.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from lab import Lab, Member, bring, describe, reclaim, usage

import muninn
from muninn.broker import journal
from muninn.broker.deathwatch import Death
from muninn.broker.directory import Directory
from muninn.control import layout, leases, ownerlock
from muninn.control.members import MemberKey
from muninn.control.rows import Deposed
from muninn.control.rowstate import RowState
from muninn.errors import BufferFreed, ControlBlockInvalid
from muninn.session.membership import current
from muninn.storage import segments
from muninn.system import atomics, descriptors
from muninn.system.processes import openPidfd, processIsGone, startTimeOf
from muninn.terms import Lifetime
from support import Actor, ActorError, eventually, leftovers

Start = Callable[..., Actor]


# --- I-1: a refcount is a scan ------------------------------------------------------


def test_i1TheRefcountIsTheNumberOfTheLeasesThatThereAre(lab: Lab) -> None:
    """Broken: `countHolds` returned a counter that `take` raised and `release` lowered;
    it did not see that a slot was cleared for a dead member.
    """
    directory, creator, other = lab.directory(1), lab.member(), lab.member()
    row, incarnation = lab.make(directory, creator)
    for member in (creator, other, other):
        member.leases.take(row, incarnation, 1000)
    assert leases.countHolds(lab.block, lab.members, row) == 3
    leases.clearDead(lab.block, lab.members, other.key)
    assert leases.countHolds(lab.block, lab.members, row) == 1


def test_i1AKilledHolderLeavesNoReference(domain: str, actor: Start) -> None:
    """Broken: the broker waited for goodbyes: it followed no pidfd and swept no slot."""
    buffer = muninn.share(b"x", name="a", lifetime="lastClose")
    holder = actor("held = muninn.open('a')")
    buffer.close()
    del buffer
    assert [each["name"] for each in muninn.listBuffers()] == ["a"]
    holder.kill()
    eventually(
        lambda: not muninn.listBuffers() and not leftovers(domain),
        "the buffer went with its last holder",
    )


def test_i1TheNextMemberOfASlotInheritsNoReference(lab: Lab) -> None:
    """Broken: `Reclaimer.begin` without `clearDead`. The leases of the dead member
    count again, if only until the slot's next member overwrites them.
    """
    broker = lab.afterMaintenance(lab.broker(own := lab.member()))
    dead = lab.member()
    row, incarnation = lab.make(broker._directory, own)
    for _ in range(3):
        dead.leases.take(row, incarnation, 1000)
    reclaim(broker, dead.key)
    area = lab.block.areaAddress(dead.key.slot)
    assert [atomics.loadSeqCst64(area + index * layout.LEASE_BYTES) for index in range(3)] == [
        0,
        0,
        0,
    ]
    assert lab.member().key.slot == dead.key.slot


def test_i1QuotaUseIsTheSumOverTheRows(lab: Lab) -> None:
    """Broken: `Catalog` began with empty sums instead of adopting the rows."""
    directory, member = lab.directory(1), lab.member()
    for name in "abc":
        lab.make(directory, member, name)
    successor = lab.directory(2)
    assert successor.catalog.quotas._sums[describe().mode, "default"] == 3 * describe().segmentBytes


# --- I-2: lease first and state second, state first and leases second ---------------


def test_i2AFreeNeverReclaimsWhatAnOpenerHolds(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An opener takes its lease at each point of a free. Broken: `tryReclaim` counted
    the leases before `PROBING`, and used that count.
    """
    for point in range(6):
        directory, creator, opener = lab.directory(10 + point), lab.member(), lab.member()
        row, incarnation = lab.make(
            directory, creator, f"n{point}", lifetime=describe().lifetime.LAST_CLOSE
        )
        steps = itertools.count()
        opened: list[bool] = []

        def openNow(
            step: int,
            row: int = row,
            incarnation: int = incarnation,
            opener: Member = opener,
            opened: list[bool] = opened,
        ) -> None:
            if step == point and not opened:
                index = opener.leases.take(row, incarnation, 1000)
                opened.append(directory.rows.isLive(row, incarnation))
                if not opened[0]:
                    opener.leases.giveBack(index)

        change, isHeld = directory.rows.change, directory.holders.isHeld

        def changing(*arguments: object, **changes: int) -> object:
            openNow(next(steps))
            result = change(*arguments, **changes)  # type: ignore[arg-type]
            openNow(next(steps))
            return result

        def counting(row: int) -> bool:
            openNow(next(steps))
            result = isHeld(row)
            openNow(next(steps))
            return result

        monkeypatch.setattr(directory.rows, "change", changing)
        monkeypatch.setattr(directory.holders, "isHeld", counting)
        state = directory.tryReclaim(row)
        if opened == [True]:
            assert state.state in (layout.ROW_LIVE, layout.ROW_PROBING), (
                f"reclaimed under its opener at point {point}"
            )
            assert (
                lab.rows.state(row).state == layout.ROW_LIVE
                or directory.tryReclaim(row).state == layout.ROW_LIVE
            )
        else:
            assert state.state == layout.ROW_FREE
        for each in (creator, opener):
            leases.clearDead(lab.block, lab.members, each.key)
            lab.members.markDead(each.key)
            lab.members.release(each.key, layout.MEMBER_DEAD)


@pytest.mark.parametrize("state", [layout.ROW_PROBING, layout.ROW_DYING, layout.ROW_DEAD])
@pytest.mark.parametrize("held", [False, True])
def test_i2AnyBrokerMayFinishOrAbortAHalfDoneFree(lab: Lab, state: int, held: bool) -> None:
    """Broken: `_finishRows` left DYING rows to their broker; `tryReclaim` reclaimed a
    held PROBING row.
    """
    directory, member = lab.directory(1), lab.member()
    row, incarnation = lab.make(directory, member)
    os.close(segments.create(lab.paths, row, incarnation, layout.PAGE_BYTES))
    bring(directory.rows, row, state)
    if held:
        member.leases.take(row, incarnation, 1000)
    successor = lab.directory(2)
    expected = {
        (layout.ROW_PROBING, True): layout.ROW_LIVE,
        (layout.ROW_DYING, True): layout.ROW_DYING,
    }.get((state, held), layout.ROW_FREE)
    assert successor.tryReclaim(row).state == expected
    assert (lab.paths.segments() == []) == (expected == layout.ROW_FREE)


def test_i2AStaleExpectationDoesNotChangeTheRow(lab: Lab) -> None:
    """Broken: `change` compared the state only, not the word."""
    directory, member = lab.directory(1), lab.member()
    row, incarnation = lab.make(directory, member)
    stale = directory.rows.state(row)
    directory.free(row, incarnation)
    lab.make(directory, member)
    assert directory.rows.state(row).state == layout.ROW_LIVE
    with pytest.raises(Deposed):
        directory.rows.change(row, stale, 1, layout.ROW_DYING)


# --- I-3: the epoch fences ----------------------------------------------------------


@pytest.fixture
def deposed(lab: Lab) -> Iterator[tuple[Lab, Directory, Member, dict[str, tuple[int, int]]]]:
    """A broker of epoch 1 with rows in every state, and its successor of epoch 2."""
    old, member = lab.directory(1), lab.member()
    made = {}
    for name in ("live", "probing", "dying", "dead"):
        made[name] = lab.make(old, member, name)
    for name, state in (
        ("probing", layout.ROW_PROBING),
        ("dying", layout.ROW_DYING),
        ("dead", layout.ROW_DEAD),
    ):
        row, _ = made[name]
        bring(old.rows, row, state)
    made["creating"] = old.grant(member.key, usage("creating"), 0)
    lab.rows.describe(made["creating"][0], describe("creating"))
    lab.directory(2)
    yield lab, old, member, made


def _words(lab: Lab) -> list[int]:
    geometry = lab.block.geometry
    index = [
        atomics.loadAcquire64(lab.block.address + geometry.indexOffset + slot * 8)
        for slot in range(geometry.indexSlots)
    ]
    return (
        [lab.rows.word(row) for row in range(lab.rows.count())]
        + index
        + [atomics.loadAcquire64(lab.block.rowsReadyAddress)]
    )


@pytest.mark.parametrize(
    "act",
    [
        lambda old, member, made: old.free(*made["live"]),
        lambda old, member, made: old.tryReclaim(made["probing"][0]),
        lambda old, member, made: old.tryReclaim(made["dying"][0]),
        lambda old, member, made: old.tryReclaim(made["dead"][0]),
        lambda old, member, made: old.abandon(member.key, *made["creating"]),
        lambda old, member, made: old.orphaned(made["creating"][0]),
        lambda old, member, made: old.commit(member.key, *made["creating"], None),
        lambda old, member, made: old.grant(member.key, usage("new"), 0),
        lambda old, member, made: old.rows.grow(1),
    ],
    ids=[
        "free",
        "settleProbing",
        "settleDying",
        "settleDead",
        "abandon",
        "orphaned",
        "commit",
        "grant",
        "grow",
    ],
)
def test_i3WhatADeposedBrokerStillDoesFails(
    deposed: tuple[Lab, Directory, Member, dict[str, tuple[int, int]]],
    act: Callable[[Directory, Member, dict[str, tuple[int, int]]], object],
) -> None:
    """Broken: `fence` did nothing (all calls but grow fail); `change` without the
    comparison of epochs (all); `grow` without it (grow); `_reclaim` unlinked before it
    had made the row DEAD.
    """
    lab, old, member, made = deposed
    before = [word for word in _words(lab) if word]
    for each in made.values():
        os.close(segments.create(lab.paths, *each, layout.PAGE_BYTES))
    with pytest.raises(Deposed):
        act(old, member, made)
    # An index entry is a hint, and the only thing that a late commit may leave.
    entries = {word for word in _words(lab) if word} - set(before)
    assert not {
        word
        for word in entries
        if word & 0xF in range(6)
        and word in [lab.rows.word(row) for row in range(lab.rows.count())]
    }
    assert [lab.rows.state(row).state for row, _ in made.values()] == [2, 3, 4, 5, 1]
    there = set(lab.paths.segments())
    assert there >= {made[name] for name in ("live", "probing", "dying", "creating")}, (
        "unlinked before the broker had changed the row to DEAD"
    )


def test_i3AWordRememberedFromBeforeTheFenceIsStale(lab: Lab) -> None:
    """The race itself: read before, change after. Broken: `fence` did nothing."""
    old, member = lab.directory(1), lab.member()
    row, _ = lab.make(old, member)
    remembered = old.rows.state(row)
    lab.directory(2)
    with pytest.raises(Deposed):
        old.rows.change(row, remembered, 1, layout.ROW_DYING)


def test_i3RowsThatASuccessorAddsAreNotTheOldBrokers(lab: Lab) -> None:
    """Broken: `grow` did not stamp the rows that it adds: they had epoch 0, so any
    broker could change them.
    """
    old = lab.directory(1)
    new = lab.directory(2)
    row = new.rows.grow(2)
    with pytest.raises(Deposed):
        old.rows.change(row, old.rows.state(row), 1, layout.ROW_CREATING)


def test_i3ADeposedBrokerTakesNoNameOfWhatLives(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker was deposed between PROBING and the end of the name. Broken: it
    removed the name first, and then could not change the row.
    """
    old, member, holder = lab.directory(1), lab.member(), lab.member()
    row, incarnation = lab.make(old, member, "kept", lifetime=Lifetime.LAST_CLOSE)
    change = old.rows.change

    def deposed(row: int, state: RowState, epoch: int, to: int, **changes: int) -> RowState:
        if to == layout.ROW_DEAD:
            new = lab.directory(2)
            holder.leases.take(row, incarnation, 1000)
            assert new.tryReclaim(row).state == layout.ROW_LIVE
        return change(row, state, epoch, to, **changes)

    monkeypatch.setattr(old.rows, "change", deposed)
    with pytest.raises(Deposed):
        old.tryReclaim(row)
    assert old._index.candidates(b"kept") == [(row, incarnation)]


def test_i3TheJournalOfADeposedBrokerIsADeadFile(lab: Lab) -> None:
    """Broken: `Journal` opened one path for all epochs."""
    old = lab.directory(1)
    new = lab.directory(2)
    new._journal.append("live", row=2)
    old._journal.append("live", row=1)
    assert [record["row"] for record in journal.read(lab.paths, 2)] == [2]


def test_i3ALateSlotCleanupLeavesTheNextMemberItsLeases(lab: Lab) -> None:
    """Broken: `release` set `leaseHigh` to 0 before its CAS, as it once did. A scan
    then misses the lease, and the memory is reclaimed under its holder.
    """
    directory, creator, dead = lab.directory(1), lab.member(), lab.member()
    row, incarnation = lab.make(directory, creator)
    assert lab.members.markDead(dead.key)
    lab.members.release(dead.key, layout.MEMBER_DEAD)
    successor = lab.member()
    assert successor.key.slot == dead.key.slot
    successor.leases.take(row, incarnation, 1000)
    leases.clearDead(lab.block, lab.members, dead.key)
    lab.members.release(dead.key, layout.MEMBER_DEAD)
    assert not lab.members.markDead(dead.key)
    assert lab.members.isCurrent(successor.key)
    assert leases.countHolds(lab.block, lab.members, row) == 1


def test_i3ALateIndexRemovalLeavesTheNextBuffersEntry(lab: Lab) -> None:
    """Broken: the index entry without the incarnation."""
    directory, member = lab.directory(1), lab.member()
    row, incarnation = lab.make(directory, member)
    directory.free(row, incarnation)
    again = lab.make(directory, member)
    assert again[0] == row
    directory._index.remove(b"a", row, incarnation)
    assert directory._index.candidates(b"a") == [again]


def test_i3ADeposedBrokerDoesNotDrain(lab: Lab) -> None:
    """Broken: `fence` did not change the drain word, so a broker of the old epoch could
    still change it.
    """
    old = lab.afterMaintenance(lab.broker(first := lab.member()))
    new = lab.afterMaintenance(lab.broker(lab.member()))
    with pytest.raises(Deposed):
        old._handlers["drain"](old._own, {"on": True, "reason": ""}, [])
    assert not atomics.loadAcquire64(lab.block.drainAddress) & 1
    with pytest.raises(Deposed):
        old.execute({"op": "ping"}, [])
    assert new.execute({"op": "ping"}, [])[0] == {"epoch": 2}
    assert first.key.slot == 0


# --- I-4: a TTL refuses, and reclaims nothing ---------------------------------------


def test_i4AnExpiredLeaseKeepsItsMemory(domain: str, actor: Start) -> None:
    """Broken: `scan64` in `countHolds` left leases out whose expiry had passed."""
    holder = actor(
        "import gc\nbuffer = muninn.share(np.arange(4), name='a', lifetime='lastClose', renew='onUse')\nview = buffer.array",
        MUNINN_LEASE_TTL_MS="50",
    )
    holder.do("time.sleep(0.2)")
    with pytest.raises(ActorError) as caught:
        holder.do("buffer.read()")
    assert caught.value.kind == "LeaseExpired"
    assert [each["name"] for each in muninn.listBuffers()] == ["a"]
    assert muninn.open("a").array.sum() == 6
    assert holder.do("int(view.sum())") == 6


def test_i4ARevokedLeaseIsNoReclaim(lab: Lab) -> None:
    """Broken: `revoke` cleared the lease."""
    directory, member = lab.directory(1), lab.member()
    row, incarnation = lab.make(directory, member)
    index = member.leases.take(row, incarnation, 0)
    (hold,) = leases.scanHolds(lab.block, lab.members, row)
    assert leases.revoke(lab.block, hold, "evicted")
    assert member.leases.revocation(index) == "evicted"
    directory.free(row, incarnation)
    assert lab.rows.state(row).state == layout.ROW_DYING
    member.leases.giveBack(index)
    assert directory.tryReclaim(row).state == layout.ROW_FREE


# --- I-5: suspected and confirmed
# -------------------------------------------------------


def _keyOf(pid: int) -> MemberKey:
    member = current()
    return next(
        key for key in member.members.live() if member.members.identity(key.slot).pid == pid
    )


def test_i5AZombieIsConfirmedDead(domain: str, actor: Start) -> None:
    """Broken: `processIsGone` asked `kill(pid, 0)`, which succeeds on zombies."""
    muninn.domainInfo()
    held = muninn.share(b"x", name="a", lifetime="lastClose")
    zombie = actor("held = muninn.open('a')")
    held.close()
    del held
    os.kill(zombie.pid, signal.SIGKILL)  # no parent waits for the zombie
    eventually(lambda: not muninn.listBuffers(), "the zombie's lease is cleared")
    os.kill(zombie.pid, 0)
    child = os.fork()
    if child == 0:
        os._exit(0)
    started = startTimeOf(child)
    eventually(lambda: processIsGone(child, started), "a zombie of our own is gone too")
    os.kill(child, 0)
    os.waitpid(child, 0)


def test_i5AStoppedProcessIsAlive(domain: str, actor: Start) -> None:
    """Broken: `isConfirmedDead` took a broker's silence for a death."""
    member = current()
    other = actor().join()
    key = _keyOf(other.pid)
    other.stop()
    assert not member.members.isConfirmedDead(key)
    assert not member.members.isSuspectedDead(key)
    other.resume()
    other.kill()
    eventually(lambda: member.members.isConfirmedDead(key), "the death is confirmed")


def test_i5AStrangerWithTheSamePidIsNotTheMember() -> None:
    """Broken: `processIsGone` ignored the start time."""
    own = os.getpid()
    assert not processIsGone(own, startTimeOf(own))
    assert processIsGone(own, startTimeOf(own) - 1)
    assert openPidfd(own, startTimeOf(own) - 1).number < 0
    assert processIsGone((1 << 22) - 7, 1)


def test_i5WithoutADescriptorNoMemberIsDead(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a pidfd that could not be opened (EMFILE) counted as a death, as it once
    did, and the successor reclaimed every living member.
    """
    import errno

    member = current()
    other = actor("held = muninn.share(b'x', name='a')")
    key = _keyOf(other.pid)
    monkeypatch.setattr(atomics, "pidfdOpen", lambda pid: descriptors.Descriptor(-errno.EMFILE))
    monkeypatch.setattr(member.block.lockFile, "slotIsLocked", lambda slot: False)
    assert not member.members.isConfirmedDead(key)
    from muninn.broker.deathwatch import DeathWatch

    assert DeathWatch(member.members, lambda fd: None, lambda fd: None).adopt(member.key) == []


def test_i5ALockThatIsHeldIsNoDeath(domain: str, actor: Start) -> None:
    """A readable pidfd alone proves nothing: the kernel may still be closing files.
    Broken: `isConfirmedDead` without the byte lock.
    """
    member = current()
    other = actor().join()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    pidfd = os.pidfd_open(ended.pid)
    eventually(lambda: atomics.pidfdDead(pidfd) == 1, "a readable pidfd")
    assert not member.members.isConfirmedDead(_keyOf(other.pid), pidfd)
    ended.wait()
    os.close(pidfd)


def test_i5AnExecIsSuspectedAndConfirmed(domain: str, actor: Start) -> None:
    """The process and its pidfd live on after an exec, but nothing is left of the
    member.

    Broken: leases and locks of the program before the exec stayed until its successors
    ended.
    """
    other = actor().join()
    member = current()
    key = _keyOf(other.pid)
    pidfd = os.pidfd_open(other.pid)
    other.begin("os.execv('/bin/sleep', ['sleep', '60'])")
    eventually(lambda: member.members.isSuspectedDead(key), "the robust word is marked")
    eventually(
        lambda: not member.block.lockFile.slotIsLocked(key.slot), "the byte lock is gone too"
    )
    assert member.members.isConfirmedDead(key, pidfd) and member.members.isConfirmedDead(key)
    eventually(lambda: muninn.domainInfo()["brokerPid"] == os.getpid(), "a successor")
    os.close(pidfd)


def test_i5NothingIsReclaimedBeforeTheConfirmation(lab: Lab) -> None:
    """Broken: `DeathWatch.confirm` confirmed without asking `isConfirmedDead`."""
    broker = lab.afterMaintenance(lab.broker(lab.member()))
    other = lab.member()
    pidfd = os.pidfd_open(os.getpid())
    broker._deathWatch.follow(other.key, pidfd)
    assert broker._deathWatch.confirm(pidfd) is Death.SUSPECTED
    assert lab.members.isCurrent(other.key)


# --- I-6: a stuck broker is deposed -------------------------------------------------


def test_i6AStandingHeartbeatIsTimedByTheObserver(lab: Lab) -> None:
    """Broken: `StallDetector.isStalled` was never true (or compared clocks that the
    broker wrote).
    """
    from muninn.session.clientcontext import ClientContext
    from muninn.session.stalldetector import StallDetector

    member = lab.member()
    context = ClientContext(
        lab.paths,
        member.table,
        lab.election,
        member.key,
        1,
        30,
        1000,
        lambda: None,
        lambda term: None,
        lambda: False,
        list,
    )
    lab.elect(5)
    stall = StallDetector(context)
    assert not stall.isStalled()
    eventually(stall.isStalled, "a heartbeat that stands still is over")
    lab.election.beat()
    assert not stall.isStalled()


# --- I-7: half-done changes are finished --------------------------------------------


def test_i7ASuccessorFinishesWhateverStepTheBrokerDiedAt(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker dies after each step of a free, and so does its successor.

    Broken: `_reclaim` freed the row before it unlinked the segment; `_finishRows`
    skipped a state.
    """

    class Died(Exception):
        pass

    def dying(left: int) -> Callable[[Directory, int], None]:
        def act(directory: Directory, row: int) -> None:
            counter = itertools.count()

            def cut(function: Callable[..., object]) -> Callable[..., object]:
                def run(*arguments: object, **keywords: object) -> object:
                    if next(counter) >= left:
                        raise Died
                    return function(*arguments, **keywords)

                return run

            with monkeypatch.context() as patch:
                patch.setattr(directory.rows, "change", cut(directory.rows.change))
                patch.setattr(segments, "unlink", cut(segments.unlink))
                patch.setattr(directory._index, "remove", cut(directory._index.remove))
                patch.setattr(directory._journal, "note", cut(directory._journal.note))
                try:
                    directory.free(row, directory.rows.state(row).incarnation)
                except (Died, BufferFreed):
                    return

        return act

    epoch = 0
    member = lab.member()
    for first, second in itertools.product(range(9), range(5)):
        broker = lab.directory(epoch := epoch + 1)
        row, incarnation = lab.make(broker, member)
        os.close(segments.create(lab.paths, row, incarnation, layout.PAGE_BYTES))
        dying(first)(broker, row)
        dying(second)(lab.directory(epoch := epoch + 1), row)
        last = lab.directory(epoch := epoch + 1)
        if last.tryReclaim(row).state == layout.ROW_LIVE:
            last.free(row, incarnation)
        assert last.rows.state(row).state == layout.ROW_FREE, (first, second)
        assert lab.paths.segments() == [] and last.find("a") is None, (first, second)


def test_i7EachStepMayBeRepeated(lab: Lab) -> None:
    """Broken: `commit` refused a LIVE row; `grant` made a second row for a repeated
    request.
    """
    directory, member = lab.directory(1), lab.member()
    row, incarnation = directory.grant(member.key, usage(), 0)
    assert directory.grant(member.key, usage(), 0) == (row, incarnation)
    directory.rows.describe(row, describe())
    directory.commit(member.key, row, incarnation, None)
    directory.commit(member.key, row, incarnation, None)
    index = member.leases.take(row, incarnation, 1000)
    directory.free(row, incarnation)
    directory.free(row, incarnation)
    member.leases.giveBack(index)
    directory.tryReclaim(row)
    directory.tryReclaim(row)
    directory.abandon(member.key, row, incarnation)
    assert directory.rows.state(row).state == layout.ROW_FREE


# --- I-8: hostile bytes -------------------------------------------------------------


def test_i8BytesAreCopiedBeforeTheyAreChecked(lab: Lab) -> None:
    """Broken: `packed` returned a view, which changes after the check."""
    directory, member = lab.directory(1), lab.member()
    row, _ = lab.make(directory, member)
    raw = lab.rows.packed(row)
    lab.rows.describe(row, describe("other"))
    assert type(raw) is bytes and b"other" not in raw


def test_i8ADamagedRowIsATypedError(lab: Lab) -> None:
    """Broken: `unpacked` without its checks: an `IndexError`, or sizes that are mapped."""
    directory, member = lab.directory(1), lab.member()
    row, _ = lab.make(directory, member)
    start = lab.block.geometry.rowsOffset + row * layout.ROW_BYTES
    whole = bytes(lab.block.bytes[start : start + layout.ROW_BYTES])
    for offset, value in (
        (layout.ROW_MODE_OFFSET, 9),
        (layout.ROW_NDIM_OFFSET, 200),
        (layout.ROW_NAME_OFFSET, 0xFF),
        (layout.ROW_TRANSPORT_OFFSET, 77),
        (layout.ROW_SIZE_OFFSET + 7, 0x7F),
    ):
        lab.block.bytes[start + offset] = value
        with pytest.raises(ControlBlockInvalid):
            lab.rows.description(row)
        lab.block.bytes[start : start + layout.ROW_BYTES] = whole


# --- I-9: fork makes a stranger -----------------------------------------------------


def test_i9AForkedChildJoinsAnew(domain: str) -> None:
    """Broken: `Identity` was on a page without MADV_WIPEONFORK: the child released its
    parent's leases, and renewed them in its name.
    """
    buffer = muninn.share(b"x" * 10, name="a", lifetime="lastClose")
    parent = current()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            again = muninn.open("a")
            mine = current()
            assert parent.isStale() and mine is not parent and mine.key != parent.key
            assert mine.members.identity(mine.key.slot).pid == os.getpid()
            again.close()
            os.write(writing, b"done")
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    assert os.read(reading, 4) == b"done"
    os.close(reading)
    assert os.waitpid(child, 0)[1] == 0
    assert not parent.isStale() and bytes(buffer.array) == b"x" * 10
    eventually(lambda: len(muninn.domainInfo()["members"]) == 1, "the child's slot is reclaimed")
    assert [each["name"] for each in muninn.listBuffers()] == ["a"]


def test_i9AForkedChildOfTheBrokerDoesNotKeepItAlive(domain: str, actor: Start) -> None:
    """The child of a killed broker holds copies of all its descriptors. Broken:
    open-file-description locks instead of POSIX ones.
    """
    broker = actor("held = muninn.share(b'x', name='a', lifetime='lastClose')")
    follower = actor().join()
    child = broker.do(
        "child = os.fork()\nif child == 0:\n    time.sleep(600)\n    os._exit(0)\nchild"
    )
    try:
        broker.kill()
        assert follower.do("muninn.share(b'y', name='b').name") == "b"
        # The child maps the memory, so the list shows it as freed.
        eventually(
            lambda: (
                [each["name"] for each in muninn.listBuffers() if each["state"] == "live"] == ["b"]
            ),
            "the buffers that the dead broker held are gone",
        )
        assert [each["pid"] for each in muninn.domainInfo()["members"]].count(broker.pid) == 0
    finally:
        os.kill(child, signal.SIGKILL)


# --- I-10: no end of a process is special
# -----------------------------------------------


@pytest.mark.parametrize("end", ["leave", "kill", "exit", "abort", "stopThenKill"])
def test_i10EveryEndIsTheSame(domain: str, actor: Start, end: str) -> None:
    """Broken: only the member's own `leave` called `Reclaimer.begin`, so no other end
    cleaned up.
    """
    muninn.domainInfo()
    member = actor(
        "held = [muninn.share(b'x' * 100, name=f'n{i}', lifetime='lastClose') for i in range(3)]"
    )
    assert len(muninn.listBuffers()) == 3
    if end == "leave":
        assert member.leave() == 0
    elif end == "kill":
        member.kill()
    elif end == "stopThenKill":
        member.stop()
        member.kill()
    else:
        member.begin("os._exit(3)" if end == "exit" else "os.abort()")
    eventually(
        lambda: not muninn.listBuffers() and leftovers(domain) == [], "nothing is left of it"
    )
    eventually(lambda: len(muninn.domainInfo()["members"]) == 1, "its slot is free")


def test_i10AMemberKilledWhileItClaimsLeavesItsSlot(lab: Lab) -> None:
    """The dead claimer has no byte lock and no robust word yet. Broken: `claim` took
    FREE slots only, as it once did.
    """
    address = lab.block.memberAddress(0)
    atomics.exchangeSeqCst64(address, 5 << 32 | layout.MEMBER_CLAIMING)
    member = lab.member()
    assert member.key == MemberKey(0, 6)


def test_i10AnOwnerLockSurvivesItsOwner(domain: str, actor: Start) -> None:
    """Broken: `take` waited for a release even if the owner had died."""
    owner = actor("lock = muninn.Lock('l')\nlock.acquire()")
    lock = muninn.Lock("l")
    with pytest.raises(TimeoutError):
        lock.acquire(timeout=0.05)
    owner.kill()
    assert lock.acquire(timeout=30) and lock.recovered
    lock.release()
    assert ownerlock.ownerOf(0) is None
    assert ctypes.sizeof(ctypes.c_uint32) == 4
