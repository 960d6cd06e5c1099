"""The rules of the device port about memory: identity, allocation, sharing, copies."""

from __future__ import annotations

import base64
import ctypes
import gc
import itertools
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from muninn.devices.port import SAME_GPU, Allocation, Device, GpuCondition
from muninn.errors import (
    BufferFreed,
    DeviceUnavailable,
    HostMemoryFull,
    InvalidArgument,
    IpcHandleMismatch,
    PermissionDenied,
    QuotaExceeded,
    TopologyNotPeerable,
)

from .conftest import HostMemory
from .peer import WATCHDOG_SECONDS, Peer, readBytes, writeBytes
from .platforms import MIB, Platform, last

PAGE_BYTES = 4096
pytestmark = pytest.mark.timeout(WATCHDOG_SECONDS)
StartPeer = Callable[[], Peer]


def openDescriptors(device: Device) -> int:
    # Another thread may still give back memory that was closed before. `memoryInfo`
    # waits for that thread, so that its descriptors are not counted.
    device.memoryInfo(0)
    return len(os.listdir("/proc/self/fd"))


def alias(device: Device, allocation: Allocation, writable: bool = True) -> Allocation:
    """Export and import again in this process."""
    descriptor = allocation.exportDescriptor()
    try:
        return device.importAllocation(
            allocation.gpu, descriptor, allocation.sizeBytes, writable, allocation.handle
        )
    finally:
        descriptor.close()


def lend(peer: Peer, allocation: Allocation, writable: bool = True) -> dict[str, object]:
    """Let a peer import the allocation."""
    descriptor = allocation.exportDescriptor()
    handle = base64.b64encode(allocation.handle).decode()
    try:
        return peer.ask(
            "adopt",
            descriptor,
            gpu=allocation.gpu,
            sizeBytes=allocation.sizeBytes,
            writable=writable,
            handle=handle,
        )
    finally:
        descriptor.close()


def borrow(device: Device, peer: Peer, sizeBytes: int) -> Allocation:
    """Import an allocation of a peer."""
    answer = peer.ask("allocate", gpu=0, sizeBytes=sizeBytes)
    try:
        return device.importAllocation(
            0, answer["descriptor"], sizeBytes, True, base64.b64decode(answer["handle"])
        )
    finally:
        os.close(answer["descriptor"])


def test_saysWhatItIsAndWhy(device: Device) -> None:
    assert device.backend in ("host", "cuda")
    assert device.reason
    assert device.gpuCount >= 1
    assert all(device.gpuName(gpu) for gpu in range(device.gpuCount))


def test_uuidsAreTheSameInAllProcesses(device: Device, startPeer: StartPeer) -> None:
    uuids = [device.gpuUuid(gpu) for gpu in range(device.gpuCount)]
    assert len(set(uuids)) == len(uuids)
    assert startPeer().ask("uuids")["uuids"] == uuids


@pytest.mark.parametrize("gpu", [-1, 1000, 2**70])
def test_unknownGpuIsDeviceUnavailable(device: Device, gpu: int) -> None:
    for use in (
        device.gpuName,
        device.gpuUuid,
        device.memoryInfo,
        device.createStream,
        lambda index: device.canAccessPeer(0, index),
        lambda index: device.allocate(index, 1),
        lambda index: device.importAllocation(index, 0, 1, True),
        lambda index: device.asStream(None, index),
    ):
        with pytest.raises(DeviceUnavailable):
            use(gpu)


@pytest.mark.parametrize("gpu", [None, "0", 1.0, True])
def test_gpuIsAnInteger(device: Device, gpu: object) -> None:
    with pytest.raises(TypeError):
        device.allocate(gpu, 1)  # type: ignore[arg-type]


def test_topologyHasEveryPairOnce(device: Device) -> None:
    topology = device.topology()
    pairs = topology["p2p"] + topology["staged"]
    assert sorted(pairs) == sorted(
        f"{low}-{high}" for high in range(device.gpuCount) for low in range(high)
    )
    assert all(device.canAccessPeer(gpu, gpu) for gpu in range(device.gpuCount))


def test_statesWhatIsBetweenItsGpusAndWhereTheyAre(device: Device) -> None:
    for gpu in range(device.gpuCount):
        site, own = device.site(gpu), device.link(gpu, gpu)
        assert own.canAccess and own.path == SAME_GPU
        assert site.numaNode is None or site.numaNode >= 0
        assert (site.bar1TotalBytes is None) == (site.bar1UsedBytes is None)
        for peer in set(range(device.gpuCount)) - {gpu}:
            link = device.link(gpu, peer)
            assert link.canAccess == device.canAccessPeer(gpu, peer)
            assert link.path != SAME_GPU and (link.canAccess or not link.hasNativeAtomics)
    assert device.driverText()


def test_tellsItsHeatAndPowerOrNothing(device: Device) -> None:
    for gpu in range(device.gpuCount):
        condition = device.condition(gpu)
        if condition is not None:
            assert condition != GpuCondition() and str(condition)
            assert condition.temperatureC is None or 0 < condition.temperatureC < 200
            assert condition.powerW is None or condition.powerW > 0


@pytest.mark.parametrize("gpu", [-1, 1 << 20])
def test_linksAndPlacesOfUnknownGpusAreRefused(device: Device, gpu: int) -> None:
    for use in (
        lambda: device.site(gpu),
        lambda: device.condition(gpu),
        lambda: device.link(gpu, last(device)),
        lambda: device.link(last(device), gpu),
    ):
        with pytest.raises(DeviceUnavailable):
            use()


def test_statesWhatItAllocated(device: Device) -> None:
    with device.allocate(last(device), 100) as allocation:
        assert (allocation.gpu, allocation.sizeBytes, allocation.writable) == (
            last(device),
            100,
            True,
        )
        assert allocation.allocatedBytes >= 100
        assert allocation.transport in ("memfd", "vmm", "cudaIpc")
        assert allocation.transportReason
        assert len(allocation.handle) <= 128


def test_freshMemoryReadsZero(device: Device) -> None:
    for _ in range(2):
        with device.allocate(0, 3 * MIB) as allocation:
            assert not any(readBytes(device, allocation.address, 3 * MIB))
            writeBytes(device, allocation.address, b"\xff" * MIB)


def test_bytesAreVisibleBothWays(device: Device, startPeer: StartPeer) -> None:
    peer = startPeer()
    with device.allocate(0, 3 * MIB + 5) as allocation:
        writeBytes(device, allocation.address + 3 * MIB, b"right")
        assert lend(peer, allocation).get("error") is None
        assert bytes.fromhex(peer.ask("read", offset=3 * MIB, sizeBytes=5)["data"]) == b"right"
        peer.ask("write", offset=7, data=b"back".hex())
        assert readBytes(device, allocation.address + 7, 4) == b"back"


def test_importOfOnesOwnAllocationIsAnAlias(device: Device) -> None:
    with (
        device.allocate(last(device), MIB) as allocation,
        alias(device, allocation) as first,
        alias(device, allocation) as second,
    ):
        writeBytes(device, first.address, b"one memory")
        assert (
            readBytes(device, second.address, 10)
            == readBytes(device, allocation.address, 10)
            == b"one memory"
        )
        first.close()
        assert readBytes(device, second.address, 10) == b"one memory"


def test_survivesTheAllocatorsSigkill(
    device: Device, platform: Platform, startPeer: StartPeer
) -> None:
    if not platform.outlivesOwner:
        pytest.skip(f"{platform.name}: memory goes with its owner by design")
    peer, successor = startPeer(), startPeer()
    with borrow(device, peer, MIB) as allocation:
        peer.ask("write", offset=0, data=b"legacy".hex())
        assert peer.kill() == -signal.SIGKILL
        assert readBytes(device, allocation.address, 6) == b"legacy"
        writeBytes(device, allocation.address, b"mine")
        # And the memory can be handed on, long after its creator ended.
        assert lend(successor, allocation).get("error") is None
        assert bytes.fromhex(successor.ask("read", offset=0, sizeBytes=6)["data"]) == b"minecy"


def test_readOnlyImportCanNotBeWritten(device: Device, startPeer: StartPeer) -> None:
    peer = startPeer()
    with device.allocate(0, MIB) as allocation:
        writeBytes(device, allocation.address, b"untouched")
        assert lend(peer, allocation, writable=False).get("error") is None
        assert bytes.fromhex(peer.ask("read", offset=0, sizeBytes=9)["data"]) == b"untouched"
        try:
            assert "error" in peer.ask("write", offset=0, data=b"scribbled".hex())
        except (EOFError, ConnectionResetError):
            assert peer.process.wait(30) == -signal.SIGSEGV
        assert readBytes(device, allocation.address, 9) == b"untouched"


def test_readOnlyDescriptorGivesNoWriteAccess(device: Device) -> None:
    with device.allocate(0, MIB) as allocation:
        if allocation.transport != "memfd":
            pytest.skip(f"{allocation.transport}: the platform has no read-only descriptors")
        descriptor = allocation.exportDescriptor(writable=False)
        try:
            with pytest.raises(PermissionDenied):
                device.importAllocation(0, descriptor, MIB, True)
            with device.importAllocation(0, descriptor, MIB, False) as reader:
                writeBytes(device, allocation.address, b"news")
                assert readBytes(device, reader.address, 4) == b"news"
                with pytest.raises(PermissionDenied):
                    reader.exportDescriptor()
                reader.exportDescriptor(writable=False).close()
        finally:
            descriptor.close()


def test_refusesMoreThanTheGpuHas(device: Device) -> None:
    total = device.memoryInfo(0).totalBytes
    before = openDescriptors(device)
    with pytest.raises((QuotaExceeded, HostMemoryFull)):
        device.allocate(0, total + PAGE_BYTES)
    assert openDescriptors(device) == before


def test_capacityIsThatOfEachGpu(device: Device, platform: Platform) -> None:
    if not platform.exactAccounting:
        pytest.skip(f"{platform.name}: others use the GPU meanwhile")
    gc.collect()  # memory of earlier tests must not come back later
    free, total = device.memoryInfo(0)
    assert 0 < free <= total
    half = total // 2
    with device.allocate(0, half), device.allocate(0, free - half):
        assert device.memoryInfo(0).freeBytes == 0
        with pytest.raises(QuotaExceeded):
            device.allocate(0, 1)
        device.allocate(last(device), half).close()
    gc.collect()
    assert device.memoryInfo(0).freeBytes == free


@pytest.mark.parametrize("sizeBytes", [0, -1, 1 << 60])
def test_refusesSizesThatCanNotBe(device: Device, sizeBytes: int) -> None:
    with pytest.raises(InvalidArgument):
        device.allocate(0, sizeBytes)
    with pytest.raises(InvalidArgument):
        device.importAllocation(0, 0, sizeBytes, True)
    with pytest.raises(InvalidArgument):
        device.registerHost(PAGE_BYTES, sizeBytes, True)


def test_closeTwiceIsFine(device: Device) -> None:
    allocation = device.allocate(0, 1)
    other = alias(device, allocation)
    for item in (allocation, allocation, other, other):
        item.close()
    for name in ("address", "anchor"):
        with pytest.raises(BufferFreed):
            getattr(allocation, name)
    with pytest.raises(BufferFreed):
        allocation.exportDescriptor()
    assert allocation.sizeBytes == 1


def test_anchorKeepsTheMemoryMapped(device: Device) -> None:
    allocation = device.allocate(0, MIB)
    address, anchor = allocation.address, allocation.anchor
    writeBytes(device, address, b"held")
    allocation.close()
    del allocation
    gc.collect()
    assert readBytes(device, address, 4) == b"held"
    del anchor


def forgedDescriptors() -> dict[str, int]:
    readEnd, writeEnd = os.pipe()
    os.close(writeEnd)
    unsealed = os.memfd_create("forged", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, MIB)
    return {
        "pipe": readEnd,
        "unsealed": unsealed,
        "device": os.open("/dev/zero", os.O_RDWR),
        "directory": os.open("/", os.O_RDONLY),
    }


def test_refusesForgedDescriptors(device: Device) -> None:
    closed = os.dup(0)
    os.close(closed)
    for number in (closed, -1, -2, 1 << 40):
        with pytest.raises(IpcHandleMismatch):
            device.importAllocation(0, number, MIB, True)
    for what, descriptor in forgedDescriptors().items():
        before = openDescriptors(device)
        with pytest.raises(IpcHandleMismatch):
            device.importAllocation(0, descriptor, MIB, False)
        assert openDescriptors(device) == before, what
        os.close(descriptor)


def test_refusesMoreBytesThanThereAre(device: Device) -> None:
    with device.allocate(0, MIB) as allocation:
        descriptor = allocation.exportDescriptor()
        with pytest.raises(IpcHandleMismatch):
            device.importAllocation(
                0, descriptor, allocation.allocatedBytes + 1, True, allocation.handle
            )
        device.importAllocation(0, descriptor, 1, True, allocation.handle).close()
        descriptor.close()


def test_refusesAHandleThatItDidNotMake(device: Device) -> None:
    with device.allocate(0, MIB) as allocation:
        descriptor = allocation.exportDescriptor()
        with pytest.raises(IpcHandleMismatch):
            device.importAllocation(0, descriptor, MIB, True, b"\x5a" * 127)
        descriptor.close()


@pytest.mark.long
def test_leaksNoDescriptorOver1000Cycles(device: Device) -> None:
    def cycle() -> None:
        with device.allocate(0, 1) as allocation:
            alias(device, allocation).close()
            alias(device, allocation)  # dropped, not closed

    cycle()
    gc.collect()
    before = openDescriptors(device)
    for _ in range(1000):
        cycle()
    gc.collect()
    assert openDescriptors(device) == before


def test_severalThreadsAllocateImportAndClose(device: Device) -> None:
    def work(number: int) -> None:
        for step in range(20):
            with (
                device.allocate(number % device.gpuCount, 8 * PAGE_BYTES) as allocation,
                alias(device, allocation) as other,
            ):
                mark = bytes([number, step]) * 8
                writeBytes(device, allocation.address, mark)
                assert readBytes(device, other.address, 16) == mark

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_registersHostMemory(device: Device, hostMemory: HostMemory) -> None:
    source = hostMemory(b"hosts".ljust(MIB))
    seen: list[int] = []
    with (
        device.registerHost(ctypes.addressof(source), MIB, True, seen.append) as registration,
        device.allocate(last(device), MIB) as target,
    ):
        stream = device.asStream(None, last(device))
        device.copy(target.address, registration.devicePointer, MIB, stream)
        assert readBytes(device, target.address, 5) == b"hosts"
    assert sum(seen) == MIB
    registration.close()
    with pytest.raises(InvalidArgument):
        device.registerHost(0, MIB, True)


def test_progressCancelsARegistration(device: Device, hostMemory: HostMemory) -> None:
    source, seen = hostMemory(bytes(MIB)), list[int]()

    def enough(part: int) -> None:
        seen.append(part)
        raise LookupError("enough")

    for _ in range(2):
        with pytest.raises(LookupError, match="enough"):
            device.registerHost(ctypes.addressof(source), MIB, True, enough)
    assert len(seen) == 2
    device.registerHost(ctypes.addressof(source), MIB, True).close()


def test_closedMemoryIsToldOnceToEach(device: Device, hostMemory: HostMemory) -> None:
    source, told = hostMemory(bytes(MIB)), list[str]()
    registration = device.registerHost(ctypes.addressof(source), MIB, True)
    registration.closeThen(lambda: told.append("first"))
    registration.close()
    device.memoryInfo(0)
    assert told == ["first"]
    registration.closeThen(lambda: told.append("second"))
    del registration
    device.memoryInfo(0)
    assert told == ["first", "second"]


def test_copiesBetweenAllPlaces(device: Device) -> None:
    """A copy between two GPUs works also if neither reaches the other. On two H200, the
    driver answered INVALID_VALUE for memory that only its own GPU has mapped.
    """
    data, there = os.urandom(MIB + 3), last(device)
    for near, far in (
        (None, device.asStream(None, there)),
        (device.createStream(0), device.createStream(there)),
    ):
        with (
            device.allocate(0, len(data)) as first,
            device.allocate(0, len(data)) as second,
            device.allocate(there, len(data)) as other,
        ):
            source = ctypes.create_string_buffer(data, len(data))
            result = ctypes.create_string_buffer(len(data))
            paths = [
                ctypes.addressof(source),
                first.address,
                second.address,
                other.address,
                ctypes.addressof(result),
            ]
            for (origin, target), stream in zip(
                itertools.pairwise(paths), (near, near, near, far), strict=True
            ):
                device.copy(target, origin, len(data), stream)
                device.asStream(stream).synchronize()
            assert result.raw == data


def test_memoryIsReachedByItsOwnGpuAndThoseThatWereLet(device: Device) -> None:
    there = last(device)
    with device.allocate(0, MIB) as memory:
        assert memory.isReachedBy(0)
        memory.letReach(0)
        assert memory.isReachedBy(there) == (there == 0), "no GPU but its own reaches it"
        if device.canAccessPeer(there, 0):
            for _ in range(2):
                memory.letReach(there)
                assert memory.isReachedBy(there)
            again = alias(device, memory)
            assert again.isReachedBy(there) == (there == 0), "each mapping has its own access"
            again.close()
        else:
            with pytest.raises(TopologyNotPeerable):
                memory.letReach(there)
            assert not memory.isReachedBy(there)
    with pytest.raises(BufferFreed):
        memory.letReach(there)


def test_copiesStraightToAGpuThatReachesTheMemory(device: Device) -> None:
    there, data = last(device), os.urandom(MIB + 3)
    with device.allocate(0, len(data)) as near, device.allocate(there, len(data)) as far:
        writeBytes(device, near.address, data)
        if there == 0:
            return
        near.letReach(there)
        stream = device.createStream(0)
        for length in (len(data), 0):
            device.copyAcross(far.address, there, near.address, 0, length, stream)
        stream.synchronize()
        out = ctypes.create_string_buffer(len(data))
        device.copyNow(ctypes.addressof(out), far.address, len(data), there)
        assert out.raw == data
        for wrong in ((0, near.address, 1), (far.address, 0, 1), (far.address, near.address, -1)):
            target, source, length = wrong
            with pytest.raises(InvalidArgument):
                device.copyAcross(target, there, source, 0, length, stream)


@pytest.mark.parametrize("count", [1, 3, 200])
def test_copiesABatch(device: Device, hostMemory: HostMemory, count: int) -> None:
    """Between a GPU and host memory that is registered, and within a GPU."""
    each = 3 * PAGE_BYTES
    data = os.urandom(count * each)
    source, out = hostMemory(data), hostMemory(bytes(len(data)))
    there, stream = last(device), device.createStream(last(device))
    with (
        device.registerHost(ctypes.addressof(source), len(data), True) as near,
        device.registerHost(ctypes.addressof(out), len(data), True) as far,
        device.allocate(there, len(data)) as first,
        device.allocate(there, len(data)) as second,
    ):
        # Each batch has every second range.
        for target, origin in (
            (first.address, near.devicePointer),
            (second.address, first.address),
            (far.devicePointer, second.address),
        ):
            ranges = [(target + at * each, origin + at * each, each) for at in range(count)]
            device.copyBatch(ranges[::2], stream)
            device.copyBatch(ranges[1::2], stream)
        device.copyBatch([], stream)
        stream.synchronize()
        assert out.raw == data


def test_memoryThatItsCallerFillsIsClearedBehindThat(device: Device) -> None:
    sizeBytes = 100_000
    with device.allocate(0, sizeBytes, filledBytes=sizeBytes - 10) as memory:
        assert readBytes(device, memory.address + sizeBytes - 10, 10) == bytes(10)
        rest = memory.allocatedBytes - sizeBytes
        assert readBytes(device, memory.address + sizeBytes, rest) == bytes(rest)


def test_copyOfNothingIsFineAndOfLessIsNot(device: Device) -> None:
    device.copy(0, 0, 0)
    for target, source, sizeBytes in (
        (PAGE_BYTES, PAGE_BYTES, -1),
        (0, PAGE_BYTES, 1),
        (PAGE_BYTES, 0, 1),
    ):
        with pytest.raises(InvalidArgument):
            device.copy(target, source, sizeBytes)


def test_copyUnderWayKeepsItsMemoryMapped(device: Device) -> None:
    semaphore = threading.Event()
    stream = device.createStream(0)
    result = ctypes.create_string_buffer(6)
    allocation = device.allocate(0, MIB)
    writeBytes(device, allocation.address, b"kept!!")
    stream.submit(semaphore.wait)
    device.copy(
        ctypes.addressof(result), allocation.address, 6, stream, keepAlive=allocation.anchor
    )
    allocation.close()
    del allocation
    gc.collect()
    semaphore.set()
    stream.synchronize()
    assert result.raw == b"kept!!"
