"""The budget of mapped host memory: how many bytes this process has mapped for GPUs, and
how many it may map (`devices.mappedWindowBytes`). Only this process counts them.
"""

from __future__ import annotations

import _thread

from muninn.config.sizes import exactly
from muninn.errors import BarPressureHigh


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
