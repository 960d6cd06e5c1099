"""Promotion: a window in scratch memory is the buffer's bytes, what is written there comes
back once and whole, and budgets hold across processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import muninn
from muninn.api import admin, usedslices
from muninn.api import scratch as scratches
from muninn.errors import (
    BufferFreed,
    DeviceUnavailable,
    InvalidArgument,
    PermissionDenied,
    PromotionDenied,
    QuotaExceeded,
    WritebackConflict,
    WriterDied,
)
from muninn.session import membership
from muninn.session.gpus import deviceOf
from muninn.system import clock
from muninn.transfer import arena as arenas
from muninn.transfer import dirty, kept
from muninn.transfer.arena import arenaOf
from support import Actor, ActorError, eventually

Start = Callable[..., Actor]
SLICE = 4096
ELEMENTS = 50_000  # no multiple of a slice


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "2")
    monkeypatch.setenv("MUNINN_DEFAULT_SLICE_BYTES", str(SLICE))


def content() -> np.ndarray[Any, Any]:
    return np.arange(ELEMENTS, dtype=np.uint32)


@pytest.fixture(params=["bigMode", "fastMode"])
def buffer(request: pytest.FixtureRequest) -> muninn.MuninnBuffer:
    return muninn.share(content(), "a", mode=request.param, access="readWrite")


@pytest.fixture
def neverTrimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle memory stays, however long a busy machine takes between two windows."""
    monkeypatch.setattr(arenas.Arena, "trim", lambda *_: None)


def windows() -> list[str]:
    return [each["name"] for each in muninn.listBuffers() if each["kind"] == "window"]


def dropIdle() -> None:
    arenaOf(membership.current().openBuffers.context).trim(0.0)
    gc.collect()


# --- dirty ranges --------------------------------------------------------------------


@given(
    st.integers(1, 5 * SLICE),
    st.lists(st.tuples(st.integers(0, 5 * SLICE), st.integers(0, 2 * SLICE)), max_size=6),
)
def test_rangesCoverWhatWasMarkedAndNoMoreThanItsSlices(
    windowBytes: int, writes: list[tuple[int, int]]
) -> None:
    flags = np.zeros(-(-windowBytes // SLICE), np.uint8)
    written = np.zeros(windowBytes, bool)
    for offset, sizeBytes in writes:
        begin, end = min(offset, windowBytes), min(offset + sizeBytes, windowBytes)
        dirty.mark(flags, SLICE, begin, end - begin)
        written[begin:end] = True
    covered = np.zeros(windowBytes, bool)
    ranges = dirty.rangesOf(flags, SLICE, windowBytes)
    for begin, sizeBytes in ranges:
        assert sizeBytes > 0 and begin + sizeBytes <= windowBytes
        assert not covered[begin : begin + sizeBytes].any()
        covered[begin : begin + sizeBytes] = True
    assert (covered | ~written).all()
    slices = np.pad(written, (0, -windowBytes % SLICE)).reshape(-1, SLICE).any(axis=1)
    assert (covered == slices.repeat(SLICE)[:windowBytes]).all()
    ends = [begin + sizeBytes for begin, sizeBytes in ranges]
    assert all(begin > end for end, (begin, _) in zip(ends, ranges[1:], strict=False)), "joined"


# --- the window ------------------------------------------------------------------------


def test_aWindowIsTheBytesOfTheBuffer(buffer: muninn.MuninnBuffer) -> None:
    with buffer.promote(4 * 100, 4 * 5000, 1) as scratch:
        assert (scratch.gpu, scratch.nbytes, scratch.shape) == (1, 20_000, (5000,))
        assert np.array_equal(scratch.deviceArray(), content()[100:5100])
        assert scratch.transfer is not None and scratch.transfer.sizeBytes == 20_000
        assert scratch.address == int(scratch) > 0


def test_aWindowThatCutsAnElementIsBytes(buffer: muninn.MuninnBuffer) -> None:
    with buffer.promote(3, 9) as scratch:
        assert scratch.array.dtype == np.uint8
        assert scratch.array.tobytes() == content().tobytes()[3:12]
    with buffer.promote() as scratch:
        assert scratch.shape == buffer.shape


def test_scratchMemoryEndsWithItsBlock(buffer: muninn.MuninnBuffer) -> None:
    with buffer.promote() as scratch:
        pass
    # The geometry and the report are what they were.
    said = {"offset", "sizeBytes", "gpu", "sliceBytes", "isShared", "isHot", "transfer"}
    said |= {"shape", "dtype", "nbytes", "close"}
    names = {each for each in dir(scratch) if not each.startswith("_")} - said
    names |= {"__index__", "__len__", "__array__", "__dlpack__", "__dlpack_device__", "__enter__"}
    assert {"dirtyBytes", "markDirty", "usedFlags", "writeback", "view"} <= names
    for name in sorted(names):
        with pytest.raises(BufferFreed, match="not promoted any more"):
            found = getattr(scratch, name)
            found(np.uint8) if name == "view" else found()
    assert scratch.shape == buffer.shape and scratch.dtype == np.uint32
    scratch.close()


def test_aWindowSaysWhatItIs(buffer: muninn.MuninnBuffer) -> None:
    with buffer.promote(4096, 8192, 1) as scratch:
        assert repr(scratch) == "<muninn.Scratch 8K from 4K on of 'a' uint32[2048] gpu=1>"
        assert scratch.dtype == np.uint32
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="pass the buffer, and promote"):
                copied(scratch)
    assert repr(scratch).endswith("closed>")


def test_aPromotionIsFollowed(buffer: muninn.MuninnBuffer) -> None:
    def refuse(_: int) -> None:
        raise ArithmeticError("enough")

    arrived = list[int]()
    with buffer.promote(0, 8192, 1, progress=arrived.append) as scratch:
        assert sum(arrived) == scratch.nbytes
    with buffer.promote(0, 8192, 1, progress=refuse) as scratch:
        assert scratch.transfer is None, "nothing is copied"

    async def promoted() -> int:
        with await buffer.promoteAsync(8192, 4096, 1, progress=arrived.append) as scratch:
            return scratch.nbytes

    assert asyncio.run(promoted()) + 8192 == sum(arrived)
    before = len(windows())
    with pytest.raises(ArithmeticError, match="enough"):
        buffer.promote(16384, 100_000, 1, progress=refuse)
    assert len(windows()) == before


@pytest.mark.parametrize(
    ("window", "reason"),
    [
        ((-1, 4), "offset -1 is below 0"),
        ((-1, None), "offset -1 is below 0"),
        ((0, 0), "a window of 0 bytes of '"),
        ((1, -1), "length -1 is below 0"),
        ((0, 1 << 40), f"{1 << 40} bytes from 0 on reach beyond '"),
        ((ELEMENTS * 4, 1), f"1 bytes from {ELEMENTS * 4} on reach beyond '"),
        ((ELEMENTS * 4, None), "a window of 0 bytes of '"),
        ((ELEMENTS * 4 + 1, None), f"offset {ELEMENTS * 4 + 1} is beyond '"),
    ],
)
def test_aRangeThatIsNoWindowIsRefused(
    buffer: muninn.MuninnBuffer, window: tuple[int, int | None], reason: str
) -> None:
    """Broken: `no bytes from 0 on are no window`, and of -1 `N + 1 bytes from -1 on`."""
    with pytest.raises(InvalidArgument) as caught:
        buffer.promote(*window)
    assert caught.value.reason.startswith(f"promote: {reason}")
    inWindow = reason.replace("reach beyond '", "reach beyond a window of 64 bytes")
    if window[0] < 0 or window[1] == -1 or window[1] == 1 << 40:
        with buffer.promote(0, 64) as scratch, pytest.raises(InvalidArgument) as caught:
            scratch.markUsed(*window)
        assert caught.value.reason == f"markUsed: {inWindow}"


def test_bundlesAndPrivateMemoryAreNotPromoted() -> None:
    muninn.share(content(), "h")
    bundle = muninn.shareBundle({"w": np.zeros(3)})
    for wrong, said in (
        (muninn.open("h", "copyOnWrite"), "copyOnWrite, and a window.*Fix: Promote an object"),
        (bundle.buffer, "only buffers of one array are promoted.*Fix: Share the arrays"),
    ):
        for promote in (wrong.promote, wrong.prefetch):
            with pytest.raises(InvalidArgument, match=said):
                promote()
    # The fix.
    with muninn.share(bundle["w"], "w").promote() as scratch:
        assert scratch.shape == (3,)


def test_argumentsThatCanNotBeAreRefused(buffer: muninn.MuninnBuffer) -> None:
    with pytest.raises(DeviceUnavailable):
        buffer.promote(targetGpu=7)
    with pytest.raises(TypeError):
        buffer.promote("0")  # type: ignore[arg-type]
    # Broken: C took the last 64 bits of the last two.
    for sliceBytes in (0, 1000, 4097, 2**64, 2**64 + 4096):
        for promote in (buffer.promote, buffer.prefetch):
            with pytest.raises(InvalidArgument, match="sliceBytes"):
                promote(sliceBytes=sliceBytes)  # type: ignore[operator]
    for promote in (buffer.promote, buffer.prefetch):
        with pytest.raises(TypeError, match="sliceBytes must be a number of bytes, not str"):
            promote(sliceBytes="64K")  # type: ignore[operator]
        with pytest.raises(TypeError, match="track must be True or False, not str"):
            promote(track="yes")  # type: ignore[operator]
        with pytest.raises(TypeError, match="progress must be a function, not int"):
            promote(progress=3)  # type: ignore[operator]
    assert not windows()


def test_aWritebackChecksItsTimeoutAlsoIfNothingIsDirty(buffer: muninn.MuninnBuffer) -> None:
    with buffer.promote() as scratch:
        with pytest.raises(TypeError, match="timeout must be seconds, not str"):
            scratch.writeback("x")  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="-1 can not be waited for"):
            scratch.writeback(-1)
        assert scratch.writeback(0) == 0


def test_theFlagsOfAWindowWaitForRoomAsLongAsItsPromotion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: they waited for 10 s, whatever its timeout was."""
    monkeypatch.setenv("MUNINN_PER_TENANT_SCRATCH_BYTES", "1M")
    buffer, deadlines = (
        muninn.share(np.zeros(1 << 20, np.uint8), access="readOnly"),
        list[float | None](),
    )
    deviceFlags = usedslices.UsedSlices.deviceFlags

    def noted(used: Any, claim: Any) -> Any:
        deadlines.append(claim.deadline)
        return deviceFlags(used, claim)

    monkeypatch.setattr(usedslices.UsedSlices, "deviceFlags", noted)
    with buffer.promote(timeout=0) as scratch, pytest.raises(PromotionDenied, match="1M used"):
        _ = scratch.usedFlags
    other = muninn.share(np.zeros(4096, np.uint8), access="readOnly", tenant="other")
    with other.promote(timeout=None) as scratch:
        assert scratch.usedFlags.size == 1
    now, atOnce, bounded = clock.now(), *deadlines
    assert atOnce is not None and atOnce <= now
    assert bounded is not None and bounded <= now + scratches._ROOM_SECONDS


# --- writeback ---------------------------------------------------------------------------


@pytest.mark.parametrize("track", [False, True])
def test_whatIsWrittenComesBackAtTheEnd(buffer: muninn.MuninnBuffer, track: bool) -> None:
    expected = content()
    with buffer.promote(4 * 1000, 4 * 40_000, 1, track=track) as scratch:
        array = scratch.array
        for at in (0, 5000, 39_999):
            array[at] = expected[1000 + at] = 7
            if track:
                scratch.markDirty(4 * at, 4)
        assert scratch.dirtyBytes() <= 3 * SLICE
    assert np.array_equal(buffer.read(), expected) and buffer.generation == 2


def test_flagsOfKernelsCount(buffer: muninn.MuninnBuffer) -> None:
    with buffer.promote(track=True) as scratch:
        scratch.array[3 * SLICE // 4] = 1
        scratch.dirtyFlags[3] = 1
        assert scratch.dirtyBytes() == SLICE
    assert buffer.read()[3 * SLICE // 4] == 1
    with buffer.promote() as scratch, pytest.raises(InvalidArgument, match="track=True"):
        _ = scratch.dirtyFlags


def test_nothingIsPublishedIfNothingWasWritten(buffer: muninn.MuninnBuffer) -> None:
    with buffer.promote() as scratch:
        assert scratch.dirtyBytes() == 0
        assert scratch.writeback() == 0
    assert buffer.generation == 0


def test_anExceptionWritesNothingBack(buffer: muninn.MuninnBuffer) -> None:
    with pytest.raises(ValueError, match="no"), buffer.promote() as scratch:
        scratch.array[0] = 9
        raise ValueError("no")
    assert buffer.read()[0] == 0 and buffer.generation == 0


def test_writebackInTheMiddleAndAgain(buffer: muninn.MuninnBuffer) -> None:
    with buffer.promote() as scratch:
        for value in (5, 6):
            scratch.array[0] = value
            generation = scratch.writeback()
            assert buffer.read()[0] == value and buffer.generation == generation
        assert scratch.writeback() == generation
    assert buffer.generation == generation


def test_aWindowIsWrittenBackByItsAddress(buffer: muninn.MuninnBuffer) -> None:
    with buffer.promote(4000, 8000, 1) as scratch:
        scratch.array[:] = 7
        for wrong in ((4000, 4, 0, scratch), (4000, 4, 1, scratch.address + 1), (0, 4, 1, "x")):
            with pytest.raises(InvalidArgument):
                buffer.writeback(*wrong)
        with pytest.raises(InvalidArgument, match="offset 0 is before the window"):
            buffer.writeback(0, 4, 1, scratch)
        other = muninn.share(content(), "b")
        with pytest.raises(InvalidArgument, match="'b'"):
            other.writeback(4000, 4, 1, scratch)
        assert buffer.writeback(4000, 8000, 1, scratch.address) == 2
        assert (buffer.read()[1000:3000] == 7).all()
        address = scratch.address
    with pytest.raises(BufferFreed, match="promoted"):
        buffer.writeback(4000, 8000, 1, scratch)
    with pytest.raises(InvalidArgument, match="promoted"):
        buffer.writeback(4000, 8000, 1, address)


def test_tasksGoOnWhileAWindowIsPromoted(buffer: muninn.MuninnBuffer) -> None:
    async def work() -> list[int]:
        first, second = await asyncio.gather(buffer.promoteAsync(), buffer.promoteAsync(0, 400))
        with first, second:
            return [first.nbytes, second.nbytes]

    assert asyncio.run(work()) == [buffer.nbytes, 400]


def test_aBufferThatWasWrittenMeanwhileIsNotOverwritten(buffer: muninn.MuninnBuffer) -> None:
    with pytest.raises(WritebackConflict, match="'a'"), buffer.promote() as scratch:
        scratch.array[0] = 9
        with buffer.write() as view:
            if buffer.mode == "bigMode":
                view[0] = 55
    assert buffer.read()[0] == (55 if buffer.mode == "bigMode" else 0)
    assert buffer.generation == 2, "a conflict publishes nothing"
    with buffer.promote() as scratch:
        scratch.array[0] = 9
    assert buffer.read()[0] == 9, "after a conflict all goes on"


def test_policiesDecideWhatComesBack() -> None:
    mostly = muninn.share(content(), "m", access="readMostly")
    with mostly.promote() as scratch:
        scratch.array[0] = 9
    assert mostly.read()[0] == 0, "readMostly comes back on request"
    with mostly.promote() as scratch:
        scratch.array[0] = 9
        scratch.writeback()
    assert mostly.read()[0] == 9
    reader = muninn.open("m")
    with reader.promote() as scratch:
        with pytest.raises(ValueError, match="read-only"):
            scratch.array[0] = 8
        with pytest.raises(PermissionDenied, match="open for reading"):
            scratch.writeback()


def test_aWriterThatIsKilledInAWritebackIsNoticed(
    buffer: muninn.MuninnBuffer, actor: Start
) -> None:
    other = actor(
        "b = muninn.open('a', 'readWrite'); s = b.promote(); s.__enter__(); s.array[:] = 9\n"
        "from muninn.session import gpus, membership\n"
        "d = gpus.deviceOf(membership.current()); real = d.copyBatch\n"
        "import os, signal\n"
        "def half(copies, *rest): real(copies[:1], *rest); os.kill(os.getpid(), signal.SIGKILL)\n"
        "d.copyBatch = half"
    )
    with pytest.raises(AssertionError, match="ended with status -9"):
        other.do("s.writeback()")
    with pytest.raises(WriterDied):
        buffer.read(timeout=30)
    with buffer.write() as view:
        if buffer.mode == "bigMode":
            view[:] = content()
    eventually(lambda: not windows(), "the scratch memory of the dead process is given back")


@pytest.mark.parametrize("isKilled", [False, True])
def test_whatAWriterLeftHalfWrittenStaysSo(
    buffer: muninn.MuninnBuffer, actor: Start, isKilled: bool
) -> None:
    other = actor("b = muninn.open('a', 'readWrite')")
    with buffer.promote() as scratch:
        scratch.array[0] = 9
        if isKilled:
            other.do("access = b.write(); access.__enter__() is not None")
            other.kill()
        else:
            with pytest.raises(ActorError, match="half way"):
                other.do("with b.write() as v: raise ValueError('half way')")
        with pytest.raises(WritebackConflict, match="half written"):
            scratch.writeback(timeout=30)
        with pytest.raises(WriterDied):
            buffer.read(timeout=30)
        with buffer.write():
            pass
        with pytest.raises(WritebackConflict, match="it is at 2"):
            scratch.writeback()
        scratch.close()
    assert buffer.read()[0] == (0 if buffer.mode == "fastMode" else content()[0])


@pytest.mark.parametrize(("track", "batch"), [(False, 0), (False, 1), (True, 0)])
def test_aCopyThatFailsInAWritebackIsToldAndMendedByTheNextOne(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch, track: bool, batch: int
) -> None:
    other = muninn.open("a", "readWrite")
    with buffer.promote(track=track) as scratch:
        for at in (0, 20_000, 40_000):
            scratch.array[at] = 9
            if track:
                scratch.markDirty(at * 4, 4)
        with _failing(monkeypatch, batch), pytest.raises(DeviceUnavailable, match="test says"):
            scratch.writeback()
        with pytest.raises(WriterDied):
            other.read(timeout=30)
        with pytest.raises(WriterDied):
            other.promote(timeout=30)
        assert scratch.dirtyBytes() == 3 * SLICE
        with pytest.raises(ValueError, match="half way"), other.write() as view:
            if buffer.mode == "bigMode":
                view[30_000] = 77  # another writer fails, elsewhere
            raise ValueError("half way")
        assert scratch.writeback(timeout=30) == 2
        expected = content()
        expected[[0, 20_000, 40_000]] = 9
        assert np.array_equal(other.read(), expected)
        assert scratch.dirtyBytes() == 0
        scratch.array[1] = 8
        scratch.markDirty(4, 4)
        assert scratch.writeback() == 4, "all goes on"
    assert other.read()[1] == 8 and other.generation == 4


def test_aPartThatFailedInAWritebackIsAConflictUntilAllIsWritten(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with buffer.promote(4 * 10_000, 4 * 30_000) as scratch:
        scratch.array[[0, 29_999]] = 9
        with _failing(monkeypatch), pytest.raises(DeviceUnavailable):
            scratch.writeback()
        for _ in range(2):
            with pytest.raises(WritebackConflict, match="half written.*Write the whole buffer"):
                scratch.writeback(timeout=30)
        assert scratch.dirtyBytes() == SLICE + scratch.nbytes % SLICE
        expected = content()
        expected[[10_000, 39_999]] = 9
        with muninn.share(expected, mode=buffer.mode) as whole:
            assert buffer.copyFrom(whole) == 2
        scratch.close()
    assert np.array_equal(buffer.read(), expected)


def test_aFailedWritebackMendsNothingThatOthersHaveMended(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = buffer.promote()
    scratch.array[:] = 9
    with _failing(monkeypatch), pytest.raises(DeviceUnavailable):
        scratch.writeback()
    with muninn.share(content(), mode=buffer.mode) as whole:
        assert buffer.copyFrom(whole) == 2
    with pytest.raises(WritebackConflict, match="it is at 2"):
        scratch.writeback(timeout=30)
    scratch.close()
    assert np.array_equal(buffer.read(), content())


@contextlib.contextmanager
def _failing(monkeypatch: pytest.MonkeyPatch, batch: int = 0) -> Iterator[None]:
    """One of the next batches of copies fails after its first copy."""
    device, passed = deviceOf(membership.current()), list[int]()
    real = device.copyBatch

    def half(copies: Any, stream: Any) -> None:
        passed.append(1)
        if len(passed) <= batch:
            real(copies, stream)
            return
        real(list(copies)[:1], stream)
        raise DeviceUnavailable("as the test says")

    with monkeypatch.context() as patch:
        patch.setattr(device, "copyBatch", half)
        yield


@pytest.mark.parametrize("gpu", [0, 1])
def test_whatWasNotWrittenBackStaysDirty(
    buffer: muninn.MuninnBuffer, actor: Start, gpu: int
) -> None:
    other = actor("b = muninn.open('a'); access = b.read(stream=0)")
    with buffer.promote(targetGpu=gpu, track=True) as scratch:
        scratch.array[:] = 7
        scratch.markDirty(np.int32(0), np.int32(1))
        other.do("access.__enter__() is not None")
        with pytest.raises(TimeoutError, match="reading 'a'"):
            scratch.writeback(timeout=0.05)
        other.do("access.__exit__(None, None, None)")
        assert scratch.dirtyBytes() == SLICE
        assert scratch.writeback() == 2
        assert scratch.dirtyBytes() == 0
    assert buffer.read()[0] == 7


def test_whatIsMarkedDuringAWritebackCountsForTheNextOne(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the mark was cleared with those that were copied."""
    rangesOf = dirty.rangesOf

    def thenMarked(*given: Any) -> list[dirty.Range]:
        ranges = rangesOf(*given)
        scratch.array[2 * SLICE // 4] = 9
        scratch.markDirty(2 * SLICE, 4)
        return ranges

    with buffer.promote(track=True) as scratch:
        scratch.array[0] = 7
        scratch.markDirty(0, 4)
        monkeypatch.setattr(dirty, "rangesOf", thenMarked)
        assert scratch.writeback() == 2
        monkeypatch.undo()
        assert scratch.dirtyBytes() == SLICE
    assert buffer.read()[[0, 2 * SLICE // 4]].tolist() == [7, 9]


def test_flagsThatCanNotBeTakenStayDirty(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise MemoryError

    with buffer.promote(track=True) as scratch:
        scratch.array[0] = 7
        scratch.markDirty(0, 4)
        monkeypatch.setattr(scratches.Scratch, "_putFlags", fails)
        with pytest.raises(MemoryError):
            scratch.writeback()
        monkeypatch.undo()
        assert scratch.dirtyBytes() == SLICE
    assert buffer.read()[0] == 7


@pytest.mark.parametrize("sizeBytes", [1, 7, 8, 4097])
def test_aWindowOfAnySizeBeginsClean(sizeBytes: int) -> None:
    buffer = muninn.share(np.full(5000, 0xAB, np.uint8), "bytes", access="readWrite")
    with buffer.promote(1, 4096 if sizeBytes < SLICE else 4900) as scratch:
        scratch.array[:] = 0x11
        address = scratch.address
        scratch.close()
    with buffer.promote(1, sizeBytes) as scratch:
        assert scratch.address == address, "in memory that another window has left"
        assert scratch.dirtyBytes() == 0
        scratch.array[sizeBytes - 1] = 1
        assert 0 < scratch.dirtyBytes() <= sizeBytes


# --- sharing -----------------------------------------------------------------------------


def test_processesShareTheWindowOfAReadOnlyBuffer(actor: Start) -> None:
    shared = muninn.share(content(), "r", access="readOnly")
    first = actor("b = muninn.open('r'); s = b.promote(0, 40000, 1); s.__enter__()")
    second = actor("b = muninn.open('r'); s = b.promote(0, 40000, 1); s.__enter__()")
    assert len(windows()) == 1
    assert first.do("s.isShared, s.array.flags.writeable") == [True, False]
    with shared.promote(0, 40000, 1) as scratch:
        assert scratch.isShared and len(windows()) == 1
        with pytest.raises(PermissionDenied):
            scratch.markDirty()
        first.kill()
        assert second.do("int(s.array.sum())") == int(content()[:10_000].sum())
        assert np.array_equal(scratch.array, content()[:10_000])
    with shared.promote(0, 40000, 0) as scratch:
        assert len(windows()) == 2, "another GPU is another window"
    assert second.do("s.close()") is None
    eventually(lambda: not windows(), "it goes with its last user")


def test_oneProcessPromotesAndTheOthersWait(actor: Start) -> None:
    muninn.share(np.zeros(8 << 20, np.uint8), "r", access="readOnly")
    many = [actor("b = muninn.open('r')") for _ in range(4)]
    threads = [
        threading.Thread(target=each.do, args=("s = b.promote(0, 8 << 20, 0, timeout=60)",))
        for each in many
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(windows()) == 1
    assert all(each.do("s.nbytes") == 8 << 20 for each in many)


# --- budgets -----------------------------------------------------------------------------


def test_theBudgetOfAGpuHoldsAcrossProcesses(actor: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUNINN_PER_GPU_SCRATCH_BYTES", "1M")
    shared = muninn.share(np.zeros(1 << 20, np.uint8), "r", access="readOnly")
    other = actor("b = muninn.open('r'); s = b.promote(0, 700_000, 1); s.__enter__()")
    with pytest.raises(PromotionDenied, match=r"GPU 1: .* used \+ .* wanted > 1M allowed"):
        shared.promote(600_000, 400_000, 1, timeout=0.05)
    with shared.promote(600_000, 400_000, 0), shared.promote(600_000, 200_000, 1):
        pass
    closing = threading.Timer(0.3, lambda: other.do("s.close()"))
    closing.start()
    with shared.promote(600_000, 400_000, 1, timeout=30):
        closing.join()


def test_aWindowThatWaitedIsGivenBackAsAnyOther(
    actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A circle of the error that it waited for, and of a frame of the wait, kept it until
    the next collection.
    """
    monkeypatch.setenv("MUNINN_PER_GPU_SCRATCH_BYTES", "1M")
    buffer = muninn.share(np.zeros(1 << 20, np.uint8), "r", access="readWrite")
    other = actor("b = muninn.open('r'); s = b.promote(0, 700_000, 1); s.__enter__()")
    closing = threading.Timer(0.3, other.kill)
    closing.start()
    gc.disable()
    try:
        buffer.promote(600_000, 400_000, 1, track=True, timeout=30).close()
        arenaOf(membership.current().openBuffers.context).trim(0.0)
        eventually(lambda: not windows(), "it is given back")
    finally:
        gc.enable()
        closing.join()


def test_theBudgetOfATenantIsItsOwn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUNINN_PER_TENANT_SCRATCH_BYTES", "1M")
    mine, yours = (
        muninn.share(np.zeros(1 << 20, np.uint8), access="readOnly", tenant=tenant)
        for tenant in ("mine", "yours")
    )
    with mine.promote(0, 700_000):
        with pytest.raises(PromotionDenied, match="tenant 'mine'"):
            mine.promote(400_000, 600_000, timeout=0)
        with yours.promote(0, 600_000):
            pass


def test_soManyWindowsAreUnderWay(actor: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUNINN_MAX_CONCURRENT_PROMOTIONS", "1")
    shared = muninn.share(np.zeros(1 << 20, np.uint8), "r", access="readOnly")
    other = actor(
        "b = muninn.open('r')\n"
        "import threading; from muninn.transfer import engine\n"
        "at, go = threading.Event(), threading.Event()\n"
        "send = engine.Engine.send\n"
        "def waits(*given): at.set(); go.wait(30); send(*given)\n"
        "engine.Engine.send = waits\n"
        "t = threading.Thread(target=lambda: b.promote(0, 5000, 1)); t.start(); at.wait(30)"
    )
    with pytest.raises(
        PromotionDenied, match="windows under way to GPU 1: 1, and at most 1 may be"
    ):
        shared.promote(0, 6000, 1, timeout=0.05)
    with shared.promote(0, 6000, 0, timeout=5):
        pass
    other.do("go.set(), t.join()")
    with shared.promote(0, 6000, 1, timeout=5):
        pass


#: Notes in the promoting process that it waits.
_WAITING = (
    "import threading; from muninn.sync import access; from muninn.transfer import arena\n"
    "at, real = threading.Event(), KIND\n"
    "def noted(*given): at.set(); return real(*given)\n"
    "KIND = noted\n"
    "b = muninn.open('a', 'readWrite')\n"
    "t = threading.Thread(target=lambda: b.promote(0, 5000, 1, timeout=60)); t.start()\n"
    "at.wait(30)"
)


def test_aWindowThatWaitsForAWriterTakesNoPlace(
    actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: it waited with a row that was being filled, and others waited for it."""
    monkeypatch.setenv("MUNINN_MAX_CONCURRENT_PROMOTIONS", "1")
    buffer = muninn.share(content(), "a", access="readWrite")
    writer = actor("b = muninn.open('a', 'readWrite'); access = b.write(); access.__enter__()")
    waiting = actor(_WAITING.replace("KIND", "access.awaitOwner"))
    other = muninn.share(content(), "free", access="readWrite")
    with other.promote(0, 6000, 1, timeout=30) as scratch:
        assert waiting.do("at.is_set() and t.is_alive()") and len(windows()) == 1
        assert scratch.nbytes == 6000
    writer.do("access.__exit__(None, None, None)")
    assert waiting.do("t.join(30), t.is_alive()") == [None, False]
    assert buffer.generation == 2


def test_aWindowThatWaitsForRoomHoldsNoWriterUp(
    actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUNINN_PER_GPU_SCRATCH_BYTES", "40000")
    buffer = muninn.share(content(), "a", access="readWrite")
    other = muninn.share(content(), "free", access="readOnly")
    with other.promote(0, 36_000, 1):
        waiting = actor(_WAITING.replace("KIND", "arena.Arena.makeRoom"))
        for _ in range(20):
            with buffer.write(30):
                pass
        assert waiting.do("at.is_set() and t.is_alive()")
    dropIdle()
    assert waiting.do("t.join(30), t.is_alive()") == [None, False]


def test_promotionCanBeTurnedOff(actor: Start) -> None:
    muninn.share(content(), "a")
    other = actor("b = muninn.open('a')", MUNINN_ENABLE_PROMOTION="false")
    with pytest.raises(ActorError, match="MNN-0006"):
        other.do("b.promote()")


# --- the arena ---------------------------------------------------------------------------


def test_scratchMemoryIsUsedAgainAndGivenBackWhenIdle(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with buffer.promote() as scratch:
        first = scratch.address
        (name,) = windows()
    with buffer.promote(0, 160_000) as scratch:
        assert scratch.address == first and windows() == [name]
        assert np.array_equal(scratch.array, content()[:40_000])
    with buffer.promote(targetGpu=1):
        assert len(windows()) == 2
    monkeypatch.setattr(arenas.Arena.trim, "__defaults__", (0.0,))
    membership.current().openBuffers.renewAll()  # as the background thread does
    gc.collect()
    eventually(lambda: not windows(), "it is given back")


def routeOf(scratch: Any) -> str | None:
    return None if scratch.transfer is None else str(scratch.transfer.route)


@pytest.mark.usefixtures("neverTrimmed")
@pytest.mark.parametrize("access", ["readOnly", "readWrite"])
def test_aWindowThatIsPromotedAgainIsNotCopiedAgain(access: Any) -> None:
    buffer = muninn.share(content(), "a", access=access)
    for number in range(3):
        with buffer.promote(0, 40_000, 1) as scratch:
            assert routeOf(scratch) == (None if number else "upload")
            assert np.array_equal(scratch.array, buffer.read()[:10_000])
            if access == "readWrite":
                scratch.array[number] = 77 + number
    assert len(windows()) == 1


@pytest.mark.parametrize(
    "way",
    [
        "b.array[0] = 7",
        "np.from_dlpack(b)[0] = 7",
        "np.asarray(b)[0] = 7",
        "b.deviceArray()[0] = 7",
    ],
)
@pytest.mark.parametrize("isOther", [False, True])
def test_whatIsWrittenInPlaceIsInTheNextWindow(
    buffer: muninn.MuninnBuffer, actor: Start, way: str, isOther: bool
) -> None:
    """Broken: a window that was kept, or prefetched, was as before, and its writeback undid
    what had been written.
    """
    buffer.setHints(hotRanges=[(0, 40_000)])
    assert buffer.prefetch(1).result(30) == 40_960
    with buffer.promote(50_000, 4096, 1) as scratch:
        assert routeOf(scratch) is not None
    if isOther:
        other = actor("b = muninn.open('a', access='readWrite')")
        other.do(way)
    else:
        exec(way, {"b": buffer, "np": np})
    with buffer.promote(0, 40_000, 1) as scratch:
        assert routeOf(scratch) is not None and scratch.array[0] == 7
        scratch.array[1] = 8
    assert buffer.read()[:3].tolist() == [7, 8, 2]
    assert buffer.prefetch(1).result(30) == 0, "it would be served later"


@pytest.mark.usefixtures("neverTrimmed")
def test_flagsThatAnEarlierWindowHasLeftMarkNothing(buffer: muninn.MuninnBuffer) -> None:
    """The memory of one window is the next one's, with all that is in it."""
    with buffer.promote(0, 40_000, 1, track=True, sliceBytes=4096) as scratch:
        memory, room = scratch._memory.memory, scratch._room
        address, count = scratch.address, room.sizeBytes - (room.flagsAt or 0)
        scratch.writeback()
        memory.put(b"\1" * count, room.flagsAt or 0)
    generation = buffer.generation
    with buffer.promote(40_000, 40_000, 1, track=True, sliceBytes=4096) as scratch:
        assert scratch.address == address
        assert not any(scratch._memory.memory.copyBytes(count, room.flagsAt or 0))
        scratch.array[0] = 77  # in place and not marked, so it is not written back
    assert buffer.generation == generation
    assert np.array_equal(buffer.read(), content())


@pytest.mark.usefixtures("neverTrimmed")
@pytest.mark.parametrize("hasIdle", [False, True])
def test_anErrorOfAPromotionKeepsNoMemory(hasIdle: bool) -> None:
    """Broken: an exception of `progress` kept the scratch memory as long as the program
    kept the exception.
    """
    buffer = muninn.share(content(), "a", access="readWrite")
    if hasIdle:
        buffer.promote(0, 40_000, 1).close()

    def stop(sizeBytes: int) -> None:
        raise ValueError(sizeBytes)

    with pytest.raises(ValueError) as caught:
        buffer.promote(4, 40_000, 1, progress=stop)
    assert not windows()
    assert caught.value.args == (40_000,)


@pytest.mark.usefixtures("neverTrimmed")
def test_accessesLetWindowsBeKept(buffer: muninn.MuninnBuffer) -> None:
    """Also those of kernels, and views of who may not write."""
    stream = muninn.createStream(0)
    with buffer.write() as view:
        view[0] = 7
    with buffer.write(stream=stream) as view:
        view[1] = 8
    with buffer.read(stream=stream) as view:
        assert view[1] == 8
    assert muninn.open("a").array[0] == 7
    for isKept in (False, True):
        with buffer.promote(0, 40_000, 1) as scratch:
            assert (routeOf(scratch) is None) == isKept


@pytest.mark.usefixtures("neverTrimmed")
def test_aWindowWhoseBytesMayBeOthersIsCopiedAgain(buffer: muninn.MuninnBuffer) -> None:
    def promoted(track: bool = False) -> str | None:
        with buffer.promote(0, 40_000, 1, track=track) as scratch:
            assert np.array_equal(scratch.array, buffer.read()[:10_000])
            return routeOf(scratch)

    assert promoted() is not None and promoted() is None
    with buffer.write():
        pass
    assert promoted() is not None, "another generation"
    assert promoted(track=True) is not None, "laid out otherwise"
    assert promoted(track=True) is not None, "what a kernel has not marked is not known"
    assert promoted() is not None, "its memory went to those"
    with pytest.raises(ZeroDivisionError), buffer.promote(0, 40_000, 1) as scratch:
        scratch.array[:] = 1
        raise ZeroDivisionError
    assert promoted() is not None, "it was not written back"
    with buffer.promote(50_000, 4096, 1) as other:
        other.array[:] = 9
    assert promoted() is None, "another window of this process changed"
    with buffer.promote(20_000, 4096, 1) as other:
        other.array[:] = 9
    assert promoted() is not None, "a part of it changed"


def test_theBackgroundThreadLooksAfterIdleMemory(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    """Broken: that of a member that is not the broker slept until the next renewal of a
    lease, for 40 seconds, and the VRAM stayed as long.
    """
    other = actor(
        "from muninn.transfer.arena import Arena; Arena.trim.__defaults__ = (1.0,)\n"
        "with muninn.open('a').promote(targetGpu=1): pass"
    )
    assert len(windows()) == 1
    eventually(lambda: not windows(), "it is given back", 20)
    other.leave()


def test_theBackgroundThreadLearnsOfTheFirstIdleMemory(buffer: muninn.MuninnBuffer) -> None:
    with buffer.promote() as one, buffer.promote() as other:
        told = list[int]()
        arena = arenas.Arena(lambda: told.append(1))
        for scratch in (one, other):
            arena.giveBack(0, scratch._memory)
    assert told == [1]


def test_whatIsKeptDuringTheLookIsLookedAfter(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: memory that came between the look and its end stayed until more came."""
    with buffer.promote() as scratch:
        arena, memory = arenas.Arena(lambda: None), scratch._memory
        arena.giveBack(0, memory)
        assert arena.makeRoom(9) and arena.hasIdle()

        def lookedThenKept(_: object) -> bool:
            monkeypatch.undo()
            arena.giveBack(0, memory)
            return False

        monkeypatch.setattr(kept.Kept, "__bool__", lookedThenKept)
        arena.trim()
        assert arena.hasIdle()
        arena.trim(0.0)
        arena.trim(0.0)
        assert not arena.hasIdle()


def test_idleMemoryIsUsedAgainForTheSameBufferOnly() -> None:
    """Broken: the name of the memory still said that it was the first buffer's, so lists and
    evictions meant that one.
    """
    first, second = (muninn.share(content(), name, access="readWrite") for name in "ab")
    with first.promote():
        pass
    with second.promote() as scratch:
        listed = [each["windowOf"] for each in muninn.listBuffers() if each["windowOf"]]
        assert sorted(each["name"] for each in listed) == ["a", "b"]
        admin.evictWindows("a")
        scratch.array[0] = 9
    assert second.read()[0] == 9


@pytest.mark.usefixtures("neverTrimmed")
@pytest.mark.parametrize("shortOf", ["gpu", "tenant"])
def test_idleMemoryElsewhereIsKept(shortOf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: where one GPU or one tenant had no room, that of others was let go too."""
    what = "PER_GPU_SCRATCH_BYTES" if shortOf == "gpu" else "PER_TENANT_SCRATCH_BYTES"
    monkeypatch.setenv(f"MUNINN_{what}", "1M")
    mine, yours = (
        muninn.share(np.zeros(1 << 20, np.uint8), access="readWrite", tenant=tenant)
        for tenant in ("mine", "yours")
    )
    elsewhere = (mine, 0) if shortOf == "gpu" else (yours, 1)
    for _ in range(2):
        with elsewhere[0].promote(0, 300_000, elsewhere[1]):
            pass
    with mine.promote(0, 200_000, 1):
        with mine.promote(300_000, 200_000, 1):
            pass
        with pytest.raises(PromotionDenied, match=f"per{shortOf.capitalize()}ScratchBytes"):
            mine.promote(600_000, 350_000, 1, timeout=0)
    with elsewhere[0].promote(0, 300_000, elsewhere[1]) as scratch:
        assert scratch.transfer is None, "it was not copied again"


def test_idleMemoryOfAnotherTenantMakesRoomOnTheGpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUNINN_PER_GPU_SCRATCH_BYTES", "1M")
    mine, yours = (
        muninn.share(np.zeros(1 << 20, np.uint8), access="readWrite", tenant=tenant)
        for tenant in ("mine", "yours")
    )
    with mine.promote(0, 300_000):
        pass
    with yours.promote(0, 400_000, timeout=2):
        pass


def test_scratchMemoryIsGivenBackThoughItsUseCanNotBeCounted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Broken: it was kept for as long as the object."""
    buffer = muninn.share(content(), access="readWrite")
    scratch = buffer.promote()

    def fails(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(usedslices.UsedSlices, "usedBytes", fails)
    _ = scratch.usedFlags
    with pytest.raises(MemoryError):
        scratch.close()
    del _  # the array holds the memory
    dropIdle()
    rows = membership.current().rows
    eventually(lambda: len([*rows.notFree()]) == 1, "only the buffer is left")
    assert not windows()


def test_idleMemoryMakesRoomForAnotherWindow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUNINN_PER_GPU_SCRATCH_BYTES", "2500K")
    shared = muninn.share(np.zeros(1 << 20, np.uint8), access="readWrite")
    with shared.promote(0, 900_000):
        pass
    with shared.promote(0, 200_000, timeout=2), shared.promote(0, 300_000, timeout=2):
        pass  # sooner than idle memory is given back by itself


def test_aWindowAboveTheBrokersBudgetIsRefusedAtOnce(
    actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: it waited for room that there never is, with others behind it."""
    monkeypatch.setenv("MUNINN_PER_GPU_SCRATCH_BYTES", "1M")
    muninn.share(np.zeros(2 << 20, np.uint8), "r", access="readOnly")
    other = actor("b = muninn.open('r')", MUNINN_PER_GPU_SCRATCH_BYTES="8M")
    wanted = r"MNN-0006.*GPU 1: 2M wanted > 1M allowed in all .*perGpuScratchBytes"
    with pytest.raises(ActorError, match=wanted):
        other.do("b.promote(0, 2 << 20, 1, timeout=20)")


def test_aWindowAboveTheBudgetIsRefusedAtOnce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUNINN_PER_TENANT_SCRATCH_BYTES", "1M")
    shared = muninn.share(np.zeros(1 << 20, np.uint8), access="readWrite")
    with pytest.raises(PromotionDenied, match=r"2M.* and 1M is the most"):
        shared.promote(timeout=1)
    with shared.promote(track=True, length=900_000, timeout=1):
        pass


@pytest.mark.parametrize(
    ("access", "track", "length", "more", "advice"),
    [
        ("readWrite", False, 900_000, "with a second copy to compare it with", "with track=True"),
        ("readWrite", False, 1 << 20, "with a second copy to compare it with", "Promote a smaller"),
        ("readWrite", True, 1 << 20, "(1048832 bytes) of scratch memory with the flags", "smaller"),
        ("readOnly", False, 2 << 20, "takes 2M of scratch memory, and 1M is the most", "smaller"),
        ("readOnly", True, 2 << 20, "takes 2M of scratch memory, and 1M is the most", "smaller"),
    ],
)
def test_aRefusalAdvisesTrackingWhereThatHelps(
    monkeypatch: pytest.MonkeyPatch, access: Any, track: bool, length: int, more: str, advice: str
) -> None:
    """Broken: it always did, also for a window that is tracked or only read."""
    monkeypatch.setenv("MUNINN_PER_TENANT_SCRATCH_BYTES", "1M")
    monkeypatch.setenv("MUNINN_DEFAULT_SLICE_BYTES", "8192")
    shared = muninn.share(np.zeros(2 << 20, np.uint8), access=access)
    with pytest.raises(PromotionDenied) as caught:
        shared.promote(0, length, track=track, timeout=1)
    assert more in caught.value.reason and advice in caught.value.fix
    assert ("track=True" in caught.value.fix) == (advice == "with track=True")


def test_aForkedChildIsToldOfTheWindowAndNotOfAStream(buffer: muninn.MuninnBuffer) -> None:
    with buffer.promote(stream=muninn.createStream(0)) as named, buffer.promote(0, 64) as scratch:
        child = os.fork()
        if not child:
            try:
                for each in (named, scratch):
                    with pytest.raises(DeviceUnavailable, match="window was promoted by the par"):
                        each.dirtyBytes()
            except BaseException:
                os._exit(1)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_aForkedChildMayLeaveTheBlockOfItsParent(actor: Start) -> None:
    """Broken: the end of the window raised, and hid what ended the child."""
    parent = actor("b = muninn.share(np.arange(5000), 'a', access='readWrite')")
    parent.do(
        "try:\n"
        "    with b.promote(0, 4096) as s:\n"
        "        s.array[0] = 7\n"
        "        if (child := os.fork()) == 0: raise SystemExit\n"
        "except SystemExit: os._exit(9)"
    )
    assert parent.do("os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])") == 9
    assert muninn.open("a").read()[:2].tolist() == [7, 1]


# --- any sequence ------------------------------------------------------------------------

_STEP = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 19_999), st.integers(1, 9)),
    st.tuples(st.just("kernel"), st.integers(0, 19_999), st.integers(1, 9)),
    st.tuples(st.just("back"), st.just(0), st.just(0)),
    st.tuples(st.just("anew"), st.integers(0, 1), st.integers(0, 9_999)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_STEP, max_size=12))
def test_anySequenceOfWritesAndWritebacksEqualsAPlainArray(steps: list[Any]) -> None:
    """Or says why not: after a conflict the bytes are those of the other writer."""
    shared = muninn.share(np.zeros(20_000, np.uint8), access="readWrite")
    plain, window, begin = np.zeros(20_000, np.uint8), shared.promote(0, 10_000), 0
    pending, isStale = plain.copy(), False
    for kind, at, value in steps:
        if kind == "write":
            with shared.write() as view:
                view[at] = plain[at] = value
            isStale = True
        elif kind == "anew":
            window.close()
            begin = value
            window = shared.promote(begin, 10_000, at)
            pending, isStale = plain.copy(), False
        elif kind == "kernel":
            inWindow = at % 10_000
            window.array[inWindow] = value
            pending[begin + inWindow] = value
        elif not isStale:
            window.writeback()
            plain[:] = pending
        elif window.dirtyBytes():
            with pytest.raises(WritebackConflict):
                window.writeback()
        assert np.array_equal(shared.read(), plain)
    window.close()
    shared.free()


@pytest.mark.parametrize("hinted", [False, True])
def test_idleScratchMemoryGivesWayToBuffers(
    domain: str, monkeypatch: pytest.MonkeyPatch, hinted: bool
) -> None:
    """Broken: for four seconds a buffer got no VRAM that nothing used any more."""
    monkeypatch.setenv("MUNINN_DEFAULT_VRAM_QUOTA", "4M")
    base = muninn.share(np.zeros(3 << 20, np.uint8), "a", access="readOnly")
    if hinted:
        base.setHints(hotRanges=[(0, base.nbytes)], priority="high")
        assert base.prefetch(0).result(60) == base.nbytes
    else:
        base.promote(targetGpu=0).close()
    with muninn.share(np.zeros(2 << 20, np.uint8), mode="fastMode"), pytest.raises(QuotaExceeded):
        muninn.share(np.zeros(3 << 20, np.uint8), mode="fastMode")


def test_idleScratchMemoryGivesItsLeaseAway(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: it took the place of what a process makes or opens."""
    monkeypatch.setenv("MUNINN_MAX_LEASES", "16")
    base = muninn.share(np.zeros(1 << 20, np.uint8), "a", access="readWrite")
    maker = actor("kept = [muninn.share(np.zeros(8), f'b{number}') for number in range(7)]")
    held, ways = [base], (lambda n: muninn.open(f"b{n}"), lambda n: muninn.share(np.zeros(8)))
    for hold in ways:
        windows = [base.promote(at << 16, 1 << 16, 0) for at in range(16 - len(held))]
        for each in windows:
            each.close()
        held += [hold(number) for number in range(7)]
    maker.kill()
