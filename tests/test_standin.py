"""The stand-in driver itself: unmodified cuda-bindings and Numba find a driver in it
that behaves like a real one.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support import Actor, ActorError

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "build" / "standin"
STANDIN = ROOT / "tests" / "standin"
MIB = 1 << 20
Start = Callable[..., Actor]

pytest.importorskip(
    "cuda.bindings.driver", reason="the stand-in needs cuda-bindings: pip install -e '.[cuda]'"
)


@pytest.fixture(scope="session", autouse=True)
def built() -> None:
    subprocess.run(["make", "--silent", "standin"], cwd=ROOT, check=True)


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes on the stand-in, with a ledger of their own; the settings are
    given without their prefix, in lower case.
    """
    started: list[Actor] = []
    ledger = f"test-{secrets.token_hex(6)}"

    def begin(code: str = "", **settings: object) -> Actor:
        environment = {f"STANDIN_{name.upper()}": str(value) for name, value in settings.items()}
        prepare = f"import sys; sys.path.insert(0, {str(STANDIN)!r})\nfrom probe import *\n"
        started.append(
            Actor(
                prepare + (code or "enter()"),
                LD_LIBRARY_PATH=str(LIBRARY),
                STANDIN_DOMAIN=ledger,
                **environment,
            )
        )
        return started[-1]

    yield begin
    for each in started:
        each.kill()
    Path(f"/dev/shm/standin-{os.getuid()}-{ledger}").unlink(missing_ok=True)


# --- answers of hardware ------------------------------------------------------------


#: The questions that take a second or less each.
_QUICK = ("0", "1", "9, 14", "10", "15-16, B", "17-18", "23", "27-28", "30")


@pytest.mark.parametrize(
    "wanted", [pytest.param(_QUICK, id="quick"), pytest.param((), id="all", marks=pytest.mark.long)]
)
def test_answersWhatAGpuAnsweredOrWhatIsDeclared(wanted: tuple[str, ...]) -> None:
    ledger = f"test-{secrets.token_hex(6)}"
    settings = {"LD_LIBRARY_PATH": str(LIBRARY), "STANDIN_DOMAIN": ledger, "STANDIN_DEVICES": "2"}
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(STANDIN / "guesses"),
        "--beside",
        str(STANDIN / "seen.json"),
        *wanted,
    ]
    done = subprocess.run(
        command,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    Path(f"/dev/shm/standin-{os.getuid()}-{ledger}").unlink(missing_ok=True)
    assert done.returncode == 0 and "; 0 otherwise" in done.stdout, done.stdout + done.stderr


def test_anotherAnswerThanRecordedIsTold() -> None:
    code = """
from answers import compare
from asking import Figure, NotAsked
given = [("1", "a", "SUCCESS"), ("1", "b", [1, True]), ("2", "c", Figure(3)), ("2", "d", NotAsked("why")), ("3", "e", 0), ("3", "f", "x")]
recorded = {"device": "G", "answers": [["1", "a", "SUCCESS"], ["1", "b", [1, False]], ["3", "e", 1], ["3", "f", "x"]]}
print(compare(given, recorded, {}), compare(given, recorded, {("3", "e"): 0, ("3", "f"): "y"}), sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(STANDIN / "guesses")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == [
        "(2, ['1          b: [1, True], and G said [1, False]', '3          e: 0, and G said 1'])",
        "(2, ['1          b: [1, True], and G said [1, False]', '3          f: x, and G said x'])",
    ], done.stderr


# --- devices ------------------------------------------------------------------------


def test_hasAsManyDevicesAndPeersAsTheEnvironmentSays(start: Start) -> None:
    actor = start("ok(cu.cuInit(0))", devices=3, p2p="010,100,000", memory="64M")
    assert actor.do("ok(cu.cuDeviceGetCount())") == 3
    assert actor.do(
        "[[ok(cu.cuDeviceCanAccessPeer(a, b)) for b in range(3)] for a in range(3)]"
    ) == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert actor.do("ok(cu.cuDeviceTotalMem(2))") == 64 * MIB
    assert (
        len(set(actor.do("[bytes(ok(cu.cuDeviceGetUuid(i)).bytes).hex() for i in range(3)]"))) == 3
    )


def test_uuidFollowsTheDeviceAndNotItsOrdinal(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = "ok(cu.cuInit(0)); [bytes(ok(cu.cuDeviceGetUuid(i)).bytes).hex() for i in range(ok(cu.cuDeviceGetCount()))]"
    first, second = start("ok(cu.cuInit(0))", devices=2).do(ask)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert start("ok(cu.cuInit(0))", devices=2).do(ask) == [second, first]


def test_reportsTheDriverThatItIsToldToBe(start: Start) -> None:
    assert start(driver=12040).do("ok(cu.cuDriverGetVersion())") == 12040


def test_saysNoDeviceWithoutOne(start: Start) -> None:
    assert start("pass", devices=0).do("code(cu.cuInit(0))") == "NO_DEVICE"


def test_needsInitAndContext(start: Start) -> None:
    actor = start("pass")
    assert actor.do("code(cu.cuMemAlloc(64))") == "NOT_INITIALIZED"
    assert actor.do("cu.cuInit(0); code(cu.cuMemAlloc(64))") == "INVALID_CONTEXT"


def test_childOfAForkIsRefused(start: Start) -> None:
    code = "r, w = os.pipe()\nif os.fork() == 0:\n    os.write(w, code(cu.cuMemAlloc(64)).encode()); os._exit(0)\nos.read(r, 99).decode()"
    assert start().do(code) == "NOT_INITIALIZED"


# --- memory -------------------------------------------------------------------------


def test_copiesBetweenHostAndDevice(start: Start) -> None:
    actor = start()
    actor.do(
        "a, b = alloc(400), alloc(400); put(a, np.arange(100, dtype=np.int32)); ok(cu.cuMemcpyDtoD(b, a, 400))"
    )
    assert actor.do("get(b, 100)") == list(range(100))
    assert actor.do("ok(cu.cuMemsetD32(b + 4, 7, 2)); get(b, 4)") == [0, 7, 7, 3]


def test_hostFaultsOnADeviceAddress(start: Start) -> None:
    actor = start("enter(); import ctypes; a = alloc(4096)")
    with pytest.raises(AssertionError, match="ended with status -11"):
        actor.do("ctypes.string_at(a, 1)")


def test_smallAllocationsShareABlockAndAreFreed(start: Start) -> None:
    actor = start("enter(); before = freeBytes(); a = [alloc(1000) for _ in range(1000)]")
    assert actor.do("len(set(a)), all(x % 256 == 0 for x in a), before - freeBytes()") == [
        1000,
        True,
        2 * MIB,
    ]
    assert (
        actor.do(
            "[ok(cu.cuMemFree(x)) for x in a[::2]]; b = [alloc(1000) for _ in range(500)]; before - freeBytes()"
        )
        == 2 * MIB
    )
    assert actor.do(
        "ok(cu.cuMemGetAddressRange(b[3] + 17)) == (cu.CUdeviceptr(b[3]), 1000) or int(ok(cu.cuMemGetAddressRange(b[3] + 17))[0]) == b[3]"
    )
    assert actor.do("[ok(cu.cuMemFree(x)) for x in a[1::2] + b]; before - freeBytes()") == 0


def test_freshMemoryIsNotZero(start: Start) -> None:
    assert any(start().do("get(alloc(64), 16)"))


def test_refusesForeignPointers(start: Start) -> None:
    actor = start("enter(); a = alloc(4096); x = np.zeros(4096, np.uint8)")
    assert actor.do(
        "code(cu.cuMemFree(a + 512)), code(cu.cuMemcpyHtoD(x.ctypes.data, x.ctypes.data, 16))"
    ) == [
        "INVALID_VALUE",
        "INVALID_VALUE",
    ]
    assert actor.do("code(cu.cuMemcpyDtoH(x.ctypes.data, a, 8192))") == "INVALID_VALUE"


def test_pointersSayWhatTheyAre(start: Start) -> None:
    actor = start(
        "enter(); a = alloc(4096); h = pinned(4096); attribute = cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE"
    )
    assert actor.do("[int(ok(cu.cuPointerGetAttribute(attribute, p))) for p in (a, h)]") == [2, 1]
    assert (
        actor.do("code(cu.cuPointerGetAttribute(attribute, np.zeros(4).ctypes.data))")
        == "INVALID_VALUE"
    )


def test_registersHostMemoryOnce(start: Start) -> None:
    actor = start(
        "enter(); import mmap; m = mmap.mmap(-1, 16 << 20); base = np.frombuffer(m, np.uint8).ctypes.data",
        host_mapped="8M",
    )
    register = "code(cu.cuMemHostRegister(base + {} * MIB, {} * MIB, 3))"
    assert actor.do(register.format(0, 4)) == "SUCCESS"
    assert actor.do(register.format(2, 4)) == "HOST_MEMORY_ALREADY_REGISTERED"
    assert actor.do(register.format(4, 8)) == "OUT_OF_MEMORY"
    assert actor.do("int(ok(cu.cuMemHostGetDevicePointer(base + 5, 0))) - base") == 5
    assert actor.do("code(cu.cuMemHostUnregister(base)), code(cu.cuMemHostUnregister(base))") == [
        "SUCCESS",
        "HOST_MEMORY_NOT_REGISTERED",
    ]


def test_readOnlyMemoryNeedsTheReadOnlyFlag(start: Start) -> None:
    actor = start(
        "enter(); import mmap; m = mmap.mmap(-1, 1 << 20, prot=mmap.PROT_READ); base = np.frombuffer(m, np.uint8).ctypes.data; a = alloc(64)"
    )
    assert actor.do(
        "code(cu.cuMemHostRegister(base, MIB, 3)), code(cu.cuMemHostRegister(base, MIB, 3 | 8))"
    ) == [
        "INVALID_VALUE",
        "SUCCESS",
    ]
    assert (
        actor.do("ok(cu.cuMemcpyHtoD(a, base, 64)); code(cu.cuMemcpyDtoH(base, a, 64))")
        == "INVALID_VALUE"
    )
    assert (
        start(read_only=0).do("x = np.zeros(64); code(cu.cuMemHostRegister(x.ctypes.data, 512, 8))")
        == "NOT_SUPPORTED"
    )


# --- accounting ---------------------------------------------------------------------


def test_countsOverProcessesAndForgetsTheKilled(start: Start) -> None:
    first, second = start(memory="16M", context=0), start(memory="16M", context=0)
    first.do("a = alloc(10 * MIB)")
    assert second.do("freeBytes()") == 6 * MIB
    assert second.do("code(cu.cuMemAlloc(8 * MIB))") == "OUT_OF_MEMORY"
    first.kill()
    assert second.do("freeBytes(), code(cu.cuMemAlloc(8 * MIB))") == [16 * MIB, "SUCCESS"]


def test_countsSharedMemoryOnceAsLongAsAnybodyHasADescriptor(start: Start) -> None:
    owner, other = start(memory="16M", context=0), start(memory="16M", context=0)
    descriptor = owner.do("h = ok(cu.cuMemCreate(4 * MIB, prop(), 0)); exportFd(h)")
    other.do(f"fd = fetchFd({owner.pid}, {descriptor}); h = importFd(fd)")
    assert other.do("freeBytes()") == 12 * MIB
    owner.kill()
    assert other.do("freeBytes()") == 12 * MIB
    assert other.do("ok(cu.cuMemRelease(h)); freeBytes()") == 12 * MIB
    assert other.do("os.close(fd); freeBytes()") == 16 * MIB


def test_memoryThatImportersHaveOpenStaysCounted(start: Start) -> None:
    owner, other = start(memory="16M", context=0), start(memory="16M", context=0)
    other.do(f"p = openMemory({owner.do('memoryHandle(alloc(4 * MIB))')!r})")
    owner.kill()
    assert other.do("freeBytes()") == 12 * MIB
    assert other.do("ok(cu.cuIpcCloseMemHandle(p)); freeBytes()") == 16 * MIB


def test_eachContextTakesMemory(start: Start) -> None:
    first = start(memory="16M", context="6M")
    assert first.do("freeBytes()") == 10 * MIB
    second = start(memory="16M", context="6M")
    assert first.do("freeBytes()") == 4 * MIB
    with pytest.raises(ActorError, match="OUT_OF_MEMORY"):
        start(memory="16M", context="6M")
    second.kill()
    assert first.do("freeBytes()") == 10 * MIB


# --- sharing ------------------------------------------------------------------------


def test_sharesMemoryByHandle(start: Start) -> None:
    owner, other = start(), start()
    raw = owner.do(
        "a = [alloc(400) for _ in range(3)][1]; put(a, np.arange(100, dtype=np.int32)); memoryHandle(a)"
    )
    assert other.do(f"p = openMemory({raw!r}); get(p, 3)") == [0, 1, 2]
    other.do("put(p, np.array([9], np.int32))")
    assert owner.do("get(a, 2)") == [9, 1]
    assert other.do(
        f"openMemory({raw!r}) == p, code(cu.cuIpcCloseMemHandle(p)), get(p, 1), code(cu.cuIpcCloseMemHandle(p)), code(cu.cuIpcCloseMemHandle(p))"
    ) == [
        True,
        "SUCCESS",
        [9],
        "SUCCESS",
        "INVALID_VALUE",
    ]
    assert owner.do(f"code(tryOpen({raw!r}))") == "INVALID_CONTEXT"


def test_staleAndForgedHandlesAreRefused(start: Start) -> None:
    owner, other = start(), start()
    raw = owner.do("a = alloc(4 * MIB); memoryHandle(a)")
    assert other.do(f"code(tryOpen({'00' * 64!r}))") == "INVALID_VALUE"
    owner.do("ok(cu.cuMemFree(a))")
    assert other.do(f"code(tryOpen({raw!r}))") == "INVALID_VALUE"
    raw = owner.do("memoryHandle(alloc(4 * MIB))")
    owner.kill()
    assert other.do(f"code(tryOpen({raw!r}))") == "INVALID_HANDLE"


@pytest.mark.parametrize(("policy", "answer"), [("keep", "SUCCESS"), ("lost", "INVALID_VALUE")])
def test_importOutlivesItsExporterAsTheEnvironmentSays(
    start: Start, policy: str, answer: str
) -> None:
    owner, other = start(), start(ipc_death=policy)
    other.do(
        f"x = np.zeros(16, np.int32); p = openMemory({owner.do('memoryHandle(alloc(4096))')!r}); get(p, 1)"
    )
    owner.kill()
    assert other.do("code(cu.cuMemcpyDtoH(x.ctypes.data, p, 64))") == answer


def test_peersAreNeededToOpenWhatLiesElsewhere(start: Start) -> None:
    owner = start("enter(1)", devices=2, p2p="none")
    raw = owner.do("memoryHandle(alloc(4096))")
    assert (
        start("enter(0)", devices=2, p2p="none").do(f"code(tryOpen({raw!r}))")
        == "PEER_ACCESS_UNSUPPORTED"
    )
    assert start("enter(0)", devices=2, p2p="full").do(f"code(tryOpen({raw!r}))") == "SUCCESS"


def test_sharesVirtualMemoryByDescriptor(start: Start) -> None:
    owner, other = start(), start()
    descriptor = owner.do(
        "h = ok(cu.cuMemCreate(4 * MIB, prop(), 0)); a = mapHandle(h, 4 * MIB); put(a, np.arange(8, dtype=np.int32)); exportFd(h)"
    )
    other.do(
        f"h = importFd(fetchFd({owner.pid}, {descriptor})); p = mapHandle(h, 4 * MIB, writable=False)"
    )
    assert other.do("get(p, 3)") == [0, 1, 2]
    assert other.do("code(cu.cuMemsetD8(p, 1, 16))") == "INVALID_VALUE"
    owner.kill()
    assert other.do("get(p, 8)") == list(range(8))
    assert other.do("ok(cu.cuMemRelease(h)); get(p, 1)") == [0]
    assert other.do(
        "code(cu.cuMemUnmap(p, 2 * MIB)), code(cu.cuMemUnmap(p, 4 * MIB)), code(cu.cuMemAddressFree(p, 4 * MIB))"
    ) == [
        "INVALID_VALUE",
        "SUCCESS",
        "SUCCESS",
    ]
    assert other.do("code(cu.cuMemcpyDtoH(np.zeros(64).ctypes.data, p, 64))") == "INVALID_VALUE"


def test_virtualMemoryChecksWhatItIsGiven(start: Start) -> None:
    actor = start("enter(); h = ok(cu.cuMemCreate(2 * MIB, prop(), 0)); r, w = os.pipe()")
    assert actor.do(
        "code(cu.cuMemCreate(4096, prop(), 0)), code(cu.cuMemImportFromShareableHandle(r, POSIX_FD))"
    ) == [
        "INVALID_VALUE",
        "UNKNOWN",
    ]
    assert actor.do("code(cu.cuMemMap(1 << 21, 2 * MIB, 0, h, 0))") == "INVALID_VALUE"
    assert (
        actor.do(
            "p = mapHandle(h, 2 * MIB); k = ok(cu.cuMemRetainAllocationHandle(p)); int(k) == int(h)"
        )
        is True
    )
    assert actor.do("[code(cu.cuMemRelease(h)) for _ in range(3)]") == [
        "SUCCESS",
        "SUCCESS",
        "INVALID_VALUE",
    ]
    assert actor.do("code(cu.cuMemAddressFree(p, 2 * MIB)), code(cu.cuIpcGetMemHandle(p))") == [
        "INVALID_VALUE",
        "INVALID_VALUE",
    ]


def test_eachImportIsAHandleOfItsOwnAndCanNotBeExported(start: Start) -> None:
    actor = start(
        "enter(); h = ok(cu.cuMemCreate(2 * MIB, prop(), 0)); fd = exportFd(h); i = importFd(fd); j = importFd(fd)"
    )
    assert actor.do("len({int(h), int(i), int(j)})") == 3
    assert actor.do(
        "a, b = mapHandle(h, 2 * MIB), mapHandle(i, 2 * MIB); put(a, np.arange(3, dtype=np.int32)); get(b, 3)"
    ) == [0, 1, 2]
    assert actor.do("code(cu.cuMemExportToShareableHandle(i, POSIX_FD, 0))") == "INVALID_VALUE"
    assert actor.do("[code(cu.cuMemRelease(x)) for x in (h, h, i)]") == [
        "SUCCESS",
        "INVALID_VALUE",
        "SUCCESS",
    ]
    assert actor.do("c = mapHandle(j, 2 * MIB); get(c, 3)") == [0, 1, 2]
    assert actor.do("code(cu.cuMemSetAccess(c, 2 * MIB, [access(True, 99)], 1))") == "INVALID_VALUE"


def test_mayLackDescriptors(start: Start) -> None:
    actor = start(vmm_fd=0)
    attribute = (
        "cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED"
    )
    assert actor.do(
        f"ok(cu.cuDeviceGetAttribute({attribute}, 0)), code(cu.cuMemCreate(2 * MIB, prop(), 0))"
    ) == [0, "NOT_SUPPORTED"]
    assert actor.do("code(cu.cuMemCreate(2 * MIB, prop(shared=False), 0))") == "SUCCESS"


# --- streams and events -------------------------------------------------------------


def test_pinnedCopiesAreQueuedAndPageableOnesWait(start: Start) -> None:
    actor = start(delay=300000)
    actor.do(
        "s = stream(); a = alloc(1 << 17); h = pinned(1 << 17); x = np.zeros(1 << 17, np.uint8)"
    )
    assert (
        actor.do("ok(cu.cuMemcpyHtoDAsync(a, h, 4096, s)); code(cu.cuStreamQuery(s))")
        == "NOT_READY"
    )
    assert (
        actor.do(
            "ok(cu.cuMemcpyHtoDAsync(a, x.ctypes.data, 1 << 17, s)); code(cu.cuStreamQuery(s))"
        )
        == "SUCCESS"
    )
    assert actor.do(
        "ok(cu.cuMemcpyDtoDAsync(a, a + 2048, 1024, s)); q = code(cu.cuStreamQuery(s)); ok(cu.cuStreamSynchronize(s)); q, code(cu.cuStreamQuery(s))"
    ) == [
        "NOT_READY",
        "SUCCESS",
    ]


def test_aWaitingStreamDoesNotHoldUpOthers(start: Start) -> None:
    actor = start(
        "enter(); s, t = stream(), stream(); word, a = pinned(64), alloc(64); ctypes.memset(word, 0, 64)"
    )
    actor.do(
        "ok(cu.cuStreamWaitValue64(s, word, 1, 0)); ok(cu.cuMemsetD32Async(a, 5, 4, s)); ok(cu.cuMemsetD32Async(a, 3, 4, t)); ok(cu.cuStreamSynchronize(t))"
    )
    assert (
        actor.do(
            "h = pinned(16); ok(cu.cuMemcpyDtoHAsync(h, a, 16, t)); ok(cu.cuStreamSynchronize(t)); ctypes.c_int.from_address(h).value"
        )
        == 3
    )
    assert actor.do(
        "code(cu.cuStreamQuery(s)), ok(cu.cuStreamWriteValue64(t, word, 1, 0)), ok(cu.cuStreamSynchronize(s)), get(a, 1)"
    ) == [
        "NOT_READY",
        None,
        None,
        [5],
    ]


def test_theLegacyStreamIsOrderedWithBlockingOnes(start: Start) -> None:
    actor = start("enter(); s = ok(cu.cuStreamCreate(0)); a = alloc(64)", delay=100000)
    assert actor.do("ok(cu.cuMemsetD32Async(a, 5, 4, s)); get(a, 1)") == [5]


def test_eventsOrderStreamsAndMeasure(start: Start) -> None:
    actor = start(
        "enter(); s, t = stream(), stream(); a = alloc(64); e, f = (ok(cu.cuEventCreate(0)) for _ in range(2))",
        delay=50000,
    )
    actor.do(
        "ok(cu.cuEventRecord(e, s)); ok(cu.cuMemsetD32Async(a, 5, 4, s)); ok(cu.cuEventRecord(f, s)); q = code(cu.cuEventQuery(f))"
    )
    actor.do(
        "h = pinned(16); ok(cu.cuStreamWaitEvent(t, f, 0)); ok(cu.cuMemcpyDtoHAsync(h, a, 16, t)); ok(cu.cuStreamSynchronize(t))"
    )
    assert actor.do(
        "q, ctypes.c_int.from_address(h).value, code(cu.cuEventQuery(f)), ok(cu.cuEventElapsedTime(e, f)) > 40"
    ) == [
        "NOT_READY",
        5,
        "SUCCESS",
        True,
    ]


def test_eventsCrossProcesses(start: Start) -> None:
    owner, other = (
        start(
            "enter(); s = stream(); word = pinned(64); ctypes.memset(word, 0, 64); a = alloc(64); put(a, np.zeros(16, np.int32))"
        ),
        start(),
    )
    owner.do("e = ok(cu.cuEventCreate(2 | 4))")
    memory, event = owner.do("memoryHandle(a)"), owner.do("eventHandle(e)")
    owner.do(
        "ok(cu.cuStreamWaitValue64(s, word, 1, 0)); ok(cu.cuMemsetD32Async(a, 6, 16, s)); ok(cu.cuEventRecord(e, s))"
    )
    other.do(
        f"t = stream(); p = openMemory({memory!r}); f = openEvent({event!r}); h = pinned(64); ok(cu.cuStreamWaitEvent(t, f, 0))"
    )
    assert other.do(
        "ok(cu.cuMemcpyDtoHAsync(h, p, 64, t)); code(cu.cuStreamQuery(t)), code(cu.cuEventQuery(f))"
    ) == [
        "NOT_READY",
        "NOT_READY",
    ]
    owner.do("ctypes.c_uint64.from_address(word).value = 1")
    assert other.do(
        "ok(cu.cuStreamSynchronize(t)); ctypes.c_int.from_address(h).value, code(cu.cuEventQuery(f))"
    ) == [6, "SUCCESS"]
    assert owner.do("code(cu.cuEventCreate(4))") == "INVALID_VALUE"


@pytest.mark.parametrize(
    ("policy", "answer"),
    [("pending", "NOT_READY"), ("done", "SUCCESS"), ("error", "LAUNCH_FAILED")],
)
def test_anEventOfTheDeadIsAsTheEnvironmentSays(start: Start, policy: str, answer: str) -> None:
    owner, other = (
        start(
            "enter(); s = stream(); word = pinned(64); ctypes.memset(word, 0, 64); e = ok(cu.cuEventCreate(2 | 4))"
        ),
        start(dead_event=policy),
    )
    owner.do("ok(cu.cuStreamWaitValue64(s, word, 1, 0)); ok(cu.cuEventRecord(e, s))")
    other.do(f"f = openEvent({owner.do('eventHandle(e)')!r})")
    owner.kill()
    assert other.do("code(cu.cuEventQuery(f))") == answer


def test_alittlePageableMemoryIsSetAside(start: Start) -> None:
    actor = start(
        "enter(); s = stream(); a = alloc(4096); x = np.ones(1024, np.int32)", delay=300000
    )
    assert (
        actor.do(
            "ok(cu.cuMemcpyHtoDAsync(a, x.ctypes.data, 4096, s)); x[:] = 2; code(cu.cuStreamQuery(s))"
        )
        == "NOT_READY"
    )
    assert actor.do("ok(cu.cuStreamSynchronize(s)); get(a, 1024)") == [1] * 1024


@pytest.mark.parametrize(
    ("work", "error"),
    [
        ("ok(cu.cuMemsetD8Async(a, 1, 64, s))", "LAUNCH_FAILED"),
        ("ok(cu.cuStreamWriteValue64(s, a, 1, 0))", "LAUNCH_FAILED"),
        ("ok(cu.cuMemcpyDtoDAsync(b, a, 64, s))", "ILLEGAL_ADDRESS"),
    ],
)
def test_unmappingMemoryUnderWorkKillsTheContext(start: Start, work: str, error: str) -> None:
    actor = start(
        "enter(); s = stream(); h = ok(cu.cuMemCreate(2 * MIB, prop(), 0)); a = mapHandle(h, 2 * MIB); b = alloc(64)",
        delay=100000,
    )
    actor.do(
        "e = ok(cu.cuEventCreate(0)); attribute = cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE"
    )
    actor.do(f"{work}; ok(cu.cuMemUnmap(a, 2 * MIB))")
    assert (
        actor.do(
            "code(cu.cuStreamSynchronize(s)), code(cu.cuMemAlloc(64)), code(cu.cuEventQuery(e))"
        )
        == [error] * 3
    )
    assert actor.do(
        "code(cu.cuPointerGetAttribute(attribute, b)), code(cu.cuStreamDestroy(s))"
    ) == ["SUCCESS", error]


def test_aThreadHasADefaultStreamInEachContext(start: Start) -> None:
    actor = start("enter()")
    actor.do(
        "h = pinned(64); ok(cu.cuMemsetD8(h, 0, 64)); ok(cu.cuCtxSynchronize()); ok(cu.cuStreamWaitValue64(2, h, 1, 0))"
    )
    assert actor.do(
        "q = code(cu.cuStreamQuery(2)); c = ok(cu.cuCtxCreate(None, 0, 0)); q, code(cu.cuStreamQuery(2))"
    ) == [
        "NOT_READY",
        "SUCCESS",
    ]


def test_hostFunctionsRunInTheirPlaceAndMayAskLittle(start: Start) -> None:
    actor = start(
        "enter(); s = stream(); t = stream(); e = ok(cu.cuEventCreate(0)); seen = []; import ctypes",
        delay=50000,
    )
    asked = "cu.cuMemAlloc(64), cu.cuStreamQuery(t), cu.cuEventQuery(e), cu.cuStreamSynchronize(t)"
    actor.do(
        f"@ctypes.CFUNCTYPE(None, ctypes.c_void_p)\ndef note(_): seen.extend(code(answer) for answer in ({asked}))\n"
    )
    actor.do(
        "ok(cu.cuLaunchHostFunc(s, cu.CUhostFn(ctypes.cast(note, ctypes.c_void_p).value), 0)); early = len(seen); ok(cu.cuStreamSynchronize(s))"
    )
    assert actor.do("early, seen") == [0, ["NOT_PERMITTED", "SUCCESS", "SUCCESS", "SUCCESS"]]


# --- links between devices ----------------------------------------------------------


#: Memory of GPU 0 and of GPU 1, with streams of both; by cuMemCreate, both reached by both.
_VMM = "first(); a, b = vmm(0, 2 * MIB, reached=(0, 1)), vmm(1, 2 * MIB, reached=(0, 1))"
#: The same by cuMemAlloc, where the first context has enabled access.
_PEERS = "first(); a, b = allocOn(0, 2 * MIB), allocOn(1, 2 * MIB); ok(cu.cuCtxEnablePeerAccess(contexts[1], 0))"
#: The same, and no context has enabled it.
_STAGED = "first(); a, b = allocOn(0, 2 * MIB), allocOn(1, 2 * MIB)"
_FILL = "put(a, np.arange(1 << 18, dtype=np.uint64)); put(b, np.zeros(1 << 18, np.uint64))"


def test_linksSayWhichDevicesReachEachOther(start: Start) -> None:
    actor = start("ok(cu.cuInit(0))", devices=3, links="0-1=none,2>0=none", p2p="011,101,110")
    assert actor.do(
        "[[ok(cu.cuDeviceCanAccessPeer(a, b)) for b in range(3)] for a in range(3)]"
    ) == [[0, 0, 1], [0, 0, 1], [0, 1, 0]]


def test_linksAreThoseOfTheHostAndNotOfTheOrdinals(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    actor = start("ok(cu.cuInit(0))", devices=3, links="2>0=none")
    assert actor.do("[ok(cu.cuDeviceCanAccessPeer(*pair)) for pair in ((0, 1), (1, 0))]") == [0, 1]


@pytest.mark.parametrize(
    "links",
    [
        "0-1",
        "0-1=",
        "0-1=bad",
        "0-1=nonesuch",
        "0-2=none",
        "0-0=none",
        "0~1=none",
        "-1=none",
        "0-1=slow",
        "0-1=slow:",
        "0-1=slow:0",
        "0-1=slow:-5",
        "0-1=slow:5T",
        "0-1=none,",
        "0-1=none 1-0=none",
    ],
)
def test_linksThatCanNotBeReadEndTheProgram(start: Start, links: str) -> None:
    actor = start("pass", devices=2, links=links)
    with pytest.raises(AssertionError, match="ended with status -6"):
        actor.do("cu.cuInit(0)")


def test_aLinkMayRefuseTheAccessThatItPromises(start: Start) -> None:
    actor = start("first()", devices=2, links="1>0=refuse")
    assert actor.do("ok(cu.cuDeviceCanAccessPeer(1, 0)), ok(cu.cuDeviceCanAccessPeer(0, 1))") == [
        1,
        1,
    ]
    actor.do("a, b = vmm(0, 2 * MIB), vmm(1, 2 * MIB)")
    assert actor.do("reach(a, 2 * MIB, 1), reach(b, 2 * MIB, 0)") == ["OUT_OF_MEMORY", "SUCCESS"]
    assert actor.do("reach(a, 2 * MIB, 1, flags=0)") == "SUCCESS"
    assert actor.do("enter(1); code(cu.cuCtxEnablePeerAccess(contexts[0], 0))") == "TOO_MANY_PEERS"
    assert actor.do("enter(0); code(cu.cuCtxEnablePeerAccess(contexts[1], 0))") == "SUCCESS"
    raw = actor.do("memoryHandle(allocOn(0, 4096))")
    other = start("enter(1)", devices=2, links="1>0=refuse")
    assert other.do(f"code(tryOpen({raw!r}))") == "TOO_MANY_PEERS"


@pytest.mark.parametrize("memory", [_VMM, _PEERS], ids=["vmm", "peers"])
@pytest.mark.parametrize(
    "copy",
    [
        "cu.cuMemcpyAsync(b, a, {}, s)",
        "cu.cuMemcpyDtoDAsync(b, a, {}, s)",
        "cu.cuMemcpyDtoD(b, a, {})",
        "cu.cuMemcpy(b, a, {})",
        "cu.cuMemcpyPeer(b, contexts[1], a, contexts[0], {})",
        "cu.cuMemcpyPeerAsync(b, contexts[1], a, contexts[0], {}, s)",
        "batch([(b, a, {})], s)",
    ],
)
def test_aCorruptingLinkDamagesEach64KiBWithoutAnError(
    start: Start, memory: str, copy: str
) -> None:
    actor = start(memory, devices=2, links="0>1=corrupt")
    actor.do(f"{_FILL}; s = stream(); ok({copy.format(2 * MIB)}); ok(cu.cuCtxSynchronize())")
    actor.do(
        "sent = np.arange(1 << 18, dtype=np.uint64).view(np.uint8).reshape(32, -1)\n"
        "arrived = np.array(get(b, 2 * MIB, np.uint8)).reshape(32, -1)\n"
        "wrong = (arrived != sent).sum(axis=1)"
    )
    assert actor.do("int(wrong.min()) >= 1, int(wrong.sum()) < 1000") == [True, True]
    actor.do(f"put(b, np.zeros(64, np.uint8)); ok({copy.format(1)}); ok(cu.cuCtxSynchronize())")
    assert actor.do("get(b, 1, np.uint8) != get(a, 1, np.uint8)") is True


def test_aCorruptingLinkDamagesTheSameBytesEachTime(start: Start) -> None:
    actor = start(_VMM, devices=2, links="0-1=corrupt")
    copy = "ok(cu.cuMemcpyDtoD(b, a, 2 * MIB))"
    actor.do(f"{_FILL}; {copy}; once = get(b, 1 << 18, np.uint64); {copy}")
    assert actor.do("get(b, 1 << 18, np.uint64) == once") is True


def test_theWayBackDoesNotUndoTheDamage(start: Start) -> None:
    actor = start(_VMM, devices=2, links="0-1=corrupt")
    actor.do(f"{_FILL}; sent = get(a, 1 << 18, np.uint64)")
    actor.do("ok(cu.cuMemcpyDtoD(b, a, 2 * MIB)); ok(cu.cuMemcpyDtoD(a, b, 2 * MIB))")
    assert actor.do("get(a, 1 << 18, np.uint64) != sent") is True


def test_aLinkIsCorruptInItsOwnDirectionOnly(start: Start) -> None:
    actor = start(_VMM, devices=2, links="1>0=corrupt")
    actor.do(f"{_FILL}; ok(cu.cuMemcpyDtoD(b, a, 2 * MIB))")
    assert actor.do("get(b, 1 << 18, np.uint64) == list(range(1 << 18))") is True
    actor.do("ok(cu.cuMemcpyDtoD(a, b, 2 * MIB))")
    assert actor.do("get(a, 1 << 18, np.uint64) == list(range(1 << 18))") is False


def test_whatTheDriverStagesDoesNotGoOverTheLink(start: Start) -> None:
    actor = start(_STAGED, devices=2, links="0-1=corrupt,0-1=slow:1K")
    actor.do(f"{_FILL}; ok(cu.cuMemcpyPeer(b, contexts[1], a, contexts[0], 2 * MIB))")
    assert actor.do("get(b, 1 << 18, np.uint64) == list(range(1 << 18))") is True
    actor.do(f"{_FILL}; ok(cu.cuMemcpyDtoD(b, a, 2 * MIB))")
    assert actor.do("get(b, 1 << 18, np.uint64) == list(range(1 << 18))") is True


def test_copiesWithinADeviceDoNotGoOverALink(start: Start) -> None:
    actor = start(_VMM, devices=2, links="0-1=corrupt")
    actor.do("c = vmm(0, 2 * MIB, reached=(0, 1))")
    actor.do(f"{_FILL}; ok(cu.cuMemcpyDtoD(c, a, 2 * MIB))")
    assert actor.do("get(c, 1 << 18, np.uint64) == list(range(1 << 18))") is True


def test_importedMemoryGoesOverTheLinkToo(start: Start) -> None:
    owner = start("first(); a = allocOn(0, 4096); put(a, np.zeros(4096, np.uint8))", devices=2)
    other = start("first(); enter(1)", devices=2, links="0>1=corrupt")
    other.do(f"p = openMemory({owner.do('memoryHandle(a)')!r}); b = allocOn(1, 4096)")
    assert other.do("ok(cu.cuMemcpyDtoD(b, p, 4096)); any(get(b, 4096, np.uint8))") is True


@pytest.mark.parametrize("memory", [_VMM, _PEERS], ids=["vmm", "peers"])
def test_aSlowLinkTakesItsTimeInTheStream(start: Start, memory: str) -> None:
    actor = start(memory, devices=2, links="0>1=slow:4M")
    actor.do(f"{_FILL}; s = stream(); e, f = (ok(cu.cuEventCreate(0)) for _ in range(2))")
    actor.do(
        "ok(cu.cuEventRecord(e, s)); ok(cu.cuMemcpyDtoDAsync(b, a, MIB, s)); q = code(cu.cuStreamQuery(s)); ok(cu.cuEventRecord(f, s)); ok(cu.cuStreamSynchronize(s))"
    )
    assert actor.do("q, ok(cu.cuEventElapsedTime(e, f)) >= 250") == ["NOT_READY", True]
    assert actor.do("get(b, 1 << 17, np.uint64) == list(range(1 << 17))") is True


def test_aLinkIsSlowInItsOwnDirectionOnly(start: Start) -> None:
    actor = start(_VMM, devices=2, links="1>0=slow:1")
    actor.do(f"{_FILL}; ok(cu.cuMemcpyDtoD(b, a, 2 * MIB))")
    assert actor.do("get(b, 1 << 18, np.uint64) == list(range(1 << 18))") is True


def test_theKindsOfALinkAddUp(start: Start) -> None:
    actor = start(_VMM, devices=2, links="0-1=corrupt,0>1=slow:4M")
    actor.do(f"{_FILL}; s = stream(); e, f = (ok(cu.cuEventCreate(0)) for _ in range(2))")
    actor.do(
        "ok(cu.cuEventRecord(e, s)); ok(cu.cuMemcpyDtoDAsync(b, a, MIB, s)); ok(cu.cuEventRecord(f, s)); ok(cu.cuStreamSynchronize(s))"
    )
    assert actor.do(
        "ok(cu.cuEventElapsedTime(e, f)) >= 250, get(b, 1 << 17, np.uint64) == list(range(1 << 17))"
    ) == [True, False]


def test_linksAreDescribedAsTheyAre(start: Start) -> None:
    actor = start("ok(cu.cuInit(0))", devices=3, links="0>1=slow:1G,1-2=none,0-2=refuse")
    actor.do(
        "P = cu.CUdevice_P2PAttribute\n"
        "asked = [P.CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK, P.CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, P.CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED, P.CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED, P.CU_DEVICE_P2P_ATTRIBUTE_ONLY_PARTIAL_NATIVE_ATOMIC_SUPPORTED]\n"
        "def told(a, b): return [ok(cu.cuDeviceGetP2PAttribute(each, a, b)) for each in asked]"
    )
    assert actor.do("told(0, 1), told(1, 0), told(1, 2), told(0, 2)") == [
        [1, 1, 1, 1, 0],
        [0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0],
    ]
    assert actor.do("code(cu.cuDeviceGetP2PAttribute(asked[0], 1, 1))") == "INVALID_DEVICE"


def test_eachDeviceIsOnABusOfItsOwn(start: Start) -> None:
    actor = start("ok(cu.cuInit(0))", devices=4)
    ids = actor.do("[ok(cu.cuDeviceGetPCIBusId(13, i)).decode().rstrip(chr(0)) for i in range(4)]")
    bus = "cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_PCI_BUS_ID"
    numbers = actor.do(f"[ok(cu.cuDeviceGetAttribute({bus}, i)) for i in range(4)]")
    assert ids == [f"0000:{number:02x}:00.0" for number in numbers] and len(set(ids)) == 4


def test_theLogTellsWhichWayACopyGoes(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "calls"
    actor = start(_STAGED, devices=2, log=path)
    actor.do("ok(cu.cuMemcpyDtoD(b, a, 64)); ok(cu.cuCtxEnablePeerAccess(contexts[1], 0))")
    actor.do("ok(cu.cuMemcpyDtoD(a, b, 64))")
    told = [line.split("standin(")[1] for line in path.read_text().splitlines() if "(copy" in line]
    assert told == [
        "copy device to device, bytes=64, GPU 0 to GPU 1 staged)",
        "copy device to device, bytes=64, GPU 1 to GPU 0 directly)",
    ]


# --- access of devices to mappings --------------------------------------------------


def test_accessIsSetAndGivenBackForSeveralDevices(start: Start) -> None:
    actor = start("first(); a = vmm(0, 2 * MIB)", devices=3)
    actor.do("flags = [access(), access(False, 1), access(True, 2)]")
    assert actor.do("held(a)") == [3, 0, 0]
    assert actor.do("code(cu.cuMemSetAccess(a, 2 * MIB, flags, 3)), held(a)") == [
        "SUCCESS",
        [3, 1, 3],
    ]
    assert actor.do(
        "reach(a, 2 * MIB, 1, flags=0), held(a), reach(a, 2 * MIB, 2, flags=0), held(a)"
    ) == ["SUCCESS", [3, 0, 3], "SUCCESS", [3, 0, 0]]


def test_copiesBetweenDevicesEndWithTheAccess(start: Start) -> None:
    actor = start(_VMM, devices=2)
    copy = "code(cu.cuMemcpyDtoD(b, a, 64))"
    inEach = f"[(enter(gpu), {copy})[1] for gpu in (0, 1)]"
    actor.do("reach(b, 2 * MIB, 0, flags=0)")
    assert actor.do(inEach) == ["INVALID_VALUE", "SUCCESS"], "GPU 1 has both mapped"
    actor.do("reach(a, 2 * MIB, 1, flags=0)")
    assert actor.do(inEach) == ["INVALID_VALUE"] * 2, "neither has both mapped"
    actor.do("reach(b, 2 * MIB, 0)")
    assert actor.do(inEach) == ["SUCCESS", "INVALID_VALUE"], "GPU 0 has both mapped"


def test_aPeerCopyOfVirtualMemoryNeedsNoAccess(start: Start) -> None:
    """The driver stages it, seen on two H200; a batch it does not."""
    actor = start("first(); a, b = vmm(0, 2 * MIB), vmm(1, 2 * MIB); s = stream()", devices=2)
    for copy in (
        "cu.cuMemcpyPeer(b, contexts[1], a, contexts[0], 64)",
        "cu.cuMemcpyPeerAsync(b, contexts[1], a, contexts[0], 64, s)",
    ):
        assert actor.do(f"code({copy})") == "SUCCESS"
    batch = "code(batch([(b, a, 64)], s))"
    assert actor.do(batch) == "INVALID_VALUE"
    assert actor.do(f"reach(b, 2 * MIB, 0); {batch}") == "SUCCESS", "a stream of GPU 0"


def test_readingTheTargetIsNotEnoughForACopy(start: Start) -> None:
    actor = start("first(); a, b = vmm(0, 2 * MIB), vmm(1, 2 * MIB)", devices=2)
    assert actor.do("reach(b, 2 * MIB, 0, flags=1); code(cu.cuMemcpyDtoD(b, a, 64))") == (
        "INVALID_VALUE"
    )
    assert actor.do("code(cu.cuMemcpyDtoD(a, b, 64))") == "SUCCESS"


def test_aStreamOfADeviceThatReachesNeitherSideIsRefused(start: Start) -> None:
    actor = start("first(); a, b = vmm(0, 2 * MIB), vmm(0, 2 * MIB)", devices=2)
    copy = "code(cu.cuMemcpyDtoDAsync(b, a, 64, s))"
    assert actor.do(f"enter(1); s = stream(); {copy}") == "INVALID_VALUE"
    assert actor.do(f"enter(0); {copy}") == "INVALID_VALUE", "the stream counts"
    assert actor.do(f"reach(a, 2 * MIB, 1); {copy}") == "SUCCESS"


def test_accessIsSetForAllEntriesOrForNone(start: Start) -> None:
    actor = start("first(); a = vmm(0, 2 * MIB)", devices=3, links="0-2=none")
    assert actor.do(
        "code(cu.cuMemSetAccess(a, 2 * MIB, [access(True, 1), access(True, 2)], 2))"
    ) == ("INVALID_DEVICE")
    assert actor.do("held(a)") == [3, 0, 0]


def test_kernelsReachWhatTheirDeviceReaches(start: Start) -> None:
    actor = start(
        "import references; first(); a, b = vmm(0, 2 * MIB), allocOn(0, 4096)\n"
        "def seen(address, write=0): return bool(references.driver().standinHostPointer(address, 64, write))",
        devices=2,
    )
    assert actor.do("enter(0); seen(a), seen(b)") == [True, True]
    assert actor.do("enter(1); seen(a), seen(b)") == [False, False]
    actor.do("reach(a, 2 * MIB, 1, flags=1); ok(cu.cuCtxEnablePeerAccess(contexts[0], 0))")
    assert actor.do("seen(a), seen(a, 1), seen(b, 1)") == [True, False, True]


# --- batches of copies --------------------------------------------------------------

_BATCH = "first(); s = stream(); a, b = alloc(8192), alloc(8192); put(a, np.arange(2048, dtype=np.int32)); put(b, np.zeros(2048, np.int32))"


def test_aBatchIsWorkOfItsStream(start: Start) -> None:
    actor = start(_BATCH, delay=100000)
    actor.do("h = pinned(64); ctypes.memset(h, 7, 64)")
    actor.do(
        "e = code(batch([(b, a, 4), (b + 4, a + 400, 8), (b + 12, h, 4)], s)); q = code(cu.cuStreamQuery(s)); ok(cu.cuStreamSynchronize(s))"
    )
    assert actor.do("e, q, get(b, 5)") == [
        "SUCCESS",
        "NOT_READY",
        [0, 100, 101, 0x07070707, 0],
    ]


@pytest.mark.parametrize(
    "broken",
    [
        "copies=[]",
        "orders=[]",
        "orders=[0]",
        "orders=[4]",
        "flags=2",
        "firsts=[1]",
        "orders=[1, 1], firsts=[0, 0]",
        "orders=[1, 1], firsts=[0, 2]",
        "orders=[1, 1, 1], firsts=[0, 1, 2]",
        "on=0",
        "on=1",
        "copies=[(b, a, 4), (b, a, 0)]",
        "copies=[(b, a, 4), (b, a, 16384)]",
    ],
)
def test_aBatchThatIsNotAsDocumentedIsRefusedWhole(start: Start, broken: str) -> None:
    actor = start(_BATCH)
    actor.do(
        "def tried(copies=None, on=None, **given): return code(batch([(b, a + 4, 4), (b + 4, a + 8, 4)] if copies is None else copies, s if on is None else on, **given))"
    )
    assert actor.do(f"tried({broken})") == "INVALID_VALUE"
    assert actor.do("get(b, 2), tried(), ok(cu.cuStreamSynchronize(s)), get(b, 2)") == [
        [0, 0],
        "SUCCESS",
        None,
        [1, 2],
    ]


@pytest.mark.parametrize(
    ("order", "state", "arrived"),
    [(1, "SUCCESS", 1), (2, "NOT_READY", 1), (3, "NOT_READY", 2)],
    ids=["streamOrder", "duringTheCall", "anyTime"],
)
def test_aBatchReadsItsSourcesWhenItsAttributesSay(
    start: Start, order: int, state: str, arrived: int
) -> None:
    actor = start(
        "first(); s = stream(); a = alloc(MIB); x = np.full(MIB, 1, np.uint8)", delay=300000
    )
    actor.do(
        f"ok(batch([(a, x.ctypes.data, MIB)], s, orders=[{order}])); q = code(cu.cuStreamQuery(s)); x[:] = 2; ok(cu.cuStreamSynchronize(s))"
    )
    assert actor.do("q, get(a, 1, np.uint8)") == [state, [arrived]]


def test_eachPartOfABatchHasItsAttributes(start: Start) -> None:
    actor = start(
        "first(); s = stream(); a = alloc(3); x = np.full(3, 1, np.uint8); at = x.ctypes.data",
        delay=100000,
    )
    actor.do(
        "ok(batch([(a + i, at + i, 1) for i in range(3)], s, orders=[3, 2], firsts=[0, 2])); x[:] = 2; ok(cu.cuStreamSynchronize(s))"
    )
    assert actor.do("get(a, 3, np.uint8)") == [2, 2, 1]


def test_batchesCameWithCuda12Point8(start: Start) -> None:
    ask = (
        "import ctypes; library = ctypes.CDLL('libcuda.so.1'); f = ctypes.c_void_p(); status = ctypes.c_int()\n"
        "def found(name, version):\n"
        "    library.cuGetProcAddress_v2(name, ctypes.byref(f), version, ctypes.c_uint64(0), ctypes.byref(status))\n"
        "    return bool(f.value), status.value\n"
    )
    old = start(ask, driver=12060)
    assert old.do("found(b'cuMemcpyBatchAsync', 12060), found(b'cuMemcpyBatchAsync', 12080)") == [
        [False, 2],
        [False, 2],
    ]
    assert old.do("found(b'cuMemcpyAsync', 12060)") == [True, 0]
    first = start(f"{ask}{_BATCH}", driver=12080)
    assert first.do("found(b'cuMemcpyBatchAsync', 12080)") == [True, 0]
    first.do(
        "call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 3, ctypes.c_size_t, *[ctypes.c_void_p] * 2, ctypes.c_size_t, *[ctypes.c_void_p] * 2)(f.value)\n"
        "targets, sources, sizes = (ctypes.c_uint64 * 2)(b, b + 4), (ctypes.c_uint64 * 2)(a + 4, a + 8), (ctypes.c_size_t * 2)(4, 4)\n"
        "attributes, firsts, failed = (ctypes.c_int * 6)(1), (ctypes.c_size_t * 1)(0), ctypes.c_size_t(9)\n"
        "def tried(): return call(targets, sources, sizes, 2, attributes, firsts, 1, ctypes.byref(failed), int(s))\n"
    )
    assert first.do("tried(), ok(cu.cuStreamSynchronize(s)), get(b, 2)") == [0, None, [1, 2]]
    first.do("sizes[1] = 1 << 20")
    assert first.do("tried(), failed.value") == [1, 1]
    first.do("attributes[0] = 0")
    assert first.do("tried(), failed.value == ctypes.c_size_t(-1).value") == [1, True]


# --- faults and the log -------------------------------------------------------------


def test_faultsComeAtTheCallThatIsNamed(start: Start) -> None:
    actor = start(faults="cuMemAlloc:2:3,cuStreamCreate:304:1")
    assert actor.do("[code(cu.cuMemAlloc(64)) for _ in range(4)]") == [
        "SUCCESS",
        "SUCCESS",
        "OUT_OF_MEMORY",
        "SUCCESS",
    ]
    assert actor.do("[code(cu.cuStreamCreate(0)) for _ in range(2)]") == [
        "OPERATING_SYSTEM",
        "SUCCESS",
    ]


def test_theLogTellsEachCall(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "calls"
    actor = start(log=path)
    actor.do("a, b = alloc(64), alloc(64); ok(cu.cuMemcpyDtoD(a, b, 64)); put(a, np.zeros(4))")
    lines = path.read_text().splitlines()
    assert [line.split()[1] for line in lines] == [str(actor.pid)] * len(lines)
    assert sum("copy device to device, bytes=64" in line for line in lines) == 1
    assert sum("copy host to device, bytes=32" in line for line in lines) == 1
    assert any("cuMemAlloc_v2(bytes=64)" in line for line in lines)


# --- Numba --------------------------------------------------------------------------

ADD = """
enter()
from numba import cuda
import references
@cuda.jit("void(float32[::1], float32[::1], float32[::1])")
def vectorAdd(a, b, c):
    i = cuda.grid(1)
    if i < c.size:
        c[i] = a[i] + b[i]
x = np.arange(100, dtype=np.float32)
a, c = cuda.to_device(x), cuda.device_array(100, np.float32)
"""


def test_numbaCopiesThereAndBack(start: Start) -> None:
    actor = start("from numba import cuda; x = np.arange(1000.0); d = cuda.to_device(x)")
    assert actor.do("cuda.is_available(), bool((d.copy_to_host() == x).all())") == [True, True]
    assert (
        actor.do(
            "s = cuda.stream(); e = cuda.event(); d.copy_to_device(x * 2, stream=s); e.record(s); e.synchronize(); float(d.copy_to_host()[3])"
        )
        == 6.0
    )


def test_numbaSharesWithAnotherProcess(start: Start) -> None:
    owner, other = (
        start("from numba import cuda"),
        start("from numba import cuda; cuda.current_context()"),
    )
    raw = owner.do(
        "d = cuda.to_device(np.arange(10, dtype=np.int32)); memoryHandle(int(d.device_ctypes_pointer.value))"
    )
    assert other.do(f"get(openMemory({raw!r}), 10)") == list(range(10))


def test_kernelsRunTheirReference(start: Start) -> None:
    actor = start(ADD)
    actor.do(
        "def reference(launch):\n    a, b, c = (references.numbaArray(launch, first, np.float32) for first in (0, 7, 14))\n    c[:] = a + b\n"
        "references.register('vectorAdd', reference)"
    )
    assert actor.do("vectorAdd[2, 64](a, a, c); bool((c.copy_to_host() == x + x).all())") is True


def test_kernelsWithoutACpuReferenceAreRefusedAtOnce(start: Start) -> None:
    with pytest.raises(ActorError, match="NOT_SUPPORTED"):
        start(ADD).do("vectorAdd[2, 64](a, a, c)")


def test_aFailingReferenceKillsTheContext(start: Start) -> None:
    actor = start(ADD + "references.register('vectorAdd', lambda launch: 1 / 0)")
    assert actor.do("vectorAdd[2, 64](a, a, c); code(cu.cuCtxSynchronize())") == "LAUNCH_FAILED"
