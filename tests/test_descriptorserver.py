"""The descriptor server: it hands out the descriptors of the descriptor store without
the broker's interpreter. A client asks the broker if the server hands out none.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab

import muninn
from muninn.broker.descriptorstore import DescriptorStore
from muninn.errors import DescriptorsExhausted
from muninn.session.membership import current
from muninn.system import atomics
from muninn.system.descriptors import Descriptor
from muninn.wire.descriptorserver import DescriptorClient, DescriptorServer
from support import Actor, eventually

Start = Callable[..., Actor]


@pytest.fixture
def path(lab: Lab) -> str:
    return lab.paths.descriptorServerPath(1)


@pytest.fixture
def client(lab: Lab) -> Iterator[DescriptorClient]:
    made = DescriptorClient(lab.paths)
    yield made
    made.close()


def numbered(number: int) -> int:
    """A file whose size is its number."""
    descriptor = os.memfd_create("numbered")
    os.ftruncate(descriptor, number)
    return descriptor


def numberOf(descriptor: Descriptor | None) -> int | None:
    return None if descriptor is None else os.fstat(descriptor.number).st_size


def test_handsOutWhatTheDescriptorStoreHas(path: str, client: DescriptorClient) -> None:
    """The server hands out the descriptors that the store had before and those that
    came later, and none that was dropped.
    """
    descriptorStore = DescriptorStore()
    descriptorStore.put(1, 1, numbered(11))
    descriptorStore.open(path)
    descriptorStore.put(2, 1, dropped := numbered(21))
    descriptorStore.put(2, 1, numbered(22))
    assert [numberOf(client.fetch(1, row, 1)) for row in (1, 2, 3)] == [11, 21, None]
    assert client.fetch(1, 2, 2) is None
    same = os.dup(dropped)
    descriptorStore.drop(2, 1)
    os.dup2(same, dropped)  # the program has the same file under the same number
    assert client.fetch(1, 2, 1) is None
    taken = descriptorStore.takeAll()
    assert client.fetch(1, 1, 1) is None
    for descriptor in (same, dropped, *(descriptor for _, descriptor in taken)):
        os.close(descriptor)
    descriptorStore.close()
    assert not Path(path).exists()


def test_aClosedDescriptorServerIsAskedNoMore(path: str, client: DescriptorClient) -> None:
    descriptorServer = DescriptorServer(path)
    descriptor = numbered(1)
    descriptorServer.put(1, 1, descriptor)
    assert numberOf(client.fetch(1, 1, 1)) == 1
    descriptorServer.close()
    descriptorServer.close()
    descriptorServer.put(1, 1, descriptor)
    assert client.fetch(1, 1, 1) is None
    other = DescriptorServer(path)
    other.put(1, 1, descriptor)
    assert client.fetch(1, 1, 1) is None, "the client avoids it for a moment"
    eventually(lambda: numberOf(client.fetch(1, 1, 1)) == 1, "it is tried again")
    other.close()
    os.close(descriptor)


def test_aLateAnswerIsDropped(path: str, client: DescriptorClient) -> None:
    """Broken: the client kept a connection whose answer came too late, and the next
    question got that answer.
    """
    descriptor = numbered(1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as slow:
        slow.bind(path)
        slow.listen()
        assert client.fetch(1, 1, 1) is None
        peer, _ = slow.accept()
        with peer:
            with contextlib.suppress(BrokenPipeError):
                socket.send_fds(peer, [bytes(4)], [descriptor])
            assert client.fetch(1, 2, 1) is None
    os.close(descriptor)


def test_eachEpochHasItsDescriptorServer(lab: Lab, client: DescriptorClient) -> None:
    """Broken: the client kept the connection to the last descriptor server, and got a
    descriptor that a deposed broker had kept.
    """
    descriptors = [numbered(1), numbered(2)]
    descriptorServers = [
        DescriptorServer(lab.paths.descriptorServerPath(epoch)) for epoch in (1, 2)
    ]
    for descriptorServer, descriptor in zip(descriptorServers, descriptors, strict=True):
        descriptorServer.put(0, 1, descriptor)
    assert [numberOf(client.fetch(epoch, 0, 1)) for epoch in (1, 2)] == [1, 2]
    assert client.fetch(3, 0, 1) is None
    for descriptorServer in descriptorServers:
        descriptorServer.close()
    for descriptor in descriptors:
        os.close(descriptor)


def test_aHandlerInTheMiddleOfAFetchFetchesToo(
    path: str, client: DescriptorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that raises during a fetch leaves nothing behind. Broken: the
    interrupted fetch kept the descriptor server for itself for ever.
    """
    descriptorServer, descriptor, fetch = (
        DescriptorServer(path),
        numbered(7),
        atomics.descriptorServerFetch,
    )
    descriptorServer.put(1, 1, descriptor)
    assert numberOf(client.fetch(1, 1, 1)) == 7
    nested = list[int | None]()

    def handled(*arguments: Any) -> Any:
        monkeypatch.setattr(atomics, "descriptorServerFetch", fetch)
        nested.append(numberOf(client.fetch(1, 1, 1)))
        return fetch(*arguments)

    monkeypatch.setattr(atomics, "descriptorServerFetch", handled)
    assert numberOf(client.fetch(1, 1, 1)) == 7 and len(nested) == 1

    def raising(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(atomics, "descriptorServerFetch", raising)
    with pytest.raises(KeyboardInterrupt):
        client.fetch(1, 1, 1)
    monkeypatch.setattr(atomics, "descriptorServerFetch", fetch)
    eventually(lambda: numberOf(client.fetch(1, 1, 1)) == 7, "it connects anew")
    descriptorServer.close()
    os.close(descriptor)


def test_oneThreadAtATimeAndTheOthersAskTheBroker(path: str, client: DescriptorClient) -> None:
    descriptorServer, descriptor = DescriptorServer(path), numbered(7)
    descriptorServer.put(1, 1, descriptor)
    seen: list[int | None] = []

    def ask() -> None:
        seen.extend(numberOf(client.fetch(1, 1, 1)) for _ in range(500))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) <= {7, None} and 7 in seen
    descriptorServer.close()
    os.close(descriptor)


def test_aMemberWithoutDescriptorsIsTold(domain: str, actor: Start) -> None:
    actor(
        "held = muninn.share(b'x', 'a', mode='fastMode'); more = muninn.share(b'y', 'b', mode='fastMode')"
    ).do("1")
    other = actor(
        "b = muninn.open('b'); from muninn.session.membership import current; from muninn.wire import descriptorserver; import resource"
    )
    # Without this the client gives up on a busy machine, and has a free descriptor for
    # the broker's answer.
    other.do("descriptorserver._TIMEOUT_NS = 30_000_000_000")
    other.do(
        "h = current().openBuffers; row = [r for r, s in current().rows.notFree() if current().rows.description(r).name == 'a'][0]"
    )
    other.do(
        "inc = current().rows.state(row).incarnation; soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)"
    )
    other.do("current().client.fetch(row, inc)")
    other.do(
        "resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir('/proc/self/fd'))) + 3, hard)); taken = []"
    )
    other.do("try:\n  while True: taken.append(os.dup(0))\nexcept OSError: pass")
    kind = "try: current().client.fetch(row, inc); kind = ''\nexcept muninn.MuninnError as error: kind = type(error).__name__"
    assert other.do(f"{kind}\nkind") == DescriptorsExhausted.__name__
    other.do(
        "[os.close(each) for each in taken]; resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))"
    )
    assert other.do("bytes(muninn.open('a').array).decode()") == "x"


def test_opensDoNotWaitForTheBrokersInterpreter(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker's process runs C code that keeps the interpreter's lock until the open
    is over, and no member takes the broker for dead.
    """
    monkeypatch.setenv("MUNINN_TAKEOVER_MS", "60000")
    broker = actor("held = muninn.share(np.arange(8), 'a', mode='fastMode', access='readWrite')")
    broker.do("more = muninn.share(np.arange(9), 'b', mode='fastMode')")
    assert muninn.domainInfo()["brokerPid"] == broker.pid
    assert muninn.open("a").array.sum() == 28
    with broker.interpreterHeld():
        assert muninn.open("b").array.sum() == 36
    assert muninn.domainInfo()["brokerPid"] == broker.pid


def test_theBrokerIsAskedWhereThereIsNoDescriptorServer(domain: str, actor: Start) -> None:
    actor("held = muninn.share(b'x', 'a', mode='fastMode')").do("1")
    os.unlink(current().block.paths.descriptorServerPath(muninn.domainInfo()["epoch"]))
    assert bytes(muninn.open("a").array) == b"x"


def test_aStoppedBrokersDescriptorServerEndsInATakeover(domain: str, actor: Start) -> None:
    """The broker's descriptor server is a thread that is stopped with the process.
    Broken: a process that asked the descriptor server waited for ever.
    """
    broker = actor("held = muninn.share(b'x', 'a', mode='fastMode')")
    other = actor("b = muninn.open('a')")
    other.do("from muninn.session.membership import current; b.close(); del b")
    epoch = muninn.domainInfo()["epoch"]
    holder = muninn.open("a")
    broker.stop()
    try:
        assert other.do("bytes(muninn.open('a').array).decode()") == "x"
        assert other.do("muninn.domainInfo()['epoch']") > epoch
    finally:
        broker.resume()
    assert bytes(holder.array) == b"x"


def test_aForkedChildHasADescriptorServerOfItsOwn(domain: str, actor: Start) -> None:
    actor(
        "held = muninn.share(b'x', 'a', mode='fastMode'); more = muninn.share(b'y', 'b', mode='fastMode')"
    ).do("1")
    other = actor("b = muninn.open('a')")
    other.do("""
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    try: os.write(w, bytes(muninn.open('b').array))
    finally: os._exit(0)
os.close(w); seen = os.read(r, 9).decode(); os.waitpid(pid, 0)
""")
    assert other.do("[seen, bytes(muninn.open('b').array).decode()]") == ["y", "y"]
