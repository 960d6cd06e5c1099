"""fastMode on a driver: processes share VRAM by `vmm`, and the death of one takes it
from no other.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import muninn
from muninn.devices.cuda import driver, vmm
from muninn.errors import InvalidDtype, NotHostVisible, PermissionDenied, QuotaExceeded
from muninn.interop import capsules
from muninn.interop.dlpack import takeTensor
from support import Actor, ActorError, Background, eventually, leftovers, program

Start = Callable[..., Actor]
Free = Callable[[], int]
MIB = 1 << 20


def test_vramIsSharedBetweenProcesses(domain: str, actor: Start) -> None:
    buffer = muninn.share(np.arange(1000), name="a", mode="fastMode")
    other = actor("theirs = muninn.open('a', access='readWrite')")
    assert other.do(
        "int(theirs.read().sum()), theirs.mode, theirs.gpu, theirs.describe()['transport']"
    ) == [499500, "fastMode", 0, "vmm"]
    other.do("with theirs.write() as view: view.copy_to_device(np.full(1000, 7))")
    assert buffer.generation == 2 and buffer.read().tolist() == [7] * 1000
    assert leftovers(domain) == [], "VRAM has no name"


def test_anInterruptedAllocationLeavesNothing(domain: str, actor: Start) -> None:
    """Broken: a handler that raised just after `cuMemCreate` lost its answer, and with it
    2 MiB and a descriptor, which no command showed: one interruption of four.
    """
    alarmed = actor(program("interruptedByAlarms"))
    alarmed.do("share(); share()")
    before = alarmed.do("settled()")
    assert alarmed.do("interrupted(600)") > 60
    eventually(
        lambda: all(
            now <= then + 2 for now, then in zip(alarmed.do("settled()"), before, strict=True)
        ),
        "all is given back",
    )


def test_newVramReadsZero(domain: str) -> None:
    for name in ("a", "b"):
        with muninn.array(name, (3, MIB), np.uint8, mode="fastMode") as buffer:
            assert not buffer.read().any()
            with buffer.write() as view:
                view.copy_to_device(np.full((3, MIB), 255, np.uint8))
            buffer.free()


def test_theCpuIsToldThatItDoesNotReachIt(domain: str) -> None:
    buffer = muninn.share(np.arange(10.0), name="a", mode="fastMode")
    with pytest.raises(NotHostVisible, match="VRAM"):
        _ = buffer.array
    with pytest.raises(ValueError, match="copy"):
        np.array(buffer, copy=False)
    assert np.array_equal(np.asarray(buffer), np.arange(10.0))
    assert buffer.read().flags.owndata
    assert not hasattr(muninn.share(np.arange(3), name="b"), "__cuda_array_interface__")


def test_theAdviceWorksForEachObjectInVram(domain: str) -> None:
    """Broken: it was `read()`, which a window and an array of a bundle do not have."""
    content = np.arange(10_000)
    onHost: Any = muninn.share(content, access="readWrite")
    inVram = muninn.share(content, mode="fastMode")
    bundle = muninn.shareBundle({"a": content}, mode="fastMode")
    with onHost.promote(8 * 1000, 8 * 2000) as scratch:
        for each, expected in (
            (inVram, content),
            (bundle["a"], content),
            (scratch, content[1000:3000]),
        ):
            with pytest.raises(NotHostVisible) as caught:
                _ = each.array
            assert "numpy.asarray()" in caught.value.fix and "read()" not in caught.value.fix
            assert np.array_equal(np.asarray(each), expected)
        # The way that the manual gives to merge a window, inside the block.
        with onHost.write() as view:
            view[:] = 7
            view[1000:3000] = np.asarray(scratch)
    assert np.array_equal(onHost.read()[1000:3000], content[1000:3000])


def test_structuredTypesAndBundlesLiveInVramToo(domain: str, actor: Start) -> None:
    records = np.array([(1, 2.5), (3, 4.5)], dtype=[("count", "i4"), ("mass", "f8")])
    muninn.share(records, name="records", mode="fastMode")
    muninn.shareBundle(
        {"w": np.ones((3, 4), np.float32), "b": np.arange(4)}, name="model", mode="fastMode"
    )
    other = actor("r = muninn.open('records'); model = muninn.openBundle('model')")
    assert other.do("str(r.dtype), r.read()['mass'].tolist()") == [str(records.dtype), [2.5, 4.5]]
    assert other.do(
        "sorted(model), np.asarray(model['b']).tolist(), "
        "float(model['w'].deviceArray().copy_to_host().sum())"
    ) == [
        ["b", "w"],
        [0, 1, 2, 3],
        12.0,
    ]


def test_anArrayOfABundleIsLentByEachProtocol(domain: str, actor: Start) -> None:
    source = {"w": np.arange(300, dtype="<u2").view(ml_dtypes.bfloat16), "b": np.arange(4)}
    muninn.shareBundle(source, name="model", mode="fastMode")
    model = muninn.openBundle("model")
    weight, bias = model["w"], model["b"]
    base = model.buffer.open()
    taken = takeTensor(weight, 1)
    assert (taken.address - base, taken.shape, taken.element.text) == (0, (300,), "bfloat16")
    assert taken.readOnly and taken.deviceType == capsules.CUDA and weight.gpu == taken.deviceId
    taken = takeTensor(bias, 1)
    assert (taken.address - base, taken.element.text) == (768, "<i8")
    interface = bias.__cuda_array_interface__
    assert interface["data"] == (base + 768, True) and interface["typestr"] == "<i8"
    with pytest.raises(InvalidDtype, match="bfloat16"):
        weight.__cuda_array_interface__  # noqa: B018
    assert np.asarray(weight).tobytes() == source["w"].tobytes()
    assert weight.deviceArray(dtype="u2").copy_to_host().tolist() == list(range(300))
    with muninn.openBundle("model", access="readWrite") as writable:
        assert not takeTensor(writable["w"], 1).readOnly
    again = muninn.share(weight, name="w")  # the bytes never leave the GPU
    assert again.describe()["dtype"] == "bfloat16" and again.mode == "fastMode"
    assert again.read().tobytes() == source["w"].tobytes()


def test_openedTwiceAndInTheOwnerIsOneMemory(domain: str, actor: Start) -> None:
    first = muninn.share(np.arange(10), name="a", mode="fastMode")
    assert muninn.open("a").open() == muninn.open(first.handle).open() == first.open()
    other = actor("one = muninn.open('a'); two = muninn.open('a', access='readWrite')")
    assert other.do("one.open() == two.open()")


def test_survivesTheKillOfItsOwner(domain: str, actor: Start) -> None:
    owner = actor("buffer = muninn.share(np.arange(100), 'a', mode='fastMode')")
    mine = muninn.open("a", access="readWrite")
    owner.kill()
    assert mine.read().sum() == 4950
    assert muninn.open("a").describe()["state"] == "live"
    newcomer = actor("theirs = muninn.open('a')")
    assert newcomer.do("int(theirs.read().sum())") == 4950


@pytest.mark.parametrize("access", ["readOnly", "readWrite"])
def test_survivesTheKillOfTheBrokerThatMadeIt(domain: str, actor: Start, access: str) -> None:
    broker = actor(
        f"buffer = muninn.share(np.arange(100), 'a', mode='fastMode', access={access!r})"
    )
    successor = actor("theirs = muninn.open('a')")
    assert muninn.domainInfo()["brokerPid"] == broker.pid
    broker.kill()
    newcomer = actor("third = muninn.open('a')")
    assert newcomer.do("int(third.read().sum())") == 4950
    successor.kill()
    assert newcomer.do("int(third.read().sum())") == 4950


def test_survivesTheEndOfABrokerWhoseGpuIsAtWork(domain: str, actor: Start) -> None:
    """Broken: the broker said no goodbye, because work of other members could still
    come, and did not hand over either.
    """
    broker = actor(
        "import threading\nfrom muninn.session import gpus, membership\nmuninn.domainInfo()",
        MUNINN_IPC_GRACE_MS="200",
    )
    broker.do(
        "a = muninn.share(np.full(4096, 7, np.uint8), 'a', mode='fastMode'); a.close(); del a"
    )
    broker.do(
        "c = muninn.share(np.zeros(8), 'c'); d = gpus.deviceOf(membership.current()); s, semaphore = d.createStream(0), threading.Event()"
    )
    muninn.domainInfo()
    broker.do("s.submit(lambda: semaphore.wait(60)); c.signal(s)")
    assert broker.leave() == 0
    assert int(muninn.open("a", timeout=60).read().sum()) == 7 * 4096


def test_theBrokerHoldsItWhenNoMemberDoes(domain: str, actor: Start) -> None:
    actor().join()
    maker = actor("buffer = muninn.share(np.arange(100), 'a', mode='fastMode')")
    maker.kill()
    assert muninn.open("a").read().sum() == 4950


def test_itsMemoryComesBackWhenAllAreGone(domain: str, actor: Start, freeBytes: Free) -> None:
    before = freeBytes()
    holders = [
        actor("buffer = muninn.array('a', 64 << 20, 'u1', mode='fastMode', lifetime='lastClose')")
        for _ in range(2)
    ]
    assert freeBytes() <= before - 64 * MIB
    for holder in holders:
        holder.kill()
    eventually(lambda: freeBytes() >= before - MIB, "the memory is free again")


def test_aSizeThatDoesNotFitIsAnErrorAndLeavesNothing(
    domain: str, actor: Start, freeBytes: Free
) -> None:
    before = freeBytes()
    total = 1 << 42
    with pytest.raises(QuotaExceeded):
        muninn.MuninnBuffer(total, mode="fastMode", name="a")
    asking = actor("", MUNINN_DEFAULT_VRAM_QUOTA="1T", MUNINN_FAST_MODE_MAX_BYTES="1T")
    with pytest.raises(ActorError, match="memory|capacity|bytes") as raised:
        asking.do(f"muninn.MuninnBuffer({freeBytes()} + (1 << 30), mode='fastMode', name='a')")
    assert raised.value.kind == "QuotaExceeded"
    assert muninn.listBuffers() == []
    asking.kill()
    eventually(lambda: freeBytes() >= before - MIB, "nothing was kept")


def test_readOnlyIsReadOnlyForKernelsToo(domain: str, actor: Start) -> None:
    muninn.share(np.arange(100), "a", mode="fastMode", access="readOnly")
    other = actor("theirs = muninn.open('a')")
    with pytest.raises(ActorError) as raised:
        other.do("theirs.deviceArray().copy_to_device(np.zeros(100, int))")
    assert raised.value.kind == "CudaAPIError"
    with pytest.raises(PermissionDenied):
        muninn.open("a", access="readWrite")
    assert muninn.open("a").read().sum() == 4950


@pytest.mark.usefixtures("standin")
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("cuMemImportFromShareableHandle:999:1", "IpcHandleMismatch"),
        ("cuMemAddressReserve:2:1", "QuotaExceeded"),
        ("cuMemMap:1:1", "IpcHandleMismatch"),
        ("cuMemSetAccess:1:1", "IpcHandleMismatch"),
        ("cuDevicePrimaryCtxRetain:2:1", "QuotaExceeded"),
    ],
)
def test_anOpenThatFailsIsTypedAndLeavesNoLease(
    domain: str, actor: Start, fault: str, kind: str
) -> None:
    buffer = muninn.share(np.arange(100), "a", mode="fastMode")
    other = actor("descriptors = len(os.listdir('/proc/self/fd'))", STANDIN_FAULTS=fault)
    with pytest.raises(ActorError) as raised:
        other.do("muninn.open('a')")
    assert raised.value.kind == kind
    assert len(buffer.describe()["importers"]) == 1
    assert other.do("int(muninn.open('a').read().sum())") == 4950, "the next attempt works"


@pytest.mark.usefixtures("standin")
@pytest.mark.parametrize(
    "fault",
    [
        "cuMemCreate:800:1",
        "cuMemAddressReserve:800:1",
        "cuMemMap:1:1",
        "cuMemSetAccess:1:1",
        "cuMemExportToShareableHandle:999:1",
        "cuMemsetD8Async:1:1",
    ],
)
def test_aCreationThatFailsLeavesNothing(
    domain: str, actor: Start, freeBytes: Free, fault: str
) -> None:
    maker = actor("from muninn.session import gpus, membership", STANDIN_FAULTS=fault)
    # The maker's context takes memory too.
    maker.do("gpus.deviceOf(membership.current()).memoryInfo(0).freeBytes")
    before = freeBytes()
    with pytest.raises(ActorError) as raised:
        maker.do("muninn.array('a', 8 << 20, 'u1', mode='fastMode')")
    assert raised.value.kind in ("QuotaExceeded", "DeviceUnavailable")
    assert muninn.listBuffers() == []
    # Less the block by which the maker waits for its context.
    eventually(lambda: freeBytes() >= before - (2 << 20), "the memory is free again")
    assert maker.do("muninn.array('a', 8 << 20, 'u1', mode='fastMode').nbytes") == 8 * MIB


@pytest.mark.usefixtures("standin")
def test_anotherDriverIsToldBothVersions(domain: str, actor: Start) -> None:
    muninn.share(np.arange(100), "a", mode="fastMode")
    other = actor("", STANDIN_DRIVER="12080")
    with pytest.raises(ActorError, match=r"13\.0.*12\.8") as raised:
        other.do("muninn.open('a')")
    assert raised.value.kind == "IpcHandleMismatch"


@pytest.mark.usefixtures("standin")
def test_aGpuIsFoundByItsIdentityAndNotByItsNumber(domain: str, actor: Start) -> None:
    muninn.share(np.arange(100), "a", mode="fastMode", preferredGpu=1)
    turned = actor("theirs = muninn.open('a')", CUDA_VISIBLE_DEVICES="1,0")
    assert turned.do("int(theirs.read().sum()), theirs.gpu") == [4950, 0]
    only = actor("theirs = muninn.open('a')", CUDA_VISIBLE_DEVICES="1")
    assert only.do("int(theirs.read().sum()), theirs.gpu") == [4950, 0]
    blind = actor("", CUDA_VISIBLE_DEVICES="0")
    with pytest.raises(ActorError, match="GPU-.*CUDA_VISIBLE|GPU-") as raised:
        blind.do("muninn.open('a')")
    assert raised.value.kind == "IpcHandleMismatch"


def test_theHostBackEndAndTheDriversDoNotMix(domain: str, actor: Start) -> None:
    muninn.share(np.arange(100), "real", mode="fastMode")
    emulating = actor(
        "muninn.share(np.arange(100), 'emulated', mode='fastMode')", MUNINN_DEVICE="host"
    )
    with pytest.raises(ActorError) as raised:
        emulating.do("muninn.open('real')")
    assert raised.value.kind == "IpcHandleMismatch"
    with pytest.raises(muninn.MuninnError, match="MUNINN_DEVICE|handle"):
        muninn.open("emulated")


def test_closingWhileAKernelReadsIsNoFault(domain: str) -> None:
    source = muninn.share(np.arange(MIB, dtype=np.uint8), "a", mode="fastMode")
    from muninn.session import gpus, membership

    device = gpus.deviceOf(membership.current())
    stream, out = device.createStream(0), np.zeros(MIB, np.uint8)
    stream.submit(lambda: __import__("time").sleep(0.2))
    with source.read(stream=stream):
        device.copy(out.ctypes.data, source.open(), MIB, stream)
    source.close()
    stream.synchronize(30)
    assert np.array_equal(out, np.arange(MIB, dtype=np.uint8))


def test_makingABufferWaitsForNoKernel(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a share behind a close waited for all work of the GPU, up to five
    seconds, only to learn how large the GPU is.
    """
    from muninn.devices.cuda import device as cudaDevice
    from muninn.session import gpus, membership

    monkeypatch.setattr(cudaDevice, "_DRAIN_SECONDS", 600.0)
    first = muninn.share(np.zeros(MIB, np.uint8), "a", mode="fastMode")
    semaphore, stream = threading.Event(), gpus.deviceOf(membership.current()).createStream(0)
    stream.submit(lambda: semaphore.wait(100))
    first.free()
    del first
    made = Background(lambda: muninn.share(np.ones(MIB, np.uint8), "b", mode="fastMode").read())
    assert made.ended().all() and not stream.query()
    semaphore.set()
    stream.synchronize(30)


def test_aClosedStreamsHandleMayBeAnothersStream(domain: str) -> None:
    """Broken: as long as an object of the closed stream existed, its handle was taken
    for that stream.
    """
    from cuda.bindings import driver as cu

    from muninn.session import gpus, membership

    buffer = muninn.share(np.zeros(4096, np.uint8), "a", mode="fastMode")
    device = gpus.deviceOf(membership.current())
    closed = device.createStream(0)
    buffer.wait(closed, buffer.signal(closed))
    closed.synchronize(30)
    closed.close()
    with device.onGpu(0):
        others = [int(cu.cuStreamCreate(1)[1]) for _ in range(64)]
    for other in others:
        with buffer.write(stream=other):
            pass
    assert buffer.generation == 2 * len(others)


def test_theLimitOfAnAccessIsTheGivenTimeout(domain: str) -> None:
    """Broken: ten seconds, the time for which a snapshot waits, counted as no limit."""
    from muninn.session import gpus, membership

    buffer = muninn.share(np.zeros(4096, np.uint8), "a", mode="fastMode")
    asked, delay = list[object](), gpus.deviceOf(membership.current())
    stands, semaphore = delay.createStream(0), threading.Event()
    reads = {timeout: delay.createStream(0) for timeout in (None, 10.0, 0.05)}
    stands.submit(lambda: semaphore.wait(60))
    with buffer.write(stream=stands):
        pass
    original = delay.delayStream
    delay.delayStream = lambda stream, ready, word=None: (
        asked.append(word) or original(stream, ready, word)
    )  # type: ignore[method-assign]
    for timeout, stream in reads.items():
        with buffer.read(timeout=timeout, stream=stream):
            pass
    assert [word is None for word in asked] == [False, True, True], (
        "the host waits for an access with a limit"
    )
    with pytest.raises(TimeoutError):
        reads[0.05].synchronize(30)
    semaphore.set()
    reads[None].synchronize(30)


@pytest.mark.parametrize(
    "function",
    [
        "cuMemMap",
        "cuMemSetAccess",
        "cuMemAddressReserve",
        "cuMemCreate",
        "cuMemExportToShareableHandle",
    ],
)
@pytest.mark.parametrize("isMade", [False, True])
def test_anInterruptionOfAnAllocationIsRaisedAndLeavesNothing(
    domain: str, freeBytes: Free, monkeypatch: pytest.MonkeyPatch, function: str, isMade: bool
) -> None:
    """Broken: after the mapping was made, its addresses could not be freed, which was
    MNN-0029.
    """
    muninn.share(np.arange(10), "a", mode="fastMode").free()
    before = freeBytes()

    def interrupted(usual: Any, at: int, *arguments: Any) -> Any:
        if arguments[at].__name__ != function:
            return usual(*arguments)
        if isMade:
            usual(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for module, name, at in ((vmm, "call", 0), (driver, "make", 1)):
            usual = getattr(module, name)
            patch.setattr(module, name, functools.partial(interrupted, usual, at))
        with pytest.raises(KeyboardInterrupt):
            muninn.array("b", 8 * MIB, np.uint8, mode="fastMode")
    eventually(lambda: freeBytes() >= before - (2 << 20), "the memory is given back")
    muninn.array("b", 8 * MIB, np.uint8, mode="fastMode").free()
