"""Promotion on a driver: kernels write scratch memory, and a kernel finds what they wrote."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.api import wayback
from muninn.kernels import launch
from muninn.system import threads
from support import eventually

WORDS = 100_003


@pytest.fixture(params=["bigMode", "fastMode"])
def buffer(request: pytest.FixtureRequest, domain: str) -> Any:
    array = np.arange(WORDS, dtype=np.uint64)
    return muninn.share(array, "a", mode=request.param, access="readWrite")


@pytest.mark.parametrize("track", [False, True])
def test_whatKernelsWriteComesBack(buffer: Any, track: bool) -> None:
    stream = muninn.createStream(0)
    with buffer.promote(8 * 1000, 8 * 50_000, stream=stream, track=track) as scratch:
        window = scratch.deviceArray()
        launch.launch("fillPattern", window[:3000], 42, stream=stream)
        if track:
            scratch.markDirty(0, 8 * 3000)
        assert scratch.dirtyBytes() == 65_536
    expected = np.arange(WORDS, dtype=np.uint64)
    launch.launch("fillPattern", expected[1000:4000], 42)
    assert np.array_equal(buffer.read(), expected) and buffer.generation == 2


@pytest.mark.parametrize("track", [False, True])
@pytest.mark.parametrize("offset", [8, 5])
def test_manySlicesComeBackByAKernel(
    domain: str, monkeypatch: pytest.MonkeyPatch, offset: int, track: bool
) -> None:
    """As many as there are, and the bytes behind the last word; where the words are not
    aligned in the buffer the driver copies.
    """
    names, usual = list[str](), launch.launch
    monkeypatch.setattr(
        launch, "launch", lambda name, *a, **k: (names.append(name), usual(name, *a, **k))
    )
    monkeypatch.setattr(wayback, "_compiled", {0})
    old, sliceBytes = np.random.default_rng(1).integers(0, 256, 1_000_003, np.uint8), 4096
    new = old ^ 255
    for mode in ("bigMode", "fastMode"):
        buffer: Any = muninn.share(old, mode=mode, access="readWrite")
        source: Any = muninn.share(new, mode="fastMode")
        window = buffer.promote(offset, None, 0, sliceBytes=sliceBytes, track=track)
        with window as scratch:
            device = source._checked().memory.device
            expected = old.copy()
            # The last slice is among them.
            for at in range(scratch.nbytes // sliceBytes * sliceBytes, -1, -3 * sliceBytes):
                length = min(sliceBytes, scratch.nbytes - at)
                device.copyNow(scratch.address + at, source.open() + offset + at, length, 0)
                expected[offset + at :][:length] = new[offset + at :][:length]
                if track:
                    scratch.markDirty(at, length)
            names.clear()
            scratch.writeback()
            copied = [] if offset % 8 else ["copyMarked"] * (1 if track else 2)
            assert [name for name in names if name == "copyMarked"] == copied
            assert np.array_equal(buffer.read(), expected)
            assert scratch.dirtyBytes() == 0, "the shadow has them too"


@pytest.mark.parametrize("track", [False, True])
@pytest.mark.parametrize("lacks", ["compiler", "thread", "time"])
def test_slicesComeBackWithoutACompiler(
    buffer: Any, monkeypatch: pytest.MonkeyPatch, track: bool, lacks: str
) -> None:
    """What was written is not lost, and no other process waits for the compiler."""
    generations, go = list[int](), threading.Event()

    def compiled(*_: Any, **__: Any) -> None:
        generations.append(buffer.generation)
        if lacks == "compiler":
            raise LookupError("a linker that the driver does not know")
        go.wait(60)

    def started(target: Any, name: str) -> Any:
        if lacks == "thread" and name == "muninn-kernel":
            raise threads.exhausted()
        return usual(target, name)

    usual = threads.start
    monkeypatch.setattr(wayback, "_compiled", set())
    launch.requireKernels()
    monkeypatch.setattr(launch, "prepare", compiled)
    monkeypatch.setattr(threads, "start", started)
    expected = np.arange(WORDS, dtype=np.uint64)
    with buffer.promote(8, None, 0, sliceBytes=4096, track=track) as scratch:
        for at in range(0, scratch.nbytes, 3 * 4096):
            word = np.full(1, at + 7, np.uint64)
            scratch._checked().memory.copyIn(word.ctypes.data, 8, at)
            expected[1 + at // 8] = at + 7
            if track:
                scratch.markDirty(at, 8)
        scratch.writeback(timeout=0.5 if lacks == "time" else None)
    assert np.array_equal(buffer.read(), expected) and buffer.generation == 2
    go.set()
    if lacks != "time":  # that thread may be slow
        assert generations == ([0] if lacks == "compiler" else [])


#: A process that notes the generation at which each kernel is compiled.
COMPILING = """
from muninn.kernels import device, launch
kind, seen = type(device.copyMarked), []
usual = kind.compile
def compiled(kernel, *rest):
    if kernel is device.copyMarked: seen.append(b.generation)
    return usual(kernel, *rest)
kind.compile = compiled
b = muninn.share(np.zeros(1 << 20, np.uint8), 'a', access='readWrite', mode=MODE)
with b.promote(0, None, 0, sliceBytes=4096, track=TRACK) as s:
    for at in range(0, s.nbytes, 3 * 4096): s.markDirty(at, 8)
"""


@pytest.mark.parametrize("track", [False, True])
@pytest.mark.parametrize("mode", ["bigMode", "fastMode"])
def test_theKernelIsCompiledBeforeTheAccess(
    domain: str, actor: Any, mode: str, track: bool
) -> None:
    other = actor(COMPILING.replace("MODE", repr(mode)).replace("TRACK", repr(track)))
    assert other.do("seen, b.generation") == [[0], 2]


def test_processesShareAWindowOfAReadOnlyBuffer(domain: str, actor: Any) -> None:
    array = np.arange(WORDS, dtype=np.uint64)
    muninn.share(array, "r", access="readOnly")
    code = (
        "from muninn.kernels import launch; b = muninn.open('r'); s = b.promote(0, 80_000)\n"
        "r = np.zeros(1, np.uint64); t = muninn.array('x%d' % __import__('os').getpid(), 1, 'u8', mode='fastMode')\n"
        "with t.write() as view: launch.launch('readSum', s.deviceArray(), view)\n"
    )
    first, second = actor(code), actor(code)
    total = int(array[:10_000].sum())
    assert first.do("int(t.read()[0])") == second.do("int(t.read()[0])") == total
    assert len([each for each in muninn.listBuffers() if each["kind"] == "window"]) == 1
    first.kill()
    assert (
        second.do("with t.write() as view: launch.launch('readSum', s.deviceArray(), view)") is None
    )
    assert second.do("int(t.read()[0])") == 2 * total


@pytest.mark.parametrize("access", ["readOnly", "readWrite"])
def test_aWindowOfLentMemoryIsCopiedEachTime(domain: str, actor: Any, access: str) -> None:
    """Broken: its owner writes it without an access, so the generation stays, and a window
    was served with the bytes of before.
    """
    owner = actor(
        "from numba import cuda\nmine = cuda.to_device(np.arange(100_000))\n"
        f"buffer = muninn.share(mine, 'a', access='{access}', copy=False)"
    )
    theirs = muninn.open("a", access="readOnly" if access == "readOnly" else "readWrite")
    theirs.setHints(hotRanges=[(0, 400_000)])
    for number in range(3):
        owner.do(f"mine.copy_to_device(np.full(100_000, {number}))")
        assert theirs.prefetch(0).result(60) == 0, "it would be served later"
        for part in (400_000, 80_000):  # a part of it within the GPU
            with theirs.promote(0, part) as scratch:
                assert scratch.transfer is not None and not scratch.isShared
                found = np.asarray(scratch.deviceArray().copy_to_host())
                assert (found == number).all()
    assert theirs.generation == 0


@pytest.mark.parametrize(
    "way",
    [
        lambda buffer: buffer.open(),
        lambda buffer: buffer.deviceArray(),
        lambda buffer: buffer.__dlpack__(max_version=(1, 1)),
        lambda buffer: buffer.__cuda_array_interface__,
    ],
)
@pytest.mark.parametrize("access", ["readOnly", "readWrite"])
def test_whoeverGetsTheBytesMayWriteThemInPlace(domain: str, way: Any, access: Any) -> None:
    buffer = muninn.share(np.arange(WORDS, dtype=np.uint64), mode="fastMode", access=access)
    with buffer.read(stream=None):
        pass
    if access == "readWrite":
        with buffer.write():
            pass
    assert not buffer._checked().isWrittenInPlace()
    way(buffer)
    assert buffer._checked().isWrittenInPlace() == (access == "readWrite")


def windows() -> list[str]:
    return [each["name"] for each in muninn.listBuffers() if each["kind"] == "window"]


#: A process that promotes windows of "r", and lets a kernel sum them.
PROMOTER = """
from muninn.kernels import launch
import os
b = muninn.open('r')
t = muninn.array('x%d' % os.getpid(), 1, 'u8', mode='fastMode')
def total(offset, length):
    with b.promote(offset, length, timeout=60) as s, t.write() as view:
        launch.launch('fillPattern', view, 0)
        launch.launch('readSum', s.deviceArray(), view)
    return int(t.read()[0])
zero = total(0, 8)
"""


def test_threeProcessesPromoteFromOneBuffer(domain: str, actor: Any) -> None:
    """All at once, windows of their own and one that they share; one of them is killed in
    its midst.
    """
    array = np.arange(1 << 20, dtype=np.uint64)
    muninn.share(array, "r", access="readOnly")
    many = [actor(PROMOTER) for _ in range(3)]
    zero = many[0].do("zero")
    for each in many:
        each.begin("[total(8 * (i << 16), 8 << 16) for i in range(16)] + [total(0, 8 << 20)]")
    sums = [int(array[i << 16 : (i + 1) << 16].sum()) for i in range(16)] + [int(array.sum())]
    for each in many:
        assert [value - zero for value in each.result(300)] == sums
    many[0].begin("while True: total(0, 8 << 20)")
    many[1].begin("[total(0, 8 << 20) for _ in range(50)]")
    many[0].kill()
    assert {value - zero for value in many[1].result(300)} == {sums[-1]}
    assert many[2].do("total(8, 8)") - zero == 1
    for each in many[1:]:
        # Numba's garbage of the compilation keeps the frame of the launch.
        each.do("import gc; gc.collect()")
    eventually(lambda: not windows(), "nothing is left of any of them")


@pytest.mark.gpu
def test_kernelsMarkWhatTheyRead(domain: str) -> None:
    from numba import cuda

    from muninn.kernels import markUsed

    @cuda.jit
    def readSome(data, flags, sliceBytes, every, sums):  # type: ignore[no-untyped-def]
        for index in range(cuda.grid(1), data.size, cuda.gridsize(1)):
            if index % every == 0:
                cuda.atomic.add(sums, 0, data[index])
                markUsed(flags, sliceBytes, 8 * index, 8)

    array = np.arange(1 << 20, dtype=np.uint64)
    hints: Any = {"hotRanges": [(0, 8 << 19)], "priority": "high"}
    buffer = muninn.share(array, "r", access="readOnly", hints=hints)
    assert buffer.prefetch(0).result(60) == 8 << 19
    with buffer.promote(0, 8 << 19, 0, sliceBytes=4096) as scratch:
        assert scratch.transfer is None and scratch.isHot, "it is there already"
        sums = cuda.to_device(np.zeros(1, np.uint64))
        readSome[64, 256](scratch.deviceArray(), scratch.usedFlags, 4096, 1024, sums)
        cuda.synchronize()
        assert int(sums.copy_to_host()[0]) == int(array[: 1 << 19 : 1024].sum())
        assert scratch.usefulRatio() == 0.5
    with buffer.promote(4096, 4096) as scratch:
        assert scratch.transfer is None and scratch.deviceArray().copy_to_host()[0] == 512


def test_prefetchedWindowsHaveTheBytes(buffer: Any) -> None:
    buffer.setHints(hotRanges=[(0, 80_000), (400_000, 40_000)])
    expected = np.arange(WORDS, dtype=np.uint64)
    ready = sum(length for _, length in buffer.hints["hotRanges"])
    assert buffer.prefetch(0).result(60) == ready > 120_000
    for offset, length in ((8, 800), (401_408, 8), (0, 81_920)):
        with buffer.promote(offset, length) as scratch:
            seen = np.empty(length // 8, np.uint64)
            scratch._memory.memory.copyOut(seen.ctypes.data, length, scratch._at)
            assert np.array_equal(seen, expected[offset // 8 : (offset + length) // 8])
            route = None if scratch.transfer is None else scratch.transfer.route
            assert route in (None, "local"), (offset, length)
