"""JSON in files: one object of unique keys, in UTF-8, or the file is refused."""

from __future__ import annotations

import json
from typing import Any

from muninn.formats.source import Source


def jsonObject(source: Source, raw: bytes, what: str) -> dict[str, Any]:
    """The object that `raw` states. `what` names the text in messages.

    Raises
    ------
    FileInvalid
        It is no JSON, no object, or has a key twice at some level.
    """
    try:
        # Decode first: from bytes `json` would also take UTF-16.
        found = json.loads(raw.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise source.refuse(f"{what} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise source.refuse(f"{what} is no JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found
