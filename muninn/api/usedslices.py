"""Used slices: which parts of a promoted window were of any use.

A flag is a byte for each slice. The host sets flags, and kernels set flags of their own,
which lie in scratch memory beside the window: the window itself may be shared, and
read-only. What a window was used for is known to this process alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from muninn.api import views
from muninn.api.views import Region
from muninn.interop.elements import asElement
from muninn.observe import events
from muninn.observe.counters import count
from muninn.session.gpus import deviceOf
from muninn.transfer import dirty
from muninn.transfer.arena import arenaOf
from muninn.transfer.tiers import slicesOf

if TYPE_CHECKING:
    from muninn.api.scratchmemory import Claim
    from muninn.session.mappings import Memory
    from muninn.session.openbuffer import OpenBuffer


class UsedSlices:
    """The slices of one window."""

    def __init__(self, name: str, windowBytes: int, sliceBytes: int) -> None:
        self._name = name
        self._windowBytes, self._sliceBytes = windowBytes, sliceBytes
        self._flags = np.zeros(slicesOf(windowBytes, sliceBytes), np.uint8)
        self._isMeasured = False
        self._memory: OpenBuffer | None = None

    def mark(self, used: dirty.Range) -> None:
        """The host says that a range was used."""
        self._isMeasured = True
        dirty.mark(self._flags, self._sliceBytes, *used)

    def markAll(self, flags: dirty.Flags) -> None:
        """What was written was used."""
        dirty.add(self._flags, flags)

    def deviceFlags(self, claim: Claim) -> Any:
        """The flags for kernels; `claim` is for the memory in which they lie."""
        if self._memory is None:
            self._memory = claim.private("usedFlags", self._clear)
            self._isMeasured = True
        opened = self._memory
        opened.memory.device = deviceOf(opened.context)
        region = Region(0, self._flags.shape, asElement(np.uint8))
        return views.deviceArray(opened.memory, region, True, claim.gpu)

    def _clear(self, memory: Memory) -> None:
        zeros = np.zeros(self._flags.size, np.uint8)
        memory.copyIn(zeros.ctypes.data, zeros.nbytes, 0)

    def usedBytes(self) -> int | None:
        """Bytes of the slices that were used; None if nobody has said any. The caller has
        waited for the kernels.
        """
        if not self._isMeasured:
            return None
        if self._memory is not None:
            seen = np.empty_like(self._flags)
            self._memory.memory.copyOut(seen.ctypes.data, seen.nbytes, 0)
            dirty.add(self._flags, seen)
        ranges = dirty.rangesOf(self._flags, self._sliceBytes, self._windowBytes)
        return sum(each.sizeBytes for each in ranges)

    def end(self, gpu: int) -> None:
        """The window is not promoted any more: count what was useful, and give the memory
        back. No kernel uses it.
        """
        opened = self._memory
        try:
            used = self.usedBytes()
        finally:
            self._memory = None
            if opened is not None:
                arenaOf(opened.context).giveBack(gpu, opened)
        if used is None:
            return
        count("usedWindows", str(gpu), 1, self._windowBytes, used)
        events.say("usage", bufferId=self._name, gpu=gpu, usedBytes=used, bytes=self._windowBytes)
