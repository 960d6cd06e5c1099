"""Questions about memory: handles, deaths, mappings, registrations, and the cost of
opening.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from asking import Figure, actors, question, tried

from support import ActorError

_MAPPED = "int(cu.CU_MEMHOSTREGISTER_PORTABLE | cu.CU_MEMHOSTREGISTER_DEVICEMAP)"
_HOST_FILE = """
libc = ctypes.CDLL(None, use_errno=True); libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
fd = os.memfd_create('host'); os.ftruncate(fd, 8 << 20); os.posix_fallocate(fd, 0, 8 << 20)
rw = libc.mmap(None, 8 << 20, 3, 1, fd, 0); ro = libc.mmap(None, 8 << 20, 1, 1, fd, 0)
"""


@question("0")
def driver() -> Iterator[tuple[str, object]]:
    with actors(1) as (one,):
        yield (
            "version, name, memory",
            Figure(
                one.do(
                    "[ok(cu.cuDriverGetVersion()), ok(cu.cuDeviceGetName(64, 0)).split(b'\\0')[0].decode(), ok(cu.cuMemGetInfo())]"
                )
            ),
        )
        for name in (
            "VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED",
            "HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED",
            "IPC_EVENT_SUPPORTED",
            "READ_ONLY_HOST_REGISTER_SUPPORTED",
            "CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM",
            "HOST_REGISTER_SUPPORTED",
            "UNIFIED_ADDRESSING",
            "CAN_USE_64_BIT_STREAM_MEM_OPS",
            "PAGEABLE_MEMORY_ACCESS",
            "GPU_DIRECT_RDMA_SUPPORTED",
        ):
            value = one.do(
                f"str(cu.cuDeviceGetAttribute(cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_{name}, 0)[1])"
            )
            yield name, Figure(value) if name == "GPU_DIRECT_RDMA_SUPPORTED" else value


@question("1")
def fork() -> Iterator[tuple[str, object]]:
    with actors(1) as (one,):
        code = """
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    said = []
    for call in (lambda: cu.cuInit(0), lambda: cu.cuDeviceGetCount(), lambda: cu.cuMemAlloc(1024), lambda: cu.cuCtxGetCurrent()):
        try: said.append(code(call()))
        except BaseException as error: said.append(repr(error))
    os.write(w, repr(said).encode()); os._exit(0)
os.close(w)
"""
        one.do(code)
        yield (
            "cuInit, cuDeviceGetCount, cuMemAlloc, cuCtxGetCurrent in a forked child",
            one.do("os.read(r, 999).decode()"),
        )
        yield "and then in the parent", one.do("code(cu.cuMemAlloc(1024))")


@question("2-5")
def handles() -> Iterator[tuple[str, object]]:
    with actors(2) as (one, two):
        one.do(
            "a = alloc(4 << 20); put(a, np.arange(1 << 20, dtype=np.int32)); raw = memoryHandle(a)"
        )
        raw = one.do("raw")
        yield "2 opening one's own memory handle", one.do("code(tryOpen(raw))")
        yield (
            "4 opening twice: same address",
            two.do(f"b = openMemory('{raw}'); b == openMemory('{raw}')"),
        )
        yield (
            "4 closing twice, then once more",
            two.do("[code(cu.cuIpcCloseMemHandle(b)) for _ in range(3)]"),
        )
        inside = one.do("memoryHandle(a + 4096)")
        yield (
            "5 handle of an address inside: same bytes, first value",
            [inside == raw, two.do(f"c = openMemory('{inside}'); get(c, 1)")],
        )
        yield (
            "5 what of VMM memory",
            one.do(
                "h = ok(cu.cuMemCreate(2 << 20, prop(), 0)); v = mapHandle(h, 2 << 20); code(cu.cuIpcGetMemHandle(v))"
            ),
        )
        yield (
            "5 small allocations share a handle's base",
            one.do("x, y = alloc(512), alloc(512); [y - x, memoryHandle(x) == memoryHandle(y)]"),
        )
        one.do("ok(cu.cuMemFree(a))")
        yield (
            "6 exporter frees while it is open: read",
            two.do("code(cu.cuMemcpyDtoH(np.zeros(4).ctypes.data, c, 32))"),
        )
        yield "3 opening after the free", actors3(raw)
        yield "3 opening a forged handle", actors3("5a" * 64)


def actors3(raw: str) -> object:
    with actors(1) as (three,):
        return three.do(f"code(tryOpen('{raw}'))")


@question("6-8", isAlone=True)
def deathOfAnIpcExporter() -> Iterator[tuple[str, object]]:
    with actors(3) as (owner, importer, other):
        before = other.do("freeBytes()")
        raw = owner.do(
            "a = alloc(256 << 20); put(a, np.arange(64, dtype=np.int32)); memoryHandle(a)"
        )
        importer.do(f"b = openMemory('{raw}')")
        held = other.do("freeBytes()")
        owner.kill()
        time.sleep(1)
        yield (
            "6 read after the exporter's SIGKILL",
            importer.do(
                "out = np.zeros(4, np.int32); [code(cu.cuMemcpyDtoH(out.ctypes.data, b, 16)), out.tolist()]"
            ),
        )
        yield (
            "6 write after it, then read",
            importer.do("[code(cu.cuMemsetD8(b, 7, 16)), code(cu.cuCtxSynchronize()), get(b, 1)]"),
        )
        dead = other.do("freeBytes()")
        yield "8 MiB taken while both lived", (before - held) >> 20
        yield (
            "8 MiB taken after the death, less the dead one's context",
            Figure((before - dead) >> 20),
        )
        yield "3 opening the dead one's handle anew", other.do(f"code(tryOpen('{raw}'))")
        yield "6 closing it", importer.do("code(cu.cuIpcCloseMemHandle(b))")
        yield "8 MiB given back by the close", (other.do("freeBytes()") - dead) >> 20


@question("7")
def eventOfTheDead() -> Iterator[tuple[str, object]]:
    with actors(2) as (owner, waiter):
        owner.do("""
flags = cu.CUevent_flags.CU_EVENT_INTERPROCESS | cu.CUevent_flags.CU_EVENT_DISABLE_TIMING
e = ok(cu.cuEventCreate(int(flags))); s = stream(); w = alloc(4096); put(w, np.zeros(8, np.uint64))
ok(cu.cuStreamWaitValue64(s, w, 1, 0)); ok(cu.cuEventRecord(e, s)); raw = eventHandle(e)
""")
        waiter.do(
            f"e = openEvent('{owner.do('raw')}'); t = stream(); x = alloc(4096); put(x, np.zeros(2, np.int32))"
        )
        waiter.do("ok(cu.cuStreamWaitEvent(t, e, 0)); ok(cu.cuMemsetD8Async(x, 1, 4, t))")
        yield (
            "query while pending",
            waiter.do("[code(cu.cuEventQuery(e)), code(cu.cuStreamQuery(t))]"),
        )
        owner.kill()
        time.sleep(2)
        yield (
            "query, and stream waiting, 2 s after the recorder's SIGKILL",
            waiter.do(
                "[code(cu.cuEventQuery(e)), code(cu.cuStreamQuery(t)), code(cu.cuMemAlloc(64))]"
            ),
        )


@question("10-11, 20, A", isAlone=True)
def vmm() -> Iterator[tuple[str, object]]:
    with actors(3) as (owner, importer, other):
        before = other.do("freeBytes()")
        owner.do(
            "h = ok(cu.cuMemCreate(256 << 20, prop(), 0)); a = mapHandle(h, 256 << 20); put(a, np.arange(64, dtype=np.int32)); fd = exportFd(h)"
        )
        yield (
            "10 importing one's own descriptor: same handle",
            owner.do("int(importFd(fd)) == int(h)"),
        )
        importer.do(
            f"fd = fetchFd({owner.pid}, {owner.do('fd')}); h = importFd(fd); b = mapHandle(h, 256 << 20)"
        )
        yield "A imported bytes", importer.do("get(b, 4)")
        yield (
            "20 MiB taken with one owner and one importer",
            (before - other.do("freeBytes()")) >> 20,
        )
        owner.kill()
        time.sleep(1)
        yield (
            "A after the owner's SIGKILL: read, write, read",
            importer.do("[get(b, 2), code(cu.cuMemsetD8(b, 7, 16)), get(b, 1)]"),
        )
        dead = other.do("freeBytes()")
        yield "20 MiB taken then, less the dead one's context", Figure((before - dead) >> 20)
        importer.do("ok(cu.cuMemUnmap(b, 256 << 20)); ok(cu.cuMemRelease(h))")
        yield (
            "20 MiB given back when only a descriptor is left",
            (other.do("freeBytes()") - dead) >> 20,
        )
        yield (
            "20 imported again from that descriptor",
            importer.do("h = importFd(fd); b = mapHandle(h, 256 << 20); get(b, 2)"),
        )
        yield (
            "10 importing a memfd",
            importer.do("code(cu.cuMemImportFromShareableHandle(os.memfd_create('x'), POSIX_FD))"),
        )
        yield (
            "11 mapping less than the size",
            importer.do(
                "r = int(ok(cu.cuMemAddressReserve(2 << 20, 0, 0, 0))); code(cu.cuMemMap(r, 2 << 20, 0, h, 0))"
            ),
        )
        yield (
            "granularity minimum, recommended",
            importer.do(
                "[ok(cu.cuMemGetAllocationGranularity(prop(), f)) for f in (cu.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM, cu.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)]"
            ),
        )
        importer.do("ok(cu.cuMemUnmap(b, 256 << 20)); ok(cu.cuMemRelease(h)); os.close(fd)")
        yield (
            "20 MiB given back by the last handle and the descriptor",
            (other.do("freeBytes()") - dead) >> 20,
        )


@question("13")
def readOnly() -> Iterator[tuple[str, object]]:
    with actors(1) as (one,):
        one.do("h = ok(cu.cuMemCreate(2 << 20, prop(), 0)); a = mapHandle(h, 2 << 20, False)")
        yield (
            "fill of a read-only mapping: submission, synchronize, later allocation",
            one.do(
                "[code(cu.cuMemsetD8(a, 1, 16)), code(cu.cuCtxSynchronize()), code(cu.cuMemAlloc(64))]"
            ),
        )
    with actors(1) as (one,):
        one.do("h = ok(cu.cuMemCreate(2 << 20, prop(), 0)); a = mapHandle(h, 2 << 20, False)")
        yield (
            "copy to it from the host",
            one.do(
                "[code(cu.cuMemcpyHtoD(a, np.zeros(4).ctypes.data, 32)), code(cu.cuCtxSynchronize())]"
            ),
        )
    for what, write in (
        ("fill of", "cu.cuMemsetD8(p, 1, 16)"),
        ("copy from the device to", "cu.cuMemcpyDtoD(p, d, 32)"),
        ("copy to the host's address of", "cu.cuMemcpyDtoH(ro, d, 32)"),
        ("word written by a stream to", "cu.cuStreamWriteValue64(0, p, 7, 0)"),
    ):
        with actors(1) as (one,):
            one.do(
                _HOST_FILE
                + f"ok(cu.cuMemHostRegister(ro, 8 << 20, {_MAPPED} | int(cu.CU_MEMHOSTREGISTER_READ_ONLY)))"
            )
            one.do(
                "p = int(ok(cu.cuMemHostGetDevicePointer(ro, 0))); d = alloc(4096); put(d, np.ones(4096, np.uint8))"
            )
            yield (
                f"{what} a READ_ONLY registration: submission, synchronize, later allocation",
                one.do(f"[code({write}), code(cu.cuCtxSynchronize()), code(cu.cuMemAlloc(64))]"),
            )
            yield (
                f"{what} a READ_ONLY registration: the bytes",
                one.do("ctypes.string_at(rw, 4).hex()"),
            )


@question("15-16, B")
def registration() -> Iterator[tuple[str, object]]:
    flags = _MAPPED
    with actors(1) as (one,):
        one.do(_HOST_FILE)
        yield (
            "15 a read-only mapping without READ_ONLY",
            one.do(f"code(cu.cuMemHostRegister(ro, 8 << 20, {flags}))"),
        )
        yield (
            "B and with it",
            one.do(
                f"code(cu.cuMemHostRegister(ro, 8 << 20, {flags} | int(cu.CU_MEMHOSTREGISTER_READ_ONLY)))"
            ),
        )
        yield (
            "B a read-only registration's pointer is the host's",
            one.do(
                "[code(cu.cuMemHostGetDevicePointer(ro, 0)), int(cu.cuMemHostGetDevicePointer(ro, 0)[1]) == ro]"
            ),
        )
        yield (
            "B a second mapping of the same pages",
            one.do(f"code(cu.cuMemHostRegister(rw, 8 << 20, {flags}))"),
        )
        yield (
            "B its pointer is the host's",
            one.do("int(ok(cu.cuMemHostGetDevicePointer(rw, 0))) == rw"),
        )
        yield "registering again", one.do(f"code(cu.cuMemHostRegister(rw, 4096, {flags}))")
        yield (
            "16 unregistering an address inside, then the base",
            one.do("[code(cu.cuMemHostUnregister(rw + 4096)), code(cu.cuMemHostUnregister(rw))]"),
        )
        yield "15 what is not mapped", one.do(f"code(cu.cuMemHostRegister(1 << 40, 4096, {flags}))")
        one.do(
            f"ok(cu.cuMemHostRegister(rw, 8 << 20, {flags})); p = int(ok(cu.cuMemHostGetDevicePointer(rw, 0))); d = alloc(8 << 20)"
        )
        one.do("os.ftruncate(fd, 0)")
        yield tried(
            one,
            "B after truncating its file: copy from it, synchronize",
            "[code(cu.cuMemcpyDtoD(d, p, 8 << 20)), code(cu.cuCtxSynchronize())]",
        )


@question("19, 26")
def memory() -> Iterator[tuple[str, object]]:
    with actors(1) as (one,):
        yield (
            "19 is fresh memory of cuMemAlloc, of VMM zero",
            one.do(
                "[not any(get(alloc(16 << 20), 4 << 20)), not any(get(mapHandle(ok(cu.cuMemCreate(16 << 20, prop(), 0)), 16 << 20), 4 << 20))]"
            ),
        )
        yield (
            "26 write and wait on VMM memory",
            one.do(
                "v = mapHandle(ok(cu.cuMemCreate(2 << 20, prop(), 0)), 2 << 20); put(v, np.zeros(2, np.uint64)); s = stream(); "
                "[code(cu.cuStreamWriteValue64(s, v, 5, 0)), code(cu.cuStreamWaitValue64(s, v, 5, 0)), code(cu.cuStreamSynchronize(s))]"
            ),
        )
        yield (
            "26 wait on registered shared host memory, set by the CPU",
            one.do(
                "m = mmap.mmap(-1, 4096); w = np.frombuffer(m, np.uint64); ok(cu.cuMemHostRegister(w.ctypes.data, 4096, 3)); "
                "p = int(ok(cu.cuMemHostGetDevicePointer(w.ctypes.data, 0))); first = code(cu.cuStreamWaitValue64(s, p, 9, 0)); "
                "pending = code(cu.cuStreamQuery(s)); w[0] = 9; time.sleep(0.2); [first, pending, code(cu.cuStreamQuery(s))]"
            ),
        )


@question("D", isAlone=True)
def times() -> Iterator[tuple[str, object]]:
    for size in (2 << 20, 64 << 20, 1 << 30, 8 << 30):
        with actors(2) as (owner, importer), contextlib.suppress(ActorError):
            owner.do(
                f"h = ok(cu.cuMemCreate({size}, prop(), 0)); a = mapHandle(h, {size}); fd = exportFd(h); c = alloc({size}); raw = memoryHandle(c)"
            )
            importer.do(
                f"fd = fetchFd({owner.pid}, {owner.do('fd')}); took = []\n"
                f"for _ in range(5):\n t = time.perf_counter(); h = importFd(fd); b = mapHandle(h, {size}); took.append(time.perf_counter() - t); "
                f"ok(cu.cuMemUnmap(b, {size})); ok(cu.cuMemAddressFree(b, {size})); ok(cu.cuMemRelease(h))"
            )
            importer.do(
                f"legacy = []\nfor _ in range(5):\n t = time.perf_counter(); b = openMemory('{owner.do('raw')}'); legacy.append(time.perf_counter() - t); ok(cu.cuIpcCloseMemHandle(b))"
            )
            yield (
                f"{size >> 20} MiB: ms to open by vmm, by cudaIpc (medians of 5)",
                Figure(
                    importer.do(
                        "[round(sorted(took)[2] * 1e3, 3), round(sorted(legacy)[2] * 1e3, 3)]"
                    )
                ),
            )
    for size in (256 << 20, 2 << 30):
        with actors(1) as (one,):
            one.do(
                f"import ctypes\nfd = os.memfd_create('host'); os.posix_fallocate(fd, 0, {size}); m = mmap.mmap(fd, {size}); at = ctypes.addressof(ctypes.c_char.from_buffer(m)); ctypes.memset(at, 1, {size})"
            )
            yield (
                f"registering {size >> 20} MiB: ms",
                Figure(
                    one.do(
                        f"t = time.perf_counter(); ok(cu.cuMemHostRegister(at, {size}, 3)); round((time.perf_counter() - t) * 1e3, 1)"
                    )
                ),
            )
