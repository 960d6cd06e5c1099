"""Arrays of other libraries: shared by a copy that outlives its creator, or lent in
place by `cudaIpc`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest

import muninn
from muninn.errors import BufferFreed, BufferNotFound, InvalidArgument, OwnerDied
from support import Actor, ActorError, Background, eventually, program

Start = Callable[..., Actor]
Free = Callable[[], int]
MIB = 1 << 20
#: Numba's own memory, so that Muninn does not own it.
LEND = "from numba import cuda\nmine = cuda.to_device(np.arange(1000))\nbuffer = muninn.share(mine, 'a', access='readWrite', copy=False)\n"


def test_anArrayOnAGpuIsCopiedToVramThatOutlivesItsMaker(domain: str, actor: Start) -> None:
    maker = actor(
        "from numba import cuda\nmuninn.share(cuda.to_device(np.arange(1000.0).reshape(10, 100)), 'a')"
    )
    theirs = muninn.open("a")
    assert (theirs.shape, theirs.dtype, theirs.mode, theirs.describe()["transport"]) == (
        (10, 100),
        np.float64,
        "fastMode",
        "vmm",
    )
    maker.kill()
    assert theirs.read().sum() == 499500


def test_anArrayOnAGpuMayGoToTheHost(domain: str, actor: Start) -> None:
    actor(
        "from numba import cuda\nmuninn.share(cuda.to_device(np.arange(1000)), 'a', mode='bigMode')"
    )
    assert muninn.open("a").array.sum() == 499500


def test_lentMemoryIsTheSameMemory(domain: str, actor: Start) -> None:
    owner = actor(LEND)
    theirs = muninn.open("a", access="readWrite")
    described = theirs.describe()
    assert (described["transport"], described["transportReason"].partition(":")[0]) == (
        "cudaIpc",
        "lentInPlace",
    )
    owner.do("mine.copy_to_device(np.full(1000, 3))")
    assert theirs.read().tolist() == [3] * 1000
    with theirs.write() as view:
        view.copy_to_device(np.full(1000, 4))
    assert owner.do("int(mine.copy_to_host().sum())") == 4000


def test_aPartOfAnAllocationIsLentWithItsOffset(domain: str, actor: Start) -> None:
    actor(
        "from numba import cuda\nmine = cuda.to_device(np.arange(1000))\nbuffer = muninn.share(mine[100:200], 'a', copy=False)"
    )
    assert muninn.open("a").read().tolist() == list(range(100, 200))


def test_theOwnerOpensAnAlias(domain: str, actor: Start) -> None:
    owner = actor(LEND)
    assert owner.do(
        "alias = muninn.open('a'); alias.open() == buffer.open() == mine.device_ctypes_pointer.value"
    )
    assert owner.do("muninn.open(buffer.handle).open() == alias.open()")


def test_theImportersDeathIsNothingToTheOwner(domain: str, actor: Start, freeBytes: Free) -> None:
    owner = actor(LEND)
    importer = actor("theirs = muninn.open('a')")
    assert importer.do("int(theirs.read().sum())") == 499500
    importer.kill()
    eventually(
        lambda: len(owner.do("buffer.describe()['importers']")) == 1, "its lease is taken back"
    )
    assert owner.do("int(buffer.read().sum())") == 499500
    assert actor("theirs = muninn.open('a')").do("int(theirs.read().sum())") == 499500


@pytest.mark.parametrize(
    "ends",
    [
        "theirs.close(); del theirs",
        "membership.current().leave()",
        "theirs.close(); del theirs; membership.current().leave()",
    ],
)
def test_theOwnerWaitsForTheKernelsOfAnImporterThatCloses(
    domain: str, actor: Start, ends: str
) -> None:
    """Broken: the importer's lease ended before its kernels did, and the owner used its
    memory again while they still wrote.
    """
    owner = actor(LEND)
    importer = actor(
        "import threading\nfrom muninn.session import gpus, membership\ntheirs = muninn.open('a', access='readWrite')"
    )
    importer.do(
        "d = gpus.deviceOf(membership.current()); s = d.createStream(0); semaphore = threading.Event(); p = theirs.open()"
    )
    importer.do(
        "source = d.allocate(0, 8000); sevens = np.full(1000, 7); d.copyNow(source.address, sevens.ctypes.data, 8000, 0)"
    )
    importer.do("import signal; signal.signal(signal.SIGUSR1, lambda *_: semaphore.set())")
    importer.do("s.submit(lambda: semaphore.wait(60)); d.copy(p, source.address, 8000, s)")
    importer.begin(ends)
    owner.begin("buffer.close()")
    time.sleep(0.3)
    assert owner.isBusy(), "the importer's kernel has not written yet"
    os.kill(importer.pid, signal.SIGUSR1)
    importer.result()
    owner.result()
    assert owner.do("int(mine.copy_to_host().sum())") == 7000


def test_theOwnersDeathIsToldAtTheNextUse(domain: str, actor: Start) -> None:
    owner = actor(LEND)
    theirs = muninn.open("a")
    owner.kill()
    waiting = Background(lambda: theirs.waitNext(30))
    assert isinstance(waiting.ended(), OwnerDied)
    for use in (theirs.read, theirs.open, theirs.deviceArray, lambda: theirs.generation):
        with pytest.raises(OwnerDied, match="'a'"):
            use()
    with pytest.raises(BufferNotFound):
        muninn.open("a")
    theirs.close()
    assert muninn.share(np.arange(3), "a").read().tolist() == [0, 1, 2], "the name is free again"


def test_theOwnersDeathBehindTheImportersCloseLeavesNothing(
    domain: str, actor: Start, freeBytes: Free
) -> None:
    before = freeBytes()
    owner = actor(
        "from numba import cuda\nbuffer = muninn.share(cuda.device_array(64 << 20, np.uint8), 'a', copy=False)"
    )
    theirs = muninn.open("a")
    theirs.close()
    owner.kill()
    eventually(lambda: not muninn.listBuffers(), "the row is gone")
    eventually(lambda: freeBytes() > before - 64 * MIB, "the memory is free again")


def test_closingWaitsForImporters(domain: str, actor: Start) -> None:
    owner = actor(LEND)
    importer = actor("theirs = muninn.open('a')")
    owner.begin("started = time.monotonic(); buffer.close(); time.monotonic() - started")
    importer.do("time.sleep(0.3); int(theirs.read().sum()); theirs.close()")
    assert 0.2 < owner.result() < 4.5
    assert muninn.listBuffers() == []


def test_closingTakesBackWhatIsNotGivenBackInTime(domain: str, actor: Start) -> None:
    owner = actor(LEND, MUNINN_IPC_GRACE_MS="200")
    theirs = muninn.open("a")
    owner.do("buffer.close()")
    with pytest.raises(OwnerDied):
        theirs.read()
    assert owner.do("int(mine.copy_to_host().sum())") == 499500, "the owner keeps its array"


def test_exitWaitsForImporters(domain: str, actor: Start) -> None:
    owner = actor(LEND, MUNINN_IPC_GRACE_MS="20000")
    importer = actor("theirs = muninn.open('a')")
    leaving = Background(owner.leave)
    leaving.asleep()
    assert importer.do("int(theirs.read().sum())") == 499500
    importer.do("theirs.close()")
    assert leaving.ended() == 0


def test_aDroppedObjectDoesNotTakeItAway(domain: str, actor: Start) -> None:
    owner = actor(LEND)
    theirs = muninn.open("a")
    owner.do("import gc; del buffer, mine; gc.collect()")
    assert theirs.read().sum() == 499500


def test_freedByAnotherItGoesWithItsLastUser(domain: str, actor: Start) -> None:
    owner = actor(LEND, MUNINN_LEASE_TTL_MS="2000")
    theirs = muninn.open("a", access="readWrite")
    owner.do("import gc; del buffer; gc.collect()")
    theirs.free()
    with pytest.raises(BufferFreed):
        theirs.read()
    eventually(lambda: owner.do("len(muninn.listBuffers())") == 0, "the owner lets go of it too")


def test_theBrokersDeathIsNothingToTheOwner(domain: str, actor: Start) -> None:
    broker = actor().join()
    owner = actor(LEND)
    theirs = muninn.open("a")
    broker.kill()
    newcomer = actor("third = muninn.open('a')")
    assert newcomer.do("int(third.read().sum())") == theirs.read().sum() == 499500
    owner.kill()
    with pytest.raises(OwnerDied):
        eventually(lambda: theirs.read() is None, "the owner's death is told")


def test_theBrokersDeathTogetherWithTheOwners(domain: str, actor: Start) -> None:
    owner = actor(LEND).join()
    theirs = muninn.open("a")
    assert muninn.domainInfo()["brokerPid"] == owner.pid
    owner.kill()
    with pytest.raises(OwnerDied):
        eventually(lambda: theirs.read() is None, "the owner's death is told")


@pytest.mark.usefixtures("standin")
def test_aHandleThatCanNotBeOpenedIsTyped(domain: str, actor: Start) -> None:
    actor(LEND)
    other = actor("", STANDIN_FAULTS="cuIpcOpenMemHandle:201:1")
    with pytest.raises(ActorError) as raised:
        other.do("muninn.open('a')")
    assert raised.value.kind == "IpcHandleMismatch"
    assert other.do("int(muninn.open('a').read().sum())") == 499500


@pytest.mark.usefixtures("standin")
def test_gpusWithoutDescriptorsShareTheirMemoryByHandle(domain: str, actor: Start) -> None:
    owner = actor(
        "buffer = muninn.share(np.arange(1000), 'a', mode='fastMode')", STANDIN_VMM_FD="0"
    )
    theirs = muninn.open("a")
    assert theirs.read().sum() == 499500
    assert theirs.describe()["transportReason"].startswith("noDescriptorExport")
    owner.kill()
    with pytest.raises(OwnerDied):
        eventually(lambda: theirs.read() is None, "the owner's death is told")


@pytest.mark.usefixtures("standin")
def test_anInterruptedPublisherHoldsTheMemoryThatIsItsOwn(domain: str, actor: Start) -> None:
    """Broken: the name led to memory that its owner had given back."""
    owner = actor(program("interruptedPublisher"), STANDIN_VMM_FD="0")
    owner.do("gc.collect()")
    owner.do("time.sleep(0.2)")  # memory that has no user is given back by a thread
    theirs = muninn.open("a")
    assert theirs.describe()["transport"] == "cudaIpc"
    assert owner.pid in [each["pid"] for each in theirs.describe()["importers"]]
    assert theirs.read().tolist() == [7] * 1000
    owner.do("newest = muninn.publish('a', np.ones(3))")
    assert muninn.open("a").read().tolist() == [1] * 3
    owner.do("newest.free(); older.close()")
    theirs.close()
    eventually(lambda: muninn.listBuffers() == [], "nothing is left")


def test_memoryThatCanNotBeLentIsRefused(domain: str, actor: Start) -> None:
    with pytest.raises(InvalidArgument, match="copied once"):
        muninn.share(np.arange(3), copy=False)
    other = actor("from numba import cuda\nmine = cuda.to_device(np.arange(100).reshape(10, 10))")
    for bad in (
        "muninn.share(mine[:, 2], copy=False)",
        "muninn.share(mine, copy=False, mode='bigMode')",
        "muninn.share(muninn.share(np.arange(3), 'v', mode='fastMode').deviceArray(), copy=False)",
    ):
        with pytest.raises(ActorError) as raised:
            other.do(bad)
        assert raised.value.kind == "InvalidArgument", bad
