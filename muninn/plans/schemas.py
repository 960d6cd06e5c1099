"""The objects of a plan, as values, with their fields; and the JSON Schema of a plan."""

from __future__ import annotations

from typing import Any, NamedTuple

from muninn.config.sizes import exactly
from muninn.plans import fields
from muninn.plans.fields import listed, made, needed, refused
from muninn.terms import Lifetime, Mode

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class PlannedHints(NamedTuple):
    """Hints on a buffer; None is not said."""

    hotRanges: tuple[tuple[int, int], ...] | None = None
    lifetimeMs: int | None = None
    priority: str | None = None


class PlannedBuffer(NamedTuple):
    """A buffer that is to be there.

    Attributes
    ----------
    path
        Where it stands in the plan, as the paths of all the objects here.
    preferredGpu
        The GPU in whose VRAM it is, for fastMode; the one near which its pages are, for
        bigMode.
    """

    path: str
    size: int
    name: str
    mode: str = Mode.BIG.value
    preferredGpu: int | None = None
    access: str | None = None
    tenant: str | None = None
    lifetime: str = Lifetime.KEEP.value
    lifetimeMs: int | None = None
    reserve: str = "full"
    hints: PlannedHints = PlannedHints()


class PlannedPromotion(NamedTuple):
    """A window that is to be on a GPU."""

    path: str
    buffer: str
    offset: int = 0
    length: int | None = None
    targetGpu: int = 0
    track: bool = False


class PlannedPrefetch(NamedTuple):
    """The hot ranges of a buffer are to be on a GPU."""

    path: str
    buffer: str
    targetGpu: int = 0


class Plan(NamedTuple):
    """A plan whose every value was checked."""

    buffers: tuple[PlannedBuffer, ...] = ()
    promotions: tuple[PlannedPromotion, ...] = ()
    prefetches: tuple[PlannedPrefetch, ...] = ()


def _hintsOf(path: str, found: dict[str, Any]) -> PlannedHints:
    return PlannedHints(**found)


def _bufferOf(path: str, found: dict[str, Any]) -> PlannedBuffer:
    buffer = PlannedBuffer(path, **found)
    if buffer.reserve == "lazy" and buffer.mode == Mode.FAST:
        raise refused(
            f"{path}.reserve", "memory of a GPU is there at once", "Leave it out for fastMode"
        )
    for index, (offset, length) in enumerate(buffer.hints.hotRanges or ()):
        if offset + length > buffer.size:
            raise refused(
                f"{path}.hints.hotRanges[{index}]",
                f"it ends at {exactly(offset + length)}, and the buffer has {exactly(buffer.size)}",
                "Give an offset and a length within the buffer",
            )
    return buffer


def _promotionOf(path: str, found: dict[str, Any]) -> PlannedPromotion:
    return PlannedPromotion(path, **found)


def _prefetchOf(path: str, found: dict[str, Any]) -> PlannedPrefetch:
    return PlannedPrefetch(path, **found)


def _planOf(path: str, found: dict[str, Any]) -> Plan:
    found.pop("version", None)
    plan = Plan(**found)
    first = dict[str, str]()
    for buffer in plan.buffers:
        if buffer.name in first:
            raise refused(
                f"{buffer.path}.name",
                f"{buffer.name!r} is the name of {first[buffer.name]} too",
                "Give each buffer a name of its own",
            )
        first[buffer.name] = buffer.path
    sizes = {buffer.name: buffer.size for buffer in plan.buffers}
    for each in plan.promotions:
        if each.buffer in sizes:
            requireWindow(each, sizes[each.buffer])
    return plan


def requireWindow(promotion: PlannedPromotion, sizeBytes: int) -> None:
    """Raise `InvalidArgument` for a window that is not in a buffer of so many bytes."""
    end = sizeBytes if promotion.length is None else promotion.offset + promotion.length
    if promotion.offset >= sizeBytes or end > sizeBytes:
        raise refused(
            promotion.path,
            f"the window begins at {exactly(promotion.offset)} and ends at {exactly(end)}, and "
            f"{promotion.buffer!r} has {exactly(sizeBytes)}",
            "Give an offset and a length within the buffer",
        )


HINTS = {
    "hotRanges": fields.HOT_RANGES,
    "lifetimeMs": fields.MILLISECONDS,
    "priority": fields.PRIORITY,
}
#: What may be said of a buffer, wherever it is said.
BUFFER = {
    "size": needed(fields.SIZE),
    "name": fields.NAME,
    "mode": fields.MODE,
    "preferredGpu": fields.GPU,
    "access": fields.ACCESS,
    "tenant": fields.TENANT,
    "lifetime": fields.LIFETIME,
    "lifetimeMs": fields.MILLISECONDS,
    "reserve": fields.RESERVE,
}
WINDOW = {"offset": fields.OFFSET, "length": fields.SIZE, "targetGpu": fields.GPU}
_BUFFER = made({**BUFFER, "name": needed(fields.NAME), "hints": made(HINTS, _hintsOf)}, _bufferOf)
_PROMOTION = made({"buffer": needed(fields.NAME), **WINDOW, "track": fields.FLAG}, _promotionOf)
_PREFETCH = made({"buffer": needed(fields.NAME), "targetGpu": fields.GPU}, _prefetchOf)
PLAN = made(
    {
        "version": fields.VERSION,
        "buffers": listed(_BUFFER, fields.MAX_ENTRIES),
        "promotions": listed(_PROMOTION, fields.MAX_ENTRIES),
        "prefetches": listed(_PREFETCH, fields.MAX_ENTRIES),
    },
    _planOf,
)


#: The JSON Schema of a plan. It says which shapes may be; that a range is within its
#: buffer, that a name has so many bytes and that no two buffers have one name is checked
#: besides.
PLAN_SCHEMA = {"$schema": _DIALECT, "title": "A plan", **PLAN.schema}
