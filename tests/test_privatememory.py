"""`session/privatememory.py`, and what a user sees of it: buffers that are open
copyOnWrite.
"""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.api.admin import evict
from muninn.control import layout, leases
from muninn.errors import (
    BufferFreed,
    HostMemoryFull,
    InvalidArgument,
    LeaseRevoked,
    PermissionDenied,
)
from muninn.session import membership
from muninn.session.leases import LeaseTable
from muninn.session.privatememory import PrivateMemories, PrivateMemory
from muninn.system.files import openFile
from support import Actor, ActorError, eventually, program

Start = Callable[..., Actor]
ON_PAGE = layout.PAGE_BYTES // 8


def _private() -> int:
    """How many private mappings of this test's segments this process has."""
    folder = f"-{os.environ['MUNINN_DOMAIN']}.d/segment-"
    with openFile("/proc/self/maps") as file:
        return sum(folder in line and line.split()[1] == "rw-p" for line in file)


def _holders(name: str) -> list[int]:
    """The processes that have a lease on a buffer."""
    (found,) = [each for each in muninn.listBuffers() if each["name"] == name]
    return [holder["pid"] for holder in found["importers"]]


def _leases() -> int:
    member = membership.current()
    return len(leases.holdsOf(member.block, member.members, member.key.slot))


# --- whose the bytes are --------------------------------------------------------------


@pytest.mark.parametrize("access", ["readOnly", "readMostly", "readWrite"])
def test_anObjectsWritesAreItsOwn(domain: str, actor: Start, access: Any) -> None:
    shared = muninn.share(np.arange(4.0), name="a", access=access)
    other = actor("b = muninn.open('a', access='copyOnWrite')\nb.array[1] = 11")
    first, second = muninn.open("a", access="copyOnWrite"), muninn.open("a", access="copyOnWrite")
    first.array[1] += 4
    second.array[2] = 9
    assert first.array.tolist() == [0, 5, 2, 3] and second.array.tolist() == [0, 1, 9, 3]
    assert other.do("b.array.tolist()") == [0, 11, 2, 3]
    assert shared.array.tolist() == muninn.open("a").array.tolist() == [0, 1, 2, 3]
    assert muninn.share(first).array.tolist() == [0, 5, 2, 3], "a copy of what the object shows"


def test_anObjectSaysHowItIsOpen(domain: str) -> None:
    muninn.share(np.zeros(3), name="a", access="readMostly")
    for access, writable, words in (
        ("readOnly", False, "read-only here"),
        ("readWrite", True, "read-write here"),
        ("copyOnWrite", True, "copy-on-write here"),
    ):
        buffer = muninn.open("a", access=access)  # type: ignore[arg-type]
        described = buffer.describe()
        assert (buffer.writable, described["openedAs"]) == (writable, access)
        assert (buffer.access, described["access"]) == ("readMostly", "readMostly")
        assert f"{words}, shared readMostly" in buffer._repr_html_()


def test_pagesThatWereNotWrittenShowLaterPublications(domain: str, actor: Start) -> None:
    """And `read` and `waitNext` are of the shared bytes."""
    writer = actor(f"b = muninn.share(np.zeros({2 * ON_PAGE}), name='a')")
    buffer = muninn.open("a", access="copyOnWrite")
    buffer.array[0] = 5
    writer.do("with b.write() as view: view += 1")
    assert (buffer.array[0], buffer.array[1], buffer.array[ON_PAGE]) == (5, 0, 1)
    out = np.empty(2 * ON_PAGE)
    assert buffer.waitNext(after=0, out=out) == 2 and out.min() == 1
    assert buffer.read().min() == 1 and buffer.generation == 2


def test_aBundlesArraysArePrivate(domain: str) -> None:
    shared = muninn.shareBundle({"a": np.ones(3), "b": np.zeros((2, 2), "i4")}, name="p")
    with muninn.openBundle("p", access="copyOnWrite") as bundle:
        bundle["a"][:] = 7
        np.add(bundle["b"], 1, out=bundle["b"])
        assert bundle["a"].sum() == 21 and bundle["b"].sum() == 4 and sorted(bundle) == ["a", "b"]
        assert bundle.describe()["openedAs"] == "copyOnWrite"
        assert pickle.loads(pickle.dumps(bundle))["a"].sum() == 3
    assert shared["a"].sum() == 3 and shared["b"].sum() == 0


def test_aStructuredArrayIsPrivateAsWell(domain: str) -> None:
    shared = muninn.share(np.zeros(2, [("x", "f8"), ("y", "i4")]), name="s")
    buffer = muninn.open("s", access="copyOnWrite")
    buffer.array["x"] = 3
    assert buffer.array["x"].sum() == 6 and shared.array["x"].sum() == 0


def test_arrayIsAttachedToPrivately(domain: str) -> None:
    """The name is made if it is not there, and others may write it then."""
    for _ in range(2):
        buffer = muninn.array("a", 3, access="copyOnWrite")
        buffer.array[:] = 4
        assert buffer.access == "readWrite"
    assert muninn.array("a", 3, access="readOnly").array.sum() == 0


def test_aLargeSegmentIsMappedAtAMultipleOfAHugePage(domain: str) -> None:
    """As the shared mapping is; otherwise the kernel could not use huge pages."""
    muninn.share(np.ones(5 << 20, "u1"), name="a")
    buffer = muninn.open("a", access="copyOnWrite")
    buffer.array[-1] = 2
    assert buffer.array.__array_interface__["data"][0] % (2 << 20) == 0
    assert muninn.open("a").array[-1] == 1


# --- libraries ------------------------------------------------------------------------


def test_librariesTakeItAsMemoryThatTheyMayWrite(domain: str) -> None:
    """No refusal of a capsule without a version, as JAX asks for, and no warning."""
    shared = muninn.share(np.ones(3), name="a", access="readOnly")
    buffer = muninn.open("a", access="copyOnWrite")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "dltensor" in repr(buffer.__dlpack__(stream=None))
        assert "dltensor_versioned" in repr(buffer.__dlpack__(max_version=(1, 0)))
        taken = np.from_dlpack(buffer)
    assert taken.flags.writeable and buffer.__dlpack_device__() == (1, 0)
    taken *= 2
    view = np.asarray(buffer)
    view += 1
    memoryview(buffer.array)[0] = 10.0
    assert buffer.array.tolist() == [10, 3, 3] and shared.array.sum() == 3


def test_pyTorchChangesItInPlace(domain: str, torch: Any) -> None:
    """Broken: a forgotten `eval()` ended the process."""
    muninn.shareBundle({"w": np.ones(4, "f4")}, name="model", access="readOnly")
    bundle = muninn.openBundle("model", access="copyOnWrite")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taken = [torch.from_numpy(bundle["w"]), torch.from_dlpack(bundle["w"])]
    taken[0].add_(1)
    taken[1].mul_(3)
    assert taken[0].tolist() == [6] * 4 and bundle["w"].sum() == 24
    assert muninn.openBundle("model")["w"].sum() == 4
    legacy = torch.utils.dlpack.from_dlpack(bundle.buffer.__dlpack__())
    legacy.zero_()
    del bundle, taken
    gc.collect()
    assert legacy.sum() == 0 and _private() == 1
    del legacy
    assert _private() == 0


# --- what it is not for ---------------------------------------------------------------


def test_noBufferIsSharedSo(domain: str) -> None:
    makers: dict[str, Callable[[Any], Any]] = {
        "share": lambda access: muninn.share(np.zeros(3), access=access),
        "loadArray": lambda access: muninn.loadArray(3, "f4", print, access=access),
        "shareBundle": lambda access: muninn.shareBundle({"a": np.zeros(3)}, access=access),
        "loadBundle": lambda access: muninn.loadBundle({"a": (3, "f4")}, print, access=access),
        "shareOnce": lambda access: muninn.shareOnce("a", lambda: np.zeros(3), access=access),
        "MuninnBuffer": lambda access: muninn.MuninnBuffer(8, access=access),
    }
    for name, make in makers.items():
        with pytest.raises(InvalidArgument) as caught:
            make("copyOnWrite")
        assert caught.value.reason.startswith(f"{name}: access 'copyOnWrite' is how one process")
        assert 'muninn.open(name, access="copyOnWrite")' in caught.value.fix
    assert muninn.listBuffers() == []


def test_nothingOfItIsPublished(domain: str) -> None:
    muninn.share(np.zeros(3), name="a")
    buffer = muninn.open("a", access="copyOnWrite")
    with pytest.raises(
        PermissionDenied, match="'a' is open copyOnWrite.*are not published"
    ) as caught:
        buffer.write()
    assert 'access="readWrite"' in caught.value.fix


def test_kernelsDoNotReachIt(domain: str) -> None:
    """Not on emulated GPUs either, which are no nicer than real ones."""
    muninn.share(np.zeros(3), name="a")
    buffer = muninn.open("a", access="copyOnWrite")

    def readForKernels() -> None:
        with buffer.read(stream=None):
            pytest.fail("kernels got private memory")

    for call in (buffer.open, buffer.deviceArray, readForKernels):
        with pytest.raises(InvalidArgument, match="kernels of GPUs do not reach") as caught:
            call()
        assert "Open it readOnly for kernels" in caught.value.fix
    assert not hasattr(buffer, "__cuda_array_interface__")
    assert muninn.open("a").open(), "another object's memory is for kernels"


def test_vramIsNotOpenedSo(domain: str) -> None:
    muninn.share(np.zeros(3), name="v", mode="fastMode").close()
    muninn.shareBundle({"a": np.zeros(3)}, name="pack", mode="fastMode").close()
    for call in (
        lambda: muninn.open("v", access="copyOnWrite"),
        lambda: muninn.openBundle("pack", access="copyOnWrite"),
        lambda: muninn.array("v", 3, mode="fastMode", access="copyOnWrite"),
        lambda: muninn.array("new", 3, mode="fastMode", access="copyOnWrite"),
    ):
        with pytest.raises(InvalidArgument, match="is fastMode and can not be opened") as caught:
            call()
        assert "Open it readOnly" in caught.value.fix
        del caught
    gc.collect()
    assert {each["name"] for each in muninn.listBuffers()} <= {"v", "pack"}
    assert _leases() == 0


def test_handlesOfItAllowReadingOnly(domain: str) -> None:
    muninn.share(np.zeros(3), name="a")
    buffer = muninn.open("a", access="copyOnWrite")
    buffer.array[0] = 1
    with pytest.raises(PermissionDenied):
        muninn.open(buffer.handle, access="readWrite")
    assert not muninn.open(buffer.handle).writable
    again = muninn.open(buffer.handle, access="copyOnWrite")
    assert again.writable and again.array[0] == 0


def test_aPickleIsOpenedSoWithoutTheChanges(domain: str, actor: Start) -> None:
    muninn.share(np.zeros(3), name="a", access="readOnly")
    buffer = muninn.open("a", access="copyOnWrite")
    buffer.array[0] = 1
    for again in (pickle.loads(pickle.dumps(buffer)), copy.copy(buffer), copy.deepcopy(buffer)):
        assert again.describe()["openedAs"] == "copyOnWrite" and again.array[0] == 0
        again.array[1] = 2
    assert buffer.array.tolist() == [1, 0, 0]
    other = actor()
    other.do(f"import pickle; b = pickle.loads({pickle.dumps(buffer)!r}); b.array[2] = 3")
    assert other.do("b.array.tolist()") == [0, 0, 3] and buffer.array.tolist() == [1, 0, 0]
    reading = pickle.loads(pickle.dumps(muninn.open("a")))
    assert not reading.writable


# --- how long it is there -------------------------------------------------------------


def test_objectsOfAProcessHaveOneLease(domain: str) -> None:
    muninn.share(np.zeros(3), name="a").close()
    with (
        muninn.open("a", access="copyOnWrite"),
        muninn.open("a", access="copyOnWrite"),
        muninn.open("a"),
    ):
        assert _holders("a") == [os.getpid()] and _leases() == 1 and _private() == 2
    assert _holders("a") == [] and _leases() == 0 and _private() == 0


def test_anObjectsMappingGoesWithIt(domain: str) -> None:
    muninn.share(np.zeros(3), name="a").close()
    first, second = (muninn.open("a", access="copyOnWrite") for _ in range(2))
    address = second.array.__array_interface__["data"][0]
    first.close()
    first.close()
    assert _private() == 1 and _leases() == 1
    assert second.array.__array_interface__["data"][0] == address
    del second
    eventually(lambda: _private() + _leases() == 0, "a finalizer undoes it too")


def test_arraysOutliveTheObjectAndTheBuffer(domain: str) -> None:
    """Their memory is mapped, and their lease is held, until the last is gone."""
    muninn.share(np.arange(4.0), name="a").close()
    buffer = muninn.open("a", access="copyOnWrite")
    array = buffer.array
    array[0] = 8
    part = array[:2]
    buffer.free()
    with pytest.raises(BufferFreed):
        _ = buffer.array
    assert _private() == 1 and _leases() == 1
    (dying,) = muninn.listBuffers()
    assert [holder["pid"] for holder in dying["importers"]] == [os.getpid()]
    array[3] = 1
    del array
    assert part.tolist() == [8, 1] and _leases() == 1
    del part
    eventually(lambda: muninn.listBuffers() == [], "the memory is given back")
    assert _private() == 0 and _leases() == 0


def test_anObjectThatIsClosedMeanwhileGivesNoSharedMemory(domain: str) -> None:
    """Another thread, or a handler, closes it between two steps of `array`. Broken: the
    array was one of the shared bytes, and writable.
    """
    muninn.share(np.zeros(3), name="a")
    buffer = muninn.open("a", access="copyOnWrite")
    openBuffer = buffer._checked()
    buffer.close()
    with pytest.raises(BufferFreed):
        buffer._view(openBuffer)


@pytest.mark.parametrize("isInCycle", [False, True])
def test_itIsUnmappedBeforeTheLeaseIsGivenBack(
    domain: str, monkeypatch: pytest.MonkeyPatch, isInCycle: bool
) -> None:
    """Broken, for arrays in a cycle: the collector tells of a lease before it ends the
    other objects of the cycle.
    """
    muninn.share(np.zeros(3), name="a").close()
    array: Any = muninn.open("a", access="copyOnWrite").array
    if isInCycle:
        cycle: list[Any] = [array]
        cycle.append(cycle)
        del cycle
    release, mapped = LeaseTable.release, list[int]()

    def look(table: LeaseTable, index: int) -> None:
        mapped.append(_private())
        release(table, index)

    monkeypatch.setattr(LeaseTable, "release", look)
    del array
    gc.collect()
    eventually(lambda: mapped, "the lease is given back")
    assert mapped == [0]


class _Closing:
    """Stands for a mapping whose first closes are interrupted."""

    def __init__(self, interruptions: int) -> None:
        self.interruptions = interruptions

    def close(self) -> None:
        self.interruptions -= 1
        if self.interruptions >= 0:
            raise KeyboardInterrupt


class _Ending:
    """Stands for shared memory: its end ends private memory too, as that of a lease
    does.
    """

    def __init__(self, memories: PrivateMemories) -> None:
        self._memories = memories

    def __del__(self) -> None:
        self._memories.endGone()


def test_anEndThatIsInterruptedOrComesAgainIsWhole() -> None:
    """Broken: the end of one private memory removed the next one from the queue."""
    memories = PrivateMemories(lambda _: None)
    mappings: list[Any] = [_Closing(1), _Closing(0)]
    private = [PrivateMemory(mapping) for mapping in mappings]
    for each in private:
        memories.keep(each, _Ending(memories))  # type: ignore[arg-type]
    del each
    while private:
        private.pop(0)
    with pytest.raises(KeyboardInterrupt):
        memories.endGone()
    assert len(memories.gone) == 2
    memories.endGone()
    assert not memories.gone and not memories._kept
    assert [mapping.interruptions for mapping in mappings] == [-1, -1], "each is closed once more"


def test_arraysOutliveARevocation(domain: str) -> None:
    muninn.share(np.zeros(3), name="a").close()
    buffer = muninn.open("a", access="copyOnWrite")
    array = buffer.array
    array[0] = 2
    assert evict("a").revoked
    with pytest.raises(LeaseRevoked):
        _ = buffer.array
    array[1] = 3
    assert array.tolist() == [2, 3, 0]


def test_anObjectKeepsItsChangesWhenItsProcessJoinsAnew(domain: str, actor: Start) -> None:
    holder = actor("muninn.share(np.zeros(3), name='a')")
    buffer = muninn.open("a", access="copyOnWrite")
    buffer.array[0] = 6
    membership.current().leave()
    assert buffer.array.tolist() == [6, 0, 0]
    assert os.getpid() in _holders("a") and _private() == 1
    buffer.close()
    assert os.getpid() not in _holders("a") and _private() == 0
    assert holder.leave() == 0


def test_memoryThatCanNotBeMappedLeavesNothing(domain: str, actor: Start) -> None:
    muninn.MuninnBuffer("1G", name="a", reserve="lazy").close()
    other = actor("import resource\nmuninn.open('a').close()")
    with openFile(f"/proc/{other.pid}/statm") as file:
        used = int(file.read().split()[0]) * layout.PAGE_BYTES
    # Enough for the shared mapping, and not for another one.
    other.do(f"resource.setrlimit(resource.RLIMIT_AS, ({used + (3 << 29)}, -1))")
    with pytest.raises(ActorError, match="HostMemoryFull"):
        other.do("muninn.open('a', access='copyOnWrite')")
    eventually(lambda: _holders("a") == [], "the lease is given back")
    assert other.do("muninn.open('a').nbytes") == 1 << 30
    assert issubclass(HostMemoryFull, MemoryError)


def test_aGreatBufferNeedsNoMemoryUntilItIsWritten(domain: str) -> None:
    """Broken: the kernel refused a private mapping larger than the memory."""
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2":
        pytest.skip("vm.overcommit_memory is 2: this kernel counts every page at once")
    sizeBytes = 1 << 38
    with muninn.MuninnBuffer(sizeBytes, name="a", reserve="lazy") as made:
        buffer = muninn.open("a", access="copyOnWrite")
        buffer.array[sizeBytes // 2] = 1
        assert made.array[sizeBytes // 2] == 0 and buffer.array[sizeBytes // 2] == 1
        made.free()


# --- forks ----------------------------------------------------------------------------


def test_aForkedChildHasWhatItsParentWroteAndWritesForItself(domain: str, actor: Start) -> None:
    """It takes a lease of its own, and its mapping is gone with its last array."""
    muninn.share(np.zeros(4), name="a")
    parent = actor(program("privateChild"))
    # The array that was taken before the fork keeps the child's lease as well.
    assert parent.do("said") == "True True [1, 0] [1, 1, 0]"
    assert parent.do("b.array.tolist()") == parent.do("before.tolist()") == [1, 0, 0, 0]
    assert not muninn.open("a").array.any()


def test_aChildThatUsesNothingHarmsNothing(domain: str) -> None:
    muninn.share(np.zeros(4), name="a").close()
    buffer = muninn.open("a", access="copyOnWrite")
    array = buffer.array
    child = os.fork()
    if not child:
        array[0] = 1
        del array
        buffer.close()
        os._exit(_private())
    assert os.waitpid(child, 0)[1] == 0
    assert array[0] == 0 and _leases() == 1 and _private() == 1


def test_freedMemoryIsListedWithItsSizeOnce(domain: str, actor: Start) -> None:
    """Broken: a process that maps it privately as well was said to map twice its size."""
    parent = actor(
        "b = muninn.share(np.ones(1 << 20, 'u1'), name='big')\n"
        "c = muninn.open('big', access='copyOnWrite')\n"
        "pid = os.fork()\nif not pid: time.sleep(60); os._exit(0)"
    )
    pid = parent.do("pid")
    parent.do("c.close()\nb.free()\ndel b, c")
    (freed,) = eventually(
        lambda: [each for each in muninn.listBuffers() if each["state"] == "freed"], "it is listed"
    )
    assert freed["size"] == 1 << 20 and [each["pid"] for each in freed["importers"]] == [pid]
    os.kill(pid, signal.SIGKILL)
    parent.do(f"os.waitpid({pid}, 0)")


# --- the command line -----------------------------------------------------------------


def test_theCommandLineOpensSo(domain: str) -> None:
    muninn.share(np.zeros(3), name="a", access="readOnly").close()

    def run(*arguments: str) -> Any:
        command = [sys.executable, "-m", "muninn", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    done = run("open", "a", "--access", "copyOnWrite", "--seconds", "0")
    assert (done.returncode, done.stderr) == (0, "") and " at 0x" in done.stdout
    assert "openedAs" in done.stdout and "copyOnWrite" in done.stdout
    done = run("alloc", "--size", "1M", "--name", "b", "--access", "copyOnWrite")
    assert done.returncode == 1 and "MNN-0026 InvalidArgument" in done.stderr
    assert [each["name"] for each in muninn.listBuffers()] == ["a"]


def test_aWriteCostsAPageAndNotTheProcess(domain: str) -> None:
    """As many pages as were written are this process's; the others stay shared."""
    pages = 16
    muninn.share(np.zeros(pages * ON_PAGE), name="a").close()
    buffer = muninn.open("a", access="copyOnWrite")
    buffer.array[:: 2 * ON_PAGE] = 1
    address = buffer.array.__array_interface__["data"][0]
    text = Path("/proc/self/smaps").read_text()
    own = text.partition(f"{address:x}-")[2].partition("Anonymous:")[2].split()[0]
    assert int(own) * 1024 == pages // 2 * layout.PAGE_BYTES
