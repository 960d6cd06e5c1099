"""The deferred free: memory comes back behind the work that uses it, whatever else the
process does, and no call waits for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.devices.cuda import deferredfree
from muninn.devices.cuda.deferredfree import DeferredFree
from muninn.devices.cuda.semaphores import WAITS, Waits
from muninn.session import gpus, membership
from support import Actor, Background, eventually

Start = Callable[..., Actor]
MIB = 1 << 20


@pytest.fixture
def device(domain: str) -> Iterator[Any]:
    muninn.share(np.zeros(1, np.uint8), "any", mode="fastMode")
    yield gpus.deviceOf(membership.current())


def test_aCopyBehindTheHostsWorkDoesNotMeetTheFreeingOfAnother(device: Any) -> None:
    """Broken: the copy of ordinary memory and the freeing waited for the stream inside
    the driver, and the stream waited for a thread that needed the driver.
    """
    made, freed = (muninn.share(np.zeros(MIB, np.uint8), name, mode="fastMode") for name in "ab")
    stream, source, semaphore = device.createStream(0), np.ones(MIB, np.uint8), threading.Event()
    stream.submit(lambda: semaphore.wait(60))
    device.copy(made.open(), source.ctypes.data, MIB, stream)
    freed.free()
    del freed
    other = device.createStream(0)
    Background(lambda: other.submit(lambda: None)).ended()
    semaphore.set()
    stream.synchronize(60)
    assert made.read(timeout=60).all()


def test_memoryComesBackAlthoughSomeStreamAlwaysWaits(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferredfree, "_QUIET_BOUND_SECONDS", 0.01)
    ways, synchronizing = list[str](), DeferredFree._awaitBySynchronizing
    monkeypatch.setattr(
        DeferredFree,
        "_awaitBySynchronizing",
        lambda *given: (ways.append("synchronized"), synchronizing(*given)),
    )
    stream, semaphore = device.createStream(0), threading.Event()
    stream.submit(lambda: semaphore.wait(60))
    freed = muninn.share(np.zeros(MIB, np.uint8), "a", mode="fastMode")
    freed.free()
    del freed
    eventually(lambda: ways, "it does not look for a quiet moment for ever")
    assert not device.awaitWork(0.05), "the stream's work is not done yet"
    semaphore.set()
    assert device.awaitWork(60)


def test_givesMemoryBackAfterAnError(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the thread ended, and no memory was given back any more."""
    fails = [True]
    real = DeferredFree._awaitByBlock

    def failing(*given: Any) -> bool:
        if fails.pop() if fails else False:
            raise ValueError("no reason")
        return real(*given)

    monkeypatch.setattr(DeferredFree, "_awaitByBlock", failing)
    reclaimed = threading.Event()
    device._deferredFree.start()
    device._deferredFree.defer(reclaimed.set)
    assert reclaimed.wait(60) and not fails, "the thread tries again"
    assert device.awaitWork(60)


def test_memoryThatNeedsTheDriversLockIsFreedAtAQuietMoment(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the memory was freed once the context was synchronized, although streams
    waited for the host again by then.
    """
    monkeypatch.setattr(deferredfree, "_QUIET_BOUND_SECONDS", 0.01)
    waits, disposed, synchronizing = (
        [WAITS.begin()],
        list[str](),
        DeferredFree._awaitBySynchronizing,
    )
    monkeypatch.setattr(
        DeferredFree,
        "_awaitBySynchronizing",
        lambda *given: (synchronizing(*given), disposed.append("synchronized")),
    )
    device._deferredFree.start()
    device._deferredFree.defer(lambda: disposed.append("with the lock"))
    device._deferredFree.defer(lambda: disposed.append("without"), False)
    eventually(lambda: "without" in disposed, "memory that needs no lock is given back")
    assert not device._deferredFree.drain(0.2) and "with the lock" not in disposed
    waits.pop().end()
    assert device._deferredFree.drain(60)
    assert (
        disposed.index("with the lock") > disposed.index("without")
        and disposed.count("with the lock") == 1
    )


def test_aWaitMayBeginWhileAContextIsSynchronized(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: where no block of VRAM was left to wait by, a thread that captured
    a stream could neither go on nor end its capture.
    """
    entered, leave = threading.Event(), threading.Event()
    monkeypatch.setattr(DeferredFree, "_awaitByBlock", lambda *_: False)
    monkeypatch.setattr(
        DeferredFree, "_awaitBySynchronizing", lambda *_: (entered.set(), leave.wait(60))
    )
    awaiting = Background(lambda: device.awaitWork(60))
    assert entered.wait(60)
    Background(WAITS.begin).ended().end()
    leave.set()
    assert awaiting.ended() is True


def test_ordinaryMemoryIsReadWhenTheStreamComesToIt(device: Any) -> None:
    """Broken: the memory was read when the host's part of the stream came to it, which
    did not wait for the event of the other stream.
    """
    from cuda.bindings import driver as cu

    first, second, semaphore = device.createStream(0), device.createStream(0), threading.Event()
    host, target, sevens = (
        np.zeros(4096, np.uint8),
        device.allocate(0, 4096),
        device.allocate(0, 4096),
    )
    filled = np.full(4096, 7, np.uint8)
    device.copyNow(sevens.address, filled.ctypes.data, 4096, 0)
    first.submit(lambda: semaphore.wait(60))
    device.copy(host.ctypes.data, sevens.address, 4096, first)
    with device.onGpu(0):
        event = cu.cuEventCreate(2)[1]
        assert (
            int(cu.cuEventRecord(event, first.handle)[0])
            == int(cu.cuStreamWaitEvent(second.handle, event, 0)[0])
            == 0
        )
    device.copy(target.address, host.ctypes.data, 4096, second)
    semaphore.set()
    second.synchronize(60)
    out = np.zeros(4096, np.uint8)
    device.copyNow(out.ctypes.data, target.address, 4096, 0)
    assert (out == 7).all()


def test_waitsEndAndBeginAroundTheFreeing() -> None:
    waits = Waits()
    with waits.none(60) as isNone:
        assert isNone
        beginning = Background(waits.begin).asleep()
    first = beginning.ended()
    with waits.none(0.01) as isNone:
        assert not isNone
        second = waits.begin()  # a wait may begin although the first one may never end
    entered, leave = threading.Event(), threading.Event()

    def free() -> bool:
        with waits.none(60) as isNone:
            entered.set()
            leave.wait(60)
            return isNone

    freeing = Background(free).asleep()
    for _ in range(2):
        first.end()  # the interrupted thread, and the stream worker
    assert not entered.is_set()
    second.end()
    assert entered.wait(60)
    Background(waits.begin).asleep()
    leave.set()
    assert freeing.ended() is True


@pytest.mark.parametrize(
    "sizeBytes", [1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (8 << 20) + 3, (21 << 20) + 7]
)
def test_ordinaryMemoryIsCopiedPieceByPiece(device: Any, sizeBytes: int) -> None:
    """Sizes around that of a piece: the pieces are copied in order, behind the earlier
    work of the stream, and to the last byte.
    """
    source = np.random.default_rng(sizeBytes).integers(0, 256, sizeBytes, dtype=np.uint8)
    target, out, stream = (
        device.allocate(0, sizeBytes),
        np.zeros(sizeBytes + 2, np.uint8),
        device.createStream(0),
    )
    semaphore, expected = threading.Event(), source.copy()
    stream.submit(lambda: semaphore.wait(60))
    device.copy(target.address, source.ctypes.data, sizeBytes, stream)
    copying = Background(
        lambda: device.copy(out.ctypes.data + 1, target.address, sizeBytes, stream)
    )
    copying.ended()
    assert not out.any(), "the stream has not come to the copy"
    semaphore.set()
    stream.synchronize(60)
    assert np.array_equal(out[1:-1], expected) and out[0] == out[-1] == 0


def test_twoStreamsCopyAtOnceThroughPiecesOfTheirOwn(device: Any) -> None:
    size = (9 << 20) + 5
    streams, kept = [device.createStream(0) for _ in range(3)], list[Any]()
    for number, stream in enumerate(streams):
        source, target, out = (
            np.full(size, number + 1, np.uint8),
            device.allocate(0, size),
            np.zeros(size, np.uint8),
        )
        kept.append((source, target, out))
        for _ in range(3):
            device.copy(target.address, source.ctypes.data, size, stream)
            device.copy(out.ctypes.data, target.address, size, stream)
    for number, stream in enumerate(streams):
        stream.synchronize(60)
        assert (kept[number][2] == number + 1).all()
