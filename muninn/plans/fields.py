"""The fields of a plan: what each may hold, as JSON Schema and as a check.

A check takes the path of a value and the value, and returns the value in its type or
raises `InvalidArgument` that names the path. Both halves of a field stand side by side,
and a test gives the same plans to both. Shapes only: whether a plan fits what is there is
decided later (`plans/deciding.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from muninn.config.sizes import MAX_BYTES, asBytes, exactly
from muninn.control import layout
from muninn.control.hints import MAX_RANGE_BYTES
from muninn.errors import InvalidArgument, MuninnError
from muninn.system.pages import PAGE_BYTES
from muninn.terms import (
    ACCESSES,
    LIFETIMES,
    MAX_NAME_BYTES,
    MAX_TENANT_BYTES,
    Mode,
    Priority,
    Reserve,
    asName,
    asTenant,
    nearest,
)

#: (path, value) → the value in its type.
Check = Callable[[str, Any], Any]

#: The most entries of one list of a plan.
MAX_ENTRIES = 4096
MAX_GPUS = 1 << 15
LONGEST_MS = 1 << 50
_MOST_SHOWN = 80
#: Text that `asBytes` reads.
_SIZE_PATTERN = r"^\s*[0-9]{1,18}(\.[0-9]{1,18})? *[KMGTPkmgtp]?([iI]?[bB])?\s*$"
#: The longest hot range whose pages still have a number, wherever it begins.
_MOST_RANGE_BYTES = MAX_RANGE_BYTES - PAGE_BYTES


class Field(NamedTuple):
    """One field of an object.

    Attributes
    ----------
    schema
        Its JSON Schema.
    isNeeded
        Whether it must be there.
    """

    check: Check
    schema: dict[str, Any]
    isNeeded: bool = False


def refused(path: str, problem: str, fix: str) -> InvalidArgument:
    """The error for a value of a plan."""
    return InvalidArgument(f"{path}: {problem}", fix)


def shown(value: object) -> str:
    """A value for a message, which may be of any size and have anything in it."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # an integer of too many digits; too deep
        text = f"a {type(value).__name__}"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


# --- values --------------------------------------------------------------------------------


def number(least: int, most: int, what: str) -> Field:
    def check(path: str, value: Any) -> int:
        if type(value) is not int:
            raise refused(path, f"{shown(value)} is no whole number", f"Give {what}")
        if not least <= value <= most:
            raise refused(
                path, f"{shown(value)} can not be", f"Give {what}, from {least} to {most}"
            )
        return value

    return Field(check, {"type": "integer", "minimum": least, "maximum": most})


def _bytes(least: int) -> Field:
    """Bytes, as a number or as text."""

    def check(path: str, value: Any) -> int:
        sizeBytes = value
        if isinstance(value, str):
            try:
                sizeBytes = asBytes(value)
            except InvalidArgument as error:
                raise refused(path, error.reason, error.fix) from None
        if type(sizeBytes) is not int:
            raise refused(
                path,
                f"{shown(value)} is no size",
                'Give a number of bytes, or text such as "16G"',
            )
        if not least <= sizeBytes <= MAX_BYTES:
            raise refused(
                path, f"{shown(value)} can not be", f"Give {least} B to {exactly(MAX_BYTES)}"
            )
        return sizeBytes

    return Field(
        check,
        {
            "anyOf": [
                {"type": "integer", "minimum": least, "maximum": MAX_BYTES},
                {"type": "string", "pattern": _SIZE_PATTERN},
            ]
        },
    )


def word(*words: str) -> Field:
    def check(path: str, value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            meant = nearest(value, list(words)) if isinstance(value, str) else ""
            hint = f" (did you mean {meant!r}?)" if meant else ""
            raise refused(
                path,
                f"{shown(value)} is not known{hint}",
                f"Use {' or '.join(f'`{each}`' for each in words)}",
            )
        return value

    return Field(check, {"enum": list(words)})


def _flag() -> Field:
    def check(path: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise refused(path, f"{shown(value)} is neither true nor false", "Give one of them")
        return value

    return Field(check, {"type": "boolean"})


def _text(asText: Callable[[object], str], maxBytes: int) -> Field:
    """A name. Its schema counts characters, and its check bytes."""

    def check(path: str, value: Any) -> str:
        if not isinstance(value, str):
            raise refused(path, f"{shown(value)} is no text", f"Give 1 to {maxBytes} bytes of text")
        try:
            return asText(value)
        except MuninnError as error:
            raise refused(path, error.reason, error.fix) from None

    return Field(check, {"type": "string", "minLength": 1, "maxLength": maxBytes})


def listed(item: Field, most: int, *, isNeeded: bool = False) -> Field:
    """A list of values of one kind."""

    def check(path: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise refused(path, f"{shown(value)} is no list", "Give a list, in brackets")
        if len(value) > most:
            raise refused(path, f"it has {len(value)} entries", f"Give at most {most}")
        return tuple(item.check(f"{path}[{index}]", each) for index, each in enumerate(value))

    return Field(check, {"type": "array", "items": item.schema, "maxItems": most}, isNeeded)


def made(
    fields: Mapping[str, Field], make: Callable[[str, dict[str, Any]], Any], title: str = "a plan"
) -> Field:
    """An object with these fields. `make` gets the fields that are there, checked. `title`
    is what a message calls an object that has no path.
    """

    def check(path: str, value: Any) -> Any:
        what = path or title
        if not isinstance(value, Mapping):
            raise refused(
                what, f"{shown(value)} is no object", f"Give an object with {', '.join(fields)}"
            )
        for key in value:
            if key not in fields:
                meant = nearest(key, list(fields)) if isinstance(key, str) else ""
                hint = f" (did you mean {meant!r}?)" if meant else ""
                raise refused(what, f"{shown(key)} is not known{hint}", f"Use {', '.join(fields)}")
        for key, field in fields.items():
            if field.isNeeded and key not in value:
                raise refused(what, f"{key} is missing", f"Give it: {key}")
        found = {
            key: field.check(f"{path}.{key}" if path else key, value[key])
            for key, field in fields.items()
            if key in value
        }
        return make(path, found)

    schema = {
        "type": "object",
        "properties": {key: field.schema for key, field in fields.items()},
        "required": [key for key, field in fields.items() if field.isNeeded],
        "additionalProperties": False,
    }
    return Field(check, schema)


def needed(field: Field) -> Field:
    """The same field, which must be there."""
    return field._replace(isNeeded=True)


def _range() -> Field:
    """A pair of an offset and a length."""
    ends = (_bytes(0), _bytes(1))

    def check(path: str, value: Any) -> tuple[int, int]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise refused(
                path, f"{shown(value)} is no pair", "Give an offset and a length: [0, 4096]"
            )
        offset, length = (
            end.check(f"{path}[{index}]", each)
            for index, (end, each) in enumerate(zip(ends, value, strict=True))
        )
        if length > _MOST_RANGE_BYTES:
            raise refused(
                path, f"{exactly(length)} is too long", f"Give at most {exactly(_MOST_RANGE_BYTES)}"
            )
        return offset, length

    pair = {"type": "array", "prefixItems": [end.schema for end in ends]}
    return Field(check, {**pair, "minItems": 2, "maxItems": 2})


SIZE, OFFSET = _bytes(1), _bytes(0)
NAME, TENANT = _text(asName, MAX_NAME_BYTES), _text(asTenant, MAX_TENANT_BYTES)
GPU = number(0, MAX_GPUS - 1, "the number of a GPU")
MILLISECONDS = number(1, LONGEST_MS, "milliseconds")
VERSION = number(1, 1, "the version of the format")
MODE = word(*map(str, Mode))
ACCESS = word(*map(str, ACCESSES))
LIFETIME = word(*map(str, LIFETIMES))
RESERVE = word(*map(str, Reserve))
PRIORITY = word(*map(str, Priority))
FLAG = _flag()
HOT_RANGES = listed(_range(), layout.MAX_HOT_RANGES)
