"""Facts: what is there when a plan is decided, as plain values that can be printed.

They are read without locks, from the rows of the domain, and may be a moment old. The
broker decides again when a buffer is created: its own limits count.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from muninn.api import hints
from muninn.api.listing import stableDescription
from muninn.broker.policy.usage import usageOf
from muninn.control import layout
from muninn.control.drain import Drain
from muninn.session.gpus import deviceOf
from muninn.session.role import limitsOf
from muninn.storage.room import hostRoomBytes
from muninn.system.clock import isOver

if TYPE_CHECKING:
    from muninn.broker.policy.limits import Limits
    from muninn.control.descriptions import RowDescription
    from muninn.plans.schemas import Plan
    from muninn.session.member import Membership

#: How long to wait for a broker, before the rows are taken as the last one left them.
_ANSWER_SECONDS = 1.0
_THERE = (layout.ROW_LIVE, layout.ROW_PROBING)


class Existing(NamedTuple):
    """A buffer that is there.

    Attributes
    ----------
    isArray
        Whether it is one array, and no bundle.
    gpu
        As its maker numbers it; -1 for host memory.
    hotRanges, priority
        Its hints, those that hold.
    """

    isArray: bool
    mode: str
    gpu: int
    sizeBytes: int
    access: str
    tenant: str
    lifetime: str
    hotRanges: tuple[tuple[int, int], ...]
    priority: str


class Used(NamedTuple):
    """The bytes of all buffers of one kind."""

    mode: str
    tenant: str
    gpu: int
    isWindow: bool
    sizeBytes: int


class PlannedGpu(NamedTuple):
    """A GPU of this process.

    Attributes
    ----------
    capacityBytes
        How much it has; 0: its driver counts, and the plan does not.
    """

    numaNode: int | None
    capacityBytes: int


class Facts(NamedTuple):
    """What is there.

    Attributes
    ----------
    existing
        The buffers that the plan names and that are there, by name.
    freeRows
        How many buffers more the domain can have.
    hostRoomBytes
        How much host memory new buffers could take.
    drainReason
        Why it creates nothing new; None: it does.
    """

    existing: dict[str, Existing]
    used: tuple[Used, ...]
    limits: Limits
    gpus: tuple[PlannedGpu, ...]
    freeRows: int
    hostRoomBytes: int
    drainReason: str | None
    defaultTenant: str
    defaultAccess: str
    sliceBytes: int
    enablePromotion: bool

    def asDict(self) -> dict[str, Any]:
        """For printing as JSON; without the room of the machine, which is another one at
        each moment.
        """
        said = self._asdict()
        del said["hostRoomBytes"]
        return {
            **said,
            "existing": {name: each._asdict() for name, each in self.existing.items()},
            "used": [each._asdict() for each in self.used],
            "limits": self.limits._asdict(),
            "gpus": [each._asdict() for each in self.gpus],
        }


def factsOf(membership: Membership, plan: Plan) -> Facts:
    """What is there of what a plan is about."""
    named = {each.name for each in plan.buffers}
    named |= {each.buffer for each in plan.promotions}
    named |= {each.buffer for each in plan.prefetches}
    tables, settings = membership.tables, membership.settings
    existing, sums = dict[str, Existing](), Counter[tuple[str, str, int, bool]]()
    rows = membership.rows.notFree()
    if any(membership.rows.isFastMode(row) for row, _ in rows):
        # Once the broker answers, it has freed the names of VRAM that went with its holders.
        membership.client.awaitAnswer(_ANSWER_SECONDS)
        rows = membership.rows.notFree()
    for row, state in rows:
        description = stableDescription(tables, row, state)
        if description is None:
            continue
        usage = usageOf(description)
        key = (usage.mode.value, usage.tenant, usage.gpu, usage.isWindow)
        sums[key] += usage.sizeBytes
        isThere = state.state in _THERE and not isOver(description.deadlineMs)
        if isThere and description.name in named:
            existing[description.name] = _existing(description, membership, row)
    return Facts(
        dict(sorted(existing.items())),
        tuple(Used(*key, size) for key, size in sorted(sums.items()) if size),
        limitsOf(settings),
        _gpus(membership),
        membership.block.geometry.maxBuffers - len(rows),
        hostRoomBytes(),
        Drain(membership.block).reason(),
        settings.tenancy.defaultTenant,
        settings.promotion.defaultPolicy,
        settings.promotion.defaultSliceBytes,
        settings.promotion.enablePromotion,
    )


def _existing(description: RowDescription, membership: Membership, row: int) -> Existing:
    said = hints.hintsOf(membership.tables, row).get().holding()
    return Existing(
        description.kind == layout.ROW_KIND_ARRAY,
        description.mode.value,
        description.gpu,
        description.sizeBytes,
        description.access.value,
        description.tenant,
        description.lifetime.value,
        tuple(hints.within(said, description.sizeBytes)),
        said.priority.value,
    )


def _gpus(membership: Membership) -> tuple[PlannedGpu, ...]:
    device = deviceOf(membership)
    counts = device.usedBytes is not None
    return tuple(
        PlannedGpu(device.site(gpu).numaNode, device.memoryInfo(gpu).totalBytes if counts else 0)
        for gpu in range(device.gpuCount)
    )
