"""The client: it asks the current broker, says hello first, and never takes the answer
to another request for its own.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from lab import Lab, Member
from peers import createOf

from muninn.broker.broker import Broker
from muninn.control import layout
from muninn.control.election import Term
from muninn.control.rows import Deposed
from muninn.errors import DescriptorsExhausted, DomainChanged
from muninn.session import connector
from muninn.session.client import Client
from muninn.session.clientcontext import ClientContext
from muninn.session.connector import Connector
from muninn.wire import messages
from support import Background, eventually

Allocations = Callable[[], list[tuple[tuple[int, int], int]]]


class Serving:
    """A broker that a thread steps until it is deposed or the test ends."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._stop = threading.Event()
        self._thread = Background(self._serve)

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                self.broker.step(0.01)
            except Deposed:
                return

    def end(self) -> None:
        """Stop the thread; the sockets of the broker stay."""
        self._stop.set()
        self._thread.ended()


@pytest.fixture
def serve(lab: Lab) -> Iterator[Callable[[], Serving]]:
    """Elect another broker, and let it serve.

    A test makes its other members before this call: the sweep of a broker in the same
    process takes a half-made member for a dead one.
    """
    made: list[Serving] = []

    def start() -> Serving:
        made.append(Serving(lab.broker(lab.member())))
        return made[-1]

    yield start
    for each in made:
        each.end()


def _client(
    lab: Lab,
    member: Member,
    takeoverMs: int = 100,
    allocations: Allocations = list,
    campaign: Callable[[Term], None] = lambda term: None,
    wake: Callable[[], None] = lambda: None,
    hasLeft: Callable[[], bool] = lambda: False,
) -> Client:
    nonce = member.table.identity(member.key.slot).nonce
    return Client(
        ClientContext(
            lab.paths,
            member.table,
            lab.election,
            member.key,
            nonce,
            takeoverMs,
            50_000,
            lambda: None,
            campaign,
            lambda: False,
            allocations,
            wake,
            hasLeft=hasLeft,
        )
    )


def _look(client: Client) -> bool:
    """What the background thread does with the connections in each of its steps."""
    client.disconnect(1)
    return client.connect()


def _connected(broker: Broker) -> bool:
    return any(session.key is not None for session in broker._server.sessions.values())


def test_aClientThatWaitsForADeposedBrokerAsksItsSuccessor(
    lab: Lab, serve: Callable[[], Serving]
) -> None:
    """Broken: the wait for an answer ended only with the request's timeout."""
    client, first = _client(lab, lab.member()), serve()
    assert client.request("ping")[0] == {"epoch": 1}
    first.end()
    asking = Background(lambda: client.request("ping")[0]).asleep()
    serve()
    assert asking.ended() == {"epoch": 2}
    client.close()


def test_aNewBrokerIsAskedOnANewConnection(lab: Lab, serve: Callable[[], Serving]) -> None:
    """Broken: the client used the connection to the old broker as long as it existed."""
    client, first = _client(lab, lab.member()), serve()
    client.request("ping")
    first.end()
    (session,) = first.broker._server.sessions.values()
    serve()
    assert client.request("ping")[0] == {"epoch": 2}
    assert session.connection is not None
    assert messages.receive(session.connection) is None, "the old broker got no further request"
    client.close()


def test_anAnswerThatWasNotTakenIsNotTheNextQuestions(
    lab: Lab, serve: Callable[[], Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C came before the answer. Broken: the client kept the connection, and the
    next question got the old answer.
    """

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    client = _client(lab, lab.member())
    serve()
    client.request("ping")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            connector, "messages", SimpleNamespace(**{**vars(messages), "receive": interrupted})
        )
        client.request("find", name="a")
    assert client.request("ping")[0] == {"epoch": 1}
    client.close()


def _noneLeft(failing: list[bool]) -> list[tuple[tuple[int, int], int]]:
    """The memory that a hello brings, for which no descriptor is left while `failing`."""
    if failing:
        raise DescriptorsExhausted("none left")
    return []


def test_nothingIsAskedBeforeTheHello(lab: Lab, serve: Callable[[], Serving]) -> None:
    """Broken: a hello that failed left its connection open, and the next request went
    out on it without a hello.
    """
    failing = [True]
    client = _client(lab, lab.member(), allocations=lambda: _noneLeft(failing))
    serve()
    with pytest.raises(DescriptorsExhausted):
        client.request("find", name="a")
    failing.clear()
    assert client.request("find", name="a")[0] == {}
    client.close()


def test_aClientThatAsksAnEarlierBrokerIsCalledAway(
    lab: Lab, serve: Callable[[], Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: `disconnect` did nothing, and the client waited until the old broker's
    time was over.
    """
    monkeypatch.setattr(connector, "_LOOK_SECONDS", 60.0)  # nor does it see the new term by itself
    client, first = _client(lab, lab.member(), takeoverMs=40_000), serve()
    client.request("ping")
    eventually(lambda: _connected(first.broker), "the hello")
    first.end()
    asking = Background(lambda: client.request("ping")[0]).asleep()
    serve()
    client.disconnect(1)
    assert asking.isRunning(), "the client keeps a connection to the broker of that epoch"
    client.disconnect(2)
    assert asking.ended() == {"epoch": 2}
    client.close()


def test_nothingStaysConnectedToAnEarlierBroker(lab: Lab, serve: Callable[[], Serving]) -> None:
    """A member that becomes the broker itself sends no request any more. Broken: for
    its whole term it kept one socket to the last broker and one to that broker's
    descriptor server.
    """
    own, client = lab.member(), _client(lab, lab.member())
    first = serve()
    with first.broker._lock:
        made = lab.make(first.broker._directory, own)
        first.broker._directory.descriptorStore.put(*made, os.memfd_create("held"))
    client.request("ping")
    descriptor = client.fetch(*made)
    assert descriptor is not None
    connections = [line.connection.fileno() for line in client._lines._idle] + [
        client._descriptorServer._connection
    ]
    assert len(connections) == 2
    os.close(descriptor)
    client.disconnect(1)
    assert all(stat.S_ISSOCK(os.fstat(each).st_mode) for each in connections), (
        "the connections belong to this term"
    )
    client.disconnect(2)
    for each in connections:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(each)
    client.close()


def test_aHelloBringsTheMemoryThatHasNoName(lab: Lab, serve: Callable[[], Serving]) -> None:
    """Broken: the client told a new broker its identity, but not which allocations it
    holds.
    """
    member, first = lab.member(), serve()
    with first.broker._lock:
        made = lab.make(first.broker._directory, member)
    client = _client(lab, member, allocations=lambda: [(made, os.memfd_create("held"))])
    client.request("ping")
    assert first.broker._directory.descriptorStore.get(*made) is not None
    client.close()


def test_aQuestionInTheMiddleOfAnotherIsAnsweredToo(
    lab: Lab, serve: Callable[[], Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler or a finalizer may ask anywhere. Broken: the nested question
    waited for the lock that its own thread held, until its time was over.
    """
    client, _ = _client(lab, lab.member()), serve()
    client.request("ping")
    exchange, nested = Connector.exchange, list[object]()

    def interrupted(self: Connector, line: Any, message: Any, *arguments: Any) -> Any:
        if message["op"] == "find":
            nested.append(client.request("ping")[0])
        return exchange(self, line, message, *arguments)

    monkeypatch.setattr(Connector, "exchange", interrupted)
    assert client.request("find", name="a")[0] == {} and nested == [{"epoch": 1}]
    assert len(client._lines._idle) == 2
    _look(client)
    assert len(client._lines._idle) == 2, "both have carried a request since the last `connect`"
    for _ in range(2):
        client.request("ping")
        _look(client)
        assert len(client._lines._idle) == 1, (
            "the other one carried no request since, and it costs the broker a descriptor"
        )
    kept = list(client._lines._idle)
    _look(client)
    _look(client)
    assert client._lines._idle == kept, "the client keeps one for the next question"
    client.close()
    assert client._lines._idle == []


@pytest.mark.parametrize("isConnecting", [False, True])
def test_aMemberThatConnectsTwiceAtOnceKeepsOneConnection(
    lab: Lab, serve: Callable[[], Serving], monkeypatch: pytest.MonkeyPatch, isConnecting: bool
) -> None:
    """Broken: the background thread and a request connected at the same moment, when
    the process joined, and the member cost the broker two descriptors for two minutes.
    """
    client, _ = _client(lab, lab.member()), serve()
    first, second = client.connect, lambda: client.request("ping")
    if not isConnecting:
        first, second = second, first
    _inHello(monkeypatch, second)
    first()
    assert len(client._lines._idle) == 1 and len(client._lines._all) == 1
    client.close()


def _inHello(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Do something once, where a thread that connects is about to say hello."""
    hello = Connector._hello

    def together(*arguments: Any) -> None:
        monkeypatch.setattr(Connector, "_hello", hello)
        do()
        hello(*arguments)

    monkeypatch.setattr(Connector, "_hello", together)


def test_theBackgroundThreadKeepsNoConnectionBesideOneInUse(
    lab: Lab, serve: Callable[[], Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request came by while the thread connected, and waits for its answer. Broken:
    the thread kept its connection too.
    """
    client, _ = _client(lab, lab.member()), serve()
    exchange, isAsking, mayGoOn = Connector.exchange, threading.Event(), threading.Event()

    def waiting(self: Connector, line: Any, message: Any, *arguments: Any) -> Any:
        if message["op"] == "ping":
            isAsking.set()
            assert mayGoOn.wait(30)
        return exchange(self, line, message, *arguments)

    def ask() -> None:
        asking.append(Background(lambda: client.request("ping")[0]))
        assert isAsking.wait(30)

    asking = list[Background]()
    monkeypatch.setattr(Connector, "exchange", waiting)
    _inHello(monkeypatch, ask)
    client.connect()
    assert client._lines._idle == []
    mayGoOn.set()
    assert asking[0].ended() == {"epoch": 1} and len(client._lines._idle) == 1
    client.close()


def test_theBackgroundThreadDoesNotCountOnAHelloThatMayNotCome(
    lab: Lab, serve: Callable[[], Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C before the hello of a request. Broken: the background thread had looked
    just before, took that connection for its own, and slept for 40 s; meanwhile the
    broker waited for the memory that this member might bring.
    """

    def interrupted() -> None:
        client.connect()
        raise KeyboardInterrupt

    client, _ = _client(lab, lab.member()), serve()
    _inHello(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.request("ping")
    assert client.isConnected(1)
    client.close()


def test_aConnectionThatAnErrorKeepsIsNone(lab: Lab, serve: Callable[[], Serving]) -> None:
    """A notebook keeps the last error, and with it the frames. Broken: the connection
    of a hello that failed counted as one, and the member did not connect again.
    """
    failing = [True]
    client, _ = _client(lab, lab.member(), allocations=lambda: _noneLeft(failing)), serve()
    with pytest.raises(DescriptorsExhausted) as kept:
        client.request("ping")
    failing.clear()
    assert not client.isConnected(1) and len(client._lines._all) == 1
    client.connect()
    assert client.isConnected(1) and len(client._lines._idle) == 1, kept.value
    client.close()


def test_aConnectionThatFailsIsMadeAgainSoon(
    lab: Lab, serve: Callable[[], Serving], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the only connection ended with a request that was interrupted, and the
    background thread slept on; and it counted as one as long as the error was kept.
    """
    woken = threading.Event()
    client, _ = _client(lab, lab.member(), wake=woken.set), serve()
    client.request("ping")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as kept:
        patch.setattr(Connector, "exchange", interrupted)
        client.request("ping")
    assert woken.is_set()
    assert not client.isConnected(1), kept.value
    client.close()


def test_aBrokerThatTheBackgroundThreadDoesNotReachIsDeposed(
    lab: Lab, serve: Callable[[], Serving]
) -> None:
    """Its sockets were removed, and nobody asks. Broken: each attempt to connect began
    to look at the heartbeat anew, so the member tried in vain and for ever.
    """
    stood = list[Term]()
    client, serving = _client(lab, lab.member(), campaign=stood.append), serve()
    serving.end()
    os.unlink(lab.paths.socketPath(1))
    eventually(lambda: not client.connect() and bool(stood), "the campaign")
    assert stood[0].epoch == 1
    client.close()


def test_aConnectionThatIsGivenBackAfterTheEndIsClosed(
    lab: Lab, serve: Callable[[], Serving]
) -> None:
    """Broken: a request that was answered after its process had left kept its
    connection open.
    """
    client, _ = _client(lab, lab.member()), serve()
    client.request("ping")
    line = client._lines.take(1)
    assert line is not None
    client.close()
    client._lines.giveBack(line)
    assert client._lines._idle == [] and not line.isOurs()


def test_aRequestOfAProcessThatHasLeftSaysSo(lab: Lab, serve: Callable[[], Serving]) -> None:
    """Another thread left the domain meanwhile. Broken: the error said that member slot
    1 was given back, and that one should use one version of Muninn.
    """
    hasLeft, stood = threading.Event(), list[Term]()
    client, serving = (
        _client(lab, lab.member(), campaign=stood.append, hasLeft=hasLeft.is_set),
        serve(),
    )
    client.request("leave")
    hasLeft.set()
    with pytest.raises(DomainChanged, match="left"):
        client.request("ping")
    serving.end()
    lab.elect(None)
    with pytest.raises(DomainChanged, match="left"):
        client.request("ping")
    assert len(stood) == 1, "it does not wait for the next broker"
    client.close()


def test_aLaterRequestIsSentOnce(lab: Lab, serve: Callable[[], Serving]) -> None:
    """The answer to a grant was not awaited; the client asks for the grant again, and
    gives it back.
    """
    member = lab.member()
    client, serving = _client(lab, member), serve()
    fields = createOf(name="a", tenant="t")
    row = client.request("create", **fields)[0]["row"]
    client.later({"op": "create", **fields})
    assert client.askLater() and lab.rows.state(row).state == layout.ROW_FREE
    serving.end()
    client.close()


def test_aWaitForALaterRequestIsToldWhyNoBrokerServes(lab: Lab) -> None:
    """Broken: each time, the client said after 30 s that no broker took back the
    interrupted request, but never why.
    """
    member = lab.member()

    def refuse(term: Term) -> None:
        raise DescriptorsExhausted(f"no member can serve after epoch {term.epoch}")

    client = _client(lab, member, campaign=refuse)
    client.later({"op": "ping"})
    with pytest.raises(DescriptorsExhausted, match="no member can serve"):
        client.awaitLater()
    client.close()
