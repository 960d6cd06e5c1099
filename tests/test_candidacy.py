"""Candidacy: a member that can serve becomes the broker; if no member can, every member
is told why.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable

import pytest
from lab import Lab

import muninn
from muninn.broker import candidacy
from muninn.broker.candidacy import OWN_DESCRIPTORS, Candidacy
from muninn.control.election import Term
from muninn.errors import BrokerUnavailable, DescriptorsExhausted, PlatformUnsupported
from muninn.session.membership import current
from muninn.system import clock
from muninn.wire import messages
from support import Actor, ActorError, eventually

Start = Callable[..., Actor]
_FEW = """
import resource
def limit(kind, count):
    resource.setrlimit(kind, (count, resource.getrlimit(kind)[1]))
limit(resource.RLIMIT_NOFILE, 64)
"""


def epochNow() -> int:
    return current().election.epoch()


def test_aBrokerThatComesToItsLimitsLetsAnotherServe(domain: str, actor: Start) -> None:
    """Broken: the members resigned in turn, at 227 % CPU, and requests timed out."""
    broker = actor(_FEW + "muninn.share(b'x').close()")
    able = actor("muninn.share(b'y').close()")
    assert muninn.domainInfo()["brokerPid"] == broker.pid
    epoch = epochNow()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, limits[1]))
    current().role.candidacy.measure()
    try:
        broker.do(
            "files = []\ntry:\n    while True: files.append(open('/dev/null'))\nexcept OSError: pass"
        )
        assert (
            actor("muninn.share(b'z').close()").do("muninn.domainInfo()['brokerPid']") == able.pid
        )
        assert epochNow() == epoch + 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_aNewcomerThatNoBrokerCanTakeIsToldWhy(domain: str, actor: Start) -> None:
    """Broken: the newcomer got `BrokerUnavailable` after the request timeout, and no
    word of descriptors.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    broker = actor(_FEW + "muninn.share(b'x', name='x')")
    epoch = broker.do("muninn.domainInfo()['epoch']")
    broker.do(
        "files = []\ntry:\n    while True: files.append(open('/dev/null'))\nexcept OSError: pass"
    )
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + OWN_DESCRIPTORS - 2, limits[1])
    )
    try:
        with pytest.raises(
            DescriptorsExhausted, match=rf"process {broker.pid} .* may open 64 descriptors"
        ):
            muninn.share(b"y")
        assert muninn.open("x").nbytes == 1, "an open asks no broker"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert epochNow() == epoch
    broker.do("files.clear()")
    assert muninn.share(b"y", name="y").name == "y"
    assert broker.do("muninn.share(b'z', name='z').name") == "z"


def test_aNewcomersMessageDoesNotHideTheRefusal(lab: Lab) -> None:
    """Broken: the kernel told the newcomer of its unread message, and not the answer."""
    broker = lab.broker(lab.member())
    own, newcomer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with own, newcomer:
        messages.send(newcomer, {"op": "hello"})
        broker._admission._refuse(own)
        own.close()
        received = messages.receive(newcomer)
    assert received is not None and received[0]["error"] == DescriptorsExhausted.number


def test_aMemberThatCanNotServeDoesNotStand(domain: str, actor: Start) -> None:
    """A member can not serve, for example because its journal may not grow. Broken: it
    was elected, and each request of its term was an error.
    """
    broker = actor().join()
    limited = actor(_FEW + "limit(resource.RLIMIT_FSIZE, 65536)\nmuninn.domainInfo()").join()
    broker.kill()
    with pytest.raises(ActorError, match="may write no file of more than 65536 bytes"):
        limited.do("muninn.share(b'x')")
    able = actor().join()
    assert able.do("muninn.share(b'y', name='y').name") == "y"
    assert (
        eventually(lambda: limited.do("muninn.domainInfo()['brokerPid']"), "a member serves")
        == able.pid
    )
    assert limited.do("muninn.share(b'z', name='z').name") == "z"


@pytest.mark.parametrize("fileBytes", [0, 50_000, 100_000])
def test_aBrokerThatMayWriteNoLongerJournalLetsAnotherServe(
    domain: str, actor: Start, fileBytes: int
) -> None:
    """Broken: as long as that broker lived, each member was told that /dev/shm is full,
    and to free buffers.
    """
    broker = actor("import resource\nmuninn.share(b'x', name='x')")
    able = actor().join()
    assert muninn.domainInfo()["brokerPid"] == broker.pid
    broker.do(
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({fileBytes}, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))"
    )
    for number in range(300):  # 150 KB of journal
        muninn.share(b"y", name=f"y{number}").close()
    assert muninn.domainInfo()["brokerPid"] in (os.getpid(), able.pid)
    assert {each["name"] for each in muninn.listBuffers()} == {
        "x",
        *(f"y{number}" for number in range(300)),
    }
    muninn.free("y0")
    assert broker.do("muninn.open('y1').nbytes") == 1, "the old broker goes on as a member"
    with pytest.raises(ActorError, match="write no file of more than .* Raise its `ulimit -f`"):
        broker.do("muninn.share(np.zeros(1 << 20))")


def test_theAblestIsChosen(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    own, few, many = lab.member(), lab.member(), lab.member()
    standing = Candidacy(lab.block, lab.members, own.key)
    lab.members.tellSpareDescriptors(few.key.slot, OWN_DESCRIPTORS + 2)
    lab.members.tellSpareDescriptors(many.key.slot, OWN_DESCRIPTORS + 3)
    term = Term(1, None)
    assert standing.choice(term) == own.key.slot, "a member that can serve all chooses itself"
    monkeypatch.setattr(standing, "_spare", lambda: OWN_DESCRIPTORS + 2)
    assert (standing.choice(term), standing.abler()) == (many.key.slot, many.key.slot)
    assert standing.choice(Term(1, many.key.slot)) == own.key.slot, (
        "and not the member whose term has ended"
    )
    many.die()
    assert (standing.choice(term), standing.abler()) == (own.key.slot, None)
    monkeypatch.setattr(standing, "_spare", lambda: 0)
    assert standing.choice(term) == few.key.slot
    few.die()
    assert standing.choice(term) is None


def test_aMemberThatHasFailedStandsAgainLaterEachTime(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the member stood again at once, for ever."""
    now = 100.0
    monkeypatch.setattr(candidacy.clock, "now", lambda: now)
    standing = Candidacy(lab.block, lab.members, lab.member().key)
    pauses = []
    for _ in range(9):
        standing.resigned(Term(1, None), RuntimeError("no luck"))
        assert standing.choice(Term(1, None)) is None
        pauses.append(standing._standsAgainAt - now)
        now = standing._standsAgainAt
    assert pauses == sorted(pauses) and pauses[0] < 0.1 and pauses[-1] == 5.0
    assert standing.choice(Term(1, None)) is not None
    now += 60
    standing.resigned(Term(1, None), RuntimeError("no luck"))
    assert standing._standsAgainAt - now < 0.1, "an old failure is forgotten"


def test_aRequestWhileNoMemberCanServeIsToldWhy(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    standing = Candidacy(lab.block, lab.members, lab.member().key)
    slept: list[float] = []
    monkeypatch.setattr(clock, "sleep", slept.append)
    for _ in range(4):
        standing.resigned(Term(1, None), RuntimeError("no luck"))
    with pytest.raises(BrokerUnavailable, match="no luck"):
        standing.stand(lab.election, lab.election.term(), mayWait=False)
    standing.stand(lab.election, lab.election.term(), mayWait=True)
    assert slept and lab.election.term().slot is None


def test_aBrokerThatResignsSaysWhyInOneLine(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """A known error, with a type and a fix, needs no traceback; an unknown one does."""
    member = lab.member()
    standing = Candidacy(lab.block, lab.members, member.key)
    known = (
        OSError(errno.EBADF, "descriptor 4 was closed by the program"),
        BrokerUnavailable("the journal needs more", "Raise it"),
    )
    for error in (*known, OSError(errno.EFBIG, "File too large"), RuntimeError("no luck")):
        standing.resigned(Term(1, None), error)
    *told, unknown = caplog.records
    assert [each.exc_info for each in told] == [None] * 3 and unknown.exc_info is not None
    assert (
        "Let it close only what it has opened itself" in told[0].getMessage()
        and "Raise it" in told[1].getMessage()
    )


def test_aMemberThatSeesAnotherMemoryIsNoSuccessor(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other root may have a `/proc`. Broken: such a member counted as one that can
    serve; others chose it, and it stood aside, again and again.
    """
    member, other = lab.member(), lab.member()
    standing, choosing = (
        Candidacy(lab.block, lab.members, member.key),
        Candidacy(lab.block, lab.members, other.key),
    )
    assert standing.choice(Term(1, None)) == member.key.slot == choosing.successor()
    monkeypatch.setattr(
        candidacy, "missingShm", lambda: PlatformUnsupported("another root", "Go back")
    )
    standing.measure()
    assert choosing.successor() is None
    with pytest.raises(PlatformUnsupported, match="another root"):
        standing.stand(lab.election, Term(1, other.key.slot), mayWait=False)


@pytest.mark.parametrize("begins", [True, False])
def test_aPauseThatBeginsOrEndsInBetweenIsNoReason(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    """Broken: a member that asked in this moment was told of one failure as if it
    lasted.
    """
    now = 100.0
    monkeypatch.setattr(candidacy.clock, "now", lambda: now)
    standing = Candidacy(lab.block, lab.members, lab.member().key)
    if not begins:
        standing.resigned(Term(1, None), RuntimeError("no luck"))
    choice = standing.choice

    def slowly(term: Term) -> int | None:
        nonlocal now
        if begins and not standing._failures:
            standing.resigned(Term(1, None), RuntimeError("no luck"))
        chosen = choice(term)
        if not begins or now > 100:
            now = standing._standsAgainAt
        return chosen

    monkeypatch.setattr(standing, "choice", slowly)
    standing.stand(lab.election, lab.election.term(), mayWait=False)
    now = 200.0
    standing.stand(lab.election, lab.election.term(), mayWait=False)
    assert lab.election.term().slot is not None
