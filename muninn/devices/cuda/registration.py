"""Host memory that kernels use: pinned by the driver in pieces, all of them or none.

A piece is so small that the driver's call for it is short (`pace.py`), because other
processes wait for that call. All GPUs get the memory (`PORTABLE`) at one contiguous
address, which is the host's own under unified addressing. Where the driver gives
another address, there is no contiguous pointer, and the registration is refused.

A registration pins the pages: they can not be swapped, and a peer that truncates the
file takes nothing away (seen on an H100).

The registration is there before its first piece. Whatever ends the pinning of the
pieces (a failure, an exception of `progress`, Ctrl-C at any bytecode) ends the
registration, and the deferred free unpins the pieces that are pinned. `register` waits
for that before it raises. A second interruption ends that wait, and the unpinning goes
on.
"""

from __future__ import annotations

from collections.abc import Callable

from cuda.bindings import driver as cu

from muninn.devices.cuda.budget import Budget
from muninn.devices.cuda.deferredfree import DeferredFree, More
from muninn.devices.cuda.driver import guard
from muninn.devices.cuda.gpu import Gpu
from muninn.devices.cuda.pace import Pace, PieceBounds
from muninn.devices.cuda.pieces import Pieces, Pinned
from muninn.devices.cuda.seams import Seams
from muninn.devices.port import Registration
from muninn.errors import DeviceUnavailable, InvalidArgument
from muninn.system import aside, clock

_FLAGS = cu.CU_MEMHOSTREGISTER_PORTABLE | cu.CU_MEMHOSTREGISTER_DEVICEMAP
_LOOK_SECONDS = 60.0


class CudaRegistration(Registration):
    """Registered memory. When it is closed or collected, the deferred free unregisters
    it after the work that uses it.
    """

    def __init__(self, deferredFree: DeferredFree, pieces: Pieces, writable: bool) -> None:
        self.devicePointer, self.sizeBytes, self.writable = (
            pieces.address,
            pieces.sizeBytes,
            writable,
        )
        deferredFree.start()
        self._pieces, self._deferredFree = pieces, deferredFree
        #: Called after the unregistration.
        self._closed: list[Callable[[], object]] = []
        # It must not refer to this object, at whose end it is deferred.
        self._unregister = _Unregister(pieces, self._closed)
        deferredFree.deferAtEnd(self, self._unregister)

    def close(self) -> None:
        if not self._unregister.isDone():
            self._deferredFree.defer(self._unregister)

    def closeThen(self, closed: Callable[[], object]) -> None:
        self._closed.append(closed)
        self._deferredFree.defer(self._unregister)

    def undo(self) -> None:
        """Unpin what is pinned, and wait for that. If this is interrupted, the end of
        this object does the same once more.
        """
        self.close()
        self._pieces.awaitUnpinned()


class _Unregister:
    """The disposal of a registration, for the deferred free: one piece a call. It may be
    deferred several times.
    """

    def __init__(self, pieces: Pieces, closed: list[Callable[[], object]]) -> None:
        self._pieces, self._closed = pieces, closed

    def isDone(self) -> bool:
        return self._pieces.isUnpinned() and not self._closed

    def __call__(self) -> More | None:
        restSeconds = self._pieces.unpinNext()
        if restSeconds is not None:
            return More(restSeconds)
        try:
            while self._closed:
                self._closed.pop(0)()
        finally:
            self._pieces.finish()
        return None


def register(
    deferredFree: DeferredFree,
    gpu: Gpu,
    address: int,
    sizeBytes: int,
    writable: bool,
    progress: Callable[[int], None] | None,
    budget: Budget,
    seams: Seams,
    bounds: PieceBounds,
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
    pieces = Pieces(gpu, address, sizeBytes, flags, budget, seams, Pace(bounds))
    made = CudaRegistration(deferredFree, pieces, writable)
    try:
        _pinAll(pieces, progress)
    except BaseException:
        made.undo()
        raise
    return made


def _pinAll(pieces: Pieces, progress: Callable[[int], None] | None) -> None:
    isLast = False
    while not isLast:
        sizeBytes, restSeconds, isLast = _pinNext(pieces)
        if progress is not None:
            progress(sizeBytes)
        if not isLast:
            clock.sleep(restSeconds)


def _pinNext(pieces: Pieces) -> Pinned:
    """Pin a piece on a thread that no signal reaches; an interruption leaves it to end
    the piece.
    """
    if aside.isOwn():
        return pieces.pinNext()
    job = aside.Job(pieces.pinNext)
    while (pinned := job.result(_LOOK_SECONDS)) is None:
        pass
    return pinned
