"""A buffer object: publications and reads, fences, leases, and its use by other
libraries.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import muninn
from muninn import errors
from muninn.api import admin
from muninn.control import generations, ownerlock
from muninn.errors import OwnerDied, WriterDied
from muninn.session.membership import current
from muninn.storage.paths import Paths
from muninn.sync import publications
from muninn.sync.contention import ownerLockAddress
from muninn.system import atomics
from support import Actor, ActorError, Background, eventually, leftovers, program, removeDomain

Start = Callable[..., Actor]
_STRANGER = 65534


# --- publishing and reading ---------------------------------------------------------


def test_publishesGenerationsToWaitingReaders(domain: str, actor: Start) -> None:
    mine = muninn.share(np.zeros(100), name="g")
    reader = actor("buffer = muninn.open('g')")
    assert mine.generation == 0
    reader.begin(
        "generation = buffer.waitNext(50, after=0); generation, float(buffer.read().sum())"
    )
    with mine.write() as view:
        view[:] = 3
    assert reader.result() == [2, 300.0]


def test_readsAreNeverTorn(domain: str, actor: Start) -> None:
    writer = actor(
        "import threading\nbuffer = muninn.share(np.zeros(50_000, 'i8'), name='t', access='readWrite')\nstop = threading.Event()"
    )
    reader = muninn.open("t")
    writer.do(
        "def hammer():\n"
        "    number = 0\n"
        "    while not stop.wait(0.0005):\n"
        "        number += 1\n"
        "        with buffer.write() as view:\n"
        "            view[:] = number\n"
        "thread = threading.Thread(target=hammer); thread.start()"
    )
    out, seen = np.empty(50_000, "i8"), set()
    for _ in range(300):
        reader.read(out)
        assert (out == out[0]).all()
        seen.add(int(out[0]))
    assert len(seen) > 1
    writer.do("stop.set(); thread.join()")


def test_aDeadWriterIsSeenAndRepaired(domain: str, actor: Start) -> None:
    mine = muninn.share(np.zeros(10), name="d")
    writer = actor(
        "buffer = muninn.open('d', access='readWrite'); scope = buffer.write(); view = scope.__enter__(); view[:5] = 1"
    )
    assert mine.generation == 1
    with pytest.raises(TimeoutError):
        mine.read(timeout=0.05)
    writer.kill()
    with pytest.raises(errors.WriterDied):
        mine.read()
    with pytest.raises(errors.WriterDied):
        mine.waitNext(50)
    with mine.write(timeout=50) as view:
        view[:] = 9
    assert mine.generation == 2
    assert mine.read().tolist() == [9.0] * 10


@pytest.mark.parametrize("takes", [False, True])
def test_aWriterThatPublishesWithoutAPauseIsNotCalledDead(
    domain: str, monkeypatch: pytest.MonkeyPatch, takes: bool
) -> None:
    """Broken: the owner lock is free between two accesses, and the waiter took the odd
    word of the next access for that of the last one.
    """
    mine = muninn.share(np.zeros(2))
    generation = mine._checked().generation
    generation.begin()

    def between(_: Any) -> bool:
        if generation.publish(generation.value()) < 6:
            generation.begin()
        return True

    monkeypatch.setattr(publications, "writerIsDead", between)
    assert mine.waitNext(50, after=4, out=np.empty(2) if takes else None) == 6


def test_aPublicationBeforeAWritersDeathIsTold(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the writer published and gave up its next access before the waiter
    looked, and the waiter was told that it had died before it published.
    """
    mine = muninn.share(np.zeros(2))
    generation, check = mine._checked().generation, publications.writerIsDead

    def meanwhile(*arguments: Any) -> int:
        monkeypatch.undo()
        generation.publish(generation.begin())
        generation.begin()
        return 0

    monkeypatch.setattr(generations.atomics, "spinWhile64", meanwhile)
    assert mine.waitNext(50, after=0) == 2
    assert check(mine._checked()) and mine.generation == 3
    with pytest.raises(errors.WriterDied):
        mine.waitNext(50, after=2)


def test_aCopyInsideAnAccessDoesNotWaitForAWriterThatWaitsForIt(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer gave up, and the next writer waits to write all anew. Broken: a copy
    that starved in between let both time out.
    """
    mine, copy = muninn.share(np.zeros(2), name="left"), generations.Generation.copy
    other = actor("buffer = muninn.open('left', access='readWrite')")
    with pytest.raises(ZeroDivisionError), mine.write():
        1 / 0  # noqa: B018

    def starved(*arguments: Any) -> int | None:
        if arguments[-1]:
            raise generations.Starved
        other.begin(
            "scope = buffer.write(timeout=60); scope.__enter__()[:] = 1; scope.__exit__(None, None, None)"
        )
        eventually(
            lambda: (
                ownerlock.ownerOf(int(atomics.loadAcquire32(ownerLockAddress(mine._checked()))))
                is not None
            ),
            "it waits for the access",
        )
        return copy(*arguments)

    monkeypatch.setattr(generations.Generation, "copy", starved)
    with pytest.raises(errors.WriterDied):
        mine.read(timeout=1)


def test_aWriterThatRaisesLeavesATornBuffer(domain: str) -> None:
    mine = muninn.share(np.zeros(4))
    with pytest.raises(ZeroDivisionError), mine.write() as view:
        view[:2] = 1 / 0
    with pytest.raises(errors.WriterDied, match="gave up"):
        mine.read()
    with pytest.raises(errors.WriterDied, match="gave up"):
        mine.waitNext(5)
    with mine.write():
        pass
    assert mine.read().sum() == 0


def test_writersTakeAccesses(domain: str, actor: Start) -> None:
    mine = muninn.share(np.zeros(1, "i8"), name="c", access="readWrite")
    writers = [actor("buffer = muninn.open('c', access='readWrite')") for _ in range(3)]
    for writer in writers:
        writer.begin(
            "for _ in range(200):\n    with buffer.write() as view:\n        view[0] = view[0] + 1\nTrue"
        )
    assert all(writer.result() for writer in writers)
    assert mine.read()[0] == 600
    assert mine.generation == 1200


def test_nestedWritingIsAnErrorAndNoHang(domain: str) -> None:
    mine = muninn.share(np.zeros(1))
    with mine.write(), pytest.raises(RuntimeError, match="already"), mine.write():
        pass
    with mine.write(timeout=1):
        pass


def test_aWaitEndsWithItsTime(domain: str, actor: Start) -> None:
    mine = muninn.share(np.zeros(1), name="w")
    with pytest.raises(TimeoutError):
        mine.waitNext(0.02)
    holder = actor(
        "buffer = muninn.open('w', access='readWrite'); scope = buffer.write(); scope.__enter__()"
    )
    with pytest.raises(TimeoutError), mine.write(timeout=0.02):
        pass
    holder.do("scope.__exit__(None, None, None)")
    assert mine.waitNext(5, after=0) == 2


def test_waitsInAsyncio(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: each task that had its publication woke all tasks that waited for the
    next one: forty tasks took sixteen hundred wake-ups for each publication.
    """
    mine = muninn.share(np.zeros(1))
    wake, wakings = generations.Generation.wake, list[None]()
    monkeypatch.setattr(generations.Generation, "wake", lambda self: wakings.append(wake(self)))  # type: ignore[func-returns-value]

    async def run() -> int:
        waiting = asyncio.create_task(mine.waitNextAsync(50))
        await asyncio.sleep(0.05)
        with mine.write() as view:
            view[:] = 1
        return await waiting

    async def cancel() -> None:
        waiting = asyncio.create_task(mine.waitNextAsync(50))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    assert asyncio.run(run()) == 2
    assert not wakings
    asyncio.run(cancel())
    assert wakings == [None]
    eventually(
        lambda: (
            not [
                thread for thread in threading.enumerate() if thread.name.startswith("muninn-wait")
            ]
        ),
        "the waiting threads end",
    )


def test_readsIntoWhatItIsGiven(domain: str) -> None:
    mine = muninn.share(np.arange(6.0).reshape(2, 3))
    out = np.empty((2, 3))
    assert mine.read(out) is out
    assert out.sum() == 15
    readOnly = np.empty((2, 3))
    readOnly.flags.writeable = False
    for wrong, reason in (
        (np.empty((3, 2)), "shape"),
        (np.empty((2, 3), "f4"), "dtype"),
        (np.empty((2, 6))[:, ::2], "C-contiguous: its strides"),
        (readOnly, "can not be written"),
    ):
        with pytest.raises(errors.InvalidArgument, match=reason):
            mine.read(wrong)
    for noArray in ([0.0] * 6, bytearray(48), "x", memoryview(bytearray(48)), 5):
        for copy in (mine.read, lambda out: mine.waitNext(1, after=-1, out=out)):
            with pytest.raises(
                TypeError, match=f"out must be a numpy array, not {type(noArray).__name__}"
            ):
                copy(noArray)  # type: ignore[operator]


# --- fences -------------------------------------------------------------------------


def test_aConsumerTakesNoPublicationTwice(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the consumer read a publication that came between `waitNext` and `read`,
    and the next `waitNext` returned it again.
    """
    with muninn.share(np.zeros(3), name="a") as buffer:
        publish, out = muninn.open("a", access="readWrite"), np.empty(3)
        copyNow = generations.Generation.copyNow

        def between(*arguments: Any) -> int | None:
            with publish.write() as view:
                view += 1
            monkeypatch.undo()
            return copyNow(*arguments)

        with publish.write() as view:
            view += 1
        monkeypatch.setattr(generations.Generation, "copyNow", between)
        known = buffer.waitNext(5, after=0, out=out)
        assert (known, out[0]) == (4, 2), (
            "the generation that the buffer has, and not the awaited one"
        )
        with pytest.raises(TimeoutError):
            buffer.waitNext(0.01, after=known, out=out)
        with pytest.raises(errors.InvalidArgument):
            buffer.waitNext(5, after=0, out=np.empty(4))
        assert asyncio.run(buffer.waitNextAsync(5, after=0, out=out)) == 4


def test_aConsumerThatIsSlowerTakesEachOnce(domain: str, actor: Start) -> None:
    buffer, out = muninn.array("a", 1 << 14, "f8"), np.empty(1 << 14)
    producer = actor("buffer = muninn.open('a', access='readWrite')")
    producer.begin(
        "for number in range(1, 401):\n    with buffer.write() as view: view[:] = number"
    )
    known, taken = 0, list[float]()
    while not taken or taken[-1] < 400:
        known = buffer.waitNext(30, after=known, out=out)
        assert out.min() == out.max()
        taken.append(float(out[0]))
    producer.result()
    assert taken == sorted(set(taken))


def test_aTicketIsDoneWhenItsStreamGetsThere(domain: str, actor: Start) -> None:
    mine = muninn.share(np.zeros(4), name="s")
    semaphore, stream = threading.Event(), muninn.createStream()
    stream.submit(lambda: semaphore.wait(50))
    ticket = mine.signal(stream)
    reader = actor("buffer = muninn.open('s'); ours = muninn.createStream(); done = []")
    reader.do("buffer.wait(ours); ours.submit(lambda: done.append(1))")
    assert reader.do("time.sleep(0.05); done") == []
    with pytest.raises(TimeoutError):
        mine.wait(None, ticket, timeout=0.02)
    semaphore.set()
    assert mine.wait(None, ticket) == ticket
    assert reader.do("ours.synchronize(50); done") == [1]


def test_aDeadPromiseIsPoisoned(domain: str, actor: Start) -> None:
    mine = muninn.share(np.zeros(4), name="s")
    dying = actor(
        "import threading\nbuffer = muninn.open('s'); stream = muninn.createStream(); stream.submit(threading.Event().wait); buffer.signal(stream)"
    )
    dying.kill()
    with pytest.raises(errors.OwnerDied):
        mine.wait(timeout=50)
    with pytest.raises(ValueError, match="never issued"):
        mine.wait(None, 99)


# --- leases -------------------------------------------------------------------------


def test_aStrictLeaseExpiresAndAnAutomaticOneDoesNot(domain: str, actor: Start) -> None:
    muninn.domainInfo()
    other = actor(
        "mine = muninn.share(b'x', name='l'); strict = muninn.open('l', renew='onUse'); auto = muninn.open('l')",
        MUNINN_LEASE_TTL_MS="60",
    )
    other.do("time.sleep(0.3)")
    assert other.do("auto.array[0] == 120 and auto.describe()['importers'][0]['lease']") == "ok"
    assert (
        other.do(
            "try:\n    strict.array\nexcept muninn.errors.LeaseExpired as error:\n    code = error.code\ncode"
        )
        == "MNN-0004"
    )


def test_aRevokedLeaseForbidsAndFreesNothing(domain: str) -> None:
    mine = muninn.share(np.arange(5), name="r")
    array = mine.array
    assert admin.evict("r").revoked == 1
    with pytest.raises(errors.LeaseRevoked, match="evicted"):
        mine.read()
    assert array.sum() == 10
    assert muninn.listBuffers()[0]["importers"][0]["revoked"] == "evicted"
    mine.close()
    del array
    assert muninn.open("r").array.sum() == 10


def test_aLifetimeEnds(domain: str, actor: Start) -> None:
    other = actor()
    mine = muninn.share(b"x", name="short", lifetimeMs=1000)
    other.do("other = muninn.open('short')")
    eventually(
        lambda: not [each for each in muninn.listBuffers() if each["state"] == "live"],
        "its time is over",
    )
    with pytest.raises((errors.LeaseRevoked, errors.BufferFreed)):
        mine.read()
    other.do("other.close()")
    mine.close()
    eventually(lambda: leftovers(domain) == [], "the holders have let go")


def test_arraysKeepTheMemoryAndItsLease(domain: str) -> None:
    mine = muninn.share(np.arange(9), name="k")
    array, address = mine.array, mine.open()
    mine.close()
    assert array.sum() == 36
    assert len(muninn.listBuffers()[0]["importers"]) == 1
    again = muninn.open("k")
    assert again.open() == address
    again.close()
    del array
    gc.collect()
    assert muninn.listBuffers()[0]["importers"] == []


def test_freeingTwiceIsFineAndFreeingWhatIsClosedIsNot(domain: str) -> None:
    """Broken: the second call said that the object is closed."""
    mine, bundle = muninn.share(b"x", name="k"), muninn.shareBundle({"a": b"y"}, name="b")
    for each in (mine, bundle):
        each.free()
        each.free()
    closed = muninn.share(b"x", name="k")
    closed.close()
    with pytest.raises(errors.BufferFreed, match="closed"):
        closed.free()
    assert bytes(muninn.open("k").array) == b"x"


def test_freeingKeepsWhatIsMapped(domain: str, actor: Start) -> None:
    mine = muninn.share(np.arange(9), name="k")
    other = actor("other = muninn.open('k'); array = other.array")
    mine.free()
    with pytest.raises(errors.BufferNotFound):
        muninn.open("k")
    assert other.do("int(array.sum())") == 36
    assert (
        other.do(
            "try:\n    other.read()\nexcept muninn.errors.BufferFreed as error:\n    code = error.code\ncode"
        )
        == "MNN-0013"
    )
    muninn.share(b"new", name="k")
    assert other.do("muninn.open('k').array.tobytes().decode()") == "new"
    other.do("del array; other.close()")
    eventually(lambda: len(leftovers(domain)) == 1, "only the new one is left")


def test_closingTwiceIsFineAndUseAfterwardsIsNot(domain: str) -> None:
    with muninn.share(b"x") as mine:
        mine.close()
    mine.close()
    for use in (
        lambda: mine.array,
        lambda: mine.name,
        mine.read,
        mine.describe,
        mine.free,
        mine.signal,
        lambda: mine.handle,
    ):
        with pytest.raises(errors.BufferFreed):
            use()
    assert "closed" in repr(mine)
    assert "closed" in mine._repr_html_()


# --- how other libraries see it
# ---------------------------------------------------------


def test_describesItself(domain: str) -> None:
    described = muninn.share(np.zeros((2, 3), "f4"), name="d", tenant="org/x").describe()
    fixed = {
        "mode": "bigMode",
        "gpu": None,
        "size": 24,
        "access": "readMostly",
        "tenant": "org/x",
        "leaseTtlMs": 120_000,
        "peerable": True,
    }
    assert fixed.items() <= described.items()
    assert described["topology"] == {"p2p": [], "staged": []}
    assert described["shape"] == [2, 3]
    assert described["importers"][0]["pid"] == os.getpid()


def test_isAnArrayToNumpyAndDlpack(domain: str) -> None:
    mine = muninn.share(np.arange(4.0))
    assert np.shares_memory(np.asarray(mine), mine.array)
    assert np.asarray(mine, dtype="i4").tolist() == [0, 1, 2, 3]
    assert not np.shares_memory(np.array(mine, copy=True), mine.array)
    with pytest.raises(ValueError, match="copy"):
        mine.__array__(np.dtype("i4"), copy=False)
    assert np.shares_memory(np.from_dlpack(mine), mine.array)
    assert len(mine) == 4
    with pytest.raises(TypeError):
        len(muninn.share(np.array(1.0)))


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="memoryview of a Python object needs Python 3.12"
)
def test_isAMemoryview(domain: str) -> None:
    mine = muninn.share(np.arange(4.0))
    assert memoryview(mine).format == "d"
    assert memoryview(mine).tolist() == [0, 1, 2, 3]


def test_showsItselfInNotebooks(domain: str) -> None:
    html = muninn.share(b"x", name="<b>")._repr_html_()
    assert "&lt;b&gt;" in html
    assert "<b>&lt;" not in html.replace("<b>MuninnBuffer</b>", "")


def test_aForkedChildDoesNotEndItsParentsAccess(domain: str) -> None:
    """Broken: the child published its parent's half written data, and released the
    parent's owner lock.
    """
    buffer = muninn.share(np.zeros(4), name="a")
    with buffer.write() as view:
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            assert buffer.generation == 1
            view += 1
    if not child:
        os._exit(0)
    assert buffer.generation == 2 and buffer.read().sum() == 4


def test_aWaiterIsToldAtOnceThatTheWriterGaveUp(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a writer that raised woke no waiter; the look every 0.2 s hid this."""
    monkeypatch.setattr(generations, "_CHECK_NS", 60_000_000_000)
    buffer = muninn.share(np.zeros(4), name="a")
    waiting = Background(lambda: buffer.waitNext())
    with pytest.raises(KeyError), buffer.write():
        waiting.asleep()
        raise KeyError
    assert isinstance(waiting.ended(), WriterDied)


def test_aFenceThatCanNotBeRecordedIsPoisoned(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the ticket stayed pending, and a process that waited for it hung."""
    other = actor()
    buffer = muninn.share(np.zeros(4), name="a")
    buffer.signal()

    def fail(*_: object) -> None:
        raise RuntimeError("no fence")

    from muninn.session.gpus import deviceOf

    monkeypatch.setattr(deviceOf(current()), "recordFence", fail)
    with pytest.raises(RuntimeError):
        buffer.signal()
    # Before this process's next call, which poisons what an interruption has left.
    with pytest.raises(ActorError, match="OwnerDied"):
        other.do("muninn.open('a').wait(ticket=2, timeout=5)")
    with pytest.raises(OwnerDied):
        buffer.wait(ticket=2, timeout=20)
    with pytest.raises(ValueError):
        buffer.wait(ticket=3, timeout=0.1)


def test_aWriterKeepsTheOthersOut(domain: str, actor: Start) -> None:
    """Broken: `write` did not take the owner lock."""
    buffer = muninn.share(np.zeros(4), name="a", access="readWrite")
    other = actor("scope = muninn.open('a', access='readWrite').write()\nscope.__enter__()[0] = 7")
    assert other.do("1") == 1 and buffer.generation == 1
    with pytest.raises(TimeoutError), buffer.write(timeout=0.2):
        pass
    other.do("scope.__exit__(None, None, None)")
    with buffer.write(timeout=20) as view:
        assert view[0] == 7
    assert buffer.generation == 4


def test_anObjectOfAnotherDomainIsRefused(domain: str, actor: Callable[..., Actor]) -> None:
    """A process inherits an object by fork, changes its domain, and uses the object.
    Broken: (row, incarnation) named another buffer in that domain, and its bytes were
    returned.
    """
    other = actor(
        "held = muninn.share(np.full(3, 666), name='payroll')", MUNINN_DOMAIN=f"{domain}-b"
    ).join()
    parent = actor("a = muninn.share(np.arange(3), name='mine')\nlock = muninn.Lock('l')")
    code = program("childInAnotherDomain", DOMAIN=domain)
    assert parent.do(code) == "DomainChanged DomainChanged DomainChanged"
    assert (
        parent.do("a.array.tolist()") == [0, 1, 2] and other.do("held.array.tolist()") == [666] * 3
    )


_KINDS = {
    "buffer": "muninn.share(np.arange(3), name='mine')",
    "bundle": "muninn.shareBundle({'a': np.arange(3)}, name='mine')",
    "fastMode": "muninn.share(np.arange(3), name='mine', mode='fastMode')",
}
_FREED = """
try: said = str(mine.free())
except muninn.MuninnError as error: said = type(error).__name__
"""


@pytest.mark.parametrize("made", _KINDS.values(), ids=_KINDS)
@pytest.mark.parametrize("removed", ["everything", "block"])
def test_freeingWhatWasOfALostBlockFreesNothingOfTheNext(
    domain: str, actor: Start, removed: str, made: str
) -> None:
    """Broken: the process freed (row, incarnation) in the next block, where they name a
    buffer of another process.
    """
    holder = actor(f"mine = {made}")
    paths = Paths(os.getuid(), domain)
    os.unlink(paths.blockPath)
    if removed == "everything":
        shutil.rmtree(paths.directory, ignore_errors=True)
    else:
        for path in (paths.linkPath, *Path(paths.directory).glob("journal*")):
            os.unlink(path)
    precious = muninn.share(np.full(3, 7), name="precious")
    assert holder.do(f"{_FREED}\nsaid") == "DomainChanged"
    assert precious.read().tolist() == [7, 7, 7] and muninn.open("precious").read().tolist() == [
        7,
        7,
        7,
    ]
    holder.do("mine.close()")


@pytest.mark.parametrize("made", _KINDS.values(), ids=_KINDS)
@pytest.mark.parametrize(
    "change",
    [
        "os.environ['MUNINN_DOMAIN'] += '-b'",
        pytest.param(
            f"os.setgid({_STRANGER}); os.setuid({_STRANGER})",
            marks=pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become another user"),
        ),
    ],
    ids=["domain", "uid"],
)
def test_freeingWhatIsOfAnotherDomainFreesNothingInThisOne(
    domain: str, actor: Start, change: str, made: str
) -> None:
    """A forked child inherited the object. Broken: as above."""
    parent = actor(f"mine = {made}")
    code = program("childFreesInAnotherDomain", CHANGE=change, FREED=_FREED.strip())
    try:
        assert parent.do(code) == "DomainChanged [7, 7, 7] ['precious']"
        assert parent.do("mine.free(); [each['name'] for each in muninn.listBuffers()]") == []
    finally:
        removeDomain(domain, _STRANGER)


def test_freeingWhatIsFreeAlreadyIsFineWhereverTheProcessIs(domain: str, actor: Start) -> None:
    """The block of the object says that it is free, so the process joins no other block
    to free it.
    """
    changing = actor(
        "mine = muninn.share(np.arange(3), name='mine'); again = muninn.open('mine'); mine.free()"
    )
    code = f"os.environ['MUNINN_DOMAIN'] = '{domain}-b'; muninn.session.membership.current().leave(); again.free(); muninn.session.membership.isJoined()"
    assert changing.do(code) is False
