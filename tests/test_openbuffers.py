"""Open buffers: a process has one mapping at one address and one lease of a buffer, as
long as an object or an array of it lives.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.api import admin
from muninn.broker.directory import Directory
from muninn.control import leases
from muninn.devices.host.device import HostRegistration
from muninn.errors import (
    BrokerUnavailable,
    BufferFreed,
    BufferNotFound,
    ControlBlockInvalid,
    HandleInvalid,
    HostMemoryFull,
    LeaseRevoked,
    PermissionDenied,
)
from muninn.session import creation, mappings, openbuffers
from muninn.session.membership import current
from muninn.session.openbuffers import OpenBuffers
from muninn.session.releases import Releases
from muninn.storage import segments
from muninn.system import clock
from muninn.terms import Access
from muninn.wire import handles
from support import Actor, ActorError, Background, eventually, leftovers, program

Start = Callable[..., Actor]

_MAPPED = """
def mapped():
    return len([line for line in open('/proc/self/maps') if '/dev/shm/muninn' in line and '/segment-' in line])
"""


def holdersOf(name: str) -> list[int]:
    (described,) = (each for each in muninn.listBuffers() if each["name"] == name)
    return sorted(hold["pid"] for hold in described["importers"])


# --- one mapping, one lease ---------------------------------------------------------


def test_aProcessMapsAndLeasesABufferOnce(domain: str, actor: Start) -> None:
    muninn.share(np.arange(100_000), name="a").close()
    other = actor(_MAPPED)
    other.do(
        "buffers = [muninn.open('a') for _ in range(20)] + [muninn.open('a', access='readWrite') for _ in range(5)]"
    )
    other.do("arrays = [each.array for each in buffers] + [np.asarray(each) for each in buffers]")
    assert other.do(
        "len({each.ctypes.data for each in arrays}), len({each.open() for each in buffers}), mapped()"
    ) == [1, 1, 1]
    assert holdersOf("a") == [other.pid]
    other.do("for each in buffers: each.close()\nbuffers.clear()")
    assert holdersOf("a") == [other.pid], "the arrays keep it"
    assert other.do("int(arrays[7].sum())") == 4999950000
    other.do("arrays.clear()")
    assert other.do("mapped()") == 0
    assert holdersOf("a") == []


def test_threadsThatOpenAtOnceShareOneMapping(domain: str) -> None:
    for number in range(20):
        muninn.share(np.arange(1000), name=f"a{number}").close()
        barrier, buffers = threading.Barrier(4), list[muninn.MuninnBuffer]()

        def work() -> None:
            barrier.wait()
            buffers.append(muninn.open(f"a{number}"))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(60)
        assert len({each.open() for each in buffers}) == 1 and len(buffers) == 4
        assert holdersOf(f"a{number}") == [os.getpid()]


def test_anOpenSharesTheOpenBufferThatAnotherThreadHasJustMade(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the creating thread had an open buffer of its own, and so another lock
    between threads: two threads were in `write()` or a `Lock` at once.
    """
    actor().join()
    commit, opened = creation._commit, list[muninn.MuninnBuffer]()

    def andOpen(*arguments: Any) -> None:
        commit(*arguments)
        opened.append(Background(lambda: muninn.open("a", access="readWrite")).ended())

    monkeypatch.setattr(creation, "_commit", andOpen)
    made = muninn.share(np.zeros(4), name="a", access="readWrite")
    assert made._held() is opened[0]._held()
    with made.write():
        assert isinstance(
            Background(lambda: opened[0].write(timeout=0.01).__enter__()).ended(), TimeoutError
        )


def test_writingIsAllowedInPlaceAtTheSameAddress(domain: str, actor: Start) -> None:
    muninn.share(np.zeros(1000), name="a")
    other = actor(
        _MAPPED
        + "reader = muninn.open('a'); before = reader.array; writer = muninn.open('a', access='readWrite'); writer.array[:] = 2"
    )
    assert other.do(
        "reader.open() == writer.open() == before.ctypes.data == writer.array.ctypes.data, mapped()"
    ) == [True, 1]
    assert other.do(
        "float(before.sum()), before.flags.writeable, reader.array.flags.writeable, reader.writable"
    ) == [
        2000.0,
        False,
        False,
        False,
    ]


def test_readOnlyViewsRefuseToBeWritten(domain: str) -> None:
    muninn.share(np.arange(5), name="a")
    reader = muninn.open("a")
    for view in (reader.array, np.asarray(reader), np.from_dlpack(reader), reader.array[1:3]):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1
        with pytest.raises(ValueError):
            view.flags.writeable = True
    with pytest.raises(PermissionDenied, match="readWrite"):
        reader.write()


@pytest.mark.parametrize(
    "view",
    [
        np.asarray,
        lambda buffer: memoryview(buffer.array),
        np.from_dlpack,
        lambda buffer: buffer.array[3:].reshape(-1, 1),
    ],
)
def test_anyViewKeepsTheMemoryAndTheBuffer(domain: str, view: Callable[[Any], Any]) -> None:
    held = view(muninn.share(np.arange(10)))
    gc.collect()
    assert len(muninn.listBuffers()) == 1 == len(leftovers(domain))
    assert int(np.asarray(held).sum()) in (45, 42)
    del held
    gc.collect()
    eventually(
        lambda: muninn.listBuffers() == [] and leftovers(domain) == [], "it went with its last view"
    )


def test_aBufferIsTakenUpAgainFromAnArrayOfIt(domain: str, actor: Start) -> None:
    other = actor(
        _MAPPED
        + "array = muninn.share(np.arange(10), name='a', lifetime='lastClose').array\nagain = muninn.open('a')"
    )
    assert other.do("again.open() == array.ctypes.data, mapped()") == [True, 1]
    other.do("again.close(); del array")
    eventually(lambda: leftovers(domain) == [], "it went with its last user")


def test_closingInAnyOrderIsFine(domain: str, actor: Start) -> None:
    first, second = muninn.share(b"x", name="a"), muninn.open("a")
    for close in (first.close, first.close, second.free, second.close, second.free):
        close()
    with pytest.raises(BufferFreed):
        first.free()
    third = muninn.share(b"x", name="a")
    actor().do("muninn.open('a').free()")
    third.free()
    third.close()
    eventually(lambda: leftovers(domain) == [], "nothing is left")


def test_openingCostsNoDescriptor(domain: str, actor: Start) -> None:
    for number in range(30):
        muninn.share(b"x", name=f"a{number}")
    other = actor().join()
    # A request first: the connection to the broker is opened when it is needed.
    other.do("muninn.share(b'y', name='own').free(); muninn.open('a0')")
    before = other.do("len(os.listdir('/proc/self/fd'))")
    other.do("held = [muninn.open(f'a{number}') for number in range(30)]")
    assert other.do("len(os.listdir('/proc/self/fd'))") <= before


# --- leases -------------------------------------------------------------------------


def test_useRenewsAStrictLease(domain: str, actor: Start) -> None:
    other = actor(
        "strict = muninn.share(b'x', name='a', renew='onUse')", MUNINN_LEASE_TTL_MS="1000"
    )
    other.do("for _ in range(6):\n    time.sleep(0.2); strict.array")
    assert other.do("bytes(muninn.open('a').array).decode()") == "x"
    other.do("time.sleep(1.1)")
    for use in (
        "strict.array",
        "strict.read()",
        "strict.write().__enter__()",
        "strict.waitNext(1)",
        "strict.signal()",
        "strict.handle",
    ):
        with pytest.raises(ActorError, match="MNN-0004 LeaseExpired"):
            other.do(use)
    assert other.do("strict.name, bytes(muninn.open('a', renew='onUse').array).decode()") == [
        "a",
        "x",
    ], "opened again"


def test_anExpiredLeaseKeepsItsMemory(domain: str, actor: Start) -> None:
    """New operations are refused, and mapped memory stays mapped."""
    other = actor(
        "strict = muninn.share(np.arange(9), renew='onUse'); array = strict.array",
        MUNINN_LEASE_TTL_MS="50",
    )
    other.do("time.sleep(0.2)")
    assert other.do("int(array.sum())") == 36
    assert len(muninn.listBuffers()) == 1 == len(leftovers(domain))


def test_aRevokedBufferCanBeOpenedAgain(domain: str, actor: Start) -> None:
    muninn.domainInfo()
    other = actor("first = muninn.share(np.arange(5), name='a'); array = first.array")
    assert admin.evict("a", pid=other.pid).revoked == 1
    for use in ("first.array", "first.read()", "first.generation", "first.open()"):
        with pytest.raises(ActorError, match="MNN-0014 LeaseRevoked.*evicted"):
            other.do(use)
    assert other.do("int(array.sum())") == 10
    other.do("first.close(); del array")
    assert other.do("int(muninn.open('a').array.sum())") == 10


@pytest.mark.parametrize("mode", ["bigMode", "fastMode"])
def test_whoOpensARevokedBufferAnewHasALeaseAgain(domain: str, actor: Start, mode: str) -> None:
    """Broken: `except LeaseRevoked: b = muninn.open(...)` got the revoked lease again, as
    the old object is still there meanwhile.
    """
    muninn.domainInfo()
    other = actor(
        f"b = muninn.share(np.arange(5), name='a', mode={mode!r}, access='readWrite'); old = b"
    )
    for _ in range(2):
        assert admin.evict("a", pid=other.pid).revoked == 1
        with pytest.raises(ActorError, match="MNN-0014 LeaseRevoked.*evicted"):
            other.do("b.read()")
        other.do("b = muninn.open('a', access='readWrite')")
        assert other.do("bool((b.read() == old.read()).all())")
        with pytest.raises(ActorError, match="TimeoutError"):
            other.do("b.waitNext(timeout=0.01)")
        assert other.do("with b.write() as view: view[:] = 1\nint(old.read().sum())") == 5
        (holder,) = muninn.listBuffers()[0]["importers"]
        assert (holder["lease"], holder["revoked"]) == ("ok", None)
    other.do("b.close(); old.close(); b = old = view = None; muninn.free('a')")
    eventually(lambda: muninn.listBuffers() == [], "its one lease is given back")


def test_theOldArrayOfARevokedBufferIsStillTheNewOnes(domain: str, actor: Start) -> None:
    muninn.domainInfo()
    other = actor("array = muninn.share(np.arange(5), name='a', access='readWrite').array")
    assert admin.evict("a", pid=other.pid).revoked == 1
    assert other.do("b = muninn.open('a', access='readWrite'); int(b.read().sum())") == 10
    assert other.do("b.array[0] = 7; int(array[0])") == 7


def test_aRevokedBundleIsOpenedAnewWithAllItsParts(domain: str, actor: Start) -> None:
    muninn.domainInfo()
    other = actor(
        "muninn.shareBundle({'x': np.arange(5), 'y': np.ones(3)}, name='m'); b = muninn.openBundle('m')"
    )
    assert admin.evict("m", pid=other.pid).revoked >= 1
    with pytest.raises(ActorError, match="LeaseRevoked"):
        other.do("b['x']")
    assert other.do("b = muninn.openBundle('m'); int(b['x'].sum() + b['y'].sum())") == 13


def test_evictingOneProcessLeavesTheOthers(domain: str, actor: Start) -> None:
    mine = muninn.share(np.arange(5), name="a")
    other = actor("theirs = muninn.open('a')")
    assert admin.evict("a", pid=other.pid).revoked == 1
    assert mine.array.sum() == 10
    with pytest.raises(ActorError, match="LeaseRevoked"):
        other.do("theirs.array")
    assert admin.evict(tenant="default").revoked == 1
    with pytest.raises(LeaseRevoked):
        mine.array  # noqa: B018


def test_aTenantThatIsNamedMustMatch(domain: str, actor: Start) -> None:
    buffer = muninn.share(b"x", name="a", tenant="alice")
    handle = buffer.handle
    assert (
        muninn.open("a", tenant="alice").tenant
        == muninn.open(handle, tenant="alice").tenant
        == "alice"
    )
    other = actor()
    for attempt in ("muninn.open('a', tenant='bob')", f"muninn.open({handle!r}, tenant='bob')"):
        with pytest.raises(ActorError, match=r"PermissionDenied.*bob"):
            other.do(attempt)
    assert holdersOf("a") == [os.getpid()], "a refused process holds nothing"


# --- handles and pickles ------------------------------------------------------------


def test_aHandleNamesOneBufferForEver(domain: str, actor: Start) -> None:
    first = muninn.share(np.arange(5), name="a")
    handle, pickled = first.handle, pickle.dumps(first)
    assert len(handle) == 64 and handle == first.handle
    for kind in (bytearray, memoryview):
        assert muninn.open(kind(handle)).name == "a"
    first.free()
    muninn.share(np.arange(5), name="a")
    with pytest.raises(BufferNotFound):
        muninn.open(handle)
    with pytest.raises(BufferNotFound, match="'a'"):
        pickle.loads(pickled)
    with pytest.raises(ActorError, match="BufferNotFound"):
        actor().do(f"muninn.open({handle!r})")


def test_aHandleOutlivesTheBroker(domain: str, actor: Start) -> None:
    broker = actor("buffer = muninn.share(np.arange(5), name='a')")
    handle = broker.do("buffer.handle.hex()")
    broker.kill()
    assert muninn.open(bytes.fromhex(handle)).array.sum() == 10


def test_picklesAreSmallAndCarryTheRights(domain: str, actor: Start) -> None:
    buffer = muninn.share(np.arange(100_000), name="a")
    assert len(pickle.dumps(buffer)) < 400
    assert pickle.loads(pickle.dumps(buffer)).open() == buffer.open()
    other = actor("import pickle")
    assert (
        other.do(f"b = pickle.loads({pickle.dumps(buffer)!r}); b.array[0] = 9; b.writable") is True
    )
    assert buffer.array[0] == 9
    assert other.do(f"pickle.loads({pickle.dumps(muninn.open('a'))!r}).writable") is False


def addOne(buffer: muninn.MuninnBuffer) -> int:
    with buffer.write() as view:
        view += 1
    return os.getpid()


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_workersOfEveryKindWriteTheSameBytes(domain: str, method: str) -> None:
    buffer = muninn.share(np.arange(5), name="a")
    with multiprocessing.get_context(method).Pool(2) as pool:
        pids = pool.map(addOne, [buffer] * 6, chunksize=1)
    assert os.getpid() not in pids
    assert buffer.array.tolist() == [6, 7, 8, 9, 10] and buffer.generation == 12


# --- fork ---------------------------------------------------------------------------


def test_aForkedChildJoinsAnewAndTheParentsLeasesStay(domain: str, actor: Start) -> None:
    muninn.domainInfo()
    parent = actor(program("childJoinsAnew"))
    child = parent.do("child")
    assert parent.do("int(kept.array[0]), int(kept.generation)") == [100, 2]
    assert holdersOf("a") == holdersOf("brief") == sorted([parent.pid, child]) and holdersOf(
        "child"
    ) == [child]
    assert sorted(each["pid"] for each in muninn.domainInfo()["members"]) == sorted(
        [os.getpid(), parent.pid, child]
    )
    parent.do("os.write(tell, b'x')")
    assert parent.do("os.waitpid(child, 0)[1]") == 0
    eventually(lambda: len(muninn.domainInfo()["members"]) == 2, "the child's slot is free")
    assert holdersOf("a") == holdersOf("brief") == [parent.pid]
    assert parent.do("int(brief.array.sum()), int(muninn.open('child').array.sum())") == [21, 3]


_LETTING_GO = [
    "pass",
    "buffer.close(); brief.close()",
    "del buffer, brief; import gc; gc.collect()",
    "import atexit; atexit._run_exitfuncs()",
]


@pytest.mark.parametrize("child", _LETTING_GO, ids=["ends", "closes", "drops", "exits"])
def test_aForkedChildThatLetsGoTakesNothingFromItsParent(
    domain: str, actor: Start, child: str
) -> None:
    muninn.share(np.arange(5), name="a")
    parent = actor("buffer = muninn.open('a'); brief = muninn.share(b'x')")
    parent.do(
        f"child = os.fork()\nif child == 0:\n    {child}\n    os._exit(0)\nassert os.waitpid(child, 0)[1] == 0"
    )
    assert parent.do("int(buffer.array.sum()), bytes(brief.array).decode()") == [10, "x"]
    assert sorted(each["pid"] for each in muninn.domainInfo()["members"]) == sorted(
        [os.getpid(), parent.pid]
    )
    assert sorted(len(each["importers"]) for each in muninn.listBuffers()) == [1, 1]


def test_aForkedBrokersChildIsNoBroker(domain: str, actor: Start) -> None:
    broker = actor("buffer = muninn.share(np.arange(5), name='a')")
    broker.do("""
said, say = os.pipe()
child = os.fork()
if child == 0:
    info = muninn.domainInfo()
    os.write(say, f"{info['brokerPid'] == os.getppid()} {int(buffer.array.sum())}".encode())
    os._exit(0)
""")
    assert broker.do("os.read(said, 100).decode()") == "True 10"
    assert broker.do("os.waitpid(child, 0)[1]") == 0
    assert (
        current().election.term().slot is not None
        and muninn.domainInfo()["brokerPid"] == broker.pid
    )


def test_aChildHasItsBuffersAfterItsParentWasKilled(domain: str, actor: Start) -> None:
    muninn.domainInfo()
    parent = actor(program("childOutlivesItsParent"))
    child = parent.do("child")
    parent.kill()
    try:
        assert eventually(
            lambda: muninn.array("told", 1, "i8").array[0] == 11, "the child has its buffer"
        )
        eventually(
            lambda: holdersOf("a") == [child], "the parent's lease is reclaimed, the child's stands"
        )
    finally:
        os.kill(child, 9)
    eventually(
        lambda: [each["name"] for each in muninn.listBuffers()] == ["told"],
        "it went with the child",
    )


def test_theRowIsReadAgainAfterTheLease(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffer was freed, and its memory gone, between the look and the lease.
    Broken: the process opened it by the earlier contents of the row.
    """
    other = actor("held = muninn.share(b'x', name='a')")
    table = current().tables.leases
    take = table.take

    def late(row: int, incarnation: int, ttlMs: int) -> int:
        other.do("held.free()")
        return take(row, incarnation, ttlMs)

    monkeypatch.setattr(table, "take", late)
    with pytest.raises(BufferNotFound):
        muninn.open("a")
    assert leases.holdsOf(current().block, current().members, current().key.slot) == []


def _ownLeases() -> int:
    member = current()
    return len(leases.holdsOf(member.block, member.members, member.key.slot))


def test_anOpenThatFailsGivesItsLeaseBack(domain: str, actor: Start) -> None:
    """Broken: the lease of a buffer that could not be mapped stayed for ever."""
    actor("held = muninn.share(np.zeros(10000), name='a')").do("1")
    muninn.domainInfo()
    (segment,) = leftovers(domain)
    os.truncate(f"/dev/shm/{segment}", 100)
    with pytest.raises(ControlBlockInvalid) as error:
        muninn.open("a")
    assert _ownLeases() == 0, f"although {error} has what it would have held"


def test_freedMemoryThatOnlyArraysHoldIsNoBuffer(domain: str) -> None:
    """Broken: a handle opened the memory of a freed buffer again, because it was still
    mapped.
    """
    buffer = muninn.share(np.arange(3), name="a")
    array, handle = buffer.array, buffer.handle
    buffer.free()
    with pytest.raises(BufferNotFound):
        muninn.open(handle)
    assert array.sum() == 3


def test_aHintThatIsAnotherNamesIsNotBelieved(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two names may have one hash. Broken: the process opened the row that the index
    named, without a look at its name.
    """
    actor("held = muninn.share(b'x', name='b')").do("1")
    member = current()
    hinted = member.index.candidates(b"b")
    monkeypatch.setattr(member.index, "candidates", lambda name: hinted)
    with pytest.raises(BufferNotFound):
        muninn.open("a")


def test_memoryIsUnmappedBeforeItsLeaseIsGivenBack() -> None:
    """Broken: the lease was given back first, so the memory could be reclaimed, and its
    name made anew, while it was still mapped here.
    """
    order: list[str] = []

    class Source:
        address, sizeBytes, writable = 0, 0, True

        def closeThen(self, closed: Callable[[], object]) -> None:
            order.append("unmapped")
            closed()

    mappings._gone(Source(), [], lambda: order.append("given back"))
    assert order == ["unmapped", "given back"]


def test_anInterruptedEndOfMappedMemoryIsDoneAgain(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the registration was forgotten before it was told what comes after it, so
    the memory stayed mapped and leased as long as the process.
    """
    muninn.share(np.zeros(1000), name="a").copyTo(0)  # which maps it for the GPU
    closeThen, calls = HostRegistration.closeThen, list[str]()

    def interruptedOnce(registration: HostRegistration, closed: Callable[[], object]) -> None:
        if not calls:
            calls.append("interrupted")
            raise KeyboardInterrupt
        calls.append("done")
        closeThen(registration, closed)

    buffer = muninn.open("a")
    buffer.copyTo(0)
    name = current().paths.segmentName(buffer._checked().row, buffer._checked().incarnation)
    monkeypatch.setattr(HostRegistration, "closeThen", interruptedOnce)
    assert isMapped(name)
    with contextlib.suppress(KeyboardInterrupt):  # a finalizer's is swallowed
        buffer.close()
    eventually(lambda: not isMapped(name), "it is unmapped")
    assert calls == ["interrupted", "done"], "by way of the registration, which waits for kernels"
    eventually(lambda: not muninn.listBuffers()[0]["importers"], "its lease is given back")


def isMapped(name: str) -> bool:
    with open("/proc/self/maps") as file:
        return name in file.read()


def test_anIdleHoldersLeaseIsRenewed(domain: str, actor: Start) -> None:
    """Broken: the background thread renewed no lease: an operator saw leases expire
    whose holders had the buffer open.
    """
    holder = actor("held = muninn.share(b'x', name='a')", MUNINN_LEASE_TTL_MS="600")
    first = holder.do("muninn.listBuffers()[0]['importers'][0]['lease']")
    holder.do("time.sleep(1.5)")
    (hold,) = muninn.listBuffers()[0]["importers"]
    assert (first, hold["lease"]) == ("ok", "ok")


def test_memoryThatAHolderIsYetToBringIsWaitedFor(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the open failed at the first "not yet" of a new broker."""
    actor("held = muninn.share(b'x', name='a', mode='fastMode')").do("1")
    client = current().client
    request, asked = client.request, list[str]()

    def slow(op: str, *arguments: Any, **fields: Any) -> Any:
        asked.append(op)
        return (
            ({"found": False}, [])
            if op == "fetch" and asked.count("fetch") < 4
            else request(op, *arguments, **fields)
        )

    monkeypatch.setattr(client, "request", slow)
    monkeypatch.setattr(client._descriptorServer, "fetch", lambda epoch, row, incarnation: None)
    assert bytes(muninn.open("a").array) == b"x"
    assert asked.count("fetch") == 4


def test_aHolderWhoseThreadWaitsForTheStoppedBrokerBringsItsMemory(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: it looked for another term only after the time for which it would have let
    that broker stand still.
    """
    broker, other = (
        actor("held = muninn.share(b'x', 'a', mode='fastMode')"),
        actor("muninn.domainInfo()"),
    )
    monkeypatch.setenv("MUNINN_TAKEOVER_MS", "60000")
    holder, client = muninn.open("a"), current().client
    broker.stop()
    client.later({"op": "ping"})
    assert other.do("bytes(muninn.open('a').array).decode()") == "x"
    eventually(lambda: not client._later, "the question is answered")
    broker.resume()
    assert bytes(holder.array) == b"x"


def test_anEndedLifetimeIsNotOpenedWhetherOrNotABrokerHasSeenIt(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a process could open it until a broker ended it, and lost it right
    afterwards.
    """
    keeper = actor(
        "held = [muninn.share(b'x', name=name, lifetimeMs=1500) for name in ('open', 'kept', 'cold')]"
    )
    mine, array = muninn.open("open"), muninn.open("kept").array
    handle, known = mine.handle, current().openBuffers.known
    assert known("open") is not None and known("kept") is not None
    keeper.stop()
    with monkeypatch.context() as spied:
        # This process may be the broker by now.
        spied.setattr(Directory, "endLifetime", lambda *_: False)
        clock.sleep(1.6)
        with monkeypatch.context() as unknown:
            unknown.setattr(clock, "_own", clock.TimeNamespace(0, 0, 0))
            assert known("open") is not None, "whose clock is another one knows of no end"
        spied.setattr(OpenBuffers, "_source", lambda *_: pytest.fail("it was mapped"))
        assert [known(name) for name in ("open", "kept", "cold")] == [None] * 3
        with pytest.raises(LeaseRevoked, match="lifetimeEnded"):
            mine.read()
        with pytest.raises(BufferNotFound):
            muninn.open(handle)
    with pytest.raises(BufferNotFound):
        muninn.open("cold")
    assert muninn.share(b"y", name="cold").read().tobytes() == b"y" and array.tobytes() == b"x"
    keeper.resume()


def test_aHolderThatStandsStillIsNotCalledDead(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: opening memory whose holder was stopped when the broker died raised
    OwnerDied, "Recreate the buffer", after a second.
    """
    monkeypatch.setattr(openbuffers, "_FETCH_PAUSE_SECONDS", 0.5)
    broker, keeper = (
        actor("b = muninn.array('other', 1, 'u1')"),
        actor("held = muninn.share(b'x', name='a', mode='fastMode')"),
    )
    current()
    keeper.stop()
    broker.kill()
    with pytest.raises(BrokerUnavailable, match="'a'.*stands still"):
        muninn.open("a")
    keeper.resume()
    assert bytes(muninn.open("a", timeout=30).array) == b"x"


def test_aHandleThatDoesNotMatchItsBufferIsRefused(domain: str) -> None:
    """Its MAC is right, and its fields are wrong. Broken: the open did not compare the
    other fields with the row, and did not check the row's number.
    """
    buffer = muninn.share(b"xyz", name="a")
    openBuffer, secret = buffer._checked(), current().block.secret
    for sizeBytes, tenant in ((4, "default"), (3, "other")):
        with pytest.raises(HandleInvalid):
            muninn.open(
                handles.issue(
                    secret,
                    openBuffer.row,
                    openBuffer.incarnation,
                    Access.READ_ONLY,
                    sizeBytes,
                    tenant,
                )
            )
    for row in (openBuffer.row + 1, 256, 1 << 24, (1 << 32) - 1):
        with pytest.raises(BufferNotFound):
            muninn.open(handles.issue(secret, row, 1, Access.READ_ONLY, 3, "default"))


def test_aCreationThatFailsGivesItsLeaseBack(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the lease of a buffer that was never made stayed for ever."""

    def full(*_: object) -> int:
        raise HostMemoryFull("full")

    monkeypatch.setattr(segments, "create", full)
    with pytest.raises(HostMemoryFull) as error:
        muninn.share(b"x", name="a")
    assert _ownLeases() == 0, f"although {error} has what it would have held"


def test_aNameOpensTheBufferThatHasItNow(domain: str, actor: Start) -> None:
    """Broken: a process that had an earlier buffer of that name open got the earlier
    buffer again.
    """
    old = muninn.share(b"old", name="a")
    array = old.array
    actor().do("muninn.free('a'); muninn.share(b'new', name='a').name")
    assert bytes(muninn.open("a").array) == b"new" and bytes(array) == b"old"


def test_aMessageThatDidNotReachTheBrokerIsSentAgain(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a last close that happened while there was no broker was forgotten."""
    actor().join()
    muninn.domainInfo()
    here = current()
    own = Releases(here.tables, here.standing, here.client, here.wake)
    own._released.append((0, 1))
    with monkeypatch.context() as patch:
        patch.setattr(current().client, "once", lambda *_, **__: None)
        assert not own.tryReclaimReleased() and list(own._released) == [(0, 1)]
    eventually(own.tryReclaimReleased, "the broker heard of it")
    assert not own._released


def test_aLeaseThatCameTooLateDoesNotKeepTheRow(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker sees the lease and lets the row stay; the opener sees the row's end
    and gives up. Broken: no process tried to reclaim the row again.
    """
    other = actor("b = muninn.share(b'x', name='a')")
    table = current().tables.leases
    take = table.take

    def late(row: int, incarnation: int, ttlMs: int) -> int:
        index = take(row, incarnation, ttlMs)
        other.do("b.free()")
        return index

    monkeypatch.setattr(table, "take", late)
    with pytest.raises(BufferNotFound):
        muninn.open("a")
    eventually(
        lambda: not current().rows.notFree() and not leftovers(domain), "nothing is left of the row"
    )


def test_anOpenThatIsInterruptedHalfWayHoldsNothing(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: Ctrl-C between the mapping and its bookkeeping left a lease and a mapping
    without an owner.
    """
    actor("held = muninn.share(np.zeros(10000), name='a')").do("1")
    muninn.domainInfo()
    gone: list[segments.Mapping] = []

    def interrupted(source: segments.Mapping, *_: object) -> None:
        gone.append(source)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("muninn.session.openbuffers.Memory", interrupted)
        with pytest.raises(KeyboardInterrupt):
            muninn.open("a")
    assert _ownLeases() == 0 and gone[0].address == 0
    assert muninn.open("a").array.sum() == 0


def test_anEndThatWasInterruptedIsDoneAgain(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: Ctrl-C in a close left the lease held for ever."""
    actor("held = muninn.share(np.zeros(10000), name='a')").do("1")
    buffer = muninn.open("a")
    table = current().tables.leases
    release, calls = table.release, []

    def interrupted(index: int) -> None:
        calls.append(index)
        if len(calls) == 1:
            raise KeyboardInterrupt
        release(index)

    monkeypatch.setattr(table, "release", interrupted)
    with pytest.raises(KeyboardInterrupt):
        buffer.close()
    eventually(lambda: _ownLeases() == 0, "the close was continued")


def test_aCallThatInterruptsAnOpenSharesItsOpenBuffer(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: two open buffers of one buffer, which did not keep each other's threads
    out of an access.
    """
    actor("held = muninn.share(np.zeros(10000), name='a', access='readWrite')").do("1")
    own = current().openBuffers
    mappings = own.memory
    between: list[muninn.MuninnBuffer] = []

    def interrupted(*arguments: Any) -> Any:
        monkeypatch.setattr(own, "memory", mappings)
        between.append(muninn.open("a"))  # A signal handler may do this.
        return mappings(*arguments)

    monkeypatch.setattr(own, "memory", interrupted)
    buffer = muninn.open("a")
    assert buffer._openBuffer is between[0]._openBuffer and _ownLeases() == 1
