"""`broker/maintenance.py`: the maintenance of a broker, also of one that is never idle."""

from __future__ import annotations

import os
from types import SimpleNamespace

import msgpack
import pytest
from lab import Lab, bring, describe, usage
from peers import Peer

from muninn.broker import journal, snapshot
from muninn.broker.vouching import livingRows
from muninn.control import layout
from muninn.errors import HostMemoryFull, OwnerDied
from muninn.storage import segments
from muninn.terms import Lifetime, Mode
from muninn.wire import requests


def test_isDoneAlthoughThereIsAlwaysSomethingToServe(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: maintenance waited for a step without events, so a broker that always had
    requests never looked for unreported deaths.
    """
    broker = lab.afterMaintenance(lab.broker(lab.member()))
    maintenance, done = broker._maintenance, []
    monkeypatch.setattr(maintenance, "collectLost", lambda: done.append("swept"))
    maintenance._sweepAt = 0.0
    maintenance._chores.append(lambda: done.append("chore"))
    for _ in range(100):
        os.eventfd_write(broker._server._wakeFd, 1)
        broker.step(0)
    assert done == ["chore", "swept"]


def test_aBufferReportedAsLostCanBeMadeAnewAtOnce(lab: Lab) -> None:
    """Broken: the row of lost memory kept its name until the next sweep, so `OwnerDied`
    was followed by `BufferExists` for seconds.
    """
    broker = lab.afterMaintenance(lab.broker(member := lab.member()))
    directory = broker._directory
    row, incarnation = directory.grant(member.key, usage(mode=Mode.FAST, gpu=0), 1 << 20)
    directory.rows.describe(row, describe(mode=Mode.FAST, gpu=0, transport="memfd"))
    directory.commit(member.key, row, incarnation, os.memfd_create("lost"))
    directory.descriptorStore.drop(row, incarnation)
    reply, _ = broker.execute({"op": "fetch", "row": row, "incarnation": incarnation}, [])
    assert reply["error"] == OwnerDied.number
    assert directory.grant(member.key, usage(), 0)[1] != incarnation


def test_segmentsThatNoRowVouchesForAreCollected(lab: Lab) -> None:
    """Also segments of an earlier buffer of a live row. Broken: `_collectOrphans` did
    not compare the incarnation.
    """
    directory, member = lab.directory(1), lab.member()
    row, incarnation = lab.make(directory, member)
    for segment in ((row, incarnation), (row, incarnation + 1), (row + 1, 1), (9999, 1)):
        os.close(segments.create(lab.paths, *segment, layout.PAGE_BYTES))
    lab.elect(5)
    lab.afterMaintenance(lab.broker(member))
    assert lab.paths.segments() == [(row, incarnation)]


def test_theRemainsOfPredecessorsAreReclaimedInSlices(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the broker removed all orphans in one step, and 256 rows in one;
    meanwhile it served no member, and its heartbeat stood still.
    """
    member = lab.member()
    old = lab.directory(1)
    for number in range(100):
        row, _ = lab.make(old, member, f"b{number}")
        old.rows.change(row, old.rows.state(row), 1, layout.ROW_DYING)
        os.close(segments.create(lab.paths, row, 9, layout.PAGE_BYTES))
    lab.elect(5)
    broker, done = lab.broker(member), [0]
    for owner, name in ((segments, "unlink"), (broker._directory, "tryReclaim")):
        real = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *given, real=real: (done.append(done.pop() + 1), real(*given))[1]
        )
    most = 0
    while broker._maintenance.isPending():
        done[:] = [0]
        broker._maintenance.workOnce()
        most = max(most, done[0])
    assert most <= 2 * 32, "reclaiming a row removes its segment too"
    assert lab.paths.segments() == [] and broker._directory.rows.ending(0, 100) == []


def test_theSocketsOfPredecessorsAreRemoved(lab: Lab) -> None:
    """Broken: the broker looked for the sockets of descriptor servers under another
    name.
    """
    lab.elect(2)
    for path in (lab.paths.socketPath(1), lab.paths.descriptorServerPath(1)):
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    epoch = lab.afterMaintenance(lab.broker(lab.member()))._term.epoch
    for kind in ("broker", "descriptorServer"):
        assert lab.paths.epochsOf(kind) == [epoch]


def test_brokersThatDieBeforeTheirCopyIsWholeLeaveNothing(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """Each term leaves neither a copy nor a page. Broken: each left a journal without a
    useful record, and its copy until the successor's third piece of maintenance.
    """
    first = lab.afterMaintenance(lab.broker(member := lab.member()))
    lab.make(first._directory, member, "live")
    for _ in range(5):
        broker = lab.broker(member)
        assert lab.paths.copies() == [], "before it needs room"
        while not broker._maintenance.snapshot.isUnderWay():
            broker._maintenance.workOnce()
        assert len(lab.paths.copies()) == 1, "and now it is killed"
        broker._journal._copy = None
        assert len(lab.paths.epochsOf("journal")) == 2
    assert "written anew" not in caplog.text, "its own journal was not removed"
    assert len(livingRows(lab.paths.journals())[0]) == 1


def test_aNewTermHasAJournalOfItsOwnAndDropsTheOldOnes(lab: Lab) -> None:
    """Broken: the broker took no snapshot, and dropped the older journals before it had
    read the names in them.
    """
    member = lab.member()
    old = lab.broker(member)
    lab.make(old._directory, member, "live")
    half = old._directory.grant(member.key, usage("half"), 0)
    new = lab.broker(lab.member())
    while new._maintenance.isPending():
        new._maintenance.workOnce()
    assert lab.paths.epochsOf("journal") == [2]
    assert [record["op"] for record in journal.read(lab.paths, 2)] == ["begin", "create", "live"]
    assert new._directory.grant(member.key, usage("half"), 0) == half


def test_theOldJournalsStayWhenThereIsNoRoomForANewOne(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the broker dropped them although the snapshot was not complete."""
    member = lab.member()
    lab.make(lab.broker(member)._directory, member, "live")
    new = lab.broker(lab.member())

    def full(records: object) -> None:
        raise HostMemoryFull("as on a full /dev/shm")

    with monkeypatch.context() as patch:
        patch.setattr(new._journal, "copy", full)
        lab.afterMaintenance(new)
        assert lab.paths.epochsOf("journal") == [1, 2]
        assert new._maintenance.isPending() is False, "it waits before it tries again"
    new._maintenance.snapshot._retryAt = 0.0
    lab.afterMaintenance(new)
    assert lab.paths.epochsOf("journal") == [2]
    assert os.listdir(lab.paths.directory).count("journal-2.new") == 0


def test_memoryThatAHolderMayStillBringIsWaitedFor(lab: Lab) -> None:
    """Broken: a successor gave up memory that its holders were about to bring."""
    broker = lab.afterMaintenance(lab.broker(member := lab.member()))
    directory = broker._directory
    row, incarnation = directory.grant(member.key, usage(mode=Mode.FAST, gpu=0), 1 << 20)
    directory.rows.describe(row, describe(mode=Mode.FAST, gpu=0, transport="memfd"))
    directory.commit(member.key, row, incarnation, os.memfd_create("lost"))
    directory.descriptorStore.drop(row, incarnation)
    holder = lab.member()
    broker._maintenance.collectLost()
    assert lab.rows.isLive(row, incarnation)
    holder.die()
    broker._maintenance.collectLost()
    assert not lab.rows.isLive(row, incarnation)


def test_allRowsAreLookedAtASliceAtATime(lab: Lab) -> None:
    """Broken: the broker looked at the first slice only."""
    broker = lab.afterMaintenance(lab.broker(member := lab.member()))
    for number in range(300):
        lab.make(broker._directory, member, f"n{number}", lifetime=Lifetime.LAST_CLOSE)
    broker._maintenance.tryReclaimUnheld()
    while broker._maintenance.isPending():
        broker._maintenance.workOnce()
    assert lab.rows.notFree() == []


def test_aSuccessorFinishesHalfDoneSteps(lab: Lab) -> None:
    """Broken: rows between two states stayed so."""
    directory, member = lab.directory(1), lab.member()
    rows = [lab.make(directory, member, name)[0] for name in ("probing", "dying", "dead")]
    for row, state in zip(
        rows, (layout.ROW_PROBING, layout.ROW_DYING, layout.ROW_DEAD), strict=True
    ):
        bring(directory.rows, row, state)
    lab.elect(5)
    lab.afterMaintenance(lab.broker(member))
    assert lab.rows.notFree() == []


def test_aSweepThatFindsTheDeadLooksAtRowsThatTheyHadReleased(lab: Lab) -> None:
    """Broken: the sweep looked only at rows that the dead member still held, and not at
    a row that it had closed last without a message.
    """
    broker = lab.afterMaintenance(lab.broker(member := lab.member()))
    dead = lab.member()
    row, _ = lab.make(broker._directory, member, lifetime=Lifetime.LAST_CLOSE)
    assert lab.members.markDead(dead.key)
    broker._maintenance._sweepMembers()
    assert lab.rows.state(row).state == layout.ROW_FREE


def test_theJournalOfATermDoesNotGrowWithRowsThatAreGone(lab: Lab) -> None:
    """Broken: each share left 572 bytes for ever, and a broker that lived long filled
    `/dev/shm` with its journal.
    """
    broker = lab.afterMaintenance(lab.broker(member := lab.member()))
    kept = [lab.make(broker._directory, member, f"kept{number}") for number in range(3)]
    half = broker._directory.grant(member.key, usage("half"), 0)
    path = lab.paths.journalPath(broker._term.epoch)
    largest = 0
    for number in range(1000):
        broker._directory.free(*lab.make(broker._directory, member, f"n{number}"))
        while broker._maintenance.isPending():
            broker._maintenance.workOnce()
        largest = max(largest, os.stat(path).st_size)
    assert largest < 2 * 4 * 512 + journal.SLACK_BYTES
    living = livingRows(lab.paths.journals())[0]
    assert sorted(key[1:] for key in living) == sorted(kept)
    successor = lab.broker(lab.member())
    assert successor._directory.grant(member.key, usage("half"), 0) == half


def test_aJournalIsCopiedWhileThereIsStillRoomForACopy(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the journal itself took the memory that its copy needs, and grew until
    `/dev/shm` was full.
    """
    broker = lab.afterMaintenance(lab.broker(member := lab.member()))
    for number in range(200):
        lab.make(broker._directory, member, f"kept{number}")
    written = broker._journal
    diskBytes = written._length + written.vouchedBytes + (30 << 10)

    def room(_: str) -> SimpleNamespace:
        taken = sum(
            os.stat(f"{lab.paths.directory}/{name}").st_size
            for name in os.listdir(lab.paths.directory)
            if "journal" in name
        )
        return SimpleNamespace(f_blocks=1, f_frsize=1, f_bavail=diskBytes - taken)

    monkeypatch.setattr(os, "statvfs", room)
    for number in range(1000):
        broker._directory.free(*lab.make(broker._directory, member, f"n{number}"))
        while broker._maintenance.isPending():
            broker._maintenance.workOnce()
        assert room("").f_bavail > 0
    assert len(livingRows(lab.paths.journals())[0]) == 200


def test_aChangeWhileTheJournalIsCopiedIsInTheCopy(lab: Lab) -> None:
    """Broken: if the copier had passed a row, the copy missed what came later: a freed
    row lived on in it, and a new row was lost.
    """
    broker = lab.afterMaintenance(lab.broker(member := lab.member()))
    directory, maintenance = broker._directory, broker._maintenance
    rows = [lab.make(directory, member, f"n{number}") for number in range(200)]
    maintenance.snapshot.want()
    maintenance.workOnce()  # the copy has begun
    maintenance.workOnce()  # the first rows are copied
    assert maintenance.snapshot.isUnderWay()
    gone = [rows.pop(150), rows.pop(0)]
    for each in gone:
        directory.free(*each)
    rows.append(lab.make(directory, member, "new"))
    while maintenance.isPending():
        maintenance.workOnce()
    rows.append(lab.make(directory, member, "later"))
    assert sorted(key[1:] for key in livingRows(lab.paths.journals())[0]) == sorted(rows)


def test_aDeposedBrokersCopyDoesNotBringItsJournalBack(lab: Lab) -> None:
    """Broken: renamed, the copy stood where the successor had removed the journal."""
    old = lab.afterMaintenance(lab.broker(member := lab.member()))
    lab.make(old._directory, member, "live")
    old._maintenance.snapshot.want()
    old._maintenance.workOnce()
    new = lab.afterMaintenance(lab.broker(lab.member()))
    assert lab.paths.epochsOf("journal") == [2]
    while old._maintenance.snapshot.isUnderWay():
        old._maintenance.workOnce()
    assert lab.paths.epochsOf("journal") == [2]
    assert len(livingRows(lab.paths.journals())[0]) == 1
    assert not new._maintenance.isPending()


def test_aSnapshotThatCanNotBeMadeDoesNotKeepTheBrokerFromItsSweeps(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: each time that an idle broker woke it tried the copy again, so it found
    neither a death that no message reported nor the loss of its block.
    """
    broker = lab.afterMaintenance(lab.broker(lab.member()))
    maintenance = broker._maintenance
    monkeypatch.setattr(snapshot, "_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(maintenance.snapshot, "_availableBytes", lambda: 0)
    maintenance.snapshot.want()
    maintenance.workOnce()
    assert maintenance.snapshot.isDue(), "it failed, and is due again"
    before = maintenance._sweepAt = 0.0
    maintenance.workOnce()
    assert maintenance._sweepAt > before


@pytest.mark.parametrize("seenBy", ["a record", "a sweep", "a sweep, since it was moved away"])
def test_aJournalThatWasRemovedIsWrittenAnew(lab: Lab, seenBy: str) -> None:
    """A cleaner removes it. Broken: the broker went on writing into a file that no
    process would ever find.
    """
    broker = lab.afterMaintenance(lab.broker(member := lab.member()))
    rows = [lab.make(broker._directory, member, f"n{number}") for number in range(100)]
    path = lab.paths.journalPath(broker._term.epoch)
    os.rename(path, f"{lab.paths.directory}/elsewhere") if "moved" in seenBy else os.unlink(path)
    if seenBy == "a record":
        rows.append(lab.make(broker._directory, member, "after"))
    else:
        broker._maintenance._sweepMembers()
    lab.afterMaintenance(broker)
    rows.append(lab.make(broker._directory, member, "later"))
    assert sorted(key[1:] for key in livingRows(lab.paths.journals())[0]) == sorted(rows)
    assert not broker._journal.isTooLong() and not broker._maintenance.isPending()


def test_aDeposedBrokersJournalIsNotWrittenAnew(lab: Lab) -> None:
    """Its successor has dropped it."""
    old = lab.afterMaintenance(lab.broker(lab.member()))
    lab.afterMaintenance(lab.broker(lab.member()))
    assert lab.paths.epochsOf("journal") == [2]
    old._journal.note("gone", row=0, incarnation=1)
    old._maintenance._sweepMembers()
    assert old._journal.isNameless
    old._maintenance.snapshot.workOnce()
    assert lab.paths.epochsOf("journal") == [2]


def test_aSuccessorRemovesTheCopyThatItsPredecessorDidNotFinish(lab: Lab) -> None:
    """Broken: each broker that was killed while it copied left a file as large as all
    descriptions.
    """
    old = lab.afterMaintenance(lab.broker(lab.member()))
    old._maintenance.snapshot.want()
    old._maintenance.workOnce()
    assert any(entry.endswith(".new") for entry in os.listdir(lab.paths.directory))
    lab.afterMaintenance(lab.broker(lab.member()))
    assert not any(entry.endswith(".new") for entry in os.listdir(lab.paths.directory))


def test_lifetimesThatEndTogetherEndInSlices(lab: Lab) -> None:
    """Broken: the broker ended all of them in one step; meanwhile it served no member,
    and its heartbeat stood still.
    """
    broker = lab.afterMaintenance(lab.broker(own := lab.member()))
    rows = [
        lab.make(broker._directory, own, f"b{number}", deadlineMs=1)[0] for number in range(100)
    ]

    def left() -> int:
        return sum(lab.rows.state(row).state == layout.ROW_LIVE for row in rows)

    before = left()
    broker.step(0)
    assert before == 100 and 0 < left() < 100
    for _ in range(10):
        broker.step(60 if left() else 0)
    assert left() == 0


def test_nothingIsTakenForLostBeforeAllWasBrought(lab: Lab) -> None:
    """A holder brings more than one message takes. Broken: after the first message the
    broker gave up the memory that came with the second.
    """
    member, count = lab.member(), requests.FULL_BATCH + 3
    before = lab.member()
    old = lab.afterMaintenance(lab.broker(before))
    for number in range(count):
        row, incarnation = old._directory.grant(
            member.key, usage(f"f{number}", mode=Mode.FAST, gpu=0), 1 << 40
        )
        old._directory.rows.describe(
            row, describe(f"f{number}", mode=Mode.FAST, gpu=0, transport="memfd")
        )
        old._directory.commit(member.key, row, incarnation, os.memfd_create("f"))
    held = old.handOver()
    before.die()
    broker = lab.afterMaintenance(lab.broker(lab.member()))
    peer, nonce = Peer(lab, broker), member.table.identity(member.key.slot).nonce
    hello = {
        "op": "hello",
        "slot": member.key.slot,
        "generation": member.key.generation,
        "nonce": nonce,
    }
    for message, batch in (
        (hello, held[: requests.FULL_BATCH]),
        ({"op": "bring"}, held[requests.FULL_BATCH :]),
    ):
        assert len(broker._directory.rows.inState(layout.ROW_LIVE)) == count
        first = [os.pidfd_open(os.getpid())] if message is hello else []
        answer = peer.ask(
            msgpack.packb({**message, "allocations": [list(pair) for pair, _ in batch]}),
            first + [each for _, each in batch],
        )
        assert answer is not None and "error" not in answer
    assert len(broker._directory.rows.inState(layout.ROW_LIVE)) == count
    assert not broker._directory.lacksMemory("f0") and not broker._maintenance._mayBeLost
    for _, descriptor in held:
        os.close(descriptor)
