"""`broker/deathwatch.py`: how the broker learns of deaths, from the hello of a member
until its death is confirmed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
from lab import Lab, Member, reclaim
from peers import Peer, helloOf

import muninn
from muninn.broker import deathwatch, maintenance
from muninn.broker.broker import Broker
from muninn.broker.handlers import members as memberRequests
from muninn.control import layout, memberreader
from muninn.wire import messages
from support import Actor, eventually, leftovers

Start = Callable[..., Actor]


def test_aHelloNeedsAPidfdOfTheMemberItself(served: tuple[Lab, Broker, Member]) -> None:
    lab, broker, _ = served
    member = lab.member()
    descriptors = [
        os.open("/dev/null", os.O_RDONLY),
        os.memfd_create("x"),
        os.pidfd_open(os.getppid()),
    ]
    for descriptor in descriptors:
        answer = Peer(lab, broker).ask(helloOf(member), [descriptor])
        assert answer is not None and answer["error"] == 20
    assert Peer(lab, broker).ask(helloOf(member)) is not None
    good = os.pidfd_open(os.getpid())
    assert Peer(lab, broker).ask(helloOf(member, nonce=1), [good]) != {"epoch": 1}
    assert Peer(lab, broker).ask(helloOf(member), [good]) == {"epoch": 1}
    messages.closeAll([*descriptors, good])


def test_aHelloOfTheDeadIsRefused(served: tuple[Lab, Broker, Member]) -> None:
    """Broken: the broker did not look at the slot."""
    lab, broker, _ = served
    dead, pidfd = lab.member(), os.pidfd_open(os.getpid())
    hello = helloOf(dead)
    reclaim(broker, dead.key)
    answer = Peer(lab, broker).ask(hello, [pidfd])
    assert answer is not None and answer["error"] == 20
    os.close(pidfd)


@pytest.mark.parametrize("looks", [0, 1], ids=("beforeItIsLookedAt", "afterIt"))
def test_aMemberThatDiesBeforeItsHelloIsReadIsNoFault(
    served: tuple[Lab, Broker, Member],
    looks: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The member's pidfd leads to no process any more. Broken: the broker warned of a
    false hello, in the output of its own program.

    Broken again: when a member died between two looks at its pidfd, the second look
    called the hello false.
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
    answer = Peer(lab, broker).ask(helloOf(lab.member()), [pidfd])
    assert answer is not None and answer.get("error") == (None if looks else 20)
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert any("died before its hello" in record.message for record in caplog.records) == (
        not looks
    )
    assert bool(sweeps) == (not looks), "the broker has no pidfd of the member, so it sweeps soon"
    os.close(pidfd)


def test_aPidOfAnotherNamespaceIsNotFollowed(served: tuple[Lab, Broker, Member]) -> None:
    """Broken: the broker followed the process that has this number in its own
    namespace, and would have taken the end of that process for the member's.
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


def test_aDeathThatIsNotYetConfirmedIsLookedAtAgain(
    served: tuple[Lab, Broker, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pidfd is readable, and the kernel still holds the byte lock.

    Broken: the broker looked only at the one event of the pidfd; `confirm` kept the
    pidfd.
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


def _deadBeforeItsHello(lab: Lab) -> Member:
    """A member whose process has ended, and of which no message told the broker."""
    dead = lab.member()
    ended = os.fork()
    if ended == 0:
        os._exit(0)
    os.waitpid(ended, 0)
    start = layout.MEMBERS_OFFSET + dead.key.slot * layout.MEMBER_BYTES
    lab.block.bytes[start + layout.MEMBER_PID_OFFSET : start + layout.MEMBER_PID_OFFSET + 4] = (
        ended.to_bytes(4, "little")
    )
    return dead


def test_aMemberKilledBeforeItsHelloIsFound(
    served: tuple[Lab, Broker, Member], actor: Start
) -> None:
    lab, broker, _ = served
    dead = _deadBeforeItsHello(lab)
    broker._maintenance._sweepAt = 0.0
    eventually(
        lambda: broker.step(0) or lab.members.state(dead.key.slot)[0] == layout.MEMBER_FREE,
        "its slot is free",
    )


def test_aMemberThatEndsBeforeItsHelloIsLookedForAtOnce(
    served: tuple[Lab, Broker, Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker has no pidfd of the member. Broken: the death was found only by the
    next sweep.
    """
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


def test_aBrokerThatIsAskedWithoutAPauseFindsTheDeadToo(served: tuple[Lab, Broker, Member]) -> None:
    """Broken: a broker did its maintenance in steps without a request only, so a domain
    with a request each second was never swept.
    """
    lab, broker, _ = served
    dead = _deadBeforeItsHello(lab)

    def stepIsBusy() -> bool:
        os.eventfd_write(broker._server._wakeFd, 1)
        broker.step(0)
        return lab.members.state(dead.key.slot)[0] == layout.MEMBER_FREE

    eventually(stepIsBusy, "its slot is free", bound=20.0)


def test_manyMembersCostADescriptorEach(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: each member cost two descriptors. A death is confirmed with one too, also
    if a forked child keeps the connection.
    """
    monkeypatch.setattr(deathwatch, "MAX_PIDFDS", 1)
    monkeypatch.setattr(maintenance, "SWEEP_SECONDS", 0.1)
    muninn.share(b"mine", name="mine")
    actor()  # the first of a worker opens the socket of the zygote
    before = _watchingDescriptors()
    members = [actor("held = muninn.share(b'x')") for _ in range(4)]
    # A sweep that meets a member before its hello takes the pidfd, and the hello ends that.
    eventually(
        lambda: 4 <= _watchingDescriptors() - before <= 4 + 1, "one for each, and a pidfd or none"
    )
    members[3].do("import os, signal\nchild = os.fork()\nif child == 0:\n    signal.pause()")
    child = members[3].do("child")
    try:
        for member in members[1:]:
            member.kill()
        eventually(lambda: len(muninn.domainInfo()["members"]) == 2, "the dead are reclaimed")
        eventually(lambda: len(leftovers(domain)) == 2, "the buffers of the dead are gone")
    finally:
        os.kill(child, signal.SIGKILL)
    assert members[0].do("muninn.share(b'y', name='y').name") == "y"


def _watchingDescriptors() -> int:
    """How many connections and pidfds this process has. Its files do not count: their
    number changes when the journal is written anew.
    """
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            kind = os.readlink(f"/proc/self/fd/{number}")
            count += kind.startswith("socket:") or kind == "anon_inode:[pidfd]"
    return count


def test_withoutDescriptorsTheKnownAreWatchedByTheirConnections(domain: str, actor: Start) -> None:
    """Broken: the broker had no descriptor for another member, because it held two for
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
