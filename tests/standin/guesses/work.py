"""Questions about work: which calls wait for which, the effects of a failure, the calls
that callbacks may make, and the ends of resources.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from asking import Figure, NotAsked, actors, question, tried

from support import program

#: `count` stores 1, 2, … in a word; `poke` stores once.
_PTX = r"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry count(.param .u64 word, .param .u64 times) {
  .reg .u64 a, n, i; .reg .pred p;
  ld.param.u64 a, [word]; ld.param.u64 n, [times]; cvta.to.global.u64 a, a; mov.u64 i, 0;
AGAIN: add.u64 i, i, 1; st.volatile.global.u64 [a], i; setp.lt.u64 p, i, n; @p bra AGAIN; ret; }
.visible .entry poke(.param .u64 word) {
  .reg .u64 a; ld.param.u64 a, [word]; cvta.to.global.u64 a, a; st.volatile.global.u64 [a], 7; ret; }
"""

#: The words of the processes below.
_WORDS = program("gpuWords", PTX=repr(_PTX))


@question("9, 14")
def otherDevices() -> Iterator[tuple[str, object]]:
    with actors(2, _WORDS) as (one, two):
        yield (
            "14 access for a device that is not there",
            one.do(
                "h = ok(cu.cuMemCreate(2 << 20, prop(), 0)); a = int(ok(cu.cuMemAddressReserve(2 << 20, 0, 0, 0))); "
                "ok(cu.cuMemMap(a, 2 << 20, 0, h, 0)); code(cu.cuMemSetAccess(a, 2 << 20, [access(True, 99)], 1))"
            ),
        )
        if one.do("ok(cu.cuDeviceGetCount())") < 2:
            yield "9, 14 of a second device without peer access", NotAsked("there is one device")
            return
        yield "can device 1 reach device 0", one.do("ok(cu.cuDeviceCanAccessPeer(1, 0))")
        yield (
            "14 access for device 1",
            one.do("code(cu.cuMemSetAccess(a, 2 << 20, [access(), access(True, 1)], 2))"),
        )
        raw = one.do("memoryHandle(alloc(4 << 20))")
        yield "9 opening it with device 1 current", two.do(f"enter(1); code(tryOpen('{raw}'))")


@question("12")
def unmappingUnderWork() -> Iterator[tuple[str, object]]:
    with actors(1, _WORDS) as (one,):
        one.do(
            "h = ok(cu.cuMemCreate(2 << 20, prop(), 0)); a = mapHandle(h, 2 << 20); s = stream()"
        )
        one.do("closed(s); ok(cu.cuMemsetD8Async(a, 1, 64, s))")
        yield tried(
            one, "cuMemUnmap with a fill of it queued", "waited(lambda: cu.cuMemUnmap(a, 2 << 20))"
        )
        yield tried(
            one,
            "then synchronize, allocate",
            "[code(cu.cuStreamSynchronize(s)), code(cu.cuMemAlloc(64))]",
        )


@question("17-18")
def ends() -> Iterator[tuple[str, object]]:
    with actors(2, _WORDS) as (one, two):
        yield "17 64 TiB of pinned host memory", one.do("code(cu.cuMemHostAlloc(1 << 46, 0))")
        yield (
            "64 TiB by cuMemAlloc, by cuMemCreate",
            one.do("[code(cu.cuMemAlloc(1 << 46)), code(cu.cuMemCreate(1 << 46, prop(), 0))]"),
        )
        raw = two.do("memoryHandle(alloc(4 << 20))")
        one.do(f"""
import resource
h = ok(cu.cuMemCreate(2 << 20, prop(), 0)); fd = exportFd(h); mine = alloc(4 << 20); theirs = {raw!r}
event = ok(cu.cuEventCreate(int(cu.CUevent_flags.CU_EVENT_INTERPROCESS | cu.CUevent_flags.CU_EVENT_DISABLE_TIMING)))
plain = mmap.mmap(-1, 8192); at = ctypes.addressof(ctypes.c_char.from_buffer(plain))
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir('/proc/self/fd'))), hard))
taken = []
try:
    while True: taken.append(os.dup(0))
except OSError: pass
""")
        for what, code in {
            "cuMemCreate": "code(cu.cuMemCreate(2 << 20, prop(), 0))",
            "exporting": "code(cu.cuMemExportToShareableHandle(h, POSIX_FD, 0))",
            "importing": "code(cu.cuMemImportFromShareableHandle(fd, POSIX_FD))",
            "cuMemAlloc of 64 MiB": "code(cu.cuMemAlloc(64 << 20))",
            "cuIpcGetMemHandle": "code(cu.cuIpcGetMemHandle(mine))",
            "cuIpcOpenMemHandle": "code(tryOpen(theirs))",
            "cuIpcGetEventHandle": "code(cu.cuIpcGetEventHandle(event))",
            "cuStreamCreate": "code(cu.cuStreamCreate(1))",
            "registering 4 KiB": "code(cu.cuMemHostRegister(at, 4096, 3))",
        }.items():
            yield tried(one, f"18 without a descriptor left: {what}", code)


@question("21-22")
def whoWaits() -> Iterator[tuple[str, object]]:
    with actors(1, _WORDS) as (one,):
        one.do(
            "s = stream(); d = alloc(4 << 20); e = alloc(4 << 20); big = pinned(4 << 20); plain = np.zeros(4 << 20, np.uint8)"
        )
        one.do(
            "h = ok(cu.cuMemCreate(2 << 20, prop(), 0)); v = mapHandle(h, 2 << 20); other = pinned(4096)"
        )
        one.do(
            "m = mmap.mmap(-1, 4096); at = ctypes.addressof(ctypes.c_char.from_buffer(m)); ok(cu.cuMemHostRegister(at, 4096, 3))"
        )
        for number, what, standing, call in (
            (21, "cuMemsetD8 behind it", "0", "cu.cuMemsetD8(d, 1, 64)"),
            (21, "cuMemcpyDtoD behind it", "0", "cu.cuMemcpyDtoD(d, e, 1 << 20)"),
            (
                21,
                "cuMemcpyHtoD from pinned memory behind it",
                "0",
                "cu.cuMemcpyHtoD(d, big, 1 << 20)",
            ),
            (21, "cuMemAlloc", "s", "cu.cuMemAlloc(4 << 20)"),
            (21, "cuMemHostAlloc", "s", "cu.cuMemHostAlloc(4096, 0)"),
            (21, "cuMemCreate", "s", "cu.cuMemCreate(2 << 20, prop(), 0)"),
            (21, "cuMemFree of other memory", "s", "cu.cuMemFree(e)"),
            (21, "cuMemFreeHost of other memory", "s", "cu.cuMemFreeHost(other)"),
            (21, "cuMemHostUnregister of other memory", "s", "cu.cuMemHostUnregister(at)"),
            (21, "cuMemUnmap of other memory", "s", "cu.cuMemUnmap(v, 2 << 20)"),
            (21, "cuMemRelease of other memory", "s", "cu.cuMemRelease(h)"),
            (
                22,
                "4 MiB from pageable memory behind it",
                "s",
                "cu.cuMemcpyHtoDAsync(d, plain.ctypes.data, 4 << 20, s)",
            ),
            (
                22,
                "4 KiB from pageable memory behind it",
                "s",
                "cu.cuMemcpyHtoDAsync(d, plain.ctypes.data, 4096, s)",
            ),
            (
                22,
                "4 MiB to pageable memory behind it",
                "s",
                "cu.cuMemcpyDtoHAsync(plain.ctypes.data, d, 4 << 20, s)",
            ),
            (
                22,
                "4 MiB from pinned memory behind it",
                "s",
                "cu.cuMemcpyHtoDAsync(d, big, 4 << 20, s)",
            ),
        ):
            name = "the default stream" if standing == "0" else "a stream"
            yield tried(
                one,
                f"{number} {name} stands: {what}",
                f"timer = closed({standing}); seen = waited(lambda: {call}); timer.join(); ok(cu.cuCtxSynchronize()); seen",
            )
    with actors(2, _WORDS) as (one, two):
        raw = one.do("memoryHandle(alloc(4 << 20))")
        two.do(f"b = openMemory('{raw}'); s = stream()")
        yield tried(
            two,
            "21 a stream stands: cuIpcCloseMemHandle",
            "closed(s); waited(lambda: cu.cuIpcCloseMemHandle(b))",
        )


@question("23")
def wrongHandles() -> Iterator[tuple[str, object]]:
    for what, code in {
        "a stream that never was": "code(cu.cuStreamQuery(0xdead000))",
        "a stream that was destroyed": "s = stream(); ok(cu.cuStreamDestroy(s)); code(cu.cuStreamQuery(s))",
        "an event that was destroyed": "e = ok(cu.cuEventCreate(0)); ok(cu.cuEventDestroy(e)); code(cu.cuEventQuery(e))",
    }.items():
        with actors(1, _WORDS) as (one,):
            yield tried(one, what, code)


@question("24")
def callbacksBehindAFailure() -> Iterator[tuple[str, object]]:
    with actors(1, _WORDS) as (one,):
        one.do("""
s = stream(); seen = []
@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def hosted(_): seen.append(("host function", 0))
@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
def called(_, status, __): seen.append(("callback", status))
hostedAt, calledAt = (ctypes.cast(each, ctypes.c_void_p).value for each in (hosted, called))
how = lost(s)
""")
        yield (
            "what queueing answered",
            one.do(
                "[code(cu.cuLaunchHostFunc(s, cu.CUhostFn(hostedAt), 0)), code(cu.cuStreamAddCallback(s, cu.CUstreamCallback(calledAt), 0, 0))]"
            ),
        )
        failure = one.do("code(cu.cuStreamSynchronize(s))")
        yield "how the stream's work failed", Figure([one.do("how"), failure])
        yield tried(
            one,
            "who was called",
            "time.sleep(0.5); [f'{who} with the error' if status else who for who, status in seen]",
        )


@question("25")
def callsWithinACallback() -> Iterator[tuple[str, object]]:
    for call in (
        "cuDriverGetVersion()",
        "cuCtxGetCurrent()",
        "cuDeviceGetCount()",
        "cuMemGetInfo()",
        "cuStreamQuery(t)",
        "cuEventQuery(e)",
        "cuMemAlloc(64)",
        "cuEventCreate(0)",
        "cuPointerGetAttribute(cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, d)",
        "cuStreamSynchronize(t)",
    ):
        with actors(1, _WORDS) as (one,):
            one.do(f"""
s, t, e, d, seen = stream(), stream(), ok(cu.cuEventCreate(0)), alloc(64), []
@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def hosted(_): seen.append(code(cu.{call}))
at = ctypes.cast(hosted, ctypes.c_void_p).value
""")
            yield tried(
                one,
                call,
                "ok(cu.cuLaunchHostFunc(s, cu.CUhostFn(at), 0)); ok(cu.cuStreamSynchronize(s)); seen",
            )


@question("27-28")
def figures() -> Iterator[tuple[str, object]]:
    with actors(1, _WORDS) as (one,):
        one.do("a = alloc(64); v = mapHandle(ok(cu.cuMemCreate(2 << 20, prop(), 0)), 2 << 20)")
        owner = "cu.cuPointerGetAttribute(cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_CONTEXT, {})"
        yield (
            "27 the context of cuMemAlloc's memory, of VMM memory",
            one.do(
                f"[bool(int(answer[1])) if code(answer) == 'SUCCESS' else code(answer) for answer in ({owner.format('a')}, {owner.format('v')})]"
            ),
        )
        yield (
            "27 compute mode, stream priorities",
            one.do(
                "[ok(cu.cuDeviceGetAttribute(cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, 0)), ok(cu.cuCtxGetStreamPriorityRange())]"
            ),
        )
        # The id of a stream that waits in one context is asked in another context: it
        # is the same if it does not depend on the context.
        one.do(
            "first = ok(cu.cuCtxGetCurrent()); closed(2, 1.0); early = code(cu.cuStreamQuery(2)); ok(cu.cuDevicePrimaryCtxRetain(0))"
        )
        one.do(
            "second = ok(cu.cuCtxCreate(None, 0, 0) if ok(cu.cuDriverGetVersion()) >= 13000 else cu.cuCtxCreate(0, 0))"
        )
        yield (
            "28 the thread's default stream while it stands: in its context, in another of that device",
            one.do("[early, code(cu.cuStreamQuery(2))]"),
        )


@question("30")
def whoTellsAFailure() -> Iterator[tuple[str, object]]:
    with actors(1, _WORDS) as (one,):
        one.do(
            "s = stream(); d = alloc(64); e = ok(cu.cuEventCreate(0)); c = ok(cu.cuCtxGetCurrent()); host = pinned(4096)"
        )
        one.do(
            "h = ok(cu.cuMemCreate(2 << 20, prop(), 0)); v = mapHandle(h, 2 << 20); fd = exportFd(h)"
        )
        how, failure = one.do("[lost(s), code(cu.cuStreamSynchronize(s))]")
        yield "how, and what waiting for it answers", Figure([how, failure])
        for call in (
            "cuCtxGetCurrent()",
            "cuCtxSetCurrent(c)",
            "cuCtxPushCurrent(c)",
            "cuCtxPopCurrent()",
            "cuCtxGetDevice()",
            "cuCtxSynchronize()",
            "cuStreamQuery(s)",
            "cuEventQuery(e)",
            "cuMemGetInfo()",
            "cuMemAlloc(64)",
            "cuMemHostAlloc(64, 0)",
            "cuMemCreate(2 << 20, prop(), 0)",
            "cuMemExportToShareableHandle(h, POSIX_FD, 0)",
            "cuMemImportFromShareableHandle(fd, POSIX_FD)",
            "cuMemsetD8Async(d, 1, 4, s)",
            "cuEventRecord(e, s)",
            "cuEventCreate(0)",
            "cuStreamCreate(1)",
            "cuMemFreeHost(host)",
            "cuMemFree(d)",
            "cuMemUnmap(v, 2 << 20)",
            "cuMemAddressFree(v, 2 << 20)",
            "cuMemRelease(h)",
            "cuStreamDestroy(s)",
            "cuPointerGetAttribute(cu.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, v)",
        ):
            what, said = tried(one, call.split("(", maxsplit=1)[0], f"code(cu.{call})")
            yield what, "the failure" if said == failure else said


@question("8", isAlone=True)
def whatAContextCosts() -> Iterator[tuple[str, object]]:
    with actors(1) as (one,):
        before = one.do("freeBytes()")
        with actors(1) as (other,):
            yield (
                "MiB that another process's context takes",
                Figure((before - one.do("freeBytes()")) >> 20),
            )
            other.do("0")
        time.sleep(1)
        yield "MiB taken once it has ended", (before - one.do("freeBytes()")) >> 20


@question("10", isAlone=True)
def handlesOfOnesOwn() -> Iterator[tuple[str, object]]:
    with actors(2) as (one, two):
        before = two.do("freeBytes()")
        one.do("h = ok(cu.cuMemCreate(256 << 20, prop(), 0)); fd = exportFd(h); i = importFd(fd)")
        yield (
            "a handle imported from oneself: the same, MiB taken by both",
            [one.do("int(h) == int(i)"), (before - two.do("freeBytes()")) >> 20],
        )
        yield (
            "mapped twice, one writes, the other reads",
            one.do(
                "a, b = mapHandle(h, 256 << 20), mapHandle(i, 256 << 20); put(a, np.arange(4, dtype=np.int32)); get(b, 4)"
            ),
        )
        yield (
            "exporting the imported one",
            one.do("code(cu.cuMemExportToShareableHandle(i, POSIX_FD, 0))"),
        )
        yield (
            "the first one released twice",
            one.do("[code(cu.cuMemRelease(h)), code(cu.cuMemRelease(h))]"),
        )
        yield "the imported one still maps", one.do("c = mapHandle(i, 256 << 20); get(c, 4)")
        yield (
            "the same descriptor imported twice in another process: the same handle",
            two.do(
                f"fd = fetchFd({one.pid}, {one.do('fd')}); j, k = importFd(fd), importFd(fd); int(j) == int(k)"
            ),
        )


@question("C", isAlone=True)
def lastKernelOfTheDead() -> Iterator[tuple[str, object]]:
    with actors(1, _WORDS) as (one,):
        if not one.do("bool(kernels())"):
            yield "the last kernel of the dead", NotAsked("this driver takes no PTX")
            return
    moved = []
    for _ in range(5):
        with actors(2, _WORDS) as (owner, importer):
            owner.do(
                "h = ok(cu.cuMemCreate(2 << 20, prop(), 0)); a = mapHandle(h, 2 << 20); put(a, np.zeros(8, np.uint64)); fd = exportFd(h)"
            )
            importer.do(
                f"h = importFd(fetchFd({owner.pid}, {owner.do('fd')})); b = mapHandle(h, 2 << 20)"
            )
            owner.do("ok(launch(kernels()['count'], stream(), a, 1 << 40))")
            time.sleep(0.2)
            importer.do(f"""
import select
q = stream(); out = pinned(64)
def look():
    ok(cu.cuMemcpyDtoHAsync(out, b, 8, q)); ok(cu.cuStreamSynchronize(q)); return ctypes.c_uint64.from_address(out).value
running = look() != look()
pidfd = os.pidfd_open({owner.pid}); os.kill({owner.pid}, signal.SIGKILL); began = time.monotonic()
select.select([pidfd], [], []); dead = time.monotonic() - began
seen = [look()]
for pause in (0.0, 0.01, 0.1, 0.5): time.sleep(pause); seen.append(look())
""")
            moved.append(importer.do("[running, round(dead, 4), seen[0] != seen[-1]]"))
    yield "seconds until the pidfd was readable", Figure([dead for _, dead, _ in moved])
    yield (
        "did the kernel run before, did the word move after it",
        [[running, after] for running, _, after in moved],
    )


@question("32")
def destroyedContexts() -> Iterator[tuple[str, object]]:
    for what, code in {
        "cuCtxGetId of a context that was destroyed": "code(cu.cuCtxGetId(c))",
        "cuCtxPushCurrent of it": "code(cu.cuCtxPushCurrent(c))",
        "cuCtxPushCurrent, then cuCtxSynchronize": "[code(cu.cuCtxPushCurrent(c)), code(cu.cuCtxSynchronize())]",
        "cuEventQuery of an event of it": "code(cu.cuEventQuery(e))",
        "cuCtxPushCurrent, then cuMemHostAlloc": "[code(cu.cuCtxPushCurrent(c)), code(cu.cuMemHostAlloc(4096, 1))]",
        "cuCtxPushCurrent, then cuMemFreeHost of its memory": "[code(cu.cuCtxPushCurrent(c)), code(cu.cuMemFreeHost(host))]",
    }.items():
        with actors(1, _WORDS) as (one,):
            one.do(
                "c = ok(cu.cuCtxCreate(None, 0, 0) if ok(cu.cuDriverGetVersion()) >= 13000 else cu.cuCtxCreate(0, 0))"
            )
            one.do(
                "e = ok(cu.cuEventCreate(0)); s = stream(); ok(cu.cuEventRecord(e, s)); host = pinned(4096); ok(cu.cuCtxDestroy(c))"
            )
            yield tried(one, what, code)
    with actors(1, _WORDS) as (one,):
        one.do(
            "first = ok(cu.cuCtxGetCurrent()); c = ok(cu.cuCtxCreate(None, 0, 0)); a = ok(cu.cuCtxGetId(c)); ok(cu.cuCtxDestroy(c))"
        )
        one.do("c = ok(cu.cuCtxCreate(None, 0, 0)); b = ok(cu.cuCtxGetId(c))")
        yield "is the id of another context made behind it the same", one.do("int(a) == int(b)")


@question("33")
def captures() -> Iterator[tuple[str, object]]:
    """The calls that another thread may make while a thread captures a stream, and
    whether the capture succeeds.
    """
    waiting = ("cuCtxSynchronize()", "cuEventSynchronize(e)", "cuMemAlloc(64)")
    more = (
        "cuMemFree(d)",
        "cuMemFreeHost(host)",
        "cuMemHostUnregister(at)",
        "cuEventQuery(e)",
        "cuStreamSynchronize(t)",
        "cuStreamQuery(t)",
        "cuMemHostAlloc(4096, 0)",
        "cuMemCreate(2 << 20, prop(), 0)",
        "cuMemHostRegister(at, 4096, 3)",
        "cuEventCreate(0)",
        "cuStreamCreate(1)",
        "cuStreamDestroy(u)",
    )
    for mode, calls in {"GLOBAL": (*waiting, *more[-4:]), "RELAXED": waiting + more}.items():
        for call in calls:
            with actors(1, _WORDS) as (one,):
                one.do(
                    "s, t, d, e, host, c = stream(), stream(), alloc(4 << 20), ok(cu.cuEventCreate(0)), pinned(4096), ok(cu.cuCtxGetCurrent())"
                )
                one.do(
                    "m = mmap.mmap(-1, 4096); at = ctypes.addressof(ctypes.c_char.from_buffer(m)); ok(cu.cuMemHostRegister(at, 4096, 3))"
                )
                one.do(
                    "h = ok(cu.cuMemCreate(2 << 20, prop(), 0)); v = mapHandle(h, 2 << 20); u = stream(); seen = []"
                )
                one.do(f"""
def other():
    ok(cu.cuCtxSetCurrent(c))
    ok(cu.cuThreadExchangeStreamCaptureMode(cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_{mode}))
    seen.append(waited(lambda: cu.{call}))
timer = closed(t); ok(cu.cuEventRecord(e, t))
ok(cu.cuStreamBeginCapture(s, cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL))
thread = threading.Thread(target=other); thread.start(); thread.join(30)
ended = code(cu.cuStreamEndCapture(s)); timer.join()
""")
                what = f"{call.split('(', maxsplit=1)[0]} by a thread of mode {mode}: its answer, did it wait for another stream, the capture's end"
                yield tried(one, what, "[*seen[0], ended]")
    with actors(1, _WORDS) as (one,):
        one.do("s, t, d, e = stream(), stream(), alloc(4096), ok(cu.cuEventCreate(0))")
        one.do(
            "begin = lambda: ok(cu.cuStreamBeginCapture(s, cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED))"
        )
        yield (
            "is it capturing: before, then, the default stream then",
            one.do(
                "seen = [int(ok(cu.cuStreamIsCapturing(s)))]; begin(); seen += [int(ok(cu.cuStreamIsCapturing(s))), code(cu.cuStreamIsCapturing(0))]; "
                "seen + [code(cu.cuStreamEndCapture(s))]"
            ),
        )
        yield (
            "an event recorded in a captured stream: record, query, the capture's end",
            one.do(
                "begin(); [code(cu.cuEventRecord(e, s)), code(cu.cuEventQuery(e)), code(cu.cuStreamEndCapture(s))]"
            ),
        )
        for name in ("cuStreamGetId", "cuStreamGetFlags", "cuStreamGetPriority", "cuStreamGetCtx"):
            asked = one.do(f"begin(); [code(cu.{name}(s)), code(cu.cuStreamEndCapture(s))]")
            yield f"{name} of a captured stream, the capture's end", asked
        yield (
            "a word written and waited for in a captured stream, the capture's end",
            one.do(
                "begin(); [code(cu.cuStreamWriteValue64(s, d, 1, 0)), code(cu.cuStreamWaitValue64(s, d, 1, 0)), code(cu.cuStreamEndCapture(s))]"
            ),
        )


@question("34")
def blockedCalls() -> Iterator[tuple[str, object]]:
    """The calls that another thread can make while a thread waits, within a call, for a
    stream that does not go on.
    """
    for waits in (
        "cuMemFreeHost(host)",
        "cuMemHostUnregister(at)",
        "cuMemFree(d)",
        "cuCtxSynchronize()",
        "cuStreamSynchronize(t)",
    ):
        with actors(1, _WORDS) as (one,):
            one.do(
                "s, t, d, e, host, c = stream(), stream(), alloc(4 << 20), ok(cu.cuEventCreate(0)), pinned(4096), ok(cu.cuCtxGetCurrent())"
            )
            one.do(
                "m = mmap.mmap(-1, 4096); at = ctypes.addressof(ctypes.c_char.from_buffer(m)); ok(cu.cuMemHostRegister(at, 4096, 3))"
            )
            one.do(
                "f = alloc(4 << 20); big = pinned(1 << 20); ok(cu.cuEventRecord(e, s)); ok(cu.cuStreamSynchronize(s)); seen = {}; took = []"
            )
            one.do(program("besideAWaiter", WAITS=waits))
            name = waits.split("(", maxsplit=1)[0]
            yield f"{name} behind a stream that stands", one.do("took[0]")
            yield (
                f"meanwhile, in other threads: who waits for {name}",
                one.do("sorted(name for name, said in seen.items() if said[1] == 'waited')"),
            )
    with actors(1, _WORDS) as (one,):
        one.do(
            "s = stream(); c = ok(cu.cuCtxGetCurrent()); ok(cu.cuCtxSetCurrent(cu.CUcontext(0)))"
        )
        yield tried(
            one,
            "cuStreamGetId, cuStreamGetCtx without a current context",
            "[code(cu.cuStreamGetId(s)), code(cu.cuStreamGetCtx(s))]",
        )


@question("35")
def copiesThatWait() -> Iterator[tuple[str, object]]:
    """Asynchronous copies: does the caller wait for a stream that does not go on?"""
    for what, (target, source) in {
        "to the GPU": ("d", "host"),
        "from the GPU": ("host", "d"),
        "on the GPU": ("f", "d"),
        "from host to host": ("more", "host"),
    }.items():
        with actors(1, _WORDS) as (one,):
            one.do(
                "t, d, f, host, more = stream(), alloc(4096), alloc(4096), pinned(4096), pinned(4096); timer = closed(t)"
            )
            yield (
                f"cuMemcpyAsync of pinned memory {what}",
                one.do(f"waited(lambda: cu.cuMemcpyAsync({target}, {source}, 4096, t))"),
            )
