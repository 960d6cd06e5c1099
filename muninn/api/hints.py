"""Hints of a user: checked, in the words of the roadmap's plans (`hotRanges`,
`lifetimeMs`, `priority`), and as they are given back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from muninn.api.lifetimes import asDeadline
from muninn.arguments import asInteger, checkKeys
from muninn.config.sizes import exactly
from muninn.control import layout
from muninn.control.hints import MAX_END_BYTES, MAX_RANGE_BYTES, Hints, RowHints
from muninn.errors import InvalidArgument
from muninn.system.clock import monotonicMs
from muninn.system.pages import PAGE_BYTES
from muninn.terms import PriorityWord, asPriority

if TYPE_CHECKING:
    from muninn.session.tables import Tables


class HintKeywords(TypedDict, total=False):
    """Hints on a buffer. One that is left out stays as it is.

    Attributes
    ----------
    hotRanges
        Up to 15 pairs (offset, length) in bytes, the hottest first: what kernels will
        read most. They are rounded out to pages of 4096 bytes.
    lifetimeMs
        Milliseconds from now for which the hints hold; None: as long as the buffer.
    priority
        ``"low"``, ``"normal"`` or ``"high"``: whose windows get room in VRAM first.
    """

    hotRanges: Iterable[tuple[int, int]]
    lifetimeMs: int | None
    priority: PriorityWord


KEYWORDS = tuple(HintKeywords.__annotations__)


def hintsOf(tables: Tables, row: int) -> RowHints:
    """The hints on the buffer of a row."""
    return RowHints(tables.block.rowAddress(row))


def requireArray(caller: str, kind: int) -> None:
    """Raise `InvalidArgument` for a row that is no array: no window of it is promoted."""
    if kind != layout.ROW_KIND_ARRAY:
        raise InvalidArgument(
            f"{caller}: hints are on the bytes of one array, and this is a bundle",
            "Share the arrays that kernels promote under names of their own",
        )


def changed(caller: str, before: Hints, given: object, sizeBytes: int) -> Hints:
    """Hints with those that a user gives to `caller`, for a buffer of so many bytes."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{caller}: hints must be a dict, not {type(given).__name__}")
    keywords: Mapping[Any, Any] = given
    checkKeys(f"{caller}: hints", keywords, KEYWORDS)
    before = before.holding()
    ranges, untilMs, priority = before.hotRanges, before.untilMs, before.priority
    if "hotRanges" in keywords:
        ranges = _asRanges(caller, keywords["hotRanges"], sizeBytes)
    if "lifetimeMs" in keywords:
        untilMs = asDeadline(caller, keywords["lifetimeMs"])
    if "priority" in keywords:
        priority = asPriority(keywords["priority"], caller)
    return Hints(ranges, priority, untilMs)


def described(hints: Hints, sizeBytes: int) -> dict[str, Any]:
    """Hints as a plain dict: those that hold, for a buffer of so many bytes."""
    hints = hints.holding()
    return {
        "hotRanges": [list(each) for each in within(hints, sizeBytes)],
        "endsInMs": max(0, hints.untilMs - monotonicMs()) if hints.untilMs else None,
        "priority": hints.priority.value,
    }


def within(hints: Hints, sizeBytes: int) -> list[tuple[int, int]]:
    """The hot ranges, cut at the end of a buffer."""
    cut = ((at, min(length, sizeBytes - at)) for at, length in hints.hotRanges)
    return [(at, length) for at, length in cut if length > 0]


def _asRanges(caller: str, value: object, sizeBytes: int) -> tuple[tuple[int, int], ...]:
    try:
        pairs = [tuple(each) for each in value]  # type: ignore[attr-defined]
    except TypeError:
        raise TypeError(
            f"{caller}: hotRanges are pairs (offset, length), not {value!r:.80}"
        ) from None
    if len(pairs) > layout.MAX_HOT_RANGES:
        raise InvalidArgument(
            f"{caller}: {len(pairs)} hot ranges, and {layout.MAX_HOT_RANGES} are the most",
            "Join those that are near each other, or promote the others by name",
        )
    found = []
    for pair in pairs:
        numbers = [number for each in pair if (number := asInteger(each)) is not None]
        if len(pair) != 2 or len(numbers) != 2:
            raise TypeError(f"{caller}: {pair!r:.80} is no pair (offset, length) of bytes")
        offset, length = numbers
        if offset < 0 or length <= 0 or offset + length > min(sizeBytes, MAX_END_BYTES):
            raise InvalidArgument(
                f"{caller}: the hot range ({offset}, {length}), an offset and a length, is not in "
                f"a buffer of {sizeBytes} bytes",
                "Give an offset from 0 on, and a length above 0, within the buffer",
            )
        if length > MAX_RANGE_BYTES - PAGE_BYTES:
            raise InvalidArgument(
                f"{caller}: a hot range of {exactly(length)} can not be",
                f"Use at most {exactly(MAX_RANGE_BYTES - PAGE_BYTES)}",
            )
        found.append((offset, length))
    return tuple(found)
