"""`session/reservation.py`: a creation that is interrupted at any point leaves nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.control import layout
from muninn.errors import BrokerUnavailable, BufferExists, BufferNotFound
from muninn.session import creation, membership
from muninn.session.member import Membership
from muninn.session.reservation import Creating, Reservation
from support import Actor, ActorError, Background, eventually, leftovers, program

Start = Callable[..., Actor]


def _joined(role: str, actor: Start) -> Membership:
    if role == "member":
        actor().join()  # another process is the broker
    muninn.domainInfo()
    return membership.current()


def _isClean(current: Membership) -> bool:
    return not current.rows.notFree() and not current.openBuffers.creating._byName


@pytest.mark.parametrize("op", ["create", "commit"])
@pytest.mark.parametrize("isAsked", [False, True])
@pytest.mark.parametrize("role", ["member", "broker"])
def test_anInterruptedCreationIsTakenBack(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch, role: str, isAsked: bool, op: str
) -> None:
    """Broken: Ctrl-C while a grant was under way left a name without an owner, which no
    process could create again.
    """
    current = _joined(role, actor)
    real, armed = current.client.request, [op]

    def request(asked: str, *arguments: Any, **fields: Any) -> Any:
        if asked not in armed:
            return real(asked, *arguments, **fields)
        armed.clear()
        if isAsked:
            real(asked, *arguments, **fields)
        raise KeyboardInterrupt

    monkeypatch.setattr(current.client, "request", request)
    with pytest.raises(KeyboardInterrupt):
        muninn.share(np.arange(3), name="a")
    assert current.rows.inState(layout.ROW_CREATING) == []
    eventually(lambda: _isClean(current), "nothing is left of it")
    assert leftovers(domain) == []
    other = actor()
    assert other.do("b = muninn.share(np.arange(4), name='a'); int(b.array.sum())") == 6
    assert muninn.open("a").array.sum() == 6


@pytest.mark.parametrize("role", ["member", "broker"])
def test_aCreationInterruptedTwiceIsTakenBackByTheBackgroundThread(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """The second Ctrl-C comes while the creation undoes what the first one interrupted."""
    current = _joined(role, actor)
    real, armed = current.client.request, [2, 1]

    def request(op: str, *arguments: Any, **fields: Any) -> Any:
        answer = real(op, *arguments, **fields)
        if armed:
            armed.pop()
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(current.client, "request", request)
    # The traceback keeps all frames, as in a notebook. Broken: the name was taken for
    # ever.
    with pytest.raises(KeyboardInterrupt) as kept:
        muninn.share(np.arange(3), name="a")
    muninn.share(np.arange(3), name="a").free()
    assert kept.tb is not None
    del kept
    eventually(lambda: _isClean(current), "nothing is left of it")


@pytest.mark.parametrize("role", ["member", "broker"])
@pytest.mark.parametrize("cut", ["giveUp", "leaveName"])
def test_aCreationInterruptedAfterItsCommitIsTakenBack(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch, role: str, cut: str
) -> None:
    """The first Ctrl-C comes when every process can open the name, the second at the
    first bytecode of the code that takes it back.
    """
    current = _joined(role, actor)
    real = current.client.request

    def request(op: str, *arguments: Any, **fields: Any) -> Any:
        answer = real(op, *arguments, **fields)
        if op == "commit":
            raise KeyboardInterrupt
        return answer

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt) as kept:
        patched.setattr(current.client, "request", request)
        patched.setattr(Reservation, cut, interrupted)
        muninn.share(np.arange(3), name="a")
    eventually(lambda: not current.rows.inState(layout.ROW_LIVE), "the name has no owner")
    muninn.share(np.arange(3), name="a").free()
    assert kept.tb is not None
    del kept
    eventually(lambda: _isClean(current), "nothing is left of it")


@pytest.mark.parametrize("op", ["create", "commit"])
@pytest.mark.parametrize("role", ["member", "broker"])
def test_aBrokerThatDoesNotAnswerIsNotWaitedForTwice(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch, role: str, op: str
) -> None:
    """Broken: when the time of a request was over, the creation asked for its grant
    again, and waited as long once more.
    """
    current = _joined(role, actor)
    real, asked = current.client.request, list[str]()

    def request(asking: str, *arguments: Any, **fields: Any) -> Any:
        asked.append(asking)
        answer = real(asking, *arguments, **fields)
        if asking == op:
            raise BrokerUnavailable("the answer did not come in time")
        return answer

    with (
        monkeypatch.context() as patched,
        pytest.raises(BrokerUnavailable, match="did not come in time"),
    ):
        patched.setattr(current.client, "request", request)
        muninn.share(np.arange(3), name="a")
    assert asked == ["create", "commit"][: 1 + (op == "commit")]
    muninn.share(np.arange(3), name="a").free()
    eventually(lambda: _isClean(current), "nothing is left of it")


def test_aNameIsOneThreadsUntilItsCreationEnds(domain: str) -> None:
    client, creating = membership.current().client, Creating(lambda: None)
    first, second = Reservation(client, creating, "a"), Reservation(client, creating, "a")
    with second.begun(), first.begun():
        first.takeName()
        with pytest.raises(muninn.errors.BufferExists):
            second.takeName()
        second.leaveName()
        # The first creation was interrupted, and never left its name.
    with second.begun():
        second.takeName()
        assert creating.isAny() and not creating.cleanups.isUnderWay(first)
        second.leaveName()
    assert not creating.isAny() and creating._byName == {}
    assert not creating.cleanups.awaitDone(0.01) and creating.cleanups.run()


#: A call in the middle of the creation of its name, on the same thread, and the result
#: of the call. Broken: it waited for its own thread.
_IN_BETWEEN: dict[str, tuple[Callable[[], object], type[Exception]]] = {
    "array": (lambda: muninn.array("n", 4), BrokerUnavailable),
    "open": (lambda: muninn.open("n", timeout=60), BrokerUnavailable),
    "shareOnce": (lambda: muninn.shareOnce("n", lambda: np.zeros(4)), BrokerUnavailable),
    "Lock": (lambda: muninn.Lock("n"), BrokerUnavailable),
    "share": (lambda: muninn.share(np.zeros(4), name="n"), BufferExists),
}


@pytest.mark.parametrize("role", ["member", "broker"])
@pytest.mark.parametrize("what", _IN_BETWEEN)
def test_aCallThatInterruptsACreationDoesNotWaitForIt(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch, role: str, what: str
) -> None:
    _joined(role, actor)
    (call, kind), describe, seen = _IN_BETWEEN[what], creation._describe, list[bool]()

    def interrupted(*arguments: Any) -> Any:
        if not seen:
            seen.append(True)
            with pytest.raises(kind, match="this thread was interrupted while it is creating 'n'"):
                call()
            with pytest.raises(BufferNotFound):
                muninn.open("n", timeout=0)
            muninn.share(np.zeros(4), name="another").free()
        return describe(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(creation, "_describe", interrupted)
        made = muninn.Lock("n") if what == "Lock" else muninn.share(np.arange(4), name="n")
    assert seen
    if isinstance(made, muninn.Lock):
        with made, muninn.Lock("n"):
            pass
    else:
        assert muninn.open("n", timeout=60).array.sum() == 6


def test_aNameThatAnotherThreadCreatesIsWaitedFor(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    described, semaphore, describe = threading.Event(), threading.Event(), creation._describe

    def slow(*arguments: Any) -> Any:
        described.set()
        semaphore.wait(60)
        return describe(*arguments)

    monkeypatch.setattr(creation, "_describe", slow)
    making = Background(lambda: muninn.share(np.arange(4), name="n"))
    assert described.wait(60)
    with pytest.raises(BufferExists, match="another thread of this process is creating 'n'"):
        muninn.share(np.zeros(4), name="n")
    waiting = [
        Background(call).asleep()
        for call in (lambda: muninn.array("n", 4, "i8"), lambda: muninn.open("n", timeout=60))
    ]
    semaphore.set()
    assert making.ended().array.sum() == 6 and [each.ended().array.sum() for each in waiting] == [
        6,
        6,
    ]


#: In the middle of a grant, when the row has changed and its name is not noted yet, a
#: signal reaches the main thread.
_SIGNALLED = program("signalledRequests")


def test_aChangeOfTheDirectoryIsNotInterrupted(domain: str, actor: Start) -> None:
    """Broken: the broker's own process changed the directory on the main thread, where
    Ctrl-C stopped it between one word and the next.
    """
    broker = actor(
        f"{_SIGNALLED}\ndef stop(*_): raise KeyboardInterrupt\nsignal.signal(signal.SIGALRM, stop)"
    )
    with pytest.raises(ActorError, match="KeyboardInterrupt"):
        broker.do("armed.append(1); muninn.share(np.arange(3), name='a')")
    assert broker.do(f"membership.current().rows.inState({layout.ROW_CREATING})") == []
    assert actor().do("int(muninn.share(np.arange(4), name='a').array.sum())") == 6
    assert broker.do("int(muninn.open('a').array.sum())") == 6 and broker.leave() == 0


def test_aHandlerCallsInTheMiddleOfAChange(domain: str, actor: Start) -> None:
    """Broken: the handler changed the directory in the middle of the change that it had
    interrupted.
    """
    handler = "def handle(*_): muninn.free('k'); muninn.share(np.arange(6), name='h')"
    broker = actor(f"{_SIGNALLED}\n{handler}\nsignal.signal(signal.SIGALRM, handle)")
    broker.do("armed.append(1); muninn.share(np.arange(3), name='a')")
    assert actor().do("int(muninn.open('a').array.sum()), int(muninn.open('h').array.sum())") == [
        3,
        15,
    ]
    assert broker.do("sorted(row['name'] for row in muninn.listBuffers())") == ["a", "h"]


def test_aFinalizerOnTheThreadThatServesIsNotWaitedFor(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector chooses the thread. A request that needs no answer is sent
    later; one that needs an answer is refused at once.
    """
    from muninn.broker.catalog import Catalog

    victim, named = (
        muninn.share(np.arange(3), name="victim"),
        muninn.share(np.arange(3), name="named"),
    )
    add, seen = Catalog.add, list[Any]()

    def finalizing(self: Catalog, row: int, usage: Any) -> None:
        add(self, row, usage)
        if usage.name == "a" and not seen:
            victim.free()
            muninn.free("named")
            for call in (
                lambda: muninn.share(np.arange(2), name="b"),
                lambda: muninn.open("c"),
                lambda: muninn.free("c"),
            ):
                try:
                    call()
                except muninn.MuninnError as error:
                    seen.append(type(error).__name__)

    monkeypatch.setattr(Catalog, "add", finalizing)
    made = muninn.share(np.arange(4), name="a")
    assert seen == ["BrokerUnavailable"] * 3 and made.array.sum() == 6
    named.close()
    eventually(
        lambda: [row["name"] for row in muninn.listBuffers()] == ["a"], "the others are free"
    )
    assert os.getpid() in {member["pid"] for member in muninn.domainInfo()["members"]}
