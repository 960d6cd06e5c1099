"""Host memory that kernels use: registered with the driver in windows, all of them or
none.

A window is at most 64 GiB, because drivers have limits of their own (512 GiB a call
since r580, vllm #51080) and because a failure late in one giant call wastes all its
time. All GPUs get the memory (`PORTABLE`) at one contiguous address, which is the
host's own under unified addressing. Where the driver gives another address, there is no
contiguous pointer, and the registration is refused.

A registration pins the pages: they can not be swapped, and a peer that truncates the
file takes nothing away (seen on an H100).
"""

from __future__ import annotations

import _thread
import contextlib
import itertools
import weakref
from collections.abc import Callable

from cuda.bindings import driver as cu

from muninn.config.sizes import exactly
from muninn.devices.cuda.deferredfree import DeferredFree
from muninn.devices.cuda.driver import DriverError, call, guard, typed
from muninn.devices.cuda.gpu import Gpu
from muninn.devices.port import Registration
from muninn.errors import BarPressureHigh, DeviceUnavailable, InvalidArgument, MuninnError

#: The most bytes of one call.
WINDOW_BYTES = 64 << 30
_FLAGS = cu.CU_MEMHOSTREGISTER_PORTABLE | cu.CU_MEMHOSTREGISTER_DEVICEMAP


class WindowBoundaries:
    """The addresses where one window ends and the next begins. Kernels may work across
    them, and a copy may not (INVALID_VALUE, seen on an H100).
    """

    def __init__(self) -> None:
        self._at: frozenset[int] = frozenset()
        self._changing = _thread.RLock()

    def add(self, windows: list[int]) -> None:
        with self._changing:
            self._at |= set(windows[1:])

    def remove(self, windows: list[int]) -> None:
        with self._changing:
            self._at -= set(windows[1:])

    def parts(self, target: int, source: int, sizeBytes: int) -> list[tuple[int, int]]:
        """(offset, bytes) of the copies into which a copy is cut; nearly always one."""
        if not self._at:
            return [(0, sizeBytes)]
        offsets = {boundary - start for boundary in self._at for start in (target, source)}
        cuts = [0, *sorted(offset for offset in offsets if 0 < offset < sizeBytes), sizeBytes]
        return [(start, end - start) for start, end in itertools.pairwise(cuts)]


class Budget:
    """How many bytes of host memory this process may map for GPUs, and how many it has
    mapped.
    """

    def __init__(self, limitBytes: int) -> None:
        self.limitBytes = limitBytes
        self.usedBytes = 0
        self._changing = _thread.RLock()

    def take(self, sizeBytes: int) -> None:
        """Admit the bytes, or `BarPressureHigh`."""
        with self._changing:
            if self.usedBytes + sizeBytes > self.limitBytes:
                raise BarPressureHigh(
                    f"{exactly(self.usedBytes)} mapped for GPUs + {exactly(sizeBytes)} wanted"
                    f" > {exactly(self.limitBytes)} (devices.mappedWindowBytes)",
                    "Close mapped buffers, or raise [devices] mappedWindowBytes",
                )
            self.usedBytes += sizeBytes

    def giveBack(self, sizeBytes: int) -> None:
        with self._changing:
            self.usedBytes -= sizeBytes


class CudaRegistration(Registration):
    """Registered memory. When it is closed or collected, the deferred free unregisters
    it after the work that uses it.
    """

    def __init__(
        self,
        deferredFree: DeferredFree,
        gpu: Gpu,
        windows: list[int],
        sizeBytes: int,
        writable: bool,
        budget: Budget,
        boundaries: WindowBoundaries,
    ) -> None:
        self.devicePointer, self.sizeBytes, self.writable = windows[0], sizeBytes, writable
        deferredFree.start()
        #: Called after the unregistration. The finalizer has the list too, because it
        #: must not refer to this object.
        self._closed: list[Callable[[], object]] = []
        self._finalizer = weakref.finalize(
            self,
            deferredFree.defer,
            _Unregister(gpu, windows, sizeBytes, budget, boundaries, self._closed),
        )
        self._finalizer.atexit = False

    def close(self) -> None:
        self._finalizer()

    def closeThen(self, closed: Callable[[], object]) -> None:
        if self._finalizer.alive:
            self._closed.append(closed)
        self._finalizer()


class _Unregister:
    """The disposal of a registration, for the deferred free."""

    def __init__(
        self,
        gpu: Gpu,
        windows: list[int],
        sizeBytes: int,
        budget: Budget,
        boundaries: WindowBoundaries,
        closed: list[Callable[[], object]],
    ) -> None:
        self._gpu, self._windows, self._sizeBytes, self._budget, self._boundaries, self._closed = (
            gpu,
            windows,
            sizeBytes,
            budget,
            boundaries,
            closed,
        )

    def __call__(self) -> None:
        try:
            with self._gpu.entered():
                for window in self._windows:
                    call(cu.cuMemHostUnregister, window)
        finally:
            self._budget.giveBack(self._sizeBytes)
            self._boundaries.remove(self._windows)
            for closed in self._closed:
                closed()


def register(
    deferredFree: DeferredFree,
    gpu: Gpu,
    address: int,
    sizeBytes: int,
    writable: bool,
    progress: Callable[[int], None] | None,
    budget: Budget,
    boundaries: WindowBoundaries,
    windowBytes: int,
) -> CudaRegistration:
    """Register whole pages from `address` on; see `Device.registerHost`."""
    guard()
    if address <= 0 or sizeBytes <= 0 or address + sizeBytes >= 1 << 47:
        raise InvalidArgument(f"{sizeBytes} bytes at {address:#x} are no range of addresses")
    if not writable and not gpu.hasReadOnlyRegistration:
        raise DeviceUnavailable(
            f"{gpu.name} can not map memory that no process may write",
            'Share it with access="readMostly"',
        )
    flags = _FLAGS | (0 if writable else cu.CU_MEMHOSTREGISTER_READ_ONLY)
    budget.take(sizeBytes)
    windows: list[int] = []
    with gpu.entered(), contextlib.ExitStack() as undo:
        undo.callback(budget.giveBack, sizeBytes)
        for offset in range(0, sizeBytes, windowBytes):
            part = min(windowBytes, sizeBytes - offset)
            _registerWindow(address + offset, part, flags)
            undo.callback(call, cu.cuMemHostUnregister, address + offset)
            windows.append(address + offset)
            if int(call(cu.cuMemHostGetDevicePointer, address + offset, 0)) != address + offset:
                raise DeviceUnavailable(
                    f"{gpu.name} maps host memory at addresses of its own: there is no "
                    "contiguous pointer"
                )
            if progress is not None:
                progress(part)
        undo.pop_all()
    boundaries.add(windows)
    return CudaRegistration(deferredFree, gpu, windows, sizeBytes, writable, budget, boundaries)


def _registerWindow(address: int, sizeBytes: int, flags: int) -> None:
    try:
        call(cu.cuMemHostRegister, address, sizeBytes, flags)
    except DriverError as error:
        raise _refusal(error, address, sizeBytes) from error


def _refusal(error: DriverError, address: int, sizeBytes: int) -> MuninnError:
    what = f"{sizeBytes} bytes at {address:#x} can not be mapped for GPUs"
    if error.code == "OUT_OF_MEMORY":
        return BarPressureHigh(f"{what}: {error}", "Close mapped buffers, or map smaller ones")
    if error.code in ("HOST_MEMORY_ALREADY_REGISTERED", "INVALID_VALUE"):
        return InvalidArgument(
            f"{what}: {error}", "Pass memory of this process that is not registered already"
        )
    return typed(error, what)
