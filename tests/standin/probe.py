"""Short names for the driver's calls, for the processes of test_standin.py. Only actors
import it, never pytest itself.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np
from cuda.bindings import driver as cu

MIB = 1 << 20
POSIX_FD = cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
SYS_PIDFD_GETFD = 438


def ok(answer: tuple[Any, ...]) -> Any:
    """The value of a call that must succeed."""
    code, *values = answer
    assert code == cu.CUresult.CUDA_SUCCESS, code.name
    return values[0] if len(values) == 1 else tuple(values) if values else None


def code(answer: tuple[Any, ...]) -> str:
    """The name of the answer, without its prefix."""
    return str(answer[0].name).removeprefix("CUDA_").removeprefix("ERROR_")


def enter(device: int = 0) -> None:
    ok(cu.cuInit(0))
    ok(cu.cuCtxSetCurrent(ok(cu.cuDevicePrimaryCtxRetain(device))))


contexts: list[Any] = []


def first(device: int = 0) -> None:
    """Retain the primary context of each device, and make one current."""
    ok(cu.cuInit(0))
    count = int(ok(cu.cuDeviceGetCount()))
    contexts[:] = [ok(cu.cuDevicePrimaryCtxRetain(each)) for each in range(count)]
    ok(cu.cuCtxSetCurrent(contexts[device]))


def alloc(size: int) -> int:
    return int(ok(cu.cuMemAlloc(size)))


def allocOn(device: int, size: int) -> int:
    """Memory by `cuMemAlloc` on a device, whichever context is current."""
    ok(cu.cuCtxPushCurrent(contexts[device]))
    address = alloc(size)
    ok(cu.cuCtxPopCurrent())
    return address


def put(address: int, values: Any) -> None:
    source = np.ascontiguousarray(values)
    ok(cu.cuMemcpyHtoD(address, source.ctypes.data, source.nbytes))


def get(address: int, count: int, dtype: Any = np.int32) -> list[Any]:
    out = np.zeros(count, dtype)
    ok(cu.cuMemcpyDtoH(out.ctypes.data, address, out.nbytes))
    return list(out.tolist())


def memoryHandle(address: int) -> str:
    return ctypes.string_at(ok(cu.cuIpcGetMemHandle(address)).getPtr(), 64).hex()


def eventHandle(event: Any) -> str:
    return ctypes.string_at(ok(cu.cuIpcGetEventHandle(event)).getPtr(), 64).hex()


def tryOpen(raw: str) -> tuple[Any, ...]:
    handle = cu.CUipcMemHandle()
    ctypes.memmove(handle.getPtr(), bytes.fromhex(raw), 64)
    answer: tuple[Any, ...] = cu.cuIpcOpenMemHandle(handle, 1)
    return answer


def openMemory(raw: str) -> int:
    return int(ok(tryOpen(raw)))


def openEvent(raw: str) -> Any:
    handle = cu.CUipcEventHandle()
    ctypes.memmove(handle.getPtr(), bytes.fromhex(raw), 64)
    return ok(cu.cuIpcOpenEventHandle(handle))


def prop(device: int = 0, shared: bool = True) -> Any:
    made = cu.CUmemAllocationProp()
    made.type = cu.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    made.location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    made.location.id = device
    made.requestedHandleTypes = (
        POSIX_FD if shared else cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_NONE
    )
    return made


def access(writable: bool = True, device: int = 0) -> Any:
    made = cu.CUmemAccessDesc()
    made.location.type = cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    made.location.id = device
    flags = cu.CUmemAccess_flags
    made.flags = (
        flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        if writable
        else flags.CU_MEM_ACCESS_FLAGS_PROT_READ
    )
    return made


def mapHandle(handle: Any, size: int, writable: bool = True) -> int:
    address = int(ok(cu.cuMemAddressReserve(size, 0, 0, 0)))
    ok(cu.cuMemMap(address, size, 0, handle, 0))
    ok(cu.cuMemSetAccess(address, size, [access(writable)], 1))
    return address


def vmm(device: int, size: int, reached: tuple[int, ...] = ()) -> int:
    """Memory by `cuMemCreate`, mapped for its device, or for those that are `reached`."""
    address = int(ok(cu.cuMemAddressReserve(size, 0, 0, 0)))
    ok(cu.cuMemMap(address, size, 0, ok(cu.cuMemCreate(size, prop(device), 0)), 0))
    entries = [access(True, each) for each in reached or (device,)]
    ok(cu.cuMemSetAccess(address, size, entries, len(entries)))
    return address


def reach(address: int, size: int, device: int, flags: int = 3) -> str:
    """What setting access for a device answers; `flags` 0 gives it back."""
    entry = access(True, device)
    entry.flags = cu.CUmemAccess_flags(flags)
    return code(cu.cuMemSetAccess(address, size, [entry], 1))


def held(address: int) -> list[int]:
    """The access flags of each device."""
    return [
        int(ok(cu.cuMemGetAccess(access(True, each).location, address)))
        for each in range(len(contexts))
    ]


def batch(
    copies: list[tuple[int, int, int]],
    on: Any,
    orders: list[int] | None = None,
    firsts: list[int] | None = None,
    flags: int = 0,
) -> tuple[Any, ...]:
    """Submit (target, source, size) as one batch; `orders` are source access orders."""
    attributes = []
    for order in [1] if orders is None else orders:
        made = cu.CUmemcpyAttributes()
        ctypes.c_int.from_address(int(made.getPtr())).value = order
        made.flags = flags
        attributes.append(made)
    answer: tuple[Any, ...] = cu.cuMemcpyBatchAsync(
        [cu.CUdeviceptr(target) for target, _, _ in copies],
        [cu.CUdeviceptr(source) for _, source, _ in copies],
        [size for _, _, size in copies],
        len(copies),
        attributes,
        list(range(len(attributes))) if firsts is None else firsts,
        len(attributes),
        on,
    )
    return answer


def exportFd(handle: Any) -> int:
    return int(ok(cu.cuMemExportToShareableHandle(handle, POSIX_FD, 0)))


def fetchFd(pid: int, descriptor: int) -> int:
    """A descriptor of another process, by pidfd."""
    pidfd = os.pidfd_open(pid)
    try:
        got: int = ctypes.CDLL(None, use_errno=True).syscall(SYS_PIDFD_GETFD, pidfd, descriptor, 0)
    finally:
        os.close(pidfd)
    assert got >= 0
    return got


def importFd(descriptor: int) -> Any:
    return ok(cu.cuMemImportFromShareableHandle(descriptor, POSIX_FD))


def freeBytes() -> int:
    return int(ok(cu.cuMemGetInfo())[0])


def pinned(size: int) -> int:
    return int(ok(cu.cuMemHostAlloc(size, 0)))


def stream() -> Any:
    return ok(cu.cuStreamCreate(1))
