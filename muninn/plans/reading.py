"""Reading a plan: from a dict or a file to a `Plan`, checked whole before anything else.

A file is JSON or TOML, by its ending. It is read by this process only, and may hold
anything: a wrong one is `InvalidConfig` with the file and, where it is known, the line.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muninn.errors import InvalidArgument, InvalidConfig
from muninn.plans.schemas import PLAN, Plan

#: A larger file is no plan.
MAX_FILE_BYTES = 16 << 20
_FORMATS = "Write JSON in a file that ends in .json, or TOML in one that ends in .toml"


def planOf(plan: Mapping[str, Any] | str | os.PathLike[str]) -> Plan:
    """The plan that a dict, or a file, states.

    Raises
    ------
    InvalidArgument
        A value can not be; the text begins with its path in the plan.
    InvalidConfig
        The file can not be read; or a value in it can not be.
    """
    if isinstance(plan, Mapping):
        return _checked(plan)
    if not isinstance(plan, str | os.PathLike):
        raise TypeError(f"a plan is a dict, or the path of a file, not {type(plan).__name__}")
    path = Path(plan)
    try:
        return _checked(_parsed(path))
    except InvalidArgument as error:
        raise InvalidConfig(f"{path}: {error.reason}", error.fix) from None


def _checked(value: Mapping[str, Any]) -> Plan:
    plan: Plan = PLAN.check("", value)
    return plan


def _parsed(path: Path) -> Any:
    """What a file states."""
    if path.suffix not in (".json", ".toml"):
        raise InvalidConfig(f"{path} is no plan by its ending", _FORMATS)
    text = _textOf(path)
    try:
        if path.suffix == ".json":
            import json

            return json.loads(text, object_pairs_hook=_unique, parse_constant=_noNumber)
        import tomllib

        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        found = re.search(r"line (\d+)", str(error))
        where = f"{path}:{found[1]}" if found else str(path)
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidConfig(f"{where}: {said}", _FORMATS) from None


def _textOf(path: Path) -> str:
    try:
        # A FIFO or a terminal would let the process wait for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise InvalidConfig(f"{path} is no file", _FORMATS)
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        why = getattr(error, "strerror", None) or error
        raise InvalidConfig(f"{path} can not be read: {why}", "Name a file that is there") from None
    if len(raw) > MAX_FILE_BYTES:
        raise InvalidConfig(
            f"{path} has more than {MAX_FILE_BYTES >> 20} MiB", "Split the plan into several"
        )
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"{path} is no text in UTF-8: {error}", _FORMATS) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict[str, Any]()
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.80} stands twice in one object")
        found[key] = value
    return found


def _noNumber(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")
