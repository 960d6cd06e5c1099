"""Transfers: a copy between GPUs is whole, goes by a way that was seen to be right, says
which, and leaves nothing behind when it ends early.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.devices import ways
from muninn.devices.host import device as hostdevice
from muninn.devices.host.streams import WorkerStream
from muninn.devices.topology import probing
from muninn.devices.topology.cache import keptFor
from muninn.devices.topology.links import Links
from muninn.devices.topology.verdict import Verdict
from muninn.errors import (
    BufferExists,
    BufferFreed,
    BufferMismatch,
    BufferNotFound,
    DeviceUnavailable,
    InvalidArgument,
    PermissionDenied,
    QuotaExceeded,
    ThreadsExhausted,
    TopologyNotPeerable,
    TransferCancelled,
    WriterDied,
)
from muninn.session import gpus, membership
from muninn.system import atomics, threads
from muninn.transfer import engine as engines
from muninn.transfer.engines import engineOf
from muninn.transfer.handle import Transfer
from muninn.transfer.tiers import Place, Tier
from support import Actor, ActorError, eventually

Start = Callable[..., Actor]
#: The links of each other GPU to the first one, by the number of the GPU.
LINKS = "0-2=none, 0>3=corrupt, 0-4=refuse, 0-5=slow:20M"
GOOD, NONE, CORRUPT, REFUSING, SLOW = 1, 2, 3, 4, 5
ELEMENTS = 300_000


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch, domain: str) -> Iterator[None]:
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "6")
    monkeypatch.setenv("MUNINN_HOST_LINKS", LINKS)
    yield
    eventually(lambda: not measuring(), "what measures links beside has ended")


def measuring() -> list[str]:
    """The threads that may still be at work for a test."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name in ("muninn-links", "muninn-ways")]


def content(seed: int = 1) -> np.ndarray[Any, Any]:
    return np.arange(seed, seed + ELEMENTS, dtype=np.uint32)


@pytest.fixture
def buffer() -> muninn.MuninnBuffer:
    """On the first GPU."""
    return muninn.share(content(), "a", mode="fastMode", preferredGpu=0, access="readWrite")


def device() -> Any:
    return gpus.deviceOf(membership.current())


def engine() -> Any:
    return engineOf(membership.current().openBuffers.context)


def awaitMeasured(links: Links) -> None:
    """Wait until the good link is measured, and the thread that did it changes nothing more."""

    def isDone() -> bool:
        known = links.known(0, GOOD)
        isAtIt = any(each.name == "muninn-links" for each in threading.enumerate())
        return known is not None and known.stagedBytesPerSecond > 0 and not isAtIt

    eventually(isDone, "it is measured")


def usedOn(gpu: int) -> int:
    info = device().memoryInfo(gpu)
    return int(info.totalBytes - info.freeBytes)


class Gate:
    """A `progress` function that waits, and so keeps a transfer under way."""

    def __init__(self) -> None:
        self.reached, self.opened, self.sizeBytes = threading.Event(), threading.Event(), 0

    def __call__(self, sizeBytes: int) -> None:
        self.sizeBytes += sizeBytes
        self.reached.set()
        assert self.opened.wait(30)


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.opened.set()


# --- routes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "route", "reason"),
    [
        (0, "local", "sameGpu"),
        (GOOD, "p2p", "peerAccess"),
        (NONE, "staged", "peerDenied"),
        (CORRUPT, "staged", "peerCorrupt"),
        (REFUSING, "staged", "peerEnableFailed"),
    ],
)
def test_eachLinkGetsItsRouteAndEachCopyIsWhole(
    buffer: muninn.MuninnBuffer, gpu: int, route: str, reason: str
) -> None:
    for _ in range(2):
        copied = buffer.copyTo(gpu)
        transfer = copied.transfer
        assert transfer is not None
        assert (transfer.route, transfer.reason) == (route, reason)
        assert copied.gpu == gpu and copied.route == route
        assert transfer.sizeBytes == copied.nbytes and transfer.seconds > 0
        assert (transfer.source, transfer.target) == ("GPU 0", f"GPU {gpu}")
        assert np.array_equal(copied.read(), content())
    if route == "staged":
        with pytest.raises(TopologyNotPeerable, match=reason):
            buffer.copyTo(gpu, route="p2p")
    staged = buffer.copyTo(gpu, route="staged")
    expected = ("local", "sameGpu") if gpu == 0 else ("staged", "asked")
    assert staged.transfer is not None
    assert (staged.transfer.route, staged.transfer.reason) == expected
    assert np.array_equal(staged.read(), content())


def test_aLinkThatChangesBytesIsFoundBeforeAnyOfTheUsersGoOverIt(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = list[tuple[int, int]]()
    send = device()._links.send

    def noting(source: int, sourceGpu: int, target: int, targetGpu: int, sizeBytes: int) -> None:
        sent.append((targetGpu, sizeBytes))
        send(source, sourceGpu, target, targetGpu, sizeBytes)

    monkeypatch.setattr(device()._links, "send", noting)
    copied = buffer.copyTo(CORRUPT)
    assert np.array_equal(copied.read(), content())
    assert sent and all(gpu == CORRUPT and each != buffer.nbytes for gpu, each in sent)
    assert "changed" in (copied.transfer.note if copied.transfer else "")


def test_aSlowLinkIsLeftAloneOnceItWasMeasured(buffer: muninn.MuninnBuffer) -> None:
    first = buffer.copyTo(SLOW)
    assert first.transfer is not None and first.transfer.reason == "peerAccess"
    eventually(lambda: engine().links.known(0, SLOW).stagedBytesPerSecond, "the link is measured")
    later = buffer.copyTo(SLOW)
    assert later.transfer is not None
    assert (later.transfer.route, later.transfer.reason) == ("staged", "peerSlower")
    assert "GB/s by the link" in later.transfer.note
    assert buffer.copyTo(SLOW, route="p2p").route == "p2p", "but for a caller who demands it"


def test_theVerdictIsKeptForLaterProcesses(
    buffer: muninn.MuninnBuffer, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer.copyTo(CORRUPT)
    kept = keptFor(device(), "")
    verdict = kept.get(device().gpuUuid(0), device().gpuUuid(CORRUPT))
    assert verdict is not None and verdict.isIntact is False
    other = actor(
        "from muninn.devices.topology import links\n"
        "links.verify = None\n"
        "b = muninn.open('a').copyTo(3)"
    )
    assert other.do("b.transfer.reason") == "peerCorrupt"


def test_whatAnotherProcessFindsOutLaterCountsFromTheNextCopyOn(
    buffer: muninn.MuninnBuffer,
) -> None:
    """As when `topology --refresh` finds that a link has gone bad. Broken: a process kept
    to what it had found out itself until it ended.
    """
    assert buffer.copyTo(GOOD, name="before").route == "p2p"
    # What this process measures beside that copy must not take the place of what follows.
    awaitMeasured(engine().links)
    uuids = device().gpuUuid(0), device().gpuUuid(GOOD)
    kept = keptFor(device(), "")
    kept.put(*uuids, Verdict(isIntact=False, note="bytes were changed"))
    copied = buffer.copyTo(GOOD, name="after")
    assert copied.transfer is not None
    assert (copied.route, copied.transfer.reason) == ("staged", "peerCorrupt")
    kept.put(*uuids, Verdict(note="there was no room"))
    assert buffer.copyTo(GOOD).route == "staged", "what could not be verified says nothing"
    kept.put(*uuids, Verdict(isIntact=True))
    assert buffer.copyTo(GOOD).route == "p2p"


def test_aVerdictThatCouldNotBeReadIsLookedAtAgain(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: an interruption in the midst of reading left the old verdict for good."""
    assert buffer.copyTo(GOOD).route == "p2p"
    links, uuids = engine().links, (device().gpuUuid(0), device().gpuUuid(GOOD))
    awaitMeasured(links)
    keptFor(device(), "").put(*uuids, Verdict(isIntact=False))
    usual = links._kept.pairs

    def interrupted() -> None:
        monkeypatch.setattr(links._kept, "pairs", usual)
        raise KeyboardInterrupt

    monkeypatch.setattr(links._kept, "pairs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        links.known(0, GOOD)
    assert links.known(0, GOOD).isIntact is False
    monkeypatch.setattr(links._kept, "pairs", dict)
    keptFor(device(), "").put(*uuids, Verdict(isIntact=True))
    assert links.known(0, GOOD).isIntact is False, "nothing could be read"
    monkeypatch.setattr(links._kept, "pairs", usual)
    assert links.known(0, GOOD).isIntact is True


def test_figuresDoNotSayThatALinkIsIntact(buffer: muninn.MuninnBuffer) -> None:
    """Broken: a process that measured beside one that found the link corrupt kept what it had
    known before.
    """
    kept, uuids = keptFor(device(), ""), (device().gpuUuid(0), device().gpuUuid(GOOD))
    kept.putFigures(*uuids, Verdict(True, 1.0, 2.0, 4096, 2))
    assert kept.get(*uuids) == Verdict(True, 1.0, 2.0, 4096, 2)
    kept.put(*uuids, Verdict(isIntact=False, note="bytes were changed"))
    kept.putFigures(*uuids, Verdict(True, 3.0, 4.0, 4096, 2))
    assert kept.get(*uuids) == Verdict(False, 3.0, 4.0, 4096, 2, "bytes were changed")


def test_thePiecesThatWereTunedAreUsedWhereThereIsNoLink(buffer: muninn.MuninnBuffer) -> None:
    """Broken: what was kept of such a pair was not believed, as the link could not be
    verified, and each copy read the file anew.
    """
    uuids = device().gpuUuid(0), device().gpuUuid(NONE)
    keptFor(device(), "").put(*uuids, Verdict(pieceBytes=1 << 20, pieceCount=3))
    buffer.copyTo(NONE)
    (idle,) = engine()._idle
    pieces = idle.way._pieces
    assert (pieces.pieceBytes, len(pieces.addresses)) == (1 << 20, 3)


def test_whatCouldNotBeVerifiedIsTriedAgainByALaterProcess(buffer: muninn.MuninnBuffer) -> None:
    uuids = device().gpuUuid(0), device().gpuUuid(GOOD)
    keptFor(device(), "").put(*uuids, Verdict(note="there was no room"))
    assert buffer.copyTo(GOOD).route == "p2p"


@pytest.mark.parametrize(
    ("p2p", "staged", "isSlower"),
    [(95.0, 100.0, False), (85.0, 100.0, True), (0.0, 100.0, False), (85.0, 0.0, False)],
)
def test_aLinkIsSlowerByATenth(p2p: float, staged: float, isSlower: bool) -> None:
    """A figure of 0 was not measured."""
    assert engines._factsOf(Verdict(True, p2p, staged)).isSlower == isSlower


def test_accessThatIsRefusedLaterStagesTheCopy(buffer: muninn.MuninnBuffer) -> None:
    """The driver refuses, although the link was seen to be good."""
    uuids = device().gpuUuid(0), device().gpuUuid(REFUSING)
    keptFor(device(), "").put(*uuids, Verdict(isIntact=True))
    copied = buffer.copyTo(REFUSING)
    assert copied.transfer is not None
    assert (copied.route, copied.transfer.reason) == ("staged", "peerEnableFailed")
    assert np.array_equal(copied.read(), content())


def test_anotherMatrixIsAnotherDriver(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    buffer.copyTo(CORRUPT)
    other = actor("", MUNINN_HOST_LINKS="")
    assert other.do("muninn.open('a').copyTo(3).route") == "p2p"


def test_aPolicyMayPreferTheHost(actor: Start, buffer: muninn.MuninnBuffer) -> None:
    other = actor("b = muninn.open('a')", MUNINN_PREFER_P2P="false")
    assert other.do("b.copyTo(1).transfer.reason") == "policyPrefersStaged"
    assert other.do("b.copyTo(1, route='p2p').route") == "p2p"


def test_withoutProbingOnlyVerifiedLinksAreUsed(
    actor: Start, buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A figure that is taken on a busy machine would make the link slower than the host.
    monkeypatch.setattr(Links, "_measureBeside", lambda *_: None)
    other = actor("b = muninn.open('a')", MUNINN_ENABLE_PEER_PROBING="false")
    assert other.do("b.copyTo(1).transfer.reason") == "peerUnverified"
    with pytest.raises(ActorError, match="peerUnverified.*enablePeerProbing"):
        other.do("b.copyTo(1, route='p2p')")
    buffer.copyTo(GOOD), buffer.copyTo(CORRUPT)
    later = actor("b = muninn.open('a')", MUNINN_ENABLE_PEER_PROBING="false")
    assert later.do("[b.copyTo(gpu).transfer.reason for gpu in (1, 3)]") == [
        "peerAccess",
        "peerCorrupt",
    ]


def test_aPairWithoutRoomIsNotVerified(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "_VERIFIED_BYTES", 1 << 40)
    copied = buffer.copyTo(GOOD)
    assert copied.transfer is not None
    assert (copied.route, copied.transfer.reason) == ("staged", "peerUnverified")
    monkeypatch.undo()
    assert buffer.copyTo(GOOD).route == "staged", "within this process it stays"


def test_transfersAreCountedByRouteAndReason(buffer: muninn.MuninnBuffer) -> None:
    for times in (1, 2):
        buffer.copyTo(GOOD).close()
        told = muninn.domainInfo()["transfers"]["p2p/peerAccess"]
        assert told.pop("ns") > 0
        assert told == {"times": times, "bytes": times * buffer.nbytes}


# --- copyTo --------------------------------------------------------------------------


def test_aCopyIsABufferThatAnyProcessOpens(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    copied = buffer.copyTo(GOOD, name="b")
    assert (copied.shape, copied.dtype, copied.access) == (buffer.shape, buffer.dtype, "readWrite")
    other = actor("b = muninn.open('b')")
    assert other.do("b.gpu, int(b.read().sum()), b.route") == [1, int(content().sum()), None]
    with pytest.raises(BufferExists):
        buffer.copyTo(GOOD, name="b")
    assert buffer.copyTo(GOOD, access="readOnly").access == "readOnly"


def test_hostMemoryIsCopiedToAGpu() -> None:
    shared = muninn.share(content(), "h")
    copied = shared.copyTo(GOOD)
    assert copied.route == "upload" and np.array_equal(copied.read(), content())
    assert shared.copyTo(GOOD, route="staged").route == "upload", "there is one way"
    with pytest.raises(TopologyNotPeerable, match="hostMemory"):
        shared.copyTo(GOOD, route="p2p")
    with pytest.raises(TopologyNotPeerable, match="hostMemory"):
        muninn.open("h", targetGpu=GOOD, route="p2p")


@pytest.mark.parametrize("route", ["p2p", "staged"])
def test_withinOneGpuThereIsOneWayWhateverIsDemanded(
    buffer: muninn.MuninnBuffer, route: Any
) -> None:
    copied = buffer.copyTo(0, route=route)
    assert copied.transfer is not None
    assert (copied.transfer.route, copied.transfer.reason) == ("local", "sameGpu")
    assert np.array_equal(copied.read(), content())
    there = muninn.open("a", targetGpu=0, route=route)
    assert (there.gpu, there.transfer) == (0, None) and len(muninn.listBuffers()) == 2


@pytest.mark.parametrize("shape", [(), (0,), (3, 5, 7)])
def test_arraysOfAnyShapeAreCopied(shape: tuple[int, ...]) -> None:
    array = np.full(shape, 1.5)
    shared = muninn.share(array, "s", mode="fastMode", preferredGpu=0)
    copied = shared.copyTo(NONE)
    assert copied.shape == shape and np.array_equal(copied.read(), array)


def test_namesOfFieldsGoAlong() -> None:
    array = np.zeros(4, np.dtype([("x", "f4"), ("y", "u1")]))
    array["y"] = range(4)
    copied = muninn.share(array, "s", mode="fastMode", preferredGpu=0).copyTo(GOOD)
    assert copied.dtype == array.dtype and copied.read()["y"].tolist() == [0, 1, 2, 3]


def test_aCopyIsOfOneGeneration(buffer: muninn.MuninnBuffer) -> None:
    """While a writer publishes without a pause."""
    isOver = threading.Event()

    def write() -> None:
        value = 0
        while not isOver.is_set():
            value += 1
            with buffer.write() as view:
                view[:] = value

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for gpu in (GOOD, NONE) * 5:
            assert len(np.unique(buffer.copyTo(gpu, timeout=30).read())) == 1
    finally:
        isOver.set()
        writer.join()


def test_aHalfWrittenBufferIsNotCopied(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    other = actor("b = muninn.open('a', 'readWrite')\nw = b.write(); w.__enter__()[:5] = 9")
    other.kill()
    with pytest.raises(WriterDied):
        buffer.copyTo(GOOD, timeout=30)


def test_argumentsThatCanNotBeAreRefusedBeforeAnythingIsMade(buffer: muninn.MuninnBuffer) -> None:
    used = usedOn(GOOD)
    with pytest.raises(DeviceUnavailable):
        buffer.copyTo(17)
    with pytest.raises(InvalidArgument, match="did you mean 'staged'"):
        buffer.copyTo(GOOD, route="stagd")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        buffer.copyTo(GOOD, timeout=-1)
    with pytest.raises(TypeError):
        buffer.copyTo(GOOD, progress=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="gpus"):
        buffer.copyTo(gpus=1)  # type: ignore[call-arg]
    with pytest.raises(QuotaExceeded):
        muninn.share(np.zeros(600 << 20, np.uint8), mode="fastMode").copyTo(GOOD).copyTo(GOOD)
    gc.collect()
    eventually(lambda: usedOn(GOOD) == used, "their memory is given back")
    buffer.close()
    with pytest.raises(BufferFreed):
        buffer.copyTo(GOOD)


def test_bundlesAreNotCopiedAsOneArray() -> None:
    """Broken: a bundle on several GPUs was published with one new segment."""
    bundles = [
        muninn.shareBundle({key: np.zeros(3)}, mode="fastMode", access="readWrite")
        for key in ("w", "x")
    ]
    for copy in (
        lambda: bundles[0].buffer.copyTo(GOOD),
        lambda: bundles[0].buffer.copyFrom(bundles[1].buffer),
    ):
        with pytest.raises(InvalidArgument, match="bundle"):
            copy()


def test_privateMemoryIsNotCopied() -> None:
    """Broken: the copy was of the shared bytes, and not of those that the object shows."""
    muninn.share(content(), "h")
    private = muninn.open("h", "copyOnWrite")
    private.array[0] = 9
    for copy in (
        lambda: private.copyTo(GOOD),
        lambda: muninn.open("h", "copyOnWrite", targetGpu=GOOD),
    ):
        with pytest.raises(InvalidArgument, match="copyOnWrite"):
            copy()


def test_aCopyGoesWithItsLastReference(buffer: muninn.MuninnBuffer) -> None:
    """Broken: the copy and its transfer referred to each other, so VRAM stayed until the
    next collection; and an error kept the memory that it had interrupted.
    """
    gc.disable()
    try:
        used = usedOn(GOOD)
        for _ in range(3):
            copied = buffer.copyTo(GOOD)
        del copied
        eventually(lambda: usedOn(GOOD) == used, "the copies are gone")
        errors = []
        for _ in range(3):
            try:
                buffer.copyTo(GOOD, progress=lambda sizeBytes: 1 / 0)
            except ZeroDivisionError as error:
                errors.append(error)
        eventually(lambda: usedOn(GOOD) == used, "an error keeps no memory")
        failed = buffer.startCopyTo(GOOD, progress=lambda sizeBytes: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            failed.result(30)
        eventually(lambda: usedOn(GOOD) == used, "nor does a transfer that failed")
    finally:
        gc.enable()


def test_anOpenedCopyHasTheRightsOfTheCaller(actor: Start, buffer: muninn.MuninnBuffer) -> None:
    """Broken: a buffer that was opened for reading was writable if it was copied."""
    for access, gpu in (("readOnly", 0), ("readOnly", 1), ("readWrite", 0), ("readWrite", 1)):
        opened = muninn.open("a", access, timeout=0, targetGpu=gpu, renew="onUse")  # type: ignore[call-overload]
        assert opened.writable == (access == "readWrite")
        assert opened._expiresMs, "renew goes along"


def test_aProcessThatForksLeavesTheTransferToItsParent(
    buffer: muninn.MuninnBuffer, gate: Gate
) -> None:
    import os

    transfer = buffer.startCopyTo(GOOD, progress=gate)
    assert gate.reached.wait(30)
    child = os.fork()
    if not child:
        try:
            transfer.result()
        except DeviceUnavailable:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    gate.opened.set()
    assert transfer.result(30).route == "p2p"


class Boom(Exception):
    """What a signal handler of a program raises."""


@pytest.mark.parametrize("raised", [KeyboardInterrupt, Boom, BufferFreed])
def test_aSecondInterruptionWaitsForTheCopiesToo(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch, raised: type[BaseException]
) -> None:
    """Broken: it ended the wait for the windows that a GPU had been given, and the memory
    was given back while they were copied. If it was no KeyboardInterrupt, it was taken for
    an error of the stream, and so for its end, and this process died of a SIGSEGV.
    """
    waited = list[str]()
    settle = WorkerStream.settle

    def interrupted(stream: WorkerStream) -> None:
        if not waited:
            waited.append("interrupted")
            raise raised("again")
        settle(stream)
        waited.append("done")

    monkeypatch.setattr(WorkerStream, "settle", interrupted)

    def interrupt(sizeBytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(raised, match="again"):
        buffer.copyTo(NONE, progress=interrupt)
    assert waited == ["interrupted", "done", "done"]


def test_aStreamIsSettledWhateverCameOfItsWork() -> None:
    stream, done = WorkerStream(0), list[int]()
    stream.submit(lambda: 1 // 0)
    stream.enqueue(lambda error: (time.sleep(0.1), done.append(1)))
    stream.close()
    stream.settle()
    assert done == [1]


def test_aCopyThatGetsNoThreadHasChangedNothing(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: it had begun to write, and readers got WriterDied."""
    target = muninn.share(content(), "t", "fastMode", "readWrite", preferredGpu=GOOD)
    start = threads.start

    def refusing(call: Callable[[], object], name: str) -> Any:
        if name.startswith("muninn-stream"):
            raise ThreadsExhausted("no thread")
        return start(call, name)

    monkeypatch.setattr(threads, "start", refusing)
    with pytest.raises(ThreadsExhausted):
        target.copyFrom(buffer)
    assert target.generation == 0 and np.array_equal(target.read(), content())


@pytest.mark.parametrize("value", [np.array([1, 2]), 7, b"p2p"])
def test_wordsAreTexts(buffer: muninn.MuninnBuffer, value: Any) -> None:
    """Broken: for an array numpy said that its truth value is ambiguous."""
    for call in (
        lambda: buffer.copyTo(GOOD, route=value),
        lambda: buffer.copyTo(GOOD, access=value),
        lambda: muninn.open(buffer.name, targetGpu=GOOD, route=value),
        lambda: muninn.array("x", 3, access=value),
    ):
        with pytest.raises(TypeError, match="must be a str, not"):
            call()
    with pytest.raises(TypeError, match="wait: timeout must be seconds, not str"):
        buffer.startCopyTo(GOOD).wait("x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="result: timeout must be seconds, not str"):
        buffer.startCopyTo(GOOD).result("x")  # type: ignore[arg-type]


@pytest.fixture
def unsettled(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Copies are interrupted, and so is each wait for the streams on this thread; what
    the streams were given is done once the event is set.
    """
    goOn, own = threading.Event(), threading.current_thread()
    copy, drained, arrive = atomics.copy, ways._drained, ways._arrive

    def slowly(*arguments: Any) -> None:
        assert threading.current_thread() is own or goOn.wait(30)
        copy(*arguments)

    def interrupted(call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **named: Any) -> Any:
            if threading.current_thread() is own:
                raise KeyboardInterrupt
            return call(*arguments, **named)

        return made

    # No link is measured meanwhile.
    uuids = device().gpuUuid(0), device().gpuUuid(NONE)
    keptFor(device(), "").put(*uuids, Verdict(pieceBytes=1 << 20, pieceCount=3))
    monkeypatch.setattr(hostdevice, "atomics", SimpleNamespace(copy=slowly))
    monkeypatch.setattr(ways, "_arrive", interrupted(arrive))
    monkeypatch.setattr(ways, "_drained", interrupted(drained))
    yield goOn
    goOn.set()


def test_anInterruptionOfTheWaitLeavesTheAccessUntilTheCopyIsOver(
    buffer: muninn.MuninnBuffer, unsettled: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a second Ctrl-C just before the wait ended the accesses, and the next writer
    was overtaken by what the streams still had to do.
    """
    target = muninn.share(content(), "t", "fastMode", "readWrite", preferredGpu=NONE)
    with pytest.raises(KeyboardInterrupt):
        target.copyFrom(buffer, route="staged")
    for each in (target, buffer):
        with pytest.raises(TimeoutError), each.write(timeout=0.2):
            pass
    unsettled.set()
    monkeypatch.undo()
    for each in (target, buffer):
        with each.write(timeout=30) as view:
            view[:] = 5
    assert (target.read() == 5).all()


def test_anInterruptionOfTheWaitLeavesTheMemoryUntilTheCopyIsOver(
    buffer: muninn.MuninnBuffer, unsettled: threading.Event
) -> None:
    """Broken: it was unmapped, and the stream's thread died of a SIGSEGV."""
    with pytest.raises(KeyboardInterrupt):
        buffer.copyTo(NONE, route="staged")
    gc.collect()
    time.sleep(0.1)
    assert mappedOf(NONE) == 1
    unsettled.set()
    eventually(lambda: not mappedOf(NONE), "it is unmapped")


def mappedOf(gpu: int) -> int:
    """How many pieces of an emulated GPU's memory this process has mapped."""
    with open("/proc/self/maps") as file:
        return sum(f"/memfd:muninn-gpu{gpu}" in line for line in file)


def test_aTransferKeepsItsPlaceAmongThoseThatWait(buffer: muninn.MuninnBuffer) -> None:
    """Broken: it gave its place up every 0.2 s, and writers that took turns kept it out
    for ever.
    """
    source, isOver = buffer.copyTo(GOOD), threading.Event()

    def write() -> None:
        while not isOver.is_set():
            with buffer.write():
                time.sleep(0.25)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            buffer.copyFrom(source, timeout=20)
    finally:
        isOver.set()
        for writer in writers:
            writer.join()


# --- opening for another GPU ------------------------------------------------------------


def test_openForAnotherGpuIsACopyThere(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    other = actor("b = muninn.open('a', targetGpu=1)")
    assert other.do("b.gpu, b.route, b.transfer.reason, int(b.read().sum())") == [
        1,
        "p2p",
        "peerAccess",
        int(content().sum()),
    ]
    assert other.do("len(muninn.listBuffers())") == 2
    assert other.do("b.close(), len(muninn.listBuffers())") == [None, 1], "it goes with its user"
    assert other.do("muninn.open('a', targetGpu=0).route") is None, "it is there already"
    with pytest.raises(ActorError, match="peerDenied"):
        other.do("muninn.open('a', targetGpu=2, route='p2p')")
    with pytest.raises(ActorError, match="none is named"):
        other.do("muninn.open('a', route='p2p')")


def test_mappedIsTheBufferItself(buffer: muninn.MuninnBuffer) -> None:
    with pytest.raises(TopologyNotPeerable, match='route="mapped"'):
        buffer.deviceArray(GOOD)
    mapped = muninn.open("a", "readWrite", targetGpu=GOOD, route="mapped")
    assert (mapped.gpu, mapped.route, mapped.transfer) == (0, "mapped", None)
    mapped.deviceArray()[0] = 77
    assert buffer.read()[0] == 77
    assert buffer.deviceArray(GOOD)[0] == 77, "this process has mapped it for that GPU"
    for gpu in (NONE, REFUSING):
        with pytest.raises(TopologyNotPeerable):
            muninn.open("a", targetGpu=gpu, route="mapped")
    with pytest.raises(TopologyNotPeerable, match="peerCorrupt"):
        muninn.open("a", targetGpu=CORRUPT, route="mapped")
    # Broken: where there is no path, it was the one error without its word.
    for refused in (
        lambda: muninn.open("a", targetGpu=NONE, route="mapped"),
        lambda: buffer.deviceArray(NONE),
    ):
        with pytest.raises(TopologyNotPeerable, match="peerDenied"):
            refused()
    assert muninn.open("a", targetGpu=0, route="mapped").deviceArray()[1] == 2
    assert muninn.share(content(), "h").route is None
    assert muninn.open("h", targetGpu=GOOD, route="mapped").route == "mapped"


def test_privateMemoryIsNotMappedForKernels() -> None:
    """Broken: it opened, and said that it was."""
    muninn.share(content(), "h")
    with pytest.raises(InvalidArgument, match="copyOnWrite"):
        muninn.open("h", "copyOnWrite", targetGpu=GOOD, route="mapped")
    assert not muninn.listBuffers()[0]["importers"]


def test_aForkedChildReachesWhatItsParentMapped(buffer: muninn.MuninnBuffer, actor: Start) -> None:
    """Broken: there it was a buffer as any other one, without its route."""
    other = actor("b = muninn.open('a', targetGpu=1, route='mapped')\nimport os")
    child = "os.fork() or os._exit(b.read()[0] == b.deviceArray()[0] == 1 and b.route == 'mapped')"
    assert other.do(f"os.waitstatus_to_exitcode(os.waitpid({child}, 0)[1])") == 1


# --- copyFrom --------------------------------------------------------------------------


@pytest.mark.parametrize("gpu", [0, GOOD, NONE, CORRUPT, None])
def test_copyFromPublishes(gpu: int | None) -> None:
    target = muninn.share(
        content(),
        "t",
        mode="bigMode" if gpu is None else "fastMode",
        preferredGpu=gpu,
        access="readWrite",
    )
    source = muninn.share(content(9), "s", mode="fastMode", preferredGpu=0)
    generation = target.generation
    assert target.copyFrom(source) == generation + 2
    assert np.array_equal(target.read(), content(9))
    assert source.generation == 0 and np.array_equal(source.read(), content(9))


@pytest.mark.parametrize(("count", "links"), [("0", ""), ("6", LINKS)])
def test_copyFromPublishesWithinHostMemory(
    monkeypatch: pytest.MonkeyPatch, count: str, links: str
) -> None:
    """Broken: it asked for GPU -1."""
    monkeypatch.setenv("MUNINN_HOST_GPUS", count)
    monkeypatch.setenv("MUNINN_HOST_LINKS", links)
    monkeypatch.setattr(ways, "HOST_WINDOW_BYTES", 1 << 20)
    source = muninn.share(content(9), "s")
    muninn.share(content(), "t", access="readWrite")
    reader, target = muninn.open("t"), muninn.open("t", access="readWrite")
    arrived = list[int]()
    transfer = target.startCopyFrom(source, progress=arrived.append)
    assert transfer.result(30) == 2 and (transfer.route, transfer.reason) == ("local", "hostMemory")
    assert arrived == [1 << 20, source.nbytes - (1 << 20)]
    assert np.array_equal(reader.read(), content(9))
    with pytest.raises(TopologyNotPeerable, match="hostMemory"):
        target.copyFrom(source, route="p2p")

    def fail(sizeBytes: int) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        target.copyFrom(source, progress=fail)
    with pytest.raises(WriterDied):
        reader.read(timeout=5)
    assert target.copyFrom(source) == 4


def test_copyFromRefusesWhatDoesNotFit(buffer: muninn.MuninnBuffer) -> None:
    other = muninn.share(content()[:-1], "b", mode="fastMode", access="readWrite")
    with pytest.raises(BufferMismatch):
        other.copyFrom(buffer)
    with pytest.raises(PermissionDenied):
        muninn.open("b").copyFrom(buffer)
    with pytest.raises(InvalidArgument, match="'a' can not be copied from itself. Fix"):
        buffer.copyFrom(muninn.open("a"))
    with pytest.raises(TypeError):
        buffer.copyFrom(content())  # type: ignore[arg-type]


def test_twoThatCopyFromEachOtherDoNotWaitForEver(buffer: muninn.MuninnBuffer) -> None:
    other = buffer.copyTo(GOOD, access="readWrite")
    errors = list[BaseException]()

    def copy(target: muninn.MuninnBuffer, source: muninn.MuninnBuffer) -> None:
        try:
            for _ in range(30):
                target.copyFrom(source, timeout=60)
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=copy, args=pair) for pair in ((buffer, other), (other, buffer))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert not errors and np.array_equal(other.read(), buffer.read())


@pytest.mark.parametrize("isTargetFirst", [True, False])
def test_theAccessesAreEnteredInTheOrderOfTheRows(actor: Start, isTargetFirst: bool) -> None:
    """While it waits for the first, a copy is not inside the second."""
    first, second = (
        muninn.share(content(), name, "fastMode", "readWrite", preferredGpu=0)
        for name in ("first", "second")
    )
    assert first._checked().row < second._checked().row
    target, source = (first, second) if isTargetFirst else (second, first)
    other = actor(
        "b = muninn.open('second', 'readWrite')\n"
        "def written():\n"
        "    with b.write(timeout=5) as view: return view.size"
    )
    with first.write():
        transfer = target.startCopyFrom(source)
        eventually(lambda: transfer.route, "it has a way")
        time.sleep(0.3)
        assert other.do("written()") == ELEMENTS
    assert transfer.result(30) == target.generation


def test_aCopyFromThatFailsHalfWayIsSeen(buffer: muninn.MuninnBuffer) -> None:
    target = buffer.copyTo(GOOD, access="readWrite")

    def fail(sizeBytes: int) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        target.copyFrom(buffer, progress=fail)
    with pytest.raises(WriterDied):
        target.read(timeout=5)
    target.copyFrom(buffer)
    assert np.array_equal(target.read(), content())


# --- handles ---------------------------------------------------------------------------


def test_aTransferIsFollowedAndAwaited(buffer: muninn.MuninnBuffer, gate: Gate) -> None:
    transfer = buffer.startCopyTo(GOOD, progress=gate)
    assert gate.reached.wait(30) and transfer.state == "running"
    assert not transfer.wait(0.01)
    with pytest.raises(TimeoutError):
        transfer.result(0.01)
    assert transfer.route == "p2p" and str(transfer.source) == "GPU 0"
    gate.opened.set()
    copied = transfer.result(30)
    assert transfer.state == "done" and gate.sizeBytes == copied.nbytes
    assert transfer.result(0) is copied and np.array_equal(copied.read(), content())

    async def awaited() -> muninn.MuninnBuffer:
        return await buffer.startCopyTo(NONE)

    assert np.array_equal(asyncio.run(awaited()).read(), content())
    target = buffer.copyTo(GOOD, access="readWrite")
    assert target.startCopyFrom(buffer).result(30) == target.generation == 2


def test_aTransferThatIsCancelledLeavesNothing(buffer: muninn.MuninnBuffer, gate: Gate) -> None:
    used, rows = usedOn(GOOD), len(muninn.listBuffers())
    transfer = buffer.startCopyTo(GOOD, name="never", progress=gate)
    assert gate.reached.wait(30)
    transfer.cancel()
    assert transfer.state == "stopping"
    gate.opened.set()
    with pytest.raises(TransferCancelled):
        transfer.result(30)
    assert transfer.state == "cancelled"
    transfer.cancel()
    with pytest.raises(BufferNotFound):
        muninn.open("never")
    engine()._idle.clear()
    gc.collect()
    eventually(lambda: usedOn(GOOD) == used, "its memory is given back")
    assert len(muninn.listBuffers()) == rows


def test_aTransferThatWaitsForAWriterIsCancelledAtOnce(buffer: muninn.MuninnBuffer) -> None:
    with buffer.write():
        transfer = buffer.startCopyTo(GOOD)
        eventually(lambda: transfer.route, "it has a way")
        transfer.cancel()
        with pytest.raises(TransferCancelled):
            transfer.result(30)


def test_aTransferThatIsOverBeforeItBeginsDoesNothing(buffer: muninn.MuninnBuffer) -> None:
    for timeout, state, error in (
        (None, "cancelled", TransferCancelled),
        (0, "overdue", TimeoutError),
    ):
        transfer = Transfer[None](Place(Tier.HOST), Place(Tier.VRAM, 0), 1, timeout)
        if timeout is None:
            transfer.cancel()
        assert not transfer.begin() and transfer.state == state
        with pytest.raises(error):
            transfer.result(0)
    late = buffer.startCopyTo(GOOD, timeout=0)
    assert late.wait(30) and (late.state, late.route) == ("overdue", None)


def test_aDeadlineEndsATransfer(buffer: muninn.MuninnBuffer, gate: Gate) -> None:
    with buffer.write(), pytest.raises(TimeoutError, match="writing 'a'"):
        transfer = buffer.startCopyTo(GOOD, timeout=0.3)
        transfer.result(30)
    assert transfer.state == "overdue"
    transfer = buffer.startCopyTo(SLOW, route="p2p", timeout=0.05, progress=gate)
    assert gate.reached.wait(30)
    time.sleep(0.05)
    gate.opened.set()
    with pytest.raises(TimeoutError, match=r"0\.05 s"):
        transfer.result(30)
    assert transfer.state == "overdue"


def test_anInterruptionEndsACopyAndNothingIsLeft(buffer: muninn.MuninnBuffer) -> None:
    def interrupt(sizeBytes: int) -> None:
        raise KeyboardInterrupt

    for gpu in (GOOD, NONE):
        used = usedOn(gpu)
        with pytest.raises(KeyboardInterrupt):
            buffer.copyTo(gpu, name="never", progress=interrupt)
        gc.collect()
        eventually(lambda gpu=gpu, used=used: usedOn(gpu) == used, "its memory is given back")
    assert np.array_equal(buffer.copyTo(GOOD, name="never").read(), content())


def test_aWayIsUsedAgainAndGivenBackWhenIdle(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer.copyTo(NONE)
    (idle,) = engine()._idle
    buffer.copyTo(NONE)
    assert [each.way for each in engine()._idle] == [idle.way]
    monkeypatch.setattr(engines.Engine.trim, "__defaults__", (0.0,))
    membership.current().openBuffers.renewAll()  # as the background thread does
    assert not engine()._idle
    eventually(lambda: not isOpen(idle.way), "its streams are closed")


def isOpen(way: Any) -> bool:
    try:
        way._filling.mark()
    except InvalidArgument:
        return False
    return True


def test_aProcessThatIsKilledInACopyLeavesNothing(
    buffer: muninn.MuninnBuffer, actor: Start
) -> None:
    other = actor(
        "b = muninn.open('a')\n"
        "import threading\n"
        "at = threading.Event()\n"
        "def hang(sizeBytes): at.set(); threading.Event().wait()\n"
        "t = b.startCopyTo(1, name='never', progress=hang)\n"
    )
    assert other.do("at.wait(30)")
    other.kill()
    eventually(lambda: len(muninn.listBuffers()) == 1, "its row is reclaimed")
    with buffer.write(timeout=30):
        pass  # its read access is over
    assert buffer.copyTo(GOOD, name="never").route == "p2p"


def test_theWayByTheHostIsTunedBesideItsFirstCopy(buffer: muninn.MuninnBuffer) -> None:
    """Also of a pair that has no link, which is never verified."""
    buffer.copyTo(NONE)
    found = engine().links._found
    verdict = eventually(lambda: (each := found(0, NONE)) and each.pieceBytes and each, "tuned")
    assert engine().links.pieces(0, NONE) == (verdict.pieceBytes, verdict.pieceCount)
    assert engine().links.known(0, NONE) is None, "nothing is known of a link"
    uuids = device().gpuUuid(0), device().gpuUuid(NONE)
    eventually(lambda: keptFor(device(), "").get(*uuids), "it is kept")
    assert np.array_equal(buffer.copyTo(NONE).read(), content())
