"""The pieces in which one range of host memory is pinned, one call of the driver each,
and unpinned, last piece first.

Only threads that no signal reaches pin and unpin: a job's, and that of the deferred
free. So nothing runs between a call of the driver and the note of it here, and the note
is always right (I-16). One piece is in work at a time. Once the unpinning has begun,
nothing more is pinned, whatever an interrupted call has left under way.

Only this process knows the pieces. At its end the kernel unpins them.
"""

from __future__ import annotations

import _thread
from typing import NamedTuple

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.budget import Budget
from muninn.devices.cuda.driver import DriverError, call, typed
from muninn.devices.cuda.gpu import Gpu
from muninn.devices.cuda.pace import Pace
from muninn.devices.cuda.seams import Seams
from muninn.errors import BarPressureHigh, DeviceUnavailable, InvalidArgument, MuninnError
from muninn.system import aside, clock
from muninn.system.latch import Latch

#: How long a caller waits for the next piece to be unpinned. Nothing is unpinned while
#: streams of this process wait for the host, and the host's thread may be this caller.
_STANDSTILL_SECONDS = 10.0


class Pinned(NamedTuple):
    """What one call of `pinNext` has pinned, and how long to rest after it."""

    sizeBytes: int
    restSeconds: float
    isLast: bool


class Pieces:
    """The pieces of one range.

    Parameters
    ----------
    flags
        Those of cuMemHostRegister.
    budget
        It counts the whole range from the first piece on.
    """

    def __init__(
        self,
        gpu: Gpu,
        address: int,
        sizeBytes: int,
        flags: int,
        budget: Budget,
        seams: Seams,
        pace: Pace,
    ) -> None:
        self._gpu, self._flags, self._budget, self._seams, self._pace = (
            gpu,
            flags,
            budget,
            seams,
            pace,
        )
        self.address, self.sizeBytes = address, sizeBytes
        self._end = address + sizeBytes
        #: (first address, end) of each piece that is pinned.
        self._pinned: list[tuple[int, int]] = []
        self._isBudgeted = self._isOver = False
        self._errors: list[DriverError] = []
        self._undone = Latch()
        self._changing = _thread.RLock()

    def pinNext(self) -> Pinned:
        """Pin the next piece.

        Raises
        ------
        BarPressureHigh, InvalidArgument, DeviceUnavailable
            The piece is not pinned; those before it are.
        """
        with self._changing, self._gpu.entered(), driver.BeyondCaptures():
            if self._isOver:  # the caller was interrupted, and does not see this
                raise DeviceUnavailable(f"the mapping of {self.sizeBytes} bytes was cancelled")
            if not self._isBudgeted:
                self._budget.take(self.sizeBytes)
                self._isBudgeted = True
            begin = self._pinned[-1][1] if self._pinned else self.address
            end = self._pace.endOf(begin, self._end)
            started = clock.now()
            self._pin(begin, end)
            seconds = clock.now() - started
            self._pace.took(end - begin, seconds)
            if int(call(cu.cuMemHostGetDevicePointer, begin, 0)) != begin:
                raise DeviceUnavailable(
                    f"{self._gpu.name} maps host memory at addresses of its own: there is no "
                    "contiguous pointer"
                )
            return Pinned(end - begin, self._pace.restAfter(seconds), end == self._end)

    def _pin(self, begin: int, end: int) -> None:
        if end < self._end:
            self._seams.add(end)
        try:
            call(cu.cuMemHostRegister, begin, end - begin, self._flags)
        except BaseException as error:
            self._dropSeam(end)
            if isinstance(error, DriverError):
                raise _refusal(error, begin, end - begin) from error
            raise
        self._pinned.append((begin, end))

    def _dropSeam(self, end: int) -> None:
        if end < self._end:
            self._seams.remove(end)

    def unpinNext(self) -> float | None:
        """Unpin the last piece. Returns how long to rest before the next one; None when
        nothing is pinned any more, and the budget has its bytes back.
        """
        with self._changing:
            self._isOver = True
            started = clock.now()
            if self._pinned:
                self._unpin()
            if self._pinned:
                return self._pace.restAfter(clock.now() - started)
            if self._isBudgeted:
                self._budget.giveBack(self.sizeBytes)
                self._isBudgeted = False
            return None

    def _unpin(self) -> None:
        begin, end = self._pinned[-1]
        try:
            with self._gpu.entered():
                call(cu.cuMemHostUnregister, begin)
        except DriverError as error:
            self._errors.append(error)  # the others are given back all the same
        self._pinned.pop()
        self._dropSeam(end)

    def finish(self) -> None:
        """Say that all is unpinned. Raises the first error of that."""
        self._undone.set()
        if self._errors:
            raise self._errors.pop(0)

    def isUnpinned(self) -> bool:
        return self._undone.isSet()

    def awaitUnpinned(self) -> None:
        """Wait until all is unpinned, or until that stands still for long; the deferred
        free then goes on later.
        """
        left = -1
        while not aside.isOwn() and left != len(self._pinned):
            left = len(self._pinned)
            if self._undone.wait(_STANDSTILL_SECONDS):
                return


def _refusal(error: DriverError, address: int, sizeBytes: int) -> MuninnError:
    what = f"{sizeBytes} bytes at {address:#x} can not be mapped for GPUs"
    if error.code == "OUT_OF_MEMORY":
        return BarPressureHigh(f"{what}: {error}", "Close mapped buffers, or map smaller ones")
    if error.code in ("HOST_MEMORY_ALREADY_REGISTERED", "INVALID_VALUE"):
        return InvalidArgument(
            f"{what}: {error}", "Pass memory of this process that is not registered already"
        )
    return typed(error, what)
