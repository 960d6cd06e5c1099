"""The broker and its watchdog: dead members are reclaimed completely, peers that send
garbage are disconnected, and neither ends a term.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import claiming
import msgpack
import pytest
from lab import Lab, Member, describe, reclaim, usage

import muninn
from muninn.broker import deathwatch, maintenance
from muninn.broker.broker import Broker
from muninn.broker.handlers import members as memberRequests
from muninn.control import generations, layout, leases, memberreader, ownerlock
from muninn.control.members import MemberTable
from muninn.control.rows import Deposed
from muninn.control.tickets import Tickets
from muninn.errors import ProtocolViolation
from muninn.session.membership import current
from muninn.session.tables import Tables
from muninn.system import atomics, clock
from muninn.system.clock import monotonicMs
from muninn.terms import Mode
from muninn.wire import messages, requests
from support import Actor, ActorError, Background, eventually, leftovers

Start = Callable[..., Actor]


class Peer:
    """A member's end of the socket, by hand."""

    def __init__(self, lab: Lab, broker: Broker) -> None:
        self._broker = broker
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(lab.paths.socketPath(lab.election.epoch()))
        self.socket.settimeout(30)

    def ask(self, raw: bytes, descriptors: list[int] | None = None) -> dict[str, object] | None:
        """Send, let the broker work, and return the answer; None when it has closed the
        connection without one.
        """
        socket.send_fds(self.socket, [raw], descriptors or [])
        for _ in range(6):
            self._broker.step(0)
        answer = messages.receive(self.socket)
        return answer[0] if answer else None


@pytest.fixture
def served(lab: Lab) -> Iterator[tuple[Lab, Broker, Member]]:
    own = lab.member()
    yield lab, lab.settled(lab.broker(own)), own


def _deep(depth: int) -> bytes:
    return b"\x91" * depth + b"\xc0"


def _hello(member: Member, **changes: object) -> bytes:
    nonce = member.table.identity(member.key.slot).nonce
    plain = {
        "op": "hello",
        "slot": member.key.slot,
        "generation": member.key.generation,
        "nonce": nonce,
        "allocations": [],
    }
    return bytes(msgpack.packb({**plain, **changes}))


@pytest.mark.parametrize(
    "raw",
    [
        b"\xc1",
        b"\xff" * 100,
        msgpack.packb({}),
        msgpack.packb({"op": []}),
        msgpack.packb({"op": {}}),
        msgpack.packb({"op": 7}),
        msgpack.packb({"op": "nonsense"}),
        msgpack.packb({"op": "free", "row": 1}),
        msgpack.packb({"op": "free", "row": "1", "incarnation": 1}),
        msgpack.packb({"op": "free", "row": True, "incarnation": 1}),
        msgpack.packb({"op": "free", "row": 1 << 63, "incarnation": -1}),
        msgpack.packb({"op": "free", "row": 0, "incarnation": 0}),
        b"\x82\xa2op\xa4find\xa4name" + _deep(500),
        b"\x82\xa2op" + _deep(500) + b"\xa4name\xa1x",
        msgpack.packb(
            {"op": "hello", "slot": 1 << 40, "generation": 1, "nonce": 1, "allocations": []}
        ),
        msgpack.packb({"op": "bring", "allocations": [[1 << 63, 1 << 63]]}),
        b"x" * messages.MAX_MESSAGE_BYTES,
    ],
)
def test_nonsenseIsAnsweredWithAnErrorAndHarmsNobody(
    served: tuple[Lab, Broker, Member], raw: bytes
) -> None:
    lab, broker, _ = served
    good = Peer(lab, broker)
    peer = Peer(lab, broker)
    answer = peer.ask(raw)
    assert answer is not None and answer["error"] in (13, 20), answer
    assert good.ask(msgpack.packb({"op": "ping"})) == {"epoch": 1}
    assert not broker.isDeposed()


def test_anErrorThatNobodyForesawEndsTheConnectionOnly(served: tuple[Lab, Broker, Member]) -> None:
    lab, broker, _ = served

    def fail(*_: object) -> tuple[dict[str, object], tuple[int, ...]]:
        raise KeyError("a fault of ours")

    broker._handlers["ping"] = fail
    answer = Peer(lab, broker).ask(msgpack.packb({"op": "ping"}))
    assert answer is not None and answer["error"] == 20
    broker.step(0)


def test_aHelloNeedsAPidfdOfTheMemberItself(served: tuple[Lab, Broker, Member]) -> None:
    lab, broker, _ = served
    member = lab.member()
    descriptors = [
        os.open("/dev/null", os.O_RDONLY),
        os.memfd_create("x"),
        os.pidfd_open(os.getppid()),
    ]
    for descriptor in descriptors:
        answer = Peer(lab, broker).ask(_hello(member), [descriptor])
        assert answer is not None and answer["error"] == 20
    assert Peer(lab, broker).ask(_hello(member)) is not None
    good = os.pidfd_open(os.getpid())
    assert Peer(lab, broker).ask(_hello(member, nonce=1), [good]) != {"epoch": 1}
    assert Peer(lab, broker).ask(_hello(member), [good]) == {"epoch": 1}
    messages.closeAll([*descriptors, good])


def test_namesThatNoRowCanHoldAreRefused(served: tuple[Lab, Broker, Member]) -> None:
    _, broker, _ = served
    fields = {
        "op": "create",
        "tenant": "t",
        "mode": "bigMode",
        "gpu": -1,
        "sizeBytes": 4096,
        "gpuCapacityBytes": 0,
        "deadlineMs": 0,
    }
    for name in ("", "x" * 60000, "ä" * 100):
        assert broker.execute({**fields, "name": name}, [])[0]["error"] == 26
    assert broker.execute({**fields, "name": "ok", "tenant": "x" * 100}, [])[0]["error"] == 26


def test_whatADeadMemberHadIsTakenBack(served: tuple[Lab, Broker, Member]) -> None:
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


def test_aRequestOfTheDeadThatIsReadLateGrantsNothing(served: tuple[Lab, Broker, Member]) -> None:
    """It was in the socket when its sender died.

    Broken: the session's member was believed for ever; the row then belonged to nobody
    and stayed CREATING.
    """
    lab, broker, _ = served
    dead = lab.member()
    peer, pidfd = Peer(lab, broker), os.pidfd_open(os.getpid())
    assert peer.ask(_hello(dead), [pidfd]) == {"epoch": 1}
    broker._reclaimer.leave(dead.key)
    fields = {
        "op": "create",
        "name": "late",
        "tenant": "t",
        "mode": "bigMode",
        "gpu": -1,
        "sizeBytes": 4096,
        "gpuCapacityBytes": 0,
        "deadlineMs": 0,
    }
    answer = peer.ask(msgpack.packb(fields))
    assert answer is not None and answer["error"] == 20
    assert lab.rows.notFree() == []
    os.close(pidfd)


def test_aLifetimeThatEndsWhileItsBufferIsHeldIsEndedOnce(
    served: tuple[Lab, Broker, Member],
) -> None:
    """Broken: the deadline stayed in the catalog: the broker asked for its next event
    every 0 s until the holder let go.
    """
    lab, broker, own = served
    row, incarnation = lab.make(broker._directory, own, deadlineMs=monotonicMs() + 5)
    lease = own.leases.take(row, incarnation, 1000)
    eventually(lambda: broker.step(0.001) or own.leases.revocation(lease), "its lease is revoked")
    assert own.leases.revocation(lease) == "lifetimeEnded"
    assert broker._maintenance.untilDeadline() > 1000
    own.leases.giveBack(lease)
    broker.execute({"op": "tryReclaim", "row": row, "incarnation": incarnation}, [])
    assert lab.rows.state(row).state == layout.ROW_FREE


def test_aBrokerThatCanNotCompareClocksEndsNoLifetime(
    served: tuple[Lab, Broker, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, broker, own = served
    row, _ = lab.make(broker._directory, own, deadlineMs=monotonicMs() - 5)
    while broker._maintenance._chores:
        broker._maintenance.workOnce()
    monkeypatch.setattr(clock, "_own", clock.TimeNamespace(0, 0, 0))
    broker._maintenance.endLifetimes()
    assert (
        lab.rows.state(row).state == layout.ROW_LIVE and broker._maintenance.untilDeadline() > 1000
    )
    monkeypatch.undo()
    broker._maintenance.endLifetimes()
    assert lab.rows.state(row).state == layout.ROW_FREE


def test_aLifetimeThatEndsBeforeTheCommitEndsNothingElse(
    served: tuple[Lab, Broker, Member],
) -> None:
    """Broken: the deadline counted from the grant; the free of a CREATING row raised,
    and the broker resigned.
    """
    lab, broker, own = served
    past = monotonicMs() - 1
    row, incarnation = broker._directory.grant(own.key, usage("slow", deadlineMs=past), 0)
    broker.step(0)
    lab.rows.describe(row, describe("slow", deadlineMs=past))
    broker._directory.commit(own.key, row, incarnation, None)
    broker.step(0)
    broker.step(0)
    assert lab.rows.state(row).state == layout.ROW_FREE


def test_aMemberKilledBeforeItsHelloIsFound(
    served: tuple[Lab, Broker, Member], actor: Start
) -> None:
    lab, broker, _ = served
    dead = lab.member()
    ended = os.fork()
    if ended == 0:
        os._exit(0)
    os.waitpid(ended, 0)
    start = layout.MEMBERS_OFFSET + dead.key.slot * layout.MEMBER_BYTES
    lab.block.bytes[start + layout.MEMBER_PID_OFFSET : start + layout.MEMBER_PID_OFFSET + 4] = (
        ended.to_bytes(4, "little")
    )
    broker._maintenance._sweepAt = 0.0
    eventually(
        lambda: broker.step(0) or lab.members.state(dead.key.slot)[0] == layout.MEMBER_FREE,
        "its slot is free",
    )


def test_whatADeadHolderHadLetGoOfIsCollectedToo(served: tuple[Lab, Broker, Member]) -> None:
    """It died after the release and before it said so. Broken: only the rows that the
    dead still held were looked at.
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
    lab.settled(broker)
    assert lab.rows.notFree() == []


def test_aBrokerWithoutDescriptorsGivesWay(domain: str, actor: Start) -> None:
    """Broken: it logged each refused connection, and its heart went on beating, so
    nobody was served for as long as that lasted.
    """
    # what is imported at the first use is imported
    broker = actor("import resource\nmuninn.share(b'warm').close()")
    broker.do("""
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
taken = []
def exhaust():
    try:
        while True:
            taken.append(os.open('/dev/null', os.O_RDONLY))
    except OSError:
        pass
exhaust()
""")
    assert muninn.share(b"x", name="a").name == "a"
    assert muninn.domainInfo()["brokerPid"] == os.getpid()
    with pytest.raises(ActorError) as caught:
        # The descriptors of its term are free since it gave its term up.
        broker.do("exhaust()\nmuninn.share(b'y', name='b')")
    assert caught.value.kind == "DescriptorsExhausted"
    broker.do("[os.close(fd) for fd in taken]; None")
    assert broker.do("muninn.share(b'y', name='b').name") == "b"
    assert len(leftovers(domain)) == 2


def test_theBackgroundThreadSurvivesAnErrorThatNobodyForesaw(domain: str, actor: Start) -> None:
    """Its end would tell the others that the process is dead."""
    keeper = actor().join()
    member = current()
    fail = [OSError(errno.EMFILE, "no descriptor"), RuntimeError("dictionary changed size")]
    renewAll = member.openBuffers.renewAll

    def failing() -> None:
        if fail:
            raise fail.pop()
        renewAll()

    member.openBuffers.renewAll = failing  # type: ignore[method-assign]
    keeper.kill()
    eventually(lambda: muninn.domainInfo()["brokerPid"] == os.getpid(), "the successor serves")
    assert not fail


def test_aMemberThatIsElectedWhileItReportsAReleaseServesAtOnce(domain: str, actor: Start) -> None:
    """The background thread tells a broker of a released buffer, and that one is killed
    before it answers.

    Broken: it asked on, for itself to serve, until the request timed out.
    """
    broker = actor().join()
    member = current()
    buffer = muninn.share(b"x", lifetime="lastClose")
    array = buffer.array
    buffer.close()
    broker.stop()
    del array, buffer
    time.sleep(0.05)
    broker.kill()
    deadline = time.monotonic() + member.settings.control.requestTimeoutMs / 2000
    muninn.share(b"y", name="next")
    assert muninn.domainInfo()["brokerPid"] == os.getpid()
    assert time.monotonic() < deadline, (
        "far below the request timeout, which is what the fault cost"
    )
    eventually(lambda: len(leftovers(domain)) == 1, "the released buffer is gone")


def test_aRowOfAnEpochThatHasNotComeIsAnErrorAndNoDeposition(
    served: tuple[Lab, Broker, Member],
) -> None:
    """Broken: `Deposed` from a damaged word made the broker begin its term anew,
    without end.
    """
    lab, broker, own = served
    row, incarnation = lab.make(broker._directory, own)
    atomics.exchangeSeqCst64(
        lab.block.rowAddress(row), lab.rows.state(row)._replace(epoch=9999).word()
    )
    assert (
        broker.execute({"op": "free", "row": row, "incarnation": incarnation}, [])[0]["error"] == 19
    )
    assert broker.execute({"op": "ping"}, [])[0] == {"epoch": 1}


def test_whatTheDeadHeldLastGoesWithThem(served: tuple[Lab, Broker, Member]) -> None:
    """Broken: the reclaimer cleared the leases, and left their rows to the next one who
    would look.
    """
    lab, broker, own = served
    dead = lab.member()
    row, incarnation = lab.make(broker._directory, own, lifetime=describe().lifetime.LAST_CLOSE)
    dead.leases.take(row, incarnation, 1000)
    reclaim(broker, dead.key)
    assert lab.rows.state(row).state == layout.ROW_FREE


def test_theSlotsOfDeadClaimersAndOfTheMarkedDeadAreGivenBack(
    served: tuple[Lab, Broker, Member],
) -> None:
    """Broken: the reclaimer without CLAIMING; `adopt` without those that an earlier broker
    had marked dead.
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


def test_aPidOfAnotherNamespaceIsNotFollowed(served: tuple[Lab, Broker, Member]) -> None:
    """Broken: the process that has that number here was followed; its end would be the
    member's.
    """
    lab, broker, own = served
    member = lab.member()
    start = (
        layout.MEMBERS_OFFSET
        + member.key.slot * layout.MEMBER_BYTES
        + layout.MEMBER_PID_NAMESPACE_OFFSET
    )
    lab.block.bytes[start : start + 8] = (1).to_bytes(8, "little")
    broker._deathWatch.forget(member.key)
    assert broker._deathWatch.adopt(own.key) == []
    assert member.key not in broker._deathWatch._pidfds


def test_whoWaitsForTheDeadIsWoken(
    served: tuple[Lab, Broker, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: `_poison` without one of its wake-ups, which the waiters' own looks hid."""
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
    assert successor.ended() is False
    assert isinstance(reading.ended(), InterruptedError)


def test_aDeathThatIsNotYetConfirmedIsLookedAtAgain(
    served: tuple[Lab, Broker, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pidfd is readable, and the kernel still holds the byte.

    Broken: the one event of the pidfd was all that there was; `confirm` kept the pidfd.
    """
    lab, broker, _ = served
    dead, proofs = lab.member(), [False, False, True]
    ended = os.fork()
    if ended == 0:
        os._exit(0)
    pidfd = os.pidfd_open(ended)
    os.waitpid(ended, 0)
    monkeypatch.setattr(
        broker._members,
        "isConfirmedDead",
        lambda *_: proofs.pop(0) if len(proofs) > 1 else proofs[0],
    )
    broker._deathWatch.follow(dead.key, pidfd)
    for _ in range(20):
        broker.step(0.001)
    assert lab.members.state(dead.key.slot)[0] == layout.MEMBER_FREE
    assert not broker._deathWatch.owns(pidfd) and not broker._deathWatch.suspects()


def test_aDeposedBrokerServesNobody(served: tuple[Lab, Broker, Member]) -> None:
    """Broken: `step` without a look at the election; `start` without the fence."""
    lab, broker, own = served
    row, incarnation = lab.make(broker._directory, own)
    assert lab.settled(broker).lacks("nobody's")
    successor = lab.broker(lab.member())
    assert not broker.lacks("nobody's"), "the successor may have given it to somebody"
    with pytest.raises(Deposed):
        broker.step(0)
    with pytest.raises(Deposed):
        broker.execute({"op": "ping"}, [])
    with pytest.raises(Deposed):
        broker._directory.free(row, incarnation)
    assert successor.execute({"op": "ping"}, [])[0] == {"epoch": 2}


def test_anotherUserIsRefused(
    served: tuple[Lab, Broker, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: whoever could connect was served."""
    lab, broker, _ = served
    monkeypatch.setattr(messages, "peerOf", lambda connection: (1, os.getuid() + 1))
    stranger = Peer(lab, broker)
    broker.step(0)
    assert not broker._server.sessions and messages.receive(stranger.socket) is None


def test_aHelloOfTheDeadIsRefused(served: tuple[Lab, Broker, Member]) -> None:
    """Broken: the slot was not looked at."""
    lab, broker, _ = served
    dead, pidfd = lab.member(), os.pidfd_open(os.getpid())
    hello = _hello(dead)
    reclaim(broker, dead.key)
    answer = Peer(lab, broker).ask(hello, [pidfd])
    assert answer is not None and answer["error"] == 20
    os.close(pidfd)


@pytest.mark.parametrize("looks", [0, 1], ids=("beforeItIsLookedAt", "afterIt"))
def test_whoDiesBeforeItsHelloIsReadIsNobodysFault(
    served: tuple[Lab, Broker, Member],
    looks: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its pidfd names nobody any more. Broken: a warning said that the hello was false,
    in the notebook of whoever was broker.

    Broken again: who died between two looks at its pidfd was called false by the second
    one.
    """
    lab, broker, _ = served
    with subprocess.Popen(["sleep", "60"]) as child:
        pidfd = os.pidfd_open(child.pid)
        child.kill()
    answers = iter([os.getpid()] * looks)
    for module in (memberRequests, memberreader):
        monkeypatch.setattr(module, "pidOf", lambda descriptor: next(answers, -1))
    caplog.set_level(logging.INFO, "muninn")
    sweeps: list[None] = []
    monkeypatch.setattr(broker._maintenance, "sweepSoon", lambda: sweeps.append(None))
    answer = Peer(lab, broker).ask(_hello(lab.member()), [pidfd])
    assert answer is not None and answer.get("error") == (None if looks else 20)
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert any("died before its hello" in record.message for record in caplog.records) == (
        not looks
    )
    assert bool(sweeps) == (not looks), "nobody has its pidfd, so it is looked for"
    os.close(pidfd)


def test_descriptorsThatNobodyAskedForAreClosed(served: tuple[Lab, Broker, Member]) -> None:
    """Broken: only a handler closed what came with a request; `bring` kept the memory
    of rows that are not there.
    """
    _, broker, _ = served
    for message in (
        {"op": "ping"},
        {"op": "find", "name": "a"},
        {"op": "nonsense"},
        {"op": "bring", "allocations": [[3, 1]]},
        {"op": "bring", "allocations": [[1 << 30, 1]]},
        {"op": "bring", "allocations": []},
    ):
        reading, writing = os.pipe()
        with contextlib.suppress(ProtocolViolation):
            broker.execute(message, [writing])
        assert os.read(reading, 1) == b"", message
        os.close(reading)


def test_whoEndsBeforeItsHelloIsLookedForAtOnce(
    served: tuple[Lab, Broker, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has its pidfd. Broken: it was left to the next sweep."""
    lab, broker, _ = served
    swept: list[int] = []
    monkeypatch.setattr(broker._maintenance, "_sweepMembers", lambda: swept.append(1))
    broker._maintenance._sweepAt = time.monotonic() + 1000
    peer = Peer(lab, broker)
    broker.step(0)
    peer.socket.close()
    for _ in range(5):
        broker.step(0)
    assert swept == [1]


def test_nobodyWaitsForTheMemoryOfWhatWasFreed(served: tuple[Lab, Broker, Member]) -> None:
    """A holder that has not said hello may bring what lives. Broken: it was waited for
    also when the row was freed.
    """
    lab, broker, own = served
    lab.member()
    row, incarnation = lab.make(broker._directory, own)
    fetch = {"op": "fetch", "row": row, "incarnation": incarnation}
    assert broker.execute(fetch, [])[0] == {"found": False}
    own.leases.take(row, incarnation, 1000)
    broker._directory.free(row, incarnation)
    assert broker.execute(fetch, [])[0]["error"] == 10


@pytest.mark.parametrize("row", [-1, 5, 1 << 20, 1 << 40])
def test_rowsThatNobodyMadeAreNotTouched(served: tuple[Lab, Broker, Member], row: int) -> None:
    """Broken: the range of a row was not looked at before it was read."""
    _, broker, _ = served
    for op in ("commit", "abandon", "fetch", "free", "tryReclaim"):
        assert broker.execute({"op": op, "row": row, "incarnation": 1}, [])[0]["error"] == 13


@pytest.mark.parametrize("value", [-2, 1 << 64, True, 1.5, "1", None])
def test_numbersOfARequestAreNumbersInRange(value: object) -> None:
    """Broken: `checked` without the range, or with truth values as numbers."""
    with pytest.raises(ProtocolViolation):
        requests.checked({"op": "free", "row": value, "incarnation": 1})


def test_eachAllocationComesWithItsDescriptor() -> None:
    """Broken: the numbers of both were not compared, and a descriptor was asked for
    that was not there.
    """
    assert requests.allocationsOf({"allocations": [[1, 2]]}, [7]) == [(1, 2)]
    for allocations, descriptors in (
        ([[1, 2]], []),
        ([], [7]),
        ([[1, 2, 3]], [7]),
        ([[1, "2"]], [7]),
        ([7], [7]),
    ):
        with pytest.raises(ProtocolViolation):
            requests.allocationsOf({"allocations": allocations}, descriptors)


@pytest.mark.parametrize("fields", [{}, {"row": 1}, {"row": 1, "incarnation": 1, "more": 1}])
def test_aRequestHasItsFieldsAndNoOthers(fields: dict[str, int]) -> None:
    """Broken: `checked` looked at no keys; what was missing was a `KeyError` of the
    broker's.
    """
    with pytest.raises(ProtocolViolation):
        requests.checked({"op": "free", **fields})


def test_aBrokerThatIsAskedWithoutAPauseFindsTheDeadToo(served: tuple[Lab, Broker, Member]) -> None:
    """Broken: what a broker does on the side was done in steps without a request only,
    so a domain with one a second never swept.
    """
    lab, broker, _ = served
    dead = lab.member()
    ended = os.fork()
    if ended == 0:
        os._exit(0)
    os.waitpid(ended, 0)
    start = layout.MEMBERS_OFFSET + dead.key.slot * layout.MEMBER_BYTES
    lab.block.bytes[start + layout.MEMBER_PID_OFFSET : start + layout.MEMBER_PID_OFFSET + 4] = (
        ended.to_bytes(4, "little")
    )

    def stepIsBusy() -> bool:
        os.eventfd_write(broker._server._wakeFd, 1)
        broker.step(0)
        return lab.members.state(dead.key.slot)[0] == layout.MEMBER_FREE

    eventually(stepIsBusy, "its slot is free", bound=20.0)


def test_aLeaseOnARowThatTheTableDoesNotHaveIsClearedAndNoMore(
    served: tuple[Lab, Broker, Member],
) -> None:
    """In a child, since what was read then lay outside of the block: broken, every
    broker of the domain died of it, one after the other.
    """
    lab, broker, _ = served
    dead = lab.member()
    dead.leases.take(1_000_000, 1, 1000)
    child = os.fork()
    if child == 0:
        reclaim(broker, dead.key)
        os._exit(0 if lab.members.state(dead.key.slot)[0] == layout.MEMBER_FREE else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_anOwnerLockOfASlotThatTheTableDoesNotHaveIsNobodys(
    served: tuple[Lab, Broker, Member],
) -> None:
    """Broken, whatever stood behind the table was taken for a member; here for one that
    lives, and whose lock nobody would ever get.
    """
    lab, _, own = served
    beyond = 40
    atomics.storeRelease64(lab.block.memberAddress(beyond), 7 << 32 | layout.MEMBER_LIVE)
    seen = SimpleNamespace(members=lab.members, key=own.key)
    assert Tables.isDead(seen, beyond, 7)  # type: ignore[arg-type]
    assert not Tables.isDead(seen, own.key.slot, own.key.generation)  # type: ignore[arg-type]


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
    """Broken: 5,000 buffers took one step of 0.77 s, in which the broker served nobody
    and did not beat.
    """
    lab, broker, own = served
    dead, rows = _deadWithMany(lab, broker, own)
    broker._reclaimer.leave(dead.key)
    assert 0 < _freeAmong(lab, rows) < len(rows)
    assert lab.members.state(dead.key.slot)[0] == layout.MEMBER_DEAD, "the slot comes last"
    beats = lab.election.heartbeat()
    assert broker.execute({"op": "ping"}, [])[0] == {"epoch": 1}
    broker._reclaimer.begin(dead.key)  # another look finds the same death
    for _ in range(20):
        broker.step(60)
    assert (
        _freeAmong(lab, rows) == len(rows)
        and lab.members.state(dead.key.slot)[0] == layout.MEMBER_FREE
    )
    assert lab.election.heartbeat() > beats + 3


def test_aSuccessorFinishesWhatWasBegun(served: tuple[Lab, Broker, Member]) -> None:
    lab, broker, own = served
    dead, rows = _deadWithMany(lab, broker, own)
    broker._reclaimer.begin(dead.key)
    assert _freeAmong(lab, rows) < len(rows)
    lab.settled(lab.broker(lab.member()))
    assert (
        _freeAmong(lab, rows) == len(rows)
        and lab.members.state(dead.key.slot)[0] == layout.MEMBER_FREE
    )


def test_aBrokerThatLeavesFinishesWhatItHasBegun(served: tuple[Lab, Broker, Member]) -> None:
    """It may be the last one. Broken: the slot of the dead kept the block from being
    withdrawn.
    """
    lab, broker, own = served
    dead, rows = _deadWithMany(lab, broker, own)
    broker._reclaimer.begin(dead.key)
    broker.execute({"op": "leave"}, [])
    assert (
        _freeAmong(lab, rows) == len(rows)
        and lab.members.state(dead.key.slot)[0] == layout.MEMBER_FREE
    )


def test_aBrokersOwnClosesAreHandledBetweenSteps(domain: str) -> None:
    """Broken: the broker handled thousands of closes of its own process at once,
    without a heartbeat in between.
    """
    many = [muninn.share(b"x") for _ in range(200)]
    member = current()
    beats = member.election.heartbeat()
    many.clear()
    eventually(lambda: leftovers(domain) == [], "all are gone")
    assert member.election.heartbeat() > beats + 3


def test_anOwnerLockOfTheDeadIsNobodysForEver(lab: Lab) -> None:
    """Broken: it kept the owner's slot and 19 bits of its generation, which are a
    living member's again after 2^19 members of that slot.
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
        is False
    ), "recovered"
    ownerlock.markDead(address, dead.key)
    assert ownerlock.belongsTo(atomics.loadAcquire32(address), following.key), (
        "a late broker does not take it from its next owner"
    )


def test_manyMembersCostADescriptorEach(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: two each. A death is confirmed all the same, also if a forked child keeps
    the connection.
    """
    monkeypatch.setattr(deathwatch, "MAX_PIDFDS", 1)
    monkeypatch.setattr(maintenance, "SWEEP_SECONDS", 0.1)
    muninn.share(b"mine", name="mine")
    before = _watchingDescriptors()
    members = [actor("held = muninn.share(b'x')") for _ in range(4)]
    eventually(lambda: _watchingDescriptors() == before + 4 + 1, "one for each, and a pidfd")
    members[3].do("import os, signal\nchild = os.fork()\nif child == 0:\n    signal.pause()")
    child = members[3].do("child")
    try:
        for member in members[1:]:
            member.kill()
        eventually(lambda: len(muninn.domainInfo()["members"]) == 2, "the dead are reclaimed")
        eventually(lambda: len(leftovers(domain)) == 2, "what they held is gone")
    finally:
        os.kill(child, signal.SIGKILL)
    assert members[0].do("muninn.share(b'y', name='y').name") == "y"


def _watchingDescriptors() -> int:
    """How many connections and pidfds this process has. Its files change in number when
    the journal is written anew.
    """
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            kind = os.readlink(f"/proc/self/fd/{number}")
            count += kind.startswith("socket:") or kind == "anon_inode:[pidfd]"
    return count


def test_withoutDescriptorsTheKnownAreWatchedByTheirConnections(domain: str, actor: Start) -> None:
    """Broken: the broker had no room for one more, while it held two descriptors for
    each of the others.
    """
    broker = actor("import resource\nmuninn.share(b'x', name='x')")
    members = [actor("muninn.share(b'y')") for _ in range(6)]
    broker.do("""
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, limit[1]))
files = []
try:
    while True:
        files.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
for _ in range(2):
    os.close(files.pop())
""")
    assert (
        actor("z = muninn.share(b'z', name='z')").do("muninn.domainInfo()['brokerPid']")
        == broker.pid
    )
    for member in members:
        member.kill()
    broker.do(
        "[os.close(each) for each in files]; resource.setrlimit(resource.RLIMIT_NOFILE, limit)"
    )
    eventually(
        lambda: len(broker.do("muninn.domainInfo()['members']")) == 2, "the dead are reclaimed"
    )


def test_nothingIsTakenForLostBeforeAllWasBrought(lab: Lab) -> None:
    """One who holds more than a message takes. Broken: what came with the second
    message had been given up after the first.
    """
    member, count = lab.member(), requests.FULL_BATCH + 3
    before = lab.member()
    old = lab.settled(lab.broker(before))
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
    broker = lab.settled(lab.broker(lab.member()))
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


def test_aGrantWaitsForWhoMayHaveTheMemoryOfTheName(lab: Lab) -> None:
    """Broken: right after a takeover the name of lost memory was taken for somebody's."""
    member, before = lab.member(), lab.member()
    old = lab.settled(lab.broker(before))
    row, incarnation = old._directory.grant(member.key, usage("f", mode=Mode.FAST, gpu=0), 1 << 40)
    old._directory.rows.describe(row, describe("f", mode=Mode.FAST, gpu=0, transport="memfd"))
    old._directory.commit(member.key, row, incarnation, os.memfd_create("f"))
    for _, descriptor in old.handOver():
        os.close(descriptor)
    broker = lab.settled(lab.broker(lab.member()))
    create = {
        "op": "create",
        "name": "f",
        "tenant": "default",
        "mode": "bigMode",
        "gpu": -1,
        "sizeBytes": 4096,
        "gpuCapacityBytes": 0,
        "deadlineMs": 0,
    }
    # `member` and the broker before have not said hello
    assert broker.execute(create, [])[0]["row"] == requests.LATER
    assert broker._directory.find("f") is not None
    for each in (member, before):
        each.die()
    assert broker.execute(create, [])[0]["row"] >= 0
