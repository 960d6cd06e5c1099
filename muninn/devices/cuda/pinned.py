"""Pinned host memory, which all GPUs reach at its own address. It is never freed,
because a free would wait for the GPU.
"""

from __future__ import annotations

import _thread
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from cuda.bindings import driver as cu

from muninn.devices.cuda import driver
from muninn.devices.cuda.driver import call
from muninn.devices.cuda.gpu import Entered

Part = TypeVar("Part")


class Pool(ABC, Generic[Part]):
    """The parts of pinned memory that no stream uses. The memory belongs to a primary
    context, which lasts, and all contexts reach it.

    Parameters
    ----------
    home
        Enters such a context.
    """

    def __init__(self, home: Callable[[], Entered]) -> None:
        self._home = home
        self._free: list[Part] = []
        self._changing = _thread.RLock()

    def take(self) -> Part:
        with self._changing:
            if not self._free:
                with self._home(), driver.BeyondCaptures():
                    self._free += self._made()
            return self._free.pop()

    def giveBack(self, part: Part) -> None:
        # One step, because stream workers call this without the lock.
        self._free.append(part)

    @abstractmethod
    def _made(self) -> list[Part]:
        """Make more parts."""


def pinned(sizeBytes: int) -> int:
    """New pinned memory, by its address. Raises `DriverError`."""
    return int(
        call(
            cu.cuMemHostAlloc, sizeBytes, cu.CU_MEMHOSTALLOC_PORTABLE | cu.CU_MEMHOSTALLOC_DEVICEMAP
        )
    )
