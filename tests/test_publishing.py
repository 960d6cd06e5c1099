"""Publishing: a new version of a name is visible in one step, the older one stays with
its holders, and a death at any moment leaves one of the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.api import admin, publishing
from muninn.broker.directory import Directory
from muninn.control import layout
from muninn.errors import (
    BrokerUnavailable,
    BufferExists,
    BufferFreed,
    BufferMismatch,
    BufferNotFound,
    DomainDraining,
    HostMemoryFull,
    LeaseRevoked,
    PermissionDenied,
    QuotaExceeded,
)
from muninn.session import newmemory
from muninn.session.membership import current
from muninn.session.reservation import Reservation
from muninn.storage.paths import Paths
from muninn.sync import lock
from support import Actor, Background, eventually, leftovers, program

Start = Callable[..., Actor]
A = np.arange(6.0).reshape(2, 3)


@pytest.fixture(autouse=True)
def ownDomain(domain: str) -> str:
    return domain


def stateOf(name: str) -> list[str]:
    return sorted(each["state"] for each in muninn.listBuffers() if each["name"] == name)


# --- what it does ---------------------------------------------------------------------


def test_theFirstVersionCreatesTheName() -> None:
    with muninn.publish("a", A) as first:
        assert first.isCurrent and first.writable and first.name == "a"
        assert muninn.open("a").array.tolist() == A.tolist()
    assert stateOf("a") == ["live"], "a published name is kept, as by share"


def test_openGivesTheNewestAndHoldersKeepTheirs() -> None:
    first = muninn.publish("a", A)
    reader = muninn.open("a")
    view = reader.array
    second = muninn.publish("a", np.arange(3))
    assert (first.isCurrent, reader.isCurrent, second.isCurrent) == (False, False, True)
    with muninn.open("a") as newest:
        assert newest.isCurrent and newest.read().tolist() == [0, 1, 2]
    assert view.tolist() == reader.read().tolist() == A.tolist()
    assert stateOf("a") == ["live", "replaced"]


def test_everyOperationOnAnOlderVersionGoesOn() -> None:
    muninn.share(A, name="a")
    older = muninn.open("a", access="readWrite")
    newer = muninn.publish("a", A + 1)
    with older.write() as view:
        view[:] = 9
    assert older.read().sum() == older.array.sum() == 54
    assert np.asarray(older).sum() == np.from_dlpack(older).sum() == 54
    assert older.waitNext(5, after=0) == older.generation == 2
    assert older.wait(ticket=older.signal(), timeout=5) >= 1
    assert older.deviceArray().sum() == 54 and older.open() and len(older) == 2
    assert older.describe()["state"] == "replaced" and older.nbytes == A.nbytes
    with older.read(stream=None) as kernels:
        assert kernels.sum() == 54
    assert "a" in repr(older) and older._repr_html_()
    assert newer.read().tolist() == (A + 1).tolist()


def test_aBundleAndItsArraysGoOn() -> None:
    first = muninn.publish("b", {"w": A, "x": np.arange(4)})
    older = muninn.openBundle("b")
    second = muninn.publish("b", {"w": A * 2})
    assert isinstance(second, muninn.Bundle) and list(second) == ["w"]
    assert older["w"].tolist() == first["w"].tolist() == A.tolist()
    assert older["x"].tolist() == [0, 1, 2, 3] and not older.isCurrent and second.isCurrent
    assert muninn.openBundle("b")["w"].tolist() == (A * 2).tolist()


def test_theMemoryOfAnOlderVersionGoesWithItsLastHolder(domain: str, actor: Start) -> None:
    muninn.publish("a", A).close()
    holders = [actor("held = muninn.open('a')") for _ in range(2)]
    muninn.publish("a", A + 1).close()
    muninn.publish("a", A + 2).close()
    assert len(leftovers(domain)) == 2, "no process held the second version"
    holders[0].do("held.close()")
    assert stateOf("a") == ["live", "replaced"]
    holders[1].kill()
    eventually(lambda: len(leftovers(domain)) == 1, "the first version is gone")
    assert stateOf("a") == ["live"]


def test_arraysKeepAnOlderVersion(domain: str) -> None:
    view = muninn.publish("a", A).array
    muninn.publish("a", A + 1).close()
    assert len(leftovers(domain)) == 2 and view.tolist() == A.tolist()
    del view
    muninn.publish("a", A + 2).close()
    eventually(lambda: len(leftovers(domain)) == 1, "only the newest is there")


def test_freeingAnOlderVersionLetsItGoAndNotTheNewOne(domain: str) -> None:
    older = muninn.publish("a", A)
    newer = muninn.publish("a", A + 1)
    older.free()
    assert newer.isCurrent and stateOf("a") == ["live"] and len(leftovers(domain)) == 1
    assert not older.isCurrent


def test_freeingTheNameFreesTheNewestVersion() -> None:
    older, newer = muninn.publish("a", A), muninn.publish("a", A + 1)
    muninn.free("a")
    with pytest.raises(BufferFreed):
        newer.read()
    assert older.read().tolist() == A.tolist() and not older.isCurrent
    with pytest.raises(BufferNotFound):
        muninn.open("a")
    again = muninn.publish("a", A + 2)
    assert again.isCurrent and stateOf("a") == ["dying", "live", "replaced"]


def test_aHandleOfAnOlderVersionSaysThatThereIsANewerOne() -> None:
    older = muninn.publish("a", A)
    handle, pickled = older.handle, pickle.dumps(older)
    muninn.publish("a", A + 1).close()
    for opened in (lambda: muninn.open(handle), lambda: pickle.loads(pickled)):
        with pytest.raises(BufferNotFound, match="newer version"):
            opened()


def test_aForkedChildThatHasNotUsedAnOlderVersionOpensTheNameAgain(actor: Start) -> None:
    said = actor().do(program("childOfAnOlderVersion"))
    assert "has a newer version" in said and said.endswith("[0, 1, 2, 3]")


def test_optionsAreTheNewVersionsOwn() -> None:
    muninn.publish("a", A, access="readOnly").close()
    with pytest.raises(PermissionDenied):
        muninn.open("a", access="readWrite")
    newer = muninn.publish("a", A, access="readWrite", lifetimeMs=3_600_000, tenant="default")
    described = newer.describe()
    assert (described["access"], described["tenant"]) == ("readWrite", "default")
    assert described["endsInMs"] > 0
    told: list[int] = []
    muninn.publish("a", np.zeros(1 << 20), progress=told.append)
    assert sum(told) == 8 << 20


def test_evictingANameRevokesTheLeasesOnEveryVersion() -> None:
    older, newer = muninn.publish("a", A), muninn.publish("a", A + 1)
    assert admin.evict("a").revoked == 2
    for each in (older, newer):
        with pytest.raises(LeaseRevoked):
            each.read()


# --- what it refuses ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [(A, {"w": A}, "'a' is an array"), ({"w": A}, A, "'a' is a bundle")],
)
def test_aNameKeepsItsKind(domain: str, first: Any, second: Any, said: str) -> None:
    held = muninn.publish("a", first)
    with pytest.raises(BufferMismatch, match=said):
        muninn.publish("a", second)
    assert held.isCurrent and len(leftovers(domain)) == 1


def test_aNameKeepsItsTenant(domain: str) -> None:
    muninn.share(A, name="a", tenant="one")
    for options in ({}, {"tenant": "two"}):
        with pytest.raises(PermissionDenied, match="tenant 'one'") as caught:
            muninn.publish("a", A, **options)  # type: ignore[call-overload]
        assert "tenant='one'" in str(caught.value)
    assert len(leftovers(domain)) == 1
    assert muninn.publish("a", A + 1, tenant="one").tenant == "one"


@pytest.mark.parametrize(
    ("source", "options", "error"),
    [
        ([1, 2], {}, TypeError),
        (A, {"acess": "readOnly"}, TypeError),
        (A, {"copy": False}, TypeError),
        (A, {"timeout": True}, TypeError),
        ({}, {}, muninn.errors.InvalidArgument),
        ({1: A}, {}, TypeError),
        (A, {"access": "write"}, muninn.errors.InvalidArgument),
        (np.array([object()]), {}, muninn.errors.InvalidDtype),
    ],
)
def test_aSourceOrAnOptionThatCanNotBeChangesNothing(
    domain: str, source: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    held = muninn.publish("a", A) if not isinstance(source, dict) else muninn.publish("a", {"a": A})
    with pytest.raises(error):
        muninn.publish("a", source, **options)
    assert held.isCurrent and len(leftovers(domain)) == 1
    assert current().rows.inState(layout.ROW_CREATING) == []


@pytest.mark.parametrize("name", [None, "", "x" * 128, "\x01a", 5])
def test_aNameThatCanNotBeIsRefused(name: Any) -> None:
    with pytest.raises((TypeError, muninn.errors.InvalidArgument)):
        muninn.publish(name, A)


def test_theLongestNameIsPublished() -> None:
    name = "ä" * 63
    older, _ = muninn.publish(name, A), muninn.publish(name, A + 1)
    assert not older.isCurrent


def test_aDrainingDomainPublishesNothing() -> None:
    held = muninn.publish("a", A)
    admin.drain(True, "maintenance")
    with pytest.raises(DomainDraining, match="maintenance"):
        muninn.publish("a", A)
    assert held.isCurrent


# --- room for both --------------------------------------------------------------------

_MIB = 1 << 20


def _quota(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MUNINN_DEFAULT_PINNED_HOST_QUOTA", text)


def test_aVersionWithoutRoomIsRefusedWithTheFigures(
    monkeypatch: pytest.MonkeyPatch, domain: str
) -> None:
    _quota(monkeypatch, "5M")
    held = muninn.publish("a", np.zeros(3 * _MIB, "u1"))
    with pytest.raises(QuotaExceeded) as caught:
        muninn.publish("a", np.ones(3 * _MIB, "u1"))
    for figure in ("3M used + 3M wanted > 5M allowed", "'a' that is there has 3M"):
        assert figure in str(caught.value)
    assert held.isCurrent and held.read().sum() == 0 and len(leftovers(domain)) == 1


def test_aTimeoutWaitsForRoom(monkeypatch: pytest.MonkeyPatch, domain: str, actor: Start) -> None:
    _quota(monkeypatch, "7M")
    muninn.publish("a", np.zeros(3 * _MIB, "u1")).close()
    holder = actor("held = muninn.open('a')")
    muninn.publish("a", np.full(3 * _MIB, 1, "u1")).close()
    with pytest.raises(QuotaExceeded):
        muninn.publish("a", np.full(3 * _MIB, 2, "u1"), timeout=0.2)
    publishing = Background(
        lambda: muninn.publish("a", np.full(3 * _MIB, 2, "u1"), timeout=60).close()
    ).asleep()
    assert muninn.open("a").array[0] == 1
    holder.do("held.close()")
    assert publishing.ended() is None
    assert muninn.open("a").array[0] == 2 and len(leftovers(domain)) == 1


def test_versionsThatNoProcessHoldsNeedRoomForTwoOnly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the version before was reclaimed some time after the commit."""
    _quota(monkeypatch, "6M")
    for number in range(10):
        muninn.publish("a", np.full(3 * _MIB, number, "u1")).close()
    assert muninn.open("a").array[0] == 9


def test_aFullHostLeavesTheVersionBefore(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    held = muninn.publish("a", A)

    def full(*_: Any, **__: Any) -> None:
        raise HostMemoryFull("/dev/shm has no room")

    with monkeypatch.context() as patch:
        patch.setattr(newmemory.segments, "reserve", full)
        with pytest.raises(HostMemoryFull, match="that is there has 4K"):
            muninn.publish("a", A + 1)
        with pytest.raises(HostMemoryFull):
            muninn.publish("a", A + 1, timeout=0.1)
    assert held.isCurrent and len(leftovers(domain)) == 1
    assert muninn.publish("a", A + 1).isCurrent


# --- waiting --------------------------------------------------------------------------


def test_waitNewerWakesWhenAVersionComes(actor: Start) -> None:
    publisher = actor()
    buffer = muninn.publish("a", A)
    with pytest.raises(TimeoutError, match="'a' within 0.05 s"):
        buffer.waitNewer(0.05)
    waiting = Background(buffer.waitNewer).asleep()
    publisher.do("muninn.publish('a', np.arange(3)).close()")
    assert waiting.ended() is None
    buffer.waitNewer(0)
    assert muninn.open("a").read().tolist() == [0, 1, 2]


def test_waitNewerOfABufferThatIsFreedSaysSo(actor: Start) -> None:
    other = actor()
    buffer = muninn.publish("a", A)
    waiting = Background(buffer.waitNewer).asleep()
    other.do("muninn.free('a')")
    assert isinstance(waiting.ended(), BufferFreed)
    buffer.close()
    with pytest.raises(BufferFreed):
        buffer.waitNewer(0)


@pytest.mark.parametrize("isByLastClose", [True, False])
def test_waitNewerOfAnOlderVersionWhoseNameWasFreedSaysSo(isByLastClose: bool) -> None:
    """Broken: it returned at once, for ever, and there was nothing to open."""
    older = muninn.publish("a", A)
    newer = muninn.publish("a", A + 1, lifetime="lastClose")
    older.waitNewer(0)
    if isByLastClose:
        newer.close()
    else:
        muninn.free("a")
    with pytest.raises(BufferFreed, match="'a' was freed, and this process holds an older"):
        older.waitNewer(5)
    with pytest.raises(BufferFreed):
        asyncio.run(older.waitNewerAsync(5))
    assert older.read().tolist() == A.tolist(), "its holder may go on using it"
    muninn.publish("a", A + 2).close()
    older.waitNewer(0)
    assert muninn.open("a").isCurrent


def test_waitNewerReturnsWhenVersionsFollowOneAnother(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the version that the broker named was replaced before the process had
    looked at it, and the wait was over time.
    """
    oldest = muninn.publish("a", A)
    muninn.publish("a", A + 1).close()
    membership = current()
    find = membership.client.find

    def andPublish(name: str) -> Any:
        found = find(name)
        with monkeypatch.context() as patch:
            patch.setattr(membership.client, "find", find)
            muninn.publish("a", A + 2).close()
        return found

    monkeypatch.setattr(membership.client, "find", andPublish)
    oldest.waitNewer(0)


def test_waitNewerOfAnOlderVersionWaitsForAProcessThatCreatesTheName(actor: Start) -> None:
    older = muninn.publish("a", A)
    muninn.publish("a", A + 1).close()
    muninn.free("a")
    creator = actor(
        "import threading\ngo = threading.Event()\nthreading.Timer(1.0, go.set).start()"
    )
    creator.begin("muninn.loadArray((3,), 'f8', lambda view: go.wait(60), name='a').name")
    eventually(lambda: current().client.find("a")[1], "it is being created")
    with pytest.raises(TimeoutError):
        older.waitNewer(0.05)
    older.waitNewer(60)
    assert muninn.open("a").shape == (3,)
    creator.result()


def test_waitNewerIsAwaitedAndCancelled() -> None:
    bundle = muninn.publish("b", {"w": A})

    async def run() -> None:
        task = asyncio.create_task(bundle.waitNewerAsync())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        eventually(lambda: not _waiters(), "the thread has ended")
        with pytest.raises(TimeoutError):
            await bundle.waitNewerAsync(0.05)
        task = asyncio.create_task(bundle.waitNewerAsync())
        await asyncio.sleep(0.05)
        assert not task.done()
        await asyncio.get_running_loop().run_in_executor(
            None, lambda: muninn.publish("b", {"w": A + 1}).close()
        )
        await task
        assert not bundle.isCurrent

    asyncio.run(run())
    eventually(lambda: not _waiters(), "the threads have ended")


def _waiters() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "muninn-wait"]


# --- at once --------------------------------------------------------------------------


def test_publishersOfOneNamePrepareOneVersionAtATime(domain: str, actor: Start) -> None:
    muninn.publish("a", np.zeros(_MIB, "u1")).close()
    others = [actor() for _ in range(3)]
    for number, each in enumerate(others):
        each.begin(
            f"for each in range(20): muninn.publish('a', np.full({_MIB}, {number}, 'u1')).close()"
        )
    mostSegments = 0
    while any(each.isBusy() for each in others):
        mostSegments = max(mostSegments, len(leftovers(domain)))
        with muninn.open("a") as buffer:
            assert len(set(buffer.read().tolist())) == 1
    for each in others:
        each.result()
    assert mostSegments <= 3, "one that is read here, one that is there, one that comes"
    eventually(lambda: len(leftovers(domain)) == 1, "only the newest is there")


def test_publishersOnTwoThreadsTakeTurns() -> None:
    def publish() -> None:
        for number in range(20):
            muninn.publish("a", np.full(9, number)).close()

    first, second = Background(publish), Background(publish)
    assert first.ended() is None and second.ended() is None
    assert muninn.open("a").read().tolist() == [19] * 9


def test_aPublisherWaitsForAProcessThatIsCreatingTheName(actor: Start) -> None:
    creator = actor("import threading\ngo = threading.Event()")
    creator.begin("muninn.loadArray((3,), 'f8', lambda view: go.wait(60), name='a')")
    rows = current().rows
    eventually(lambda: rows.inState(layout.ROW_CREATING), "it is being created")
    with pytest.raises(TimeoutError, match="still creating 'a'"):
        muninn.publish("a", A, timeout=0.2)
    publishing = Background(lambda: muninn.publish("a", A).close()).asleep()
    creator.kill()
    assert publishing.ended() is None
    assert muninn.open("a").read().tolist() == A.tolist()


def test_aTimeoutCoversTheCreationOfTheLock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process creates its row, and stands still. Broken: the call went on for
    half a minute.
    """

    def isBeingCreated(*_: Any) -> None:
        raise BufferExists("another process is creating it")

    monkeypatch.setattr(lock.creation, "create", isBeingCreated)
    with pytest.raises(TimeoutError, match="still creating the lock 'publish:a'"):
        muninn.publish("a", A, timeout=0.1)


def test_aPublisherWhoseControlBlockIsLostJoinsAnew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: it could not, with the lock of the lost block, where `open` and `share` can."""
    muninn.publish("a", A).close()
    there, before = publishing._there, current()

    def losesTheBlock(membership: Any, name: str) -> Any:
        if membership is before:
            before.role.loseBlock()
        return there(membership, name)

    monkeypatch.setattr(publishing, "_there", losesTheBlock)
    assert muninn.publish("a", A + 1).isCurrent
    assert current() is not before and muninn.open("a").read().tolist() == (A + 1).tolist()


def test_aHandlerMayPublishWhatItsThreadPublishes() -> None:
    inner: list[muninn.MuninnBuffer] = []

    def progress(_: int) -> None:
        if not inner:
            inner.append(muninn.publish("a", A + 1))

    outer = muninn.publish("a", A, progress=progress)
    assert outer.isCurrent and not inner[0].isCurrent
    assert inner[0].read().tolist() == (A + 1).tolist()


def test_aVersionThatIsReplacedWhileItIsOpenedIsLookedForAgain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: `open` said that there was no such name. Here the index knows nothing,
    and a newer version comes after each answer of the broker but the last.
    """
    muninn.publish("a", A).close()
    membership = current()
    find, versions = membership.client.find, iter(range(5))
    monkeypatch.setattr(type(membership.openBuffers), "known", lambda *_: None)

    def andPublish(name: str) -> Any:
        found = find(name)
        if name == "a" and next(versions, None) is not None:
            with monkeypatch.context() as patch:
                patch.setattr(membership.client, "find", find)
                muninn.publish("a", A + 1).close()
        return found

    monkeypatch.setattr(membership.client, "find", andPublish)
    with muninn.open("a") as buffer:
        assert buffer.isCurrent and next(versions, None) is None


# --- interruptions and deaths ---------------------------------------------------------


def _interrupt(patch: pytest.MonkeyPatch, isBefore: bool) -> None:
    """Interrupt the commit of each version, just before it or just after it."""
    commit = Reservation.commit

    def interrupted(self: Reservation, descriptors: Any) -> None:
        if self._replaces and not isBefore:
            commit(self, descriptors)
        if self._replaces:
            raise KeyboardInterrupt
        commit(self, descriptors)

    patch.setattr(Reservation, "commit", interrupted)


@pytest.mark.parametrize("isBefore", [True, False])
@pytest.mark.parametrize("lifetime", ["keep", "lastClose"])
@pytest.mark.parametrize("mode", ["bigMode", "fastMode"])
def test_anInterruptedCommitLeavesOneOfTheTwoVersions(
    monkeypatch: pytest.MonkeyPatch, domain: str, isBefore: bool, lifetime: Any, mode: Any
) -> None:
    """Broken: the process freed the version of whose commit it did not know the
    outcome, when that version had the name already. And it let go of one that ends with
    its last close, so that the name had none.
    """
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "1")
    held = muninn.publish("a", A, mode=mode)
    unclaimed = current().openBuffers.context.unclaimed.memories
    with monkeypatch.context() as patch:
        _interrupt(patch, isBefore)
        with pytest.raises(KeyboardInterrupt):
            muninn.publish("a", A + 1, lifetime=lifetime, mode=mode)
    assert held.isCurrent == isBefore
    time.sleep(0.1)  # the background thread has looked
    assert muninn.open("a").read().tolist() == (A if isBefore else A + 1).tolist()
    assert stateOf("a") == (["live"] if isBefore else ["live", "replaced"])
    assert current().rows.inState(layout.ROW_CREATING) == []
    assert not isBefore or not unclaimed, "a version that was taken back is not held"
    held.close()
    eventually(lambda: len(stateOf("a")) == 1, "the other version is gone")
    assert muninn.publish("a", A + 2).isCurrent
    eventually(lambda: stateOf("a") == ["live"] and not unclaimed, "only the newest is there")


@pytest.mark.parametrize("ending", ["free", "publish"])
def test_aVersionOfAnInterruptedPublisherGoesWhenItIsFreedOrReplacedElsewhere(
    monkeypatch: pytest.MonkeyPatch, domain: str, actor: Start, ending: str
) -> None:
    other = actor()
    with monkeypatch.context() as patch:
        _interrupt(patch, False)
        with pytest.raises(KeyboardInterrupt):
            muninn.publish("a", A, lifetime="lastClose")
    assert other.do("muninn.open('a').read().sum()") == 15
    if ending == "free":
        other.do("muninn.free('a')")
    else:
        other.do("newer = muninn.publish('a', np.arange(3))")
    eventually(lambda: len(leftovers(domain)) == (ending == "publish"), "it is gone")


def test_aVersionThatEndsWithItsLastCloseIsThePublishers(domain: str) -> None:
    """Broken, if the process holds on to what it has returned."""
    muninn.publish("a", A, lifetime="lastClose").close()
    assert stateOf("a") == [] and leftovers(domain) == []


_READER = """
def read(stop, name='a'):
    seen, opened = set(), 0
    while not os.path.exists(stop):
        with muninn.open(name) as buffer:
            values = set(buffer.read().tolist()) | {int(buffer.array[0]), int(buffer.array[-1])}
            assert len(values) == 1, values
            seen |= values
            opened += 1
    return opened, len(seen)
"""
_VERSION = """
def version(value, mode):
    return muninn.publish('a', np.full(50_000, value), mode=mode)
"""
_KEEPER = """
from muninn.session import membership
from muninn.broker.directory import Directory
membership.joinPreferred()
"""


@pytest.mark.parametrize("mode", ["bigMode", "fastMode"])
def test_readersSeeNoGapWhilePublisherAndBrokerAreKilled(
    domain: str, actor: Start, tmp_path: Path, mode: str
) -> None:
    """Publishers die by SIGKILL at random moments, and every second time the broker
    does as well. VRAM that only these two have would be lost with both, so there either
    the one or the other dies.
    """
    dice, gpu = random.Random(20261129), {"MUNINN_DEVICE": "host", "MUNINN_HOST_GPUS": "1"}
    holder = actor(f"held = muninn.publish('a', np.zeros(50_000, int), mode={mode!r})", **gpu)
    readers = [actor(_READER, **gpu) for _ in range(2)]
    for each in readers:
        each.begin(f"read({str(tmp_path / 'stop')!r})")
    for number in range(16):
        broker = actor(_KEEPER) if number % 2 else None
        publisher = actor("muninn.domainInfo()['epoch']", **gpu)
        publisher.do(f"{_VERSION}last = version({100 * number}, {mode!r})")
        publisher.begin(f"for each in range(60): last = version({100 * number} + each, {mode!r})")
        time.sleep(dice.uniform(0.0, 0.1))
        pid = holder.do("muninn.domainInfo()['brokerPid']")
        if mode == "fastMode" and (broker is not None or pid in (None, publisher.pid)):
            if broker is not None:
                broker.kill()
            publisher.result()
            holder.do("newest = muninn.open('a')")  # the publisher may be the successor
            publisher.kill()
            continue
        for each in random.Random(number).sample((publisher, broker), 2):
            if each is not None:
                each.kill()
    time.sleep(0.5)
    (tmp_path / "stop").touch()
    for each in readers:
        opened, seen = each.result()
        assert opened > 20 and seen > 5, (opened, seen)
    assert holder.do("held.isCurrent, int(held.read().sum())") == [False, 0]
    holder.do("held = newest = None\nmuninn.publish('a', np.full(50_000, 7)).close()")
    rows = current().rows
    eventually(
        lambda: (
            [state.state for row, state in rows.notFree() if not rows.isLock(row)]
            == [layout.ROW_LIVE]
        ),
        "one version is there, and nothing else",
    )
    assert len(leftovers(domain)) == 1
    assert holder.do("muninn.open('a').read().tolist()[:2]") == [7, 7]


def test_aPublisherThatIsTheBrokerDiesInItsCommit(
    domain: str, actor: Start, tmp_path: Path
) -> None:
    """Between the two changes of the rows. Every process but the reader dies."""
    code = """
import signal
from muninn.broker.succession import Succession
Succession.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
    publisher = actor(code)
    publisher.do("held = muninn.publish('a', np.zeros(5, int))")
    reader = actor(_READER).join()
    holder = actor("held = muninn.open('a')")
    reader.begin(f"read({str(tmp_path / 'stop')!r})")
    publisher.begin("muninn.publish('a', np.ones(5, int))")
    with contextlib.suppress(AssertionError):
        publisher.result()
    publisher.kill()
    time.sleep(0.5)
    (tmp_path / "stop").touch()
    assert reader.result()[0] > 20
    assert muninn.open("a").read().tolist() == [1] * 5
    assert holder.do("held.isCurrent, held.read().tolist()") == [False, [0] * 5]
    assert stateOf("a") == ["live", "replaced"]
    holder.kill()
    eventually(lambda: len(leftovers(domain)) == 1, "the old version is gone")


@pytest.mark.parametrize("isLost", [False, True])
def test_everyProcessDiesBetweenTheTwoChanges(domain: str, actor: Start, isLost: bool) -> None:
    """The next process finds the new version, in the same control block or, if that was
    lost, by the journal.
    """
    code = """
import signal
from muninn.broker.succession import Succession
Succession.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
    publisher = actor(code)
    publisher.do("muninn.publish('a', np.zeros(5, int)).close()")
    publisher.begin("muninn.publish('a', np.ones(5, int))")
    with contextlib.suppress(AssertionError):
        publisher.result()
    publisher.kill()
    assert len(leftovers(domain)) == 2
    if isLost:
        with open(f"/dev/shm{Paths(os.getuid(), domain).blockName}", "r+b") as file:
            file.write(b"\xff" * 4096)
        assert admin.repair()["recovered"] == ["a"]
    assert muninn.open("a").read().tolist() in ([0] * 5, [1] * 5), "no broker need be there"
    eventually(
        lambda: muninn.open("a").read().tolist() == [1] * 5 and len(leftovers(domain)) == 1,
        "the new version counts, and the old one is gone",
    )


def test_aDeadPublisherLeavesNoLockBehind(domain: str, actor: Start, tmp_path: Path) -> None:
    """Broken: the row of its lock stayed until another process published that name."""
    publisher = actor()
    inside, rows = tmp_path / "inside", current().rows
    stay = f"lambda _: (open({str(inside)!r}, 'w').close(), time.sleep(600))"
    publisher.begin(f"muninn.publish('a', np.arange(3), progress={stay})")
    eventually(inside.exists, "it is publishing")
    with pytest.raises(TimeoutError, match="has held lock 'publish:a'"):
        muninn.publish("a", A, timeout=0.05)
    publisher.kill()
    eventually(lambda: not rows.notFree() and leftovers(domain) == [], "nothing is left of it")
    with muninn.publish("a", A) as buffer:
        assert buffer.isCurrent


@pytest.mark.parametrize("error", [HostMemoryFull("full"), OSError("gone")])
def test_anErrorOfTheReclaimingIsNoErrorOfThePublication(
    monkeypatch: pytest.MonkeyPatch, domain: str, error: Exception
) -> None:
    """Broken: the publisher was told that it had failed, and the old version was gone."""
    muninn.publish("a", A).close()
    real = Directory.tryReclaim

    def fails(self: Directory, row: int) -> Any:
        if self.rows.state(row).state != layout.ROW_REPLACED:
            return real(self, row)
        monkeypatch.setattr(Directory, "tryReclaim", real)
        raise error

    monkeypatch.setattr(Directory, "tryReclaim", fails)
    assert muninn.publish("a", A + 1).isCurrent
    eventually(lambda: len(leftovers(domain)) == 1, "maintenance reclaims it")


def test_aUserMayCallALockAsMuninnCallsItsOwn(actor: Start) -> None:
    holder = actor("lock = muninn.Lock('publish:a'); lock.acquire()")
    with muninn.publish("a", A, timeout=5) as buffer:
        assert buffer.isCurrent
    holder.kill()
    with muninn.Lock("publish:a") as lock:
        assert lock.recovered, "a user is told of the death"


def test_aCallInTheMiddleOfACreationIsRefused(domain: str) -> None:
    """Broken: it waited for its own thread."""

    def fill(array: np.ndarray[Any, Any]) -> None:
        with pytest.raises(BrokerUnavailable, match="can not wait for the end of it"):
            muninn.publish("a", np.ones(3))
        array[:] = 7

    assert muninn.loadArray(3, "f8", fill, "a").array.tolist() == [7, 7, 7]


def test_nothingIsCopiedWhileAnotherProcessCreatesTheName(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: each look made the whole version, 180 in three seconds."""
    slow = actor("import time")
    slow.begin("muninn.loadArray(3, 'f8', lambda array: time.sleep(1.5), 'a').name")
    eventually(lambda: not _isFree("a"), "the name is being created")
    made = []
    original = publishing.shared
    monkeypatch.setattr(publishing, "shared", lambda *given: made.append(1) or original(*given))
    with pytest.raises(TimeoutError, match="still creating 'a'"):
        muninn.publish("a", np.ones(3), timeout=0.3)
    assert muninn.publish("a", np.ones(3)).array.tolist() == [1, 1, 1]
    assert len(made) == 1
    slow.result()


def _isFree(name: str) -> bool:
    return current().client.find(name) == (None, False)
