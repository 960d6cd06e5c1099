"""The executor of a process that sets none: it asks the driver for the heat and the power
of the GPUs, once a second at most, and only when there is work.

Private to the process, an object for each membership. What it knows of a GPU may be a
second old; two threads that ask at once may both ask the driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muninn.api.permits import FRESH_SECONDS
from muninn.api.scratchmemory import Claim
from muninn.api.scratchroom import Room, askedRange, requireWithin
from muninn.errors import InvalidArgument
from muninn.session.gpus import deviceOf
from muninn.system import clock
from muninn.system.deadlines import deadlineOf
from muninn.terms import Access, Priority
from muninn.transfer import backoff
from muninn.transfer.arena import arenaOf
from muninn.transfer.engines import engineOf
from muninn.transfer.execution import Answer, GpuState, Topology, Work

if TYPE_CHECKING:
    from muninn.api.attachment import Attachment
    from muninn.devices.port import GpuCondition
    from muninn.session.context import Context
    from muninn.session.openbuffer import OpenBuffer


class InProcess:
    """The executor of a process that sets none: work goes, unless a GPU is too hot or has
    too little power (`transfer/backoff.py`).
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[int, tuple[float, GpuCondition | None]] = {}

    def decide(self, work: Work) -> Answer:
        """See `Executor`."""
        return backoff.decided(work, {gpu: self._condition(gpu) for gpu in work.gpus})

    def ended(self, work: Work, seconds: float, error: BaseException | None) -> None:
        """See `Executor`."""

    def topology(self) -> Topology:
        """See `Executor`. No link is verified by this."""
        device, links = deviceOf(self._context), engineOf(self._context).links
        pairs = dict[tuple[int, int], tuple[bool, str]]()
        for source in range(device.gpuCount):
            for target in range(device.gpuCount):
                if source != target:
                    verdict = links.known(source, target)
                    words = {None: "unverified", True: "intact", False: "corrupt"}
                    word = "unknown" if verdict is None else words[verdict.isIntact]
                    pairs[source, target] = device.canAccessPeer(target, source), word
        return Topology(tuple(map(self._stateOf, range(device.gpuCount))), pairs)

    def reserve(
        self, buffer: Attachment, offset: int, length: int, targetGpu: int
    ) -> ScratchReservation:
        """See `Executor`.

        Raises
        ------
        InvalidArgument
            The buffer is readOnly: its windows are shared, and `prefetch` brings them.
        """
        openBuffer = buffer._checked()
        description = openBuffer.description
        if description.access is Access.READ_ONLY:
            raise InvalidArgument(
                f"reserve: processes share the windows of {buffer.name!r}, which is readOnly",
                "Prefetch them: what was reserved for one process would not be used",
            )
        size = description.sizeBytes
        window = askedRange("reserve", size, offset, length)
        requireWithin("reserve", window, size, f"{buffer.name!r}, which has {size} bytes")
        gpu = deviceOf(openBuffer.context).requireGpu(targetGpu)
        slices = openBuffer.tables.settings.promotion.defaultSliceBytes
        room = Room.of(window.sizeBytes, slices, buffer.writable, isTracked=False)
        claim = Claim(
            openBuffer,
            gpu,
            window,
            room.sizeBytes,
            Priority.NORMAL,
            Priority.NORMAL.rank + 1,
            True,
            deadlineOf(0.0),
            lambda: None,
        )
        return ScratchReservation(gpu, claim.private("reserve", lambda memory: None))

    def _stateOf(self, gpu: int) -> GpuState:
        device = deviceOf(self._context)
        memory, condition = device.memoryInfo(gpu), self._condition(gpu)
        return GpuState(
            gpu,
            device.gpuName(gpu),
            device.site(gpu).numaNode,
            memory.totalBytes,
            memory.freeBytes,
            condition,
            backoff.trouble(gpu, condition),
        )

    def _condition(self, gpu: int) -> GpuCondition | None:
        now = clock.now()
        askedSeconds, condition = self._known.get(gpu, (-FRESH_SECONDS, None))
        if now - askedSeconds >= FRESH_SECONDS:
            condition = deviceOf(self._context).condition(gpu)
            self._known[gpu] = now, condition
        return condition

    # --- as a companion of the device ------------------------------------------------------

    def trim(self, olderThanSeconds: float = 0.0) -> None:
        """Nothing is kept."""

    def hasIdle(self) -> bool:
        return False

    def giveWay(self, belowRank: int, gpu: int | None) -> list[object]:
        return []

    def close(self) -> None:
        """The membership ends."""


class ScratchReservation:
    """Scratch memory that no window uses yet, and that is not in the arena."""

    def __init__(self, gpu: int, memory: OpenBuffer) -> None:
        self.gpu, self.sizeBytes = gpu, memory.description.sizeBytes
        self._memory: OpenBuffer | None = memory

    def handOver(self) -> None:
        """See `Reservation`."""
        memory, self._memory = self._memory, None
        if memory is not None:
            arenaOf(memory.context).giveBack(self.gpu, memory)

    def close(self) -> None:
        """See `Reservation`."""
        self._memory = None

    def __enter__(self) -> ScratchReservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
