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


def alloc(size: int) -> int:
    return int(ok(cu.cuMemAlloc(size)))


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
