"""`broker/broker.py`: neither an error of one request nor a shortage ends a term or stops
the process, and a deposed broker serves no member.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

import msgpack
import pytest
from lab import Lab, Member, describe, usage
from peers import Peer, createOf, helloOf

import muninn
from muninn.broker.broker import Broker
from muninn.control.rows import Deposed
from muninn.session.membership import current
from muninn.system import atomics
from muninn.terms import Mode
from muninn.wire import messages, requests
from support import Actor, ActorError, eventually, leftovers

Start = Callable[..., Actor]


def test_anUnforeseenErrorEndsTheConnectionOnly(served: tuple[Lab, Broker, Member]) -> None:
    lab, broker, _ = served

    def fail(*_: object) -> tuple[dict[str, object], tuple[int, ...]]:
        raise KeyError("a fault of ours")

    broker._handlers["ping"] = fail
    answer = Peer(lab, broker).ask(msgpack.packb({"op": "ping"}))
    assert answer is not None and answer["error"] == 20
    broker.step(0)


def test_aRowOfAnEpochThatHasNotComeIsAnErrorAndNoDeposition(
    served: tuple[Lab, Broker, Member],
) -> None:
    """Broken: a damaged word raised `Deposed`, and the broker began its term anew,
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


def test_aDeposedBrokerServesNoMember(served: tuple[Lab, Broker, Member]) -> None:
    """Broken: `step` did not look at the election; `start` did not fence."""
    lab, broker, own = served
    row, incarnation = lab.make(broker._directory, own)
    assert lab.afterMaintenance(broker).lacks("missing")
    successor = lab.broker(lab.member())
    assert not broker.lacks("missing"), "the successor may have granted the name"
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
    """Broken: every process that could connect was served."""
    lab, broker, _ = served
    monkeypatch.setattr(messages, "peerOf", lambda connection: (1, os.getuid() + 1))
    stranger = Peer(lab, broker)
    broker.step(0)
    assert not broker._server.sessions and messages.receive(stranger.socket) is None


def test_aRequestOfTheDeadThatIsReadLateGrantsNothing(served: tuple[Lab, Broker, Member]) -> None:
    """The request was in the socket when its sender died.

    Broken: the broker did not check the session's member again; the row then belonged
    to no member and stayed CREATING.
    """
    lab, broker, _ = served
    dead = lab.member()
    peer, pidfd = Peer(lab, broker), os.pidfd_open(os.getpid())
    assert peer.ask(helloOf(dead), [pidfd]) == {"epoch": 1}
    broker._reclaimer.leave(dead.key)
    fields = createOf(op="create", name="late", tenant="t")
    answer = peer.ask(msgpack.packb(fields))
    assert answer is not None and answer["error"] == 20
    assert lab.rows.notFree() == []
    os.close(pidfd)


def test_theMemoryOfAFreedRowIsNotWaitedFor(served: tuple[Lab, Broker, Member]) -> None:
    """A holder that has not said hello may bring the memory of a living row. Broken:
    the broker waited for the holder also when the row was freed.
    """
    lab, broker, own = served
    lab.member()
    row, incarnation = lab.make(broker._directory, own)
    fetch = {"op": "fetch", "row": row, "incarnation": incarnation}
    assert broker.execute(fetch, [])[0] == {"found": False}
    own.leases.take(row, incarnation, 1000)
    broker._directory.free(row, incarnation)
    assert broker.execute(fetch, [])[0]["error"] == 10


def test_aGrantWaitsForMembersThatMayHaveTheMemoryOfTheName(lab: Lab) -> None:
    """Broken: right after a takeover, the name of lost memory was refused as taken."""
    member, before = lab.member(), lab.member()
    old = lab.afterMaintenance(lab.broker(before))
    row, incarnation = old._directory.grant(member.key, usage("f", mode=Mode.FAST, gpu=0), 1 << 40)
    old._directory.rows.describe(row, describe("f", mode=Mode.FAST, gpu=0, transport="memfd"))
    old._directory.commit(member.key, row, incarnation, os.memfd_create("f"))
    for _, descriptor in old.handOver():
        os.close(descriptor)
    broker = lab.afterMaintenance(lab.broker(lab.member()))
    create = createOf(op="create", name="f")
    # `member` and the broker before have not said hello.
    assert broker.execute(create, [])[0]["row"] == requests.LATER
    assert broker._directory.find("f") is not None
    for each in (member, before):
        each.die()
    assert broker.execute(create, [])[0]["row"] >= 0


def test_aBrokerWithoutDescriptorsGivesWay(domain: str, actor: Start) -> None:
    """Broken: the broker logged each refused connection and went on counting its
    heartbeat, so no member was served while descriptors were missing.
    """
    # Share once, so that the modules of the first use are imported.
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
        # The descriptors of the term are free since the broker gave up its term.
        broker.do("exhaust()\nmuninn.share(b'y', name='b')")
    assert caught.value.kind == "DescriptorsExhausted"
    broker.do("[os.close(fd) for fd in taken]; None")
    assert broker.do("muninn.share(b'y', name='b').name") == "b"
    assert len(leftovers(domain)) == 2


def test_theBackgroundThreadSurvivesAnUnforeseenError(domain: str, actor: Start) -> None:
    """The end of the thread would tell the others that the process is dead."""
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
    """The background thread tells a broker of a released buffer, and that broker is
    killed before it answers.

    Broken: the thread went on asking until the request timed out, although it had to
    serve itself.
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
    assert time.monotonic() < deadline, "far below the request timeout, for which the fault waited"
    eventually(lambda: len(leftovers(domain)) == 1, "the released buffer is gone")


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
