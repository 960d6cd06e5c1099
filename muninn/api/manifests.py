"""Manifests: which arrays a bundle has, and where each of them is in its segments.

The creator writes the manifest after the data, before any process can open the bundle,
and nobody changes it. A reader copies it, and checks the copy against the bundle's size
before it uses an entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgpack

from muninn.api.views import Region
from muninn.control import layout
from muninn.errors import ControlBlockInvalid, InvalidDtype
from muninn.interop.elements import ElementType, asElement
from muninn.session.openbuffer import OpenBuffer


def packed(entries: Mapping[str, Region]) -> bytes:
    """The manifest of these entries."""
    raw: bytes = msgpack.packb(
        [
            [key, region.offset, list(region.shape), region.element.text, region.segment]
            for key, region in entries.items()
        ]
    )
    return raw


def unpacked(openBuffer: OpenBuffer) -> dict[str, Region]:
    """The entries of a bundle's manifest."""
    description = openBuffer.description
    raw = openBuffer.memory.copyBytes(description.metaBytes, description.metaOffset)
    try:
        elements: dict[Any, ElementType] = {}
        entries = {}
        for key, offset, shape, text, segment in msgpack.unpackb(raw):
            if text not in elements:
                elements[text] = asElement(text)
            entries[key] = Region(offset, tuple(shape), elements[text], segment)
    except (ValueError, TypeError, RecursionError, InvalidDtype, msgpack.UnpackException) as error:
        raise ControlBlockInvalid(
            f"the manifest of bundle {description.name!r} is damaged: {error}"
        ) from error
    sizes = [each.description.sizeBytes for each in (openBuffer, *openBuffer.parts)]
    if not entries or not all(_isInside(key, entry, sizes) for key, entry in entries.items()):
        raise ControlBlockInvalid(
            f"the manifest of bundle {description.name!r} names no arrays, or some that are "
            "not inside of it"
        )
    return entries


def _isInside(key: Any, region: Region, sizes: Sequence[int]) -> bool:
    """Whether an entry is one that `Bundle` could have made, within segments of these
    sizes. In a damaged manifest each item may have any type that msgpack has.
    """
    offset, shape, element, segment = region
    if (
        not isinstance(key, str)
        or len(shape) > layout.MAX_NDIM
        or {int} != {type(offset), type(segment), *map(type, shape)}
        or min(offset, segment, *shape, 0) < 0
        or element.structure is not None
        or segment >= len(sizes)
    ):
        return False
    regionBytes = region.sizeBytes
    # An array that has bytes, and is inside its segment, is possible.
    return offset + regionBytes <= sizes[segment] and (regionBytes > 0 or region.isPossible)
