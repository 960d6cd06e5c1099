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
from muninn.interop.elements import asElement
from muninn.session.openbuffer import OpenBuffer
from muninn.system.beside import rest


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
        listed = msgpack.unpackb(raw)
        elements = {text: asElement(text) for text in {text for _, _, _, text, _ in listed}}
        entries = {}
        for key, offset, shape, text, segment in listed:
            entries[key] = Region(offset, tuple(shape), elements[text], segment)
            rest()
    except (ValueError, TypeError, RecursionError, InvalidDtype, msgpack.UnpackException) as error:
        raise ControlBlockInvalid(
            f"the manifest of bundle {description.name!r} is damaged: {error}"
        ) from error
    sizes = [each.description.sizeBytes for each in openBuffer.segments]
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
    if type(key) is not str or len(shape) > layout.MAX_NDIM or element.structure is not None:
        return False
    for number in (offset, segment, *shape):
        if type(number) is not int or number < 0:
            return False
    rest()
    if segment >= len(sizes):
        return False
    takenBytes = region.sizeBytes
    # What takes bytes that are there is possible.
    return offset + takenBytes <= sizes[segment] and (takenBytes > 0 or region.isPossible)
