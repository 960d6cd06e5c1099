"""Types of elements as text in a row, and back.

A plain type is its text (`elements`) in the row. One with fields, or longer than the
row has room for, is a description in the segment's manifest.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import msgpack
import numpy as np

from muninn.control.layout import MAX_DTYPE_BYTES, ROW_KIND_BUNDLE
from muninn.errors import ControlBlockInvalid, InvalidDtype
from muninn.interop.elements import ElementType, asElement, shown, unreadable
from muninn.system.threads import endingError

#: The errors that numpy raises for descriptions that it did not write: it evaluates
#: repeats as Python does.
DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    SyntaxError,
    RecursionError,
)

#: How numpy's names for the types of a kind begin, before the number of bits.
_KINDS = {
    "i": "int",
    "u": "uint",
    "f": "float",
    "c": "complex",
    "S": "bytes",
    "U": "str",
    "V": "void",
}


def nameOf(element: ElementType) -> str:
    """The name of a plain type: of numpy's own, its `name`. numpy imports a module each
    time that it is asked for it, which an ending interpreter refuses.
    """
    if not element.isNumpys:
        return element.text
    dtype = element.dtype
    if dtype.kind in "mM":
        return dtype.type.__name__ + dtype.str[3:]
    return (
        f"{_KINDS[dtype.kind]}{8 * dtype.itemsize}"
        if dtype.kind in _KINDS
        else dtype.type.__name__.rstrip("_")
    )


def encoded(element: ElementType) -> tuple[str, bytes]:
    """A type as (text for the row, manifest); the manifest of a plain type is empty."""
    if element.structure is None and len(element.text) <= MAX_DTYPE_BYTES:
        return element.text, b""
    dtype = element.dtype
    try:
        description = np.lib.format.dtype_to_descr(dtype)
    except ValueError as error:
        raise InvalidDtype(
            f"dtype {shown(dtype)} can not be described: {error}",
            "Copy to a dtype whose fields follow each other",
        ) from None
    except ImportError as error:
        raise endingError(f"numpy can not describe {dtype.str} any more") from error
    try:
        manifest: bytes = msgpack.packb({"descr": _listed(description)})
    except UnicodeEncodeError:
        raise InvalidDtype(
            f"dtype {dtype!r} has a name that is not valid Unicode",
            "Use names that can be written as UTF-8",
        ) from None
    if dtype.fields is not None and not _readsBack(manifest, dtype):
        raise unreadable(dtype)
    return f"|V{dtype.itemsize}", manifest


def _readsBack(manifest: bytes, dtype: np.dtype[Any]) -> bool:
    try:
        return _described(manifest).dtype == dtype
    except ControlBlockInvalid:
        return False


class Bytes(Protocol):
    """Memory whose bytes can be copied out."""

    def copyBytes(self, sizeBytes: int, offset: int) -> bytes: ...


class Description(Protocol):
    """The elements of a buffer, by its row."""

    @property
    def kind(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def metaOffset(self) -> int: ...
    @property
    def metaBytes(self) -> int: ...


class Described(Protocol):
    """An open buffer: the description in its row, and its memory."""

    @property
    def description(self) -> Description: ...
    @property
    def memory(self) -> Bytes: ...


def elementOf(buffer: Described) -> ElementType:
    """The type of a buffer's elements. A bundle's manifest describes its arrays; the
    bundle itself is bytes, as its row says.
    """
    description = buffer.description
    if not description.metaBytes or description.kind == ROW_KIND_BUNDLE:
        return plain(description.dtype)
    raw = buffer.memory.copyBytes(description.metaBytes, description.metaOffset)
    return _described(raw)


@functools.lru_cache(maxsize=256)
def plain(text: str) -> ElementType:
    """The type by its text in a row."""
    try:
        return asElement(text)
    except InvalidDtype as error:
        raise ControlBlockInvalid(f"a row states the dtype {text!r}") from error


@functools.lru_cache(maxsize=64)
def _described(raw: bytes) -> ElementType:
    try:
        return asElement(np.lib.format.descr_to_dtype(_tupled(msgpack.unpackb(raw)["descr"])))
    except ImportError as error:
        raise endingError("numpy can not read the description of a dtype any more") from error
    except (*DAMAGE, msgpack.UnpackException) as error:
        raise ControlBlockInvalid(f"the description of a dtype is damaged: {error}") from error


def _listed(descr: Any) -> Any:
    """msgpack has no tuples. A marker distinguishes them from lists, which mean
    something else in a dtype.
    """
    if isinstance(descr, tuple):
        return {"tuple": [_listed(part) for part in descr]}
    return [_listed(part) for part in descr] if isinstance(descr, list) else descr


def _tupled(descr: Any) -> Any:
    if isinstance(descr, dict):
        return tuple(_tupled(part) for part in descr["tuple"])
    return [_tupled(part) for part in descr] if isinstance(descr, list) else descr
