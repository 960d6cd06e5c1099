"""Several GPUs: on which GPU an array is, which default stream an operation uses, and
that memory is given back only when no stream uses it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.devices.topology import probing
from muninn.errors import TopologyNotPeerable
from muninn.session import gpus, membership
from support import Actor, ActorError, eventually

Start = Callable[..., Actor]
BYTES = 1 << 16


@pytest.fixture(autouse=True)
def two(domain: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The device, which has at least two GPUs. The caps, which are the broker's, are
    set above the room of any GPU.
    """
    for cap in ("MUNINN_DEFAULT_VRAM_QUOTA", "MUNINN_FAST_MODE_MAX_BYTES"):
        monkeypatch.setenv(cap, "16T")
    muninn.domainInfo()
    device = gpus.deviceOf(membership.current())
    if device.gpuCount < 2:
        pytest.skip("there is one GPU only")
    return device


@pytest.mark.parametrize("copy", [True, False])
def test_anArrayIsOnTheGpuThatItIsOn(copy: bool) -> None:
    """Broken: for an array on any GPU the bindings answered 0. The copy went to the
    wrong GPU, unordered, and a loan named the wrong one.
    """
    from numba import cuda

    with cuda.gpus[1]:
        array = cuda.to_device(np.arange(1000.0))
    buffer = muninn.share(array, "a", copy=copy)
    assert buffer.gpu == 1 and buffer.__dlpack_device__() == (2, 1)
    assert np.array_equal(buffer.read(), np.arange(1000.0))


def test_theHandleOfADefaultStreamIsThatOfTheBuffersGpu(two: Any) -> None:
    """Broken: 0, which PyTorch uses for the default stream of each GPU, always meant
    that of the first GPU.
    """
    buffer = muninn.share(np.zeros(BYTES, np.uint8), "a", mode="fastMode", preferredGpu=1)
    address, semaphore, ones = buffer.open(), threading.Event(), np.ones(BYTES, np.uint8)
    first, second = two.asStream(None, 0), two.asStream(None, 1)
    waiting = two.createStream(1)  # while another one waits this may take as long
    with two.allocate(1, BYTES) as source:
        two.copyNow(source.address, ones.ctypes.data, BYTES, 1)
        with buffer.write(stream=0):
            second.submit(lambda: semaphore.wait(60))
            two.copy(address, source.address, BYTES, second)
        buffer.wait(waiting)
        assert not waiting.query(), "the fence is behind the work of the second GPU"
        capsule = buffer.__dlpack__(stream=1, max_version=(1, 0))
        assert first.query() and not second.query()
        semaphore.set()
        assert buffer.read(timeout=60).all() and capsule is not None


@pytest.mark.parametrize("gpu", [0, 1])
def test_hostMemoryStaysAsLongAsAnyGpuUsesIt(two: Any, gpu: int) -> None:
    """Broken: only the first GPU was waited for, and the memory was unmapped while the
    second one used it.
    """
    buffer = muninn.share(np.full(BYTES, 7, np.uint8), "a")
    stream, semaphore, out = two.createStream(gpu), threading.Event(), np.zeros(BYTES, np.uint8)
    with two.allocate(gpu, BYTES) as target:
        stream.submit(lambda: semaphore.wait(60))
        two.copy(target.address, buffer.open(), BYTES, stream)
        buffer.free()
        del buffer
        time.sleep(0.3)
        semaphore.set()
        stream.synchronize(30)
        two.copyNow(out.ctypes.data, target.address, BYTES, gpu)
    assert (out == 7).all()


def test_eachGpuHasItsOwnRoom(domain: str, actor: Start, two: Any) -> None:
    """Broken: two processes with one GPU each, both of which call it 0, shared the room
    of one GPU.
    """
    sizeBytes = min(each.totalBytes for each in (two.memoryInfo(0), two.memoryInfo(1))) * 6 // 10
    makers = [actor("", CUDA_VISIBLE_DEVICES=str(gpu)) for gpu in (0, 1)]
    for number, maker in enumerate(makers):
        assert (
            maker.do(
                f"b = muninn.MuninnBuffer({sizeBytes}, mode='fastMode', name='a{number}'); b.gpu"
            )
            == 0
        )
    with pytest.raises(ActorError) as raised:
        makers[0].do(f"muninn.MuninnBuffer({sizeBytes}, mode='fastMode', name='b')")
    assert raised.value.kind == "QuotaExceeded"


def test_aBufferSaysWhichGpuItIsOnHere(domain: str, actor: Start) -> None:
    muninn.share(np.arange(10.0), "a", mode="fastMode", preferredGpu=1)
    turned = actor("b = muninn.open('a')", CUDA_VISIBLE_DEVICES="1,0")
    assert turned.do("b.gpu, b.describe()['gpu'], 'gpu=0' in repr(b), int(b.read().sum())") == [
        0,
        0,
        True,
        45,
    ]


def test_anArrayForAnotherGpuIsRefusedUntilItIsMapped(two: Any) -> None:
    """Seen on two H200: `deviceArray(1)` of memory on GPU 0 returned an array, and a
    kernel of GPU 1 that read it failed with its context.
    """
    buffer = muninn.share(np.arange(10), "a", mode="fastMode", preferredGpu=0)
    with pytest.raises(TopologyNotPeerable, match="do(es)? not reach the memory of GPU 0"):
        buffer.deviceArray(1)
    if two.canAccessPeer(1, 0):
        mapped = muninn.open("a", targetGpu=1, route="mapped")
        assert mapped.route == "mapped" and mapped.deviceArray().shape == (10,)
        assert buffer.deviceArray(1).shape == (10,)
    else:
        with pytest.raises(TopologyNotPeerable):
            muninn.open("a", targetGpu=1, route="mapped")
    assert buffer.deviceArray(0).shape == buffer.deviceArray().shape == (10,)
    assert muninn.share(np.arange(10), "b").deviceArray(1).shape == (10,), (
        "host memory is mapped for all GPUs"
    )


def test_aBufferIsCopiedByEachRoute(two: Any) -> None:
    array = np.arange(3 << 20, dtype=np.uint32)
    buffer = muninn.share(array, "a", mode="fastMode", preferredGpu=0, access="readWrite")
    for route in ("p2p", "staged"):
        if route == "p2p" and not two.canAccessPeer(1, 0):
            with pytest.raises(TopologyNotPeerable, match="peerDenied"):
                buffer.copyTo(1, route=route)
            continue
        copied = buffer.copyTo(1, route=route, access="readWrite")
        assert (copied.route, copied.gpu) == (route, 1)
        assert np.array_equal(copied.read(), array)
        generation = buffer.generation
        assert buffer.copyFrom(copied, route=route) == generation + 2
        assert np.array_equal(buffer.read(), array)
    assert muninn.share(array, "h").copyTo(1).route == "upload"


def test_aKernelReadsTheMemoryOfAnotherGpuWhereItIsMapped(two: Any) -> None:
    from muninn.kernels import launch

    if not two.canAccessPeer(1, 0):
        pytest.skip("GPU 1 does not reach GPU 0")
    array = np.arange(1000, dtype=np.uint64)
    muninn.share(array, "a", mode="fastMode", preferredGpu=0)
    result = muninn.array("r", 1, np.uint64, mode="fastMode", preferredGpu=1)
    mapped, stream = muninn.open("a", targetGpu=1, route="mapped"), muninn.createStream(1)
    with two.onGpu(1), result.write(stream=stream) as view:
        launch.launch("readSum", mapped.deviceArray(), view, stream=stream)
    assert result.read()[0] == array.sum()


@pytest.mark.usefixtures("standin")
@pytest.mark.parametrize(
    ("links", "reason"),
    [
        ("0-1=none", "peerDenied"),
        ("0>1=corrupt", "peerCorrupt"),
        ("0-1=refuse", "peerEnableFailed"),
        ("1>0=corrupt", "peerAccess"),
    ],
)
def test_eachLinkGetsItsRoute(actor: Start, links: str, reason: str) -> None:
    there = actor(
        "a = np.arange(1 << 20); b = muninn.share(a, 'a', mode='fastMode', access='readWrite')",
        STANDIN_LINKS=links,
    )
    there.do("c = b.copyTo(1)")
    route = "p2p" if reason == "peerAccess" else "staged"
    assert there.do("c.route, c.transfer.reason, bool((c.read() == a).all())") == [
        route,
        reason,
        True,
    ]
    assert there.do("b.copyFrom(c), bool((b.read() == a).all())") == [2, True]
    there.do(
        "from muninn.kernels import launch; s = muninn.createStream(1)\n"
        "with b.promote(8000, 80_000, targetGpu=1, stream=s) as w:\n"
        "    launch.launch('fillPattern', w.deviceArray()[:100], 42, stream=s)"
    )
    there.do("e = a.copy(); launch.launch('fillPattern', e[1000:1100], 42)")
    assert there.do("b.generation, bool((b.read() == e).all())") == [4, True]


def test_aLinkIsVerifiedAlsoByTheMappingThatLaterCopiesUse(
    two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender reaches the target then, and for the pieces it is the other way round."""

    class Losing(probing.Direct):
        def send(self, *given: Any) -> None:
            """Nothing arrives."""

    monkeypatch.setattr(probing, "Direct", Losing)
    buffer = muninn.share(np.arange(10), "a", mode="fastMode")
    copy = buffer.copyTo(1)
    assert (copy.transfer.route, copy.transfer.reason) == ("staged", "peerCorrupt")
    assert (copy.read() == np.arange(10)).all()


CURRENT_AT_LAUNCH = """
from cuda.bindings import driver as cu
from muninn.api import wayback
from muninn.kernels import launch
wayback._compiled.update((0, 1))
usual, seen = launch.launch, []
def watched(name, *arguments, stream):
    seen.append((name, int(cu.cuCtxGetCurrent()[1]) == int(cu.cuStreamGetCtx(stream.handle)[1])))
    usual(name, *arguments, stream=stream)
launch.launch = watched
b = muninn.share(np.arange(1 << 16), 'a', access='readWrite')
"""


def test_kernelsOfAWindowRunInTheContextOfItsGpu(actor: Start) -> None:
    """A driver refuses a launch in a stream of another context than the current one."""
    there = actor(CURRENT_AT_LAUNCH)
    there.do("b.promote(0, None, 0, sliceBytes=4096).close()")
    there.do(
        "with b.promote(0, None, 1, sliceBytes=4096) as w:\n"
        "    for at in range(0, w.nbytes, 3 * 4096): w._checked().memory.put(b'x', at)"
    )
    launches = there.do("seen")
    assert [name for name, _ in launches] == ["compareSlices", "copyMarked", "copyMarked"]
    assert all(isIn for _, isIn in launches)


@pytest.mark.usefixtures("standin")
def test_gpusThatDoNotReachEachOtherAreNamed(actor: Start) -> None:
    """Broken: `deviceArray` of the other GPU returned an array that its kernels could not
    read.
    """
    apart = actor("b = muninn.share(np.arange(10), 'a', mode='fastMode')", STANDIN_P2P="none")
    for code in (
        "b.deviceArray(1)",
        "b.write(stream=muninn.createStream(1)).__enter__()",
        "b.read(stream=muninn.createStream(1)).__enter__()",
    ):
        with pytest.raises(ActorError, match=r"MNN-0005.*GPU 1 .* GPU 0") as raised:
            apart.do(code)
        assert raised.value.kind == "TopologyNotPeerable"
    assert apart.do("b.deviceArray(0).shape, int(b.read().sum())") == [[10], 45]


@pytest.mark.parametrize("reach", ["full", "none"])
def test_arraysAreSharedOnAnotherGpuThanTheirs(actor: Start, reach: str) -> None:
    """Broken: between GPUs that do not reach each other, and of memory that only its own
    GPU has mapped, the driver answered INVALID_VALUE.
    """
    there = actor("b = muninn.share(np.arange(10), 'a', mode='fastMode')", STANDIN_P2P=reach)
    for code in (
        "muninn.share(b, None, preferredGpu=1)",
        "muninn.share(b.deviceArray(), None, preferredGpu=1)",
        "muninn.shareOnce('c', lambda: b.deviceArray(), preferredGpu=1)",
        "muninn.publish('c', b.deviceArray(), preferredGpu=1)",
    ):
        assert there.do(f"c = {code}; c.gpu, int(c.read().sum())") == [1, 45]


def buffers() -> list[str]:
    return [each["name"] for each in muninn.listBuffers()]


@pytest.mark.parametrize("route", ["p2p", "staged"])
def test_aProcessIsKilledWhileItCopies(actor: Start, two: Any, route: str) -> None:
    """Nothing is left of its copy, and the source can be copied by others."""
    if route == "p2p" and not two.canAccessPeer(1, 0):
        pytest.skip("GPU 1 does not reach GPU 0")
    array = np.arange(64 << 20, dtype=np.uint8)
    shared = muninn.share(array, "a", mode="fastMode", preferredGpu=0, access="readWrite")
    target = muninn.share(np.zeros_like(array), "t", mode="fastMode", preferredGpu=1)
    code = f"b, t = muninn.open('a'), muninn.open('t', access='readWrite'); b.copyTo(1, route={route!r})"
    for number in range(6):
        copier = actor(code)
        copier.begin(
            f"while True: b.copyTo(1, route={route!r})"
            if number % 2
            else f"while True: t.copyFrom(b, route={route!r})"
        )
        time.sleep(0.02 * number)
        copier.kill()
        assert np.array_equal(shared.read(), array)
        with shared.write(timeout=60):  # it waits for no reader that is dead
            pass
        with shared.copyTo(1, route=route) as copied:  # type: ignore[arg-type]  # one of the two
            assert np.array_equal(copied.read(), array)
        target.copyFrom(shared)  # repairs what the dead process has left half done
        assert np.array_equal(target.read(), array)
    eventually(lambda: buffers() == ["a", "t"], "no copy of a dead process is left")


def test_theOwnerIsKilledWhileAnotherCopies(actor: Start, two: Any) -> None:
    """The bytes outlive the process that made them."""
    owner = actor("b = muninn.share(np.arange(64 << 20, dtype=np.uint8), 'a', mode='fastMode')")
    mine, array = muninn.open("a"), np.arange(64 << 20, dtype=np.uint8)
    transfer = mine.startCopyTo(1)
    owner.kill()
    assert np.array_equal(transfer.result(120).read(), array)
    for route in ("p2p", "staged") if two.canAccessPeer(1, 0) else ("staged",):
        with mine.copyTo(1, route=route) as copied:  # type: ignore[arg-type]  # one of the two
            assert np.array_equal(copied.read(), array)
