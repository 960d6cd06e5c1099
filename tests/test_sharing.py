"""Sharing and finding arrays, between processes that have only the domain in common."""

from __future__ import annotations

import array
import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import muninn
from muninn import errors
from muninn.errors import BufferExists, PermissionDenied
from muninn.session.membership import current
from muninn.sync.lock import OwnLock
from support import Actor, ActorError, Background, eventually, leftovers

Start = Callable[..., Actor]


def test_bothSeeTheSameBytes(domain: str, actor: Start) -> None:
    mine = muninn.share(np.arange(12.0).reshape(3, 4), name="a")
    other = actor("buffer = muninn.open('a', access='readWrite')")
    assert other.do("buffer.shape, buffer.dtype.str, float(buffer.array.sum())") == [
        [3, 4],
        "<f8",
        66.0,
    ]
    other.do("buffer.array[1, 2] = 100")
    assert mine.array[1, 2] == 100


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(20)[::3],
        np.array(7.5),
        np.array(["2026-11-23", "NaT"], "M8[s]"),
        np.array([(1, 2.5, b"ab")], [("a", "i4"), ("b", "f8"), ("c", "S2")]),
        np.array([True, False]),
        np.array([b"abc", b"d"]),
        np.arange(8, dtype=np.complex64).reshape(1, 2, 1, 2, 1, 2, 1, 1),
    ],
)
def test_anyFixedTypeArrivesAsItIs(domain: str, value: np.ndarray[Any, Any]) -> None:
    with muninn.share(value, name="v"), muninn.open("v") as found:
        assert found.dtype == value.dtype
        assert found.shape == value.shape
        assert found.array.tobytes() == np.ascontiguousarray(value).tobytes()
        muninn.free("v")


@pytest.mark.parametrize(
    "value", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), array.array("i", [1, 2, 3])]
)
def test_takesAnyObjectWithABuffer(domain: str, value: Any) -> None:
    assert muninn.share(value).array.tobytes() == memoryview(value).tobytes()


def test_takesWhatSpeaksDlpack(domain: str) -> None:
    class Foreign:
        def __init__(self) -> None:
            self.content = np.arange(5.0)

        def __dlpack__(self, **keywords: Any) -> Any:
            return self.content.__dlpack__(**keywords)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.content.__dlpack_device__()

    assert muninn.share(Foreign()).array.sum() == 10


def test_unnamedBuffersGoWithTheirLastUser(domain: str, actor: Start) -> None:
    mine = muninn.share(np.arange(4))
    other = actor(
        f"import pickle; buffer = pickle.loads(bytes.fromhex('{pickle.dumps(mine).hex()}'))"
    )
    mine.close()
    assert other.do("int(buffer.array.sum())") == 6
    assert len(leftovers(domain)) == 1
    other.do("buffer.close()")
    eventually(lambda: leftovers(domain) == [], "the last user has closed it")


def test_namedBuffersStayUntilTheyAreFreed(domain: str, actor: Start) -> None:
    actor("muninn.share(b'abc', name='kept')").leave()
    assert muninn.open("kept").array.tobytes() == b"abc"
    muninn.free("kept")
    assert leftovers(domain) == []


def test_waitsForANameToAppear(domain: str, actor: Start) -> None:
    muninn.domainInfo()
    waiter = actor()
    waiter.begin("muninn.open('late', timeout=50).array.tobytes().decode()")
    muninn.share(b"here", name="late")
    assert waiter.result() == "here"
    with pytest.raises(errors.BufferNotFound, match="within"):
        muninn.open("never", timeout=0.05)


def test_attachesOrCreatesOnce(domain: str, actor: Start) -> None:
    actors = [actor() for _ in range(4)]
    for each in actors:
        each.begin(
            "buffer = muninn.array('shared', (3,), 'i8'); buffer.array[0] + 0; buffer.describe()['bufferId']"
        )
    assert len({each.result() for each in actors}) == 1
    assert muninn.array("shared", (3,), "i8").array.tolist() == [0, 0, 0]
    for shape, dtype in (((4,), "i8"), ((3,), "f8")):
        with pytest.raises(errors.BufferMismatch):
            muninn.array("shared", shape, dtype)


def test_loadsOnce(domain: str, actor: Start) -> None:
    load = "def load():\n    open('/dev/shm/muninn-{}-{}.d/loaded', 'a').write('x')\n    time.sleep(0.2)\n    return np.arange(5)\n"
    actors = [actor(load.format(os.getuid(), domain)) for _ in range(3)]
    for each in actors:
        each.begin(
            "buffer = muninn.shareOnce('once', load); int(buffer.array.sum()), buffer.writable"
        )
    assert [each.result() for each in actors] == [[10, False]] * 3
    with open(f"/dev/shm/muninn-{os.getuid()}-{domain}.d/loaded") as file:
        assert file.read() == "x"


def test_anotherLoadsWhenTheLoaderDies(domain: str, actor: Start) -> None:
    muninn.domainInfo()
    first = actor()
    first.begin("muninn.shareOnce('once', lambda: time.sleep(1000))")
    second = actor()
    eventually(lambda: _isHeld("once"), "the first is loading")
    second.begin("int(muninn.shareOnce('once', lambda: np.arange(4)).array.sum())")
    first.kill()
    assert second.result() == 6


def test_aDeadLoaderLeavesNoLockBehind(domain: str, actor: Start) -> None:
    """Broken: the row of its lock stayed until another process loaded that name."""
    loader, rows = actor(), current().rows
    loader.begin("muninn.shareOnce('once', lambda: time.sleep(1000))")
    eventually(lambda: _isHeld("once"), "it is loading")
    with pytest.raises(TimeoutError, match="has held lock 'shareOnce:once'"):
        muninn.shareOnce("once", lambda: np.arange(4), timeout=0.05)
    loader.kill()
    eventually(lambda: not rows.notFree(), "nothing is left of it")
    assert muninn.shareOnce("once", lambda: np.arange(4)).array.sum() == 6


def _isHeld(name: str) -> bool:
    lock = OwnLock("shareOnce", name, None)
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return True
    lock.release()
    return False


def test_aLoaderThatFailsLetsTheNextOneTry(domain: str) -> None:
    def fail() -> None:
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        muninn.shareOnce("once", fail)
    assert muninn.shareOnce("once", lambda: np.ones(3)).array.sum() == 3


def test_readOnlyStaysReadOnly(domain: str, actor: Start) -> None:
    mine = muninn.share(np.arange(3), name="fixed", access="readOnly")
    assert not mine.array.flags.writeable
    with pytest.raises(errors.PermissionDenied):
        mine.write()
    other = actor()
    assert other.do("muninn.open('fixed').array.flags.writeable") is False
    assert (
        other.do(
            "try:\n    muninn.open('fixed', access='readWrite')\nexcept muninn.errors.PermissionDenied as error:\n    code = error.code\ncode"
        )
        == "MNN-0008"
    )


def test_aReadOnlyMappingCanNotBeWrittenAtAll(domain: str, actor: Start) -> None:
    mine = muninn.share(np.zeros(4096, np.uint8), name="a")
    other = actor("import ctypes; buffer = muninn.open('a')")
    other.begin("ctypes.memset(buffer.open(), 1, 1)")
    with pytest.raises(AssertionError, match="ended with status -11"):
        other.result()
    assert not mine.array.any()


def test_oneMappingPerProcessThatBecomesWritableInPlace(domain: str, actor: Start) -> None:
    muninn.share(np.zeros(10), name="a").close()
    reader, again = muninn.open("a"), muninn.open("a")
    address = reader.open()
    assert again.open() == address
    writer = muninn.open("a", access="readWrite")
    assert writer.open() == address
    writer.array[:] = 2
    assert reader.array.sum() == 20
    assert not reader.array.flags.writeable


def test_tenantsAreKeptApart(domain: str) -> None:
    muninn.share(b"x", name="a", tenant="org/one")
    assert muninn.open("a", tenant="org/one").tenant == "org/one"
    with pytest.raises(errors.PermissionDenied):
        muninn.open("a", tenant="org/two")


def test_handlesCarryTheRightsOfTheirObject(domain: str, actor: Start) -> None:
    mine = muninn.share(np.arange(3), name="a", access="readWrite")
    reading = muninn.open("a").handle
    other = actor(
        "def tried(handle, access):\n    try:\n        return muninn.open(bytes.fromhex(handle), access=access).writable\n    except muninn.errors.MuninnError as error:\n        return error.code"
    )
    assert other.do(f"tried('{mine.handle.hex()}', 'readWrite')") is True
    assert other.do(f"tried('{reading.hex()}', 'readOnly')") is False
    assert other.do(f"tried('{reading.hex()}', 'readWrite')") == "MNN-0008"
    mine.free()
    assert other.do(f"tried('{reading.hex()}', 'readOnly')") == "MNN-0011"


def test_aForkedChildTakesALeaseOfItsOwn(domain: str, actor: Start) -> None:
    code = "buffer = muninn.share(np.arange(10), name='f')\nreadEnd, writeEnd = os.pipe()\n"
    parent = actor(code)
    child = (
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    holders = {each['pid'] for each in buffer.describe()['importers']}\n"
        "    os.write(writeEnd, f'{int(buffer.array.sum())} {os.getpid() in holders} {os.getppid() in holders}'.encode())\n"
        "    os._exit(0)\n"
        "said = os.read(readEnd, 100).decode(); os.waitpid(pid, 0); said"
    )
    assert parent.do(child) == "45 True True"
    assert (
        parent.do(
            "len([each for each in buffer.describe()['importers'] if each['pid'] == os.getpid()])"
        )
        == 1
    )
    assert muninn.open("f").array.sum() == 45


def test_lazyReservationMapsMoreThanThereIs(domain: str, actor: Start) -> None:
    buffer = muninn.MuninnBuffer("128G", name="huge", access="readWrite", reserve="lazy")
    buffer.array[100 << 30] = 7
    assert actor().do("int(muninn.open('huge').array[100 << 30])") == 7
    buffer.free()


def test_fullReservationReportsItsProgress(domain: str) -> None:
    counted: list[int] = []
    buffer = muninn.MuninnBuffer(40 << 20, progress=counted.append)
    assert sum(counted) == 40 << 20
    assert len(counted) > 1
    status = os.stat(f"/dev/shm{buffer.describe()['segment']}")
    assert status.st_blocks * 512 >= 40 << 20


def test_bindsToANumaNode(domain: str) -> None:
    if not os.path.exists("/sys/devices/system/node/node0"):
        pytest.skip("this kernel knows no NUMA nodes")
    assert muninn.MuninnBuffer(1 << 20, numaNode=0).array.sum() == 0
    with pytest.raises(errors.InvalidArgument) as raised:
        muninn.MuninnBuffer(1 << 20, numaNode=63)
    assert raised.value.reason == "mbind to NUMA node 63: Invalid argument", "it said so twice"


def test_fastModeMemoryOutlivesItsOwnerAndTheBroker(domain: str, actor: Start) -> None:
    owner = actor("mine = muninn.share(np.arange(1000), name='v', mode='fastMode')")
    holder = actor("held = muninn.open('v', access='readWrite')")
    assert holder.do("held.describe()['transport'], held.gpu") == ["memfd", 0]
    owner.kill()
    eventually(
        lambda: muninn.domainInfo()["brokerPid"] not in (None, owner.pid), "another is broker"
    )
    late = actor()
    holder.do("held.array[0] = 500")
    assert late.do("muninn.open('v', timeout=20).array[:3].tolist()") == [500, 1, 2]


def test_fastModeMemoryThatNobodyMayWriteOutlivesItsOwnerToo(domain: str, actor: Start) -> None:
    """Broken: its readers could not pass on what they may only read, so each of them
    resigned as broker, and no process answered any more.
    """
    owner = actor("mine = muninn.share(np.arange(9), 'v', mode='fastMode', access='readOnly')")
    readers = [actor("held = muninn.open('v')") for _ in range(2)]
    owner.kill()
    assert actor().do("muninn.open('v', timeout=20).array.sum().item()") == 36
    readers[0].kill()
    assert actor().do("muninn.open('v', timeout=20).array.sum().item()") == 36
    assert actor().do("muninn.share(np.ones(2), 'w').name") == "w"


def test_aEmulatedGpuHasAnEnd(domain: str) -> None:
    os.environ["MUNINN_HOST_GPU_BYTES"] = "2M"
    try:
        with pytest.raises(errors.QuotaExceeded):
            muninn.MuninnBuffer("3M", mode="fastMode")
        with pytest.raises(errors.DeviceUnavailable):
            muninn.MuninnBuffer("1M", mode="fastMode", preferredGpu=7)
        assert muninn.MuninnBuffer("1M", mode="fastMode").nbytes == 1 << 20
    finally:
        del os.environ["MUNINN_HOST_GPU_BYTES"]


def test_shareOnceOpensABufferThatAnotherSharedMeanwhile(domain: str, actor: Start) -> None:
    """Broken: `BufferExists`: the lock keeps out only the processes that take it."""
    other = actor().join()

    def load() -> Any:
        other.do("kept = muninn.share(np.arange(5), name='once')")
        return np.zeros(9)

    assert muninn.shareOnce("once", load).array.sum() == 10


def test_shareOnceWaitsForWhatAnotherIsSharing(domain: str, actor: Start) -> None:
    """Broken: the loader ran, and then the call raised `BufferExists`."""
    other = actor(
        "def fill(view):\n    while not os.path.exists(path): time.sleep(0.01)\n    view[:] = 3"
    ).join()
    other.do(f"path = '/dev/shm/{domain}.go'")
    other.begin("kept = muninn.loadArray(4, 'f8', fill, name='once')")
    eventually(
        lambda: current().client.request("find", name="once")[0], "the name is being created"
    )
    loaded = list[int]()

    def load() -> Any:
        loaded.append(1)
        return np.zeros(9)

    waiting = Background(lambda: muninn.shareOnce("once", load).array.sum()).asleep()
    with pytest.raises(TimeoutError):
        muninn.shareOnce("once", load, timeout=0.05)
    try:
        open(f"/dev/shm/{domain}.go", "w").close()
        assert waiting.ended() == 12 and not loaded
    finally:
        os.unlink(f"/dev/shm/{domain}.go")


def test_shareOnceLoadsWhenTheOtherGivesUp(domain: str, actor: Start) -> None:
    other = actor().join()
    other.begin("muninn.loadArray(4, 'f8', lambda view: time.sleep(600), name='once')")
    eventually(
        lambda: current().client.request("find", name="once")[0], "the name is being created"
    )
    waiting = Background(
        lambda: muninn.shareOnce("once", lambda: np.arange(4)).array.sum()
    ).asleep()
    other.kill()
    assert waiting.ended() == 6


def test_shareOnceOpensABundleThatAnotherSharedMeanwhile(domain: str, actor: Start) -> None:
    other = actor().join()

    def load() -> Any:
        other.do("kept = muninn.shareBundle({'w': np.arange(3)}, name='once')")
        return np.zeros(9)

    found: Any = muninn.shareOnce("once", load)
    assert isinstance(found, muninn.Bundle) and found["w"].sum() == 3


def test_aNameThatALoaderFindsTakenIsItsOwnError(domain: str) -> None:
    muninn.share(np.ones(2), name="taken").close()
    with pytest.raises(BufferExists, match="taken"):
        muninn.shareOnce("once", lambda: muninn.share(np.ones(2), name="taken"))


@pytest.mark.parametrize("ending", ["leave", "kill"])
@pytest.mark.parametrize(
    "call",
    [
        "muninn.array('f', 10, mode='fastMode')",
        "muninn.shareOnce('f', lambda: np.arange(10.0), mode='fastMode')",
        "muninn.share(np.arange(10.0), name='f', mode='fastMode')",
        "muninn.MuninnBuffer(80, name='f', mode='fastMode')",
    ],
    ids=["array", "shareOnce", "share", "MuninnBuffer"],
)
def test_aNameWhoseMemoryNoProcessHasIsFree(
    domain: str, actor: Start, call: str, ending: str
) -> None:
    """A program is run again. Broken: every second run got the error that the owner had
    died, or that the name exists.
    """
    for _ in range(3):
        run = actor(f"b = {call}", MUNINN_DEVICE="host")
        assert run.do("[each['name'] for each in muninn.listBuffers()]") == ["f"]
        getattr(run, ending)()
    last = actor(MUNINN_DEVICE="host")
    assert (
        last.do("[each['name'] for each in muninn.listBuffers() if each['state'] == 'live']") == []
    )
    with pytest.raises(ActorError, match="BufferNotFound"):
        last.do("muninn.open('f')")


@pytest.mark.parametrize(
    "call", ["array('f', 10, mode='fastMode')", "share(np.arange(10.0), name='f', mode='fastMode')"]
)
def test_aNameIsFreeAsSoonAsItsOnlyHoldersDied(domain: str, actor: Start, call: str) -> None:
    """There are other members, which may hold the memory too until they have said what
    they bring.
    """
    both = actor(f"b = muninn.{call}", MUNINN_DEVICE="host")
    others = [actor(MUNINN_DEVICE="host").join() for _ in range(3)]
    both.kill()  # the broker, and the only holder
    assert others[0].do(f"b = muninn.{call}; b.describe()['state']") == "live"
    assert others[1].do("muninn.open('f').shape") == [10]


_WAYS = ("write", "copyFrom", "window")


@pytest.mark.parametrize(
    ("shared", "opened", "reason", "fix"),
    [
        ("readOnly", None, "was shared readOnly", "Share the data anew"),
        ("readOnly", "readOnly", "was shared readOnly", "Share the data anew"),
        ("readOnly", "copyOnWrite", "was shared readOnly", "Share the data anew"),
        ("readWrite", "readOnly", "is open for reading", 'Open it with access="readWrite"'),
        ("readWrite", "copyOnWrite", "is open copyOnWrite: its", 'access="readWrite" as well'),
    ],
)
def test_aRefusalSaysWhyAndWhatWorks(
    domain: str, monkeypatch: pytest.MonkeyPatch, shared: Any, opened: Any, reason: str, fix: str
) -> None:
    """Broken: to open what was shared `readOnly` for writing, as the error advised, is an
    error too.
    """
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    owned = muninn.share(np.zeros(3), name="a", access=shared)
    source = muninn.share(np.ones(3), name="b")
    buffer: Any = owned if opened is None else muninn.open("a", access=opened)
    # An object that is open copyOnWrite promotes nothing.
    for way in _WAYS[:2] if opened == "copyOnWrite" else _WAYS:
        with pytest.raises(PermissionDenied) as caught:
            if way == "window":
                with buffer.promote() as scratch:
                    scratch.markDirty()
            else:
                buffer.write() if way == "write" else buffer.copyFrom(source)
        assert caught.value.reason.startswith(f"'a' {reason}") and fix in caught.value.fix
        assert ("window" in caught.value.reason) == (way == "window")
    if shared == "readOnly":
        assert "Open it" not in caught.value.fix
        with pytest.raises(PermissionDenied, match=r"was shared readOnly.*\"copyOnWrite\""):
            muninn.open("a", access="readWrite")
    else:
        with muninn.open("a", access="readWrite") as writer:
            writer.copyFrom(source)
        assert owned.read().all()
