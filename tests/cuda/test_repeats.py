"""Copies that are made again: one call of C where nothing stands against it, and the long
way everywhere else.
"""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.api import executing, permits, transfers
from muninn.devices.cuda import lanes
from muninn.devices.mapped import MappedAllocation
from muninn.errors import (
    BufferFreed,
    DeviceUnavailable,
    InvalidArgument,
    PromotionDenied,
    TopologyNotPeerable,
    WriterDied,
)
from muninn.plans import Answer, Rehearsal, Verdict
from muninn.session import gpus, membership
from support import Actor, program

Start = Callable[..., Actor]
BYTES = 1 << 16
#: Its copy takes longer than C waits for it.
LONG_BYTES = 128 << 20


class LongWay(Exception):
    """A copy was about to take the long way."""


@pytest.fixture(autouse=True)
def _permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A permit holds for the whole test, however slow the machine is."""
    monkeypatch.setattr(executing, "FRESH_SECONDS", 1e6)


@pytest.fixture(params=[0, 1], ids=["local", "p2p"])
def gpu(request: pytest.FixtureRequest, domain: str) -> Iterator[int]:
    """The GPU of the source; that of the target is 0."""
    muninn.domainInfo()
    if gpus.deviceOf(membership.current()).gpuCount <= request.param:
        pytest.skip("there is one GPU only")
    yield request.param


@pytest.fixture
def pair(gpu: int) -> tuple[Any, Any]:
    return _pair(gpu)


def _pair(gpu: int, sizeBytes: int = BYTES) -> tuple[Any, Any]:
    """A source and a target between which C copies by itself."""
    first, second = (np.full(sizeBytes, fill, np.uint8) for fill in (1, 2))
    source = muninn.share(first, "source", mode="fastMode", preferredGpu=gpu, access="readWrite")
    target = muninn.share(second, "target", mode="fastMode", preferredGpu=0, access="readWrite")
    allocation: Any = target._checked().memory.source
    allocation.letReach(gpu)
    target.copyFrom(source)
    return source, target


def _refuse(*_: object) -> None:
    raise LongWay


@pytest.fixture
def noLongWay(pair: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "copyFrom", _refuse)


def test_aCopyIsMadeAgain(pair: Any, gpu: int, noLongWay: None) -> None:
    source, target = pair
    label = "p2p/peerAccess" if gpu else "local/sameGpu"
    before, generation = muninn.domainInfo()["transfers"][label], target.generation
    for turn in range(1, 4):
        assert target.copyFrom(source) == generation + 2 * turn == target.generation
    after = muninn.domainInfo()["transfers"][label]
    assert after["times"] - before["times"] == 3
    assert after["bytes"] - before["bytes"] == 3 * BYTES
    assert (target.read() == 1).all()


def test_copiesThereAndBackAreMadeAgain(
    pair: Any, gpu: int, monkeypatch: pytest.MonkeyPatch, actor: Start
) -> None:
    """Broken: each copy left a count of readers at its source, which only the long way reset."""
    source, target = pair
    allocation: Any = source._checked().memory.source
    allocation.letReach(0)
    source.copyFrom(target)
    reader = actor("b = muninn.open('source'); s = b.read(stream=None)")
    monkeypatch.setattr(transfers, "copyFrom", _refuse)
    for generation in (4, 6, 8):
        assert target.copyFrom(source) == generation
        assert source.copyFrom(target) == generation
    reader.do("s.__enter__(); 1")
    assert target.copyFrom(source) == 10
    with pytest.raises(LongWay):
        source.copyFrom(target)
    reader.do("s.__exit__(None, None, None)")


def test_itCopiesWhatIsThereNow(pair: Any) -> None:
    """Also what a stream has written: its ticket is over."""
    source, target = pair
    for value in (7, 8):
        news = muninn.share(np.full(BYTES, value, np.uint8), mode="fastMode")
        source.copyFrom(news)
        assert target.copyFrom(source) == target.generation
        assert (target.read() == value).all()


def test_theWorkOfAStreamIsWaitedFor(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = pair
    device, go = gpus.deviceOf(membership.current()), threading.Event()
    stream = device.createStream(source.gpu)
    with source.write(stream=stream):
        stream.submit(lambda: go.wait(60))
    with monkeypatch.context() as patch:
        patch.setattr(transfers, "copyFrom", _refuse)
        with pytest.raises(LongWay):
            target.copyFrom(source)
        go.set()
        stream.synchronize(60)
        source.wait(timeout=60)
        assert target.copyFrom(source) == target.generation, "nothing is to be waited for"
        with target.write(stream=None), pytest.raises(LongWay):
            target.copyFrom(source)
    with pytest.raises(RuntimeError, match="this thread is writing"), source.write(stream=stream):
        target.copyFrom(source)


def test_readersOfTheTargetAreWaitedFor(pair: Any, noLongWay: None, actor: Start) -> None:
    source, target = pair
    stream = gpus.deviceOf(membership.current()).createStream(0)
    reader = actor(
        "b, s = muninn.open('target'), muninn.createStream(0)\nr = b.read(stream=s); r.__enter__()"
    )
    with pytest.raises(LongWay):
        target.copyFrom(source)
    reader.do("r.__exit__(None, None, None); s.synchronize()")
    with target.write(stream=stream):  # a writer looks who reads, and there is nobody
        pass
    stream.synchronize(60)
    target.wait(timeout=60)
    assert target.copyFrom(source) == target.generation


@pytest.mark.parametrize("holder", ["source", "target"])
def test_aWriterIsWaitedFor(pair: Any, noLongWay: None, actor: Start, holder: str) -> None:
    source, target = pair
    writer = actor(f"b = muninn.open({holder!r}, access='readWrite'); w = b.write(); w.__enter__()")
    generation = target.generation
    with pytest.raises(LongWay):
        target.copyFrom(source)
    assert target.generation == generation
    writer.do("w.__exit__(None, None, None); b.wait()")
    assert target.copyFrom(source)


def test_halfWrittenBytesAreNotSent(pair: Any, noLongWay: None) -> None:
    source, target = pair
    with pytest.raises(LookupError), source.write():
        raise LookupError
    source.wait()
    with pytest.raises(LongWay):
        target.copyFrom(source)


def test_theLongWaySaysWhatIsWrong(pair: Any) -> None:
    source, target = pair
    with pytest.raises(InvalidArgument, match="staged"):
        target.copyFrom(source, route="nonsense")
    assert target.copyFrom(source, route="staged") == target.generation
    with pytest.raises(TypeError):
        target.copyFrom(5)
    reader = muninn.open("source")
    source.free()
    for each in (source, reader):
        with pytest.raises(BufferFreed):
            target.copyFrom(each)
    target.close()
    with pytest.raises(BufferFreed):
        target.copyFrom(reader)


def test_aCopyThatTakesLongIsWaitedFor(gpu: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = _pair(gpu, LONG_BYTES)
    monkeypatch.setattr(transfers, "copyFrom", _refuse)
    assert target.copyFrom(source) == target.generation
    assert (target.read() == 1).all()


@pytest.mark.parametrize("name", ["copy", "synchronize"])
@pytest.mark.parametrize("interruption", [None, KeyboardInterrupt], ids=["", "interrupted"])
def test_aCopyThatFailsIsTold(
    pair: Any, monkeypatch: pytest.MonkeyPatch, name: str, interruption: Any
) -> None:
    """The bytes may be half written; the next copy writes them anew."""
    source, target = pair
    calls, error = target._repeats[id(source)]._kept[0].calls, DeviceUnavailable
    if interruption is not None:
        error = interruption
        monkeypatch.setattr(lanes, "typed", lambda *_: KeyboardInterrupt())
    wide, address = ctypes.c_uint64, ctypes.c_void_p
    types = {
        "copy": (wide, address, wide, address, ctypes.c_size_t, address),
        "synchronize": (address,),
    }
    fails, usual = (
        ctypes.CFUNCTYPE(ctypes.c_int, *types[name])(lambda *_: 999),
        getattr(calls, name),
    )
    setattr(calls, name, ctypes.cast(fails, address).value)
    with pytest.raises(error, match=None if interruption else "UNKNOWN"):
        target.copyFrom(source)
    with pytest.raises(WriterDied):
        target.read(timeout=10)
    setattr(calls, name, usual)
    assert target.copyFrom(source) == target.generation, "the accesses are over"
    assert (target.read() == 1).all()
    with source.write(timeout=10):
        pass


def test_theAccessesOfACopyThatFailedAreNotEnteredAgain(pair: Any) -> None:
    """Broken: of two threads that waited for what had failed, as after interruptions, the
    second one ended the access of a later copy in its midst.
    """
    source, target = pair
    repeat = target._repeats[id(source)]
    calls, address = repeat._kept[0].calls, ctypes.c_void_p
    usual, fails = calls.synchronize, ctypes.CFUNCTYPE(ctypes.c_int, address)(lambda *_: 999)
    calls.synchronize = ctypes.cast(fails, address).value
    with pytest.raises(DeviceUnavailable):
        target.copyFrom(source)
    calls.synchronize = usual
    assert target.copyFrom(source) == target.generation
    assert target._repeats[id(source)] is not repeat
    assert repeat.copy(target._checked(), source, None) is None


def test_aCodeThatNobodyKnowsIsToldAsANumber(pair: Any) -> None:
    source, target = pair
    lane = target._repeats[id(source)]._kept[0]
    with pytest.raises(DeviceUnavailable, match="123456"):
        lane.fail(123456)


def test_nothingIsCopiedOfNothing(domain: str) -> None:
    source, target = (
        muninn.share(np.zeros(0, np.uint8), mode="fastMode", access="readWrite") for _ in range(2)
    )
    for generation in (2, 4):
        assert target.copyFrom(source) == generation
    assert not target._repeats


def test_itKeepsNoBuffer(pair: Any) -> None:
    source, target = pair
    opened = weakref.ref(source._checked())
    source.close()
    del source, pair
    gc.collect()
    assert opened() is None
    target.close()


def test_whatGoesAnotherWayIsNotMadeAgain(pair: Any, gpu: int) -> None:
    """A link that was good may have been found slow meanwhile."""
    source, target = pair
    if not gpu:
        pytest.skip("there is one way within a GPU")
    assert target.copyFrom(source) == 4
    assert target.copyFrom(source, route="staged") == 6
    before = muninn.domainInfo()["transfers"]["p2p/peerAccess"]
    links = transfers.engineFor(target._checked()).links
    links._verdicts[1, 0] = links._verdicts[1, 0]._replace(isIntact=False, note="found later")
    assert target.copyFrom(source) == 8
    assert muninn.domainInfo()["transfers"]["p2p/peerAccess"] == before


def test_aTargetThatIsClosedInTheMidstStaysClosed(pair: Any) -> None:
    """The memory goes on with the array, and the lease with the memory."""
    source, target = pair
    array = target.deviceArray()
    target.copyFrom(source, progress=lambda _: target.close())
    gc.collect()
    with pytest.raises(BufferFreed):
        target.copyFrom(source)
    del array


def test_aCopyThatWaitsInTheDriverLetsPythonRun(domain: str, actor: Start) -> None:
    actor(program("copyInTheDriver"))


def test_memoryThatIsCopiedToOftenIsReached(domain: str) -> None:
    """By the GPU that sends, which need not be reached for that."""
    source, target = _far()
    for _ in range(30):
        target.copyFrom(source, route="p2p")
    assert _reach(target, 1)
    assert not _reach(source, 0)
    assert (target.read() == 1).all()
    with pytest.raises(TopologyNotPeerable):
        target.deviceArray(1)


def test_aSourceThatIsCopiedToNewMemoryOftenIsReached(domain: str) -> None:
    source, _ = _far()
    for _ in range(12):
        copied = source.copyTo(0, route="p2p")
        assert (copied.read() == 1).all()
        assert not _reach(copied, 1)
        copied.free()
    assert _reach(source, 0)


def test_aMappedSourceIsCopiedByCOnceTheSenderReachesTheTarget(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: C copied at once, by the driver's long way, for ever."""
    source, target = _far()
    mapped = muninn.open(source.name, targetGpu=0, route="mapped")
    for _ in range(12):
        target.copyFrom(mapped)
    assert _reach(target, 1)
    monkeypatch.setattr(transfers, "copyFrom", _refuse)
    target.copyFrom(mapped)
    assert (target.read() == 1).all()


@pytest.mark.usefixtures("standin")
@pytest.mark.parametrize("links", ["0>1=none", "0>1=refuse", "1>0=refuse"])
@pytest.mark.parametrize("near", [0, 1])
def test_cCopiesWhereOneOfTheTwoCanBeLetReach(actor: Start, links: str, near: int) -> None:
    """Broken: where the sender can not be let reach the target, each copy took the long way."""
    there = actor(program("copiesOneWay"), STANDIN_LINKS=links)
    route, areAlike, longWays = there.do(f"copied({near})")
    assert areAlike
    assert route == "staged" or longWays == 0


def test_aReachThatWasInterruptedIsTriedAgain(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the tenth copy was the only one that tried it."""
    source, target = _far()
    usual, interruptions = MappedAllocation.letReach, [KeyboardInterrupt()]

    def letReach(allocation: MappedAllocation[Any], gpu: int) -> None:
        if interruptions and allocation is target._checked().memory.source:
            raise interruptions.pop()
        usual(allocation, gpu)

    monkeypatch.setattr(MappedAllocation, "letReach", letReach)
    for turn in range(1, 21):
        if turn == 10:
            with pytest.raises(KeyboardInterrupt):
                target.copyFrom(source)
        else:
            target.copyFrom(source)
    assert _reach(target, 1)
    assert (target.read() == 1).all()


def _far() -> tuple[Any, Any]:
    """A source on GPU 1, and a target on GPU 0."""
    muninn.domainInfo()
    if gpus.deviceOf(membership.current()).gpuCount < 2:
        pytest.skip("there is one GPU only")
    source, target = (
        muninn.share(
            np.full(BYTES, gpu, np.uint8), mode="fastMode", preferredGpu=gpu, access="readWrite"
        )
        for gpu in (1, 0)
    )
    return source, target


def _reach(buffer: Any, gpu: int) -> bool:
    allocation = buffer._checked().memory.source
    return bool(allocation.isReachedBy(gpu))


def test_aProgramsOwnExecutorIsAskedEachTime(pair: Any) -> None:
    """Also about a copy that C would make again; and afterwards C makes it again."""
    source, target = pair
    with Rehearsal() as rehearsal:
        for _ in range(3):
            target.copyFrom(source)
    assert len(rehearsal.asked) == len(rehearsal.over) == 3
    assert not target._repeats
    target.copyFrom(source)
    assert target._repeats


def test_anExecutorThatRefusesStopsACopyThatIsMadeAgain(pair: Any) -> None:
    source, target = pair
    generation = target.generation
    with (
        Rehearsal(lambda work: Answer(Verdict.REFUSE, "no")),
        pytest.raises(PromotionDenied, match=r"the copy of 65536 bytes .* may not begin: no"),
    ):
        target.copyFrom(source)
    assert target.generation == generation


def test_aPermitEnds(pair: Any, noLongWay: None) -> None:
    """So the driver is asked about the heat of the GPUs now and then."""
    source, target = pair
    permit = target._repeats[id(source)]._permit
    assert isinstance(permit, permits.Permit)
    target.copyFrom(source)
    permit.untilSeconds = 0.0
    with pytest.raises(LongWay):
        target.copyFrom(source)
