"""`broker/reclaiming.py`: the broker takes back everything that a dead member had, in
slices.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

import claiming
import pytest
from lab import Lab, Member, describe, reclaim, usage

from muninn.broker.broker import Broker
from muninn.control import generations, layout, leases, ownerlock
from muninn.control.members import MemberTable
from muninn.control.tickets import Tickets
from muninn.session.tables import Tables
from muninn.system import atomics
from support import Background


def test_everythingOfADeadMemberIsTakenBack(served: tuple[Lab, Broker, Member]) -> None:
    lab, broker, own = served
    dead = lab.member()
    directory = broker._directory
    held, half = lab.make(directory, own, "held"), directory.grant(dead.key, usage("half"), 0)
    dead.leases.take(*held, 1000)
    ticket = Tickets(lab.block.rowAddress(held[0]), lab.block.fencesAddress(held[0])).issue(
        dead.key
    )
    claiming.acquire(
        lab.block.rowAddress(held[0]) + layout.ROW_OWNER_LOCK_OFFSET, dead.key, lambda *_: False, 0
    )
    assert ticket is not None
    reclaim(broker, dead.key)
    reclaim(broker, dead.key)
    assert leases.countHolds(lab.block, lab.members, held[0]) == 0
    assert lab.rows.state(half[0]).state == layout.ROW_FREE
    assert (
        Tickets(lab.block.rowAddress(held[0]), lab.block.fencesAddress(held[0])).state(ticket)
        == layout.TICKET_POISONED
    )
    assert lab.members.state(dead.key.slot)[0] == layout.MEMBER_FREE


def test_rowsWhoseLastHolderDiesGo(served: tuple[Lab, Broker, Member]) -> None:
    """Broken: the reclaimer cleared the leases, and did not try to reclaim their rows."""
    lab, broker, own = served
    dead = lab.member()
    row, incarnation = lab.make(broker._directory, own, lifetime=describe().lifetime.LAST_CLOSE)
    dead.leases.take(row, incarnation, 1000)
    reclaim(broker, dead.key)
    assert lab.rows.state(row).state == layout.ROW_FREE


def test_rowsThatADeadHolderHadReleasedAreCollectedToo(served: tuple[Lab, Broker, Member]) -> None:
    """The member died between the release and its message. Broken: the broker looked
    only at the rows that the dead member still held.
    """
    lab, broker, own = served
    dead = lab.member()
    brief = lab.make(broker._directory, own, "brief", lifetime=describe().lifetime.LAST_CLOSE)
    dying = lab.make(broker._directory, own, "dying")
    leased = [dead.leases.take(*made, 1000) for made in (brief, dying)]
    broker._directory.free(*dying)
    for lease in leased:
        dead.leases.giveBack(lease)
    broker._reclaimer.leave(dead.key)
    broker._maintenance.tryReclaimUnheld()
    lab.afterMaintenance(broker)
    assert lab.rows.notFree() == []


def test_theSlotsOfDeadClaimersAndOfTheMarkedDeadAreGivenBack(
    served: tuple[Lab, Broker, Member],
) -> None:
    """Broken: the reclaimer did not look at slots in CLAIMING, and `adopt` not at slots
    that an earlier broker had marked dead.
    """
    lab, broker, own = served
    markedDead = lab.member()
    claimer = MemberTable(lab.block).claim(preferred=False)
    assert lab.members.markDead(markedDead.key)
    dead = broker._deathWatch.adopt(own.key)
    assert sorted(dead) == sorted([claimer, markedDead.key])
    for key in dead:
        reclaim(broker, key)
    assert lab.members.occupied() == [own.key.slot]


def test_theWaitersForADeadMemberAreWoken(
    served: tuple[Lab, Broker, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: `_poison` left out one of its wake-ups; the waiters' own looks hid that."""
    for module in (claiming, generations):
        monkeypatch.setattr(module, "_CHECK_NS", 60_000_000_000)
    lab, broker, own = served
    dead, waiter = lab.member(), lab.member()
    row, _ = lab.make(broker._directory, own)
    address = lab.block.rowAddress(row) + layout.ROW_OWNER_LOCK_OFFSET
    claiming.acquire(address, dead.key, lambda *_: False, 0)

    def isDead(slot: int, generation: int) -> bool:
        return not lab.members.isCurrent(dead.key)

    def check() -> None:
        if not lab.members.isCurrent(dead.key):
            raise InterruptedError

    reading = Background(
        lambda: generations.Generation(lab.block.rowAddress(row)).wait(0, None, check)
    )
    successor = Background(lambda: claiming.acquire(address, waiter.key, isDead, 60))
    reading.asleep()
    successor.asleep()
    reclaim(broker, dead.key)
    assert successor.ended() is claiming.Acquired.RECOVERED
    assert isinstance(reading.ended(), InterruptedError)


def test_aLeaseOnARowThatTheTableDoesNotHaveIsClearedAndNoMore(
    served: tuple[Lab, Broker, Member],
) -> None:
    """It runs in a child, since the broken code read outside of the block. Broken:
    every broker of the domain died of it, one after the other.
    """
    lab, broker, _ = served
    dead = lab.member()
    dead.leases.take(1_000_000, 1, 1000)
    child = os.fork()
    if child == 0:
        reclaim(broker, dead.key)
        os._exit(0 if lab.members.state(dead.key.slot)[0] == layout.MEMBER_FREE else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_anOwnerLockOfASlotBeyondTheTableHasNoOwner(
    served: tuple[Lab, Broker, Member],
) -> None:
    """Broken: the bytes behind the table were taken for a member; here for a living
    one, whose lock no process would ever get.
    """
    lab, _, own = served
    beyond = 40
    atomics.storeRelease64(lab.block.memberAddress(beyond), 7 << 32 | layout.MEMBER_LIVE)
    seen = SimpleNamespace(members=lab.members, key=own.key)
    assert Tables.isDead(seen, beyond, 7)  # type: ignore[arg-type]
    assert not Tables.isDead(seen, own.key.slot, own.key.generation)  # type: ignore[arg-type]


def test_anOwnerLockOfTheDeadHasNoOwnerForEver(lab: Lab) -> None:
    """Broken: the lock word kept the owner's slot and 19 bits of its generation, which
    a living member has again after 2^19 members of that slot.
    """
    broker, dead = lab.broker(lab.member()), lab.member()
    lab.rows.grow(1)
    address = lab.block.rowAddress(3) + layout.ROW_OWNER_LOCK_OFFSET
    claiming.acquire(address, dead.key, lambda *_: False, 0)
    dead.die()
    reclaim(broker, dead.key)
    owner = ownerlock.ownerOf(atomics.loadAcquire32(address))
    assert owner is not None and owner[0] >= layout.MAX_MEMBERS_LIMIT
    following = lab.member()
    assert (
        claiming.acquire(address, following.key, lambda slot, _: slot >= lab.members.count, 0)
        is claiming.Acquired.RECOVERED
    )
    ownerlock.markDead(address, dead.key)
    assert ownerlock.belongsTo(atomics.loadAcquire32(address), following.key), (
        "a late broker does not take it from its next owner"
    )


def _deadWithMany(
    lab: Lab, broker: Broker, own: Member, count: int = 200
) -> tuple[Member, list[int]]:
    """A dead member that was the last to hold so many buffers."""
    dead = lab.member()
    rows = [
        lab.make(broker._directory, own, f"b{number}", lifetime=describe().lifetime.LAST_CLOSE)
        for number in range(count)
    ]
    for row, incarnation in rows:
        dead.leases.take(row, incarnation, 1000)
    return dead, [row for row, _ in rows]


def _freeAmong(lab: Lab, rows: list[int]) -> int:
    return sum(lab.rows.state(row).state == layout.ROW_FREE for row in rows)


def test_aDeathWithManyLeasesIsReclaimedInSlices(served: tuple[Lab, Broker, Member]) -> None:
    """Broken: 5,000 buffers took one step of 0.77 s, in which the broker served no
    member and its heartbeat stood still.
    """
    lab, broker, own = served
    dead, rows = _deadWithMany(lab, broker, own)
    broker._reclaimer.leave(dead.key)
    assert 0 < _freeAmong(lab, rows) < len(rows)
    assert lab.members.state(dead.key.slot)[0] == layout.MEMBER_DEAD, "the slot comes last"
    beats = lab.election.heartbeat()
    assert broker.execute({"op": "ping"}, [])[0] == {"epoch": 1}
    broker._reclaimer.begin(dead.key)  # A second look finds the same death.
    steps = 0
    while lab.members.state(dead.key.slot)[0] != layout.MEMBER_FREE and steps < 20:
        broker.step(60)
        steps += 1
    assert (
        _freeAmong(lab, rows) == len(rows)
        and lab.members.state(dead.key.slot)[0] == layout.MEMBER_FREE
    )
    assert steps > 3 and lab.election.heartbeat() > beats + 3


def test_aSuccessorFinishesHalfDoneSteps(served: tuple[Lab, Broker, Member]) -> None:
    lab, broker, own = served
    dead, rows = _deadWithMany(lab, broker, own)
    broker._reclaimer.begin(dead.key)
    assert _freeAmong(lab, rows) < len(rows)
    lab.afterMaintenance(lab.broker(lab.member()))
    assert (
        _freeAmong(lab, rows) == len(rows)
        and lab.members.state(dead.key.slot)[0] == layout.MEMBER_FREE
    )


def test_aBrokerThatLeavesFinishesWhatItHasBegun(served: tuple[Lab, Broker, Member]) -> None:
    """The broker may be the last member. Broken: the slot of the dead member kept it
    from withdrawing the block.
    """
    lab, broker, own = served
    dead, rows = _deadWithMany(lab, broker, own)
    broker._reclaimer.begin(dead.key)
    broker.execute({"op": "leave"}, [])
    assert (
        _freeAmong(lab, rows) == len(rows)
        and lab.members.state(dead.key.slot)[0] == layout.MEMBER_FREE
    )
