"""The types of elements that libraries exchange, in one table: our text, and the word of
each library for the same bits.

An `ElementType` is what a row, a manifest and a file state. numpy has most of them
itself. Others, such as bfloat16 and the 8-bit floats, it has by ml_dtypes
(https://github.com/jax-ml/ml_dtypes), which is imported when such a dtype is asked for,
and may be absent: the bytes are shared and lent by DLPack all the same. An element is
what one index addresses, in whole bytes. So a type of less than a byte is either padded
to a byte, as in ml_dtypes, or packed by twos, as PyTorch's float4_e2m1fn_x2.

Sources: dlpack.h 1.1 (https://dmlc.github.io/dlpack/latest/c_api.html), PyTorch's
dtypes (https://docs.pytorch.org/docs/stable/tensor_attributes.html), and the format of
safetensors (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from muninn.errors import InvalidDtype

Dtype = np.dtype[Any]
BYTE_BITS = 8
#: The value of `dtype.isbuiltin` for a type that a library has registered.
_OF_A_LIBRARY = 2


class DlpackWord(NamedTuple):
    """A type in DLPack's words.

    Attributes
    ----------
    code
        `DLDataTypeCode`.
    bits
        Of one lane.
    lanes
        Values in one element.
    isPadded
        Whether each value of less than a byte takes a whole one.
    """

    code: int
    bits: int
    lanes: int = 1
    isPadded: bool = False


class Words(NamedTuple):
    """A row of the table; None: that library has no such type.

    Attributes
    ----------
    text
        Our own text: `dtype.str` for numpy's types, else the name that ml_dtypes and
        PyTorch use.
    itemBytes
        Bytes of one element.
    torch
        The name in the module `torch`.
    """

    text: str
    itemBytes: int
    dlpack: DlpackWord | None = None
    torch: str | None = None
    safetensors: str | None = None


def _words(
    text: str, code: int, bits: int, torch: str | None = None, file: str | None = None
) -> Words:
    """A row of a type whose DLPack word has whole bytes."""
    return Words(text, bits // BYTE_BITS, DlpackWord(code, bits), torch, file)


def _padded(text: str, code: int, bits: int) -> Words:
    return Words(text, 1, DlpackWord(code, bits, isPadded=True))


TABLE = (
    _words("|b1", 6, 8, torch="bool", file="BOOL"),
    _words("|i1", 0, 8, torch="int8", file="I8"),
    _words("<i2", 0, 16, torch="int16", file="I16"),
    _words("<i4", 0, 32, torch="int32", file="I32"),
    _words("<i8", 0, 64, torch="int64", file="I64"),
    _words("|u1", 1, 8, torch="uint8", file="U8"),
    _words("<u2", 1, 16, torch="uint16", file="U16"),
    _words("<u4", 1, 32, torch="uint32", file="U32"),
    _words("<u8", 1, 64, torch="uint64", file="U64"),
    _words("<f2", 2, 16, torch="float16", file="F16"),
    _words("<f4", 2, 32, torch="float32", file="F32"),
    _words("<f8", 2, 64, torch="float64", file="F64"),
    _words("<c8", 5, 64, torch="complex64", file="C64"),
    _words("<c16", 5, 128, torch="complex128"),
    _words("complex32", 5, 32, torch="complex32"),
    _words("bfloat16", 4, 16, torch="bfloat16", file="BF16"),
    _words("float8_e3m4", 7, 8),
    _words("float8_e4m3", 8, 8),
    _words("float8_e4m3b11fnuz", 9, 8),
    _words("float8_e4m3fn", 10, 8, torch="float8_e4m3fn", file="F8_E4M3"),
    _words("float8_e4m3fnuz", 11, 8, torch="float8_e4m3fnuz", file="F8_E4M3FNUZ"),
    _words("float8_e5m2", 12, 8, torch="float8_e5m2", file="F8_E5M2"),
    _words("float8_e5m2fnuz", 13, 8, torch="float8_e5m2fnuz", file="F8_E5M2FNUZ"),
    _words("float8_e8m0fnu", 14, 8, torch="float8_e8m0fnu", file="F8_E8M0"),
    _padded("float6_e2m3fn", 15, 6),
    _padded("float6_e3m2fn", 16, 6),
    _padded("float4_e2m1fn", 17, 4),
    _padded("int4", 0, 4),
    _padded("uint4", 1, 4),
    _padded("int2", 0, 2),
    _padded("uint2", 1, 2),
    Words("float4_e2m1fn_x2", 1, DlpackWord(17, 4, 2), "float4_e2m1fn_x2", "F4"),
    Words("int4_x2", 1, DlpackWord(0, 4, 2)),
    Words("uint4_x2", 1, DlpackWord(1, 4, 2)),
)
_BY_TEXT = {words.text: words for words in TABLE}
_BY_DLPACK = {words.dlpack: words for words in TABLE if words.dlpack}
_BY_TORCH = {words.torch: words for words in TABLE if words.torch}
_BY_FILE = {words.safetensors: words for words in TABLE if words.safetensors}


def _isNumpys(text: str) -> bool:
    """Whether a text is a `dtype.str`, which begins with a byte order."""
    return text[:1] in "<>|="


@dataclass(frozen=True, slots=True)
class ElementType:
    """The type of an array's elements.

    Attributes
    ----------
    text
        As it stands in rows and manifests.
    itemBytes
        Bytes of one element.
    structure
        numpy's dtype where the text alone does not tell it: one with fields, or with a
        shape of its own.
    """

    text: str
    itemBytes: int
    structure: Dtype | None = None

    @property
    def words(self) -> Words | None:
        """What other libraries call it; None for types that numpy alone has."""
        return _BY_TEXT.get(self.text) if self.structure is None else None

    @property
    def isNumpys(self) -> bool:
        """Whether numpy has the type without another library."""
        return _isNumpys(self.text)

    @property
    def hasTypestr(self) -> bool:
        """Whether the text is a typestr of the array interface that says all of the
        type.
        """
        return self.structure is None and self.text[0] in "<>|" and self.text[1] in "biufcMmSU"

    @property
    def isOpaque(self) -> bool:
        """Whether the text says only how many bytes an element has. So do the typestrs of
        the types which ml_dtypes adds to numpy.
        """
        return self.structure is None and self.text[1:2] == "V"

    @property
    def dtype(self) -> Dtype:
        """numpy's dtype.

        Raises
        ------
        InvalidDtype
            numpy has no such type, or only by ml_dtypes, which is not installed.
        """
        if self.structure is not None:
            return self.structure
        return np.dtype(self.text) if self.isNumpys else _libraryDtype(self.text)

    @property
    def bits(self) -> Dtype:
        """The dtype by which numpy moves the bits of an element, whatever they mean."""
        if self.isNumpys:
            return self.dtype
        return np.dtype(f"u{self.itemBytes}")

    def isHeldBy(self, dtype: Dtype) -> bool:
        """Whether an array of a dtype holds these elements: it is numpy's dtype for
        them, or the one by which it moves their bits.
        """
        if dtype == self.bits:
            return True
        return dtype.isbuiltin == _OF_A_LIBRARY and dtype.name == self.text

    def __str__(self) -> str:
        return shown(self.dtype) if self.isNumpys else self.text


def shown(dtype: Dtype) -> str:
    """A dtype as text for people; its short text where numpy can import nothing any
    more, as in an interpreter that ends.
    """
    try:
        return str(dtype)
    except ImportError:
        return dtype.str


@functools.lru_cache(maxsize=64)
def _libraryDtype(text: str) -> Dtype:
    try:
        import ml_dtypes

        found, why = getattr(ml_dtypes, text, None), "the installed ml_dtypes does not add it"
    except ImportError:
        found, why = None, "ml_dtypes, which adds it, is not installed"
    if found is None:
        bits = f"u{_BY_TEXT[text].itemBytes}"
        raise InvalidDtype(
            f"numpy has no {text}, and {why}",
            "Take it by DLPack (torch.from_dlpack), take its bits by "
            f".view({bits!r}), or pip install --upgrade ml_dtypes",
        )
    dtype: Dtype = np.dtype(found)
    return dtype


def asElement(value: Any) -> ElementType:
    """`value` as the type of elements that can live in shared memory.

    Parameters
    ----------
    value
        What numpy takes for a dtype, a text of the table, or a dtype of PyTorch.

    Raises
    ------
    InvalidDtype
        It is no dtype; its elements hold Python objects or have no size; or a library
        has registered it that is not known here.
    """
    if isinstance(value, ElementType):
        return value
    if isinstance(value, str) and value in _BY_TEXT and not _isNumpys(value):
        return _element(_BY_TEXT[value])
    if type(value).__module__ == "torch" and (name := str(value)).startswith("torch."):
        return torchElement(name.removeprefix("torch."))
    try:
        dtype: Dtype = np.dtype(value)
    except (TypeError, ValueError, SyntaxError) as error:  # numpy reads repeats as Python does
        raise InvalidDtype(f"{value!r} is no dtype: {error}") from None
    return _numpyElement(dtype)


def _numpyElement(dtype: Dtype) -> ElementType:
    if dtype.hasobject:
        raise InvalidDtype(
            f"dtype {shown(dtype)} holds Python objects, which are addresses of one process"
        )
    if dtype.itemsize == 0:
        raise InvalidDtype(
            f"dtype {shown(dtype)} has no size", "Give the type a length, as in `S16` or `V8`"
        )
    if dtype.isbuiltin == _OF_A_LIBRARY:
        words = _BY_TEXT.get(dtype.name)
        if words is None or _libraryDtype(words.text) != dtype:
            raise unreadable(dtype)
        return _element(words)
    if dtype.fields is None and dtype.subdtype is None:
        return _plainElement(dtype)
    return ElementType(dtype.str, dtype.itemsize, dtype)


@functools.lru_cache(maxsize=256)
def _plainElement(dtype: Dtype) -> ElementType:
    # numpy composes the text anew each time, and a bundle has thousands of dtypes.
    return ElementType(dtype.str, dtype.itemsize)


def unreadable(dtype: Dtype) -> InvalidDtype:
    """The error for a dtype that another process could not read."""
    return InvalidDtype(
        f"dtype {shown(dtype)} is not numpy's own, nor one that libraries exchange: by its "
        f"text, {dtype.str}, another process would read it as another one, or not at all",
        f"Share its bits, `array.view('u{dtype.itemsize}')`, and view what was opened as the "
        "type again",
    )


@functools.lru_cache(maxsize=len(TABLE))
def _element(words: Words) -> ElementType:
    return ElementType(words.text, words.itemBytes)


def torchElement(name: str) -> ElementType:
    """The type by its name in the module `torch`. Raises `InvalidDtype`."""
    if name not in _BY_TORCH:
        raise InvalidDtype(
            f"torch.{name} has no counterpart outside of PyTorch",
            "Share its bits, tensor.view(torch.uint8)",
        )
    return _element(_BY_TORCH[name])


def fileElement(name: object) -> ElementType | None:
    """The type by its name in a safetensors file, or None."""
    words = _BY_FILE.get(name) if isinstance(name, str) else None
    return None if words is None else _element(words)


def dlpackElement(word: DlpackWord) -> ElementType:
    """The type by DLPack's word for it. Raises `BufferError`."""
    words = _BY_DLPACK.get(word)
    if words is None:
        lanes = f" in {word.lanes} lanes" if word.lanes != 1 else ""
        raise BufferError(
            f"elements of DLPack's type code {word.code} with {word.bits} bits{lanes} are not "
            "known here. Fix: take a view of their bits, in whole bytes"
        )
    return _element(words)


def dlpackWord(element: ElementType) -> DlpackWord:
    """DLPack's word for a type. Raises `BufferError`."""
    words = element.words
    if words is None or words.dlpack is None:
        if element.structure is None and element.text[0] == ">":
            raise BufferError(
                f"dtype {element} is not in this machine's byte order, and DLPack has no other"
            )
        isRecord = element.structure is not None and element.structure.fields is not None
        what = "a structured dtype" if isRecord else f"dtype {element}"
        raise BufferError(
            f"DLPack has no word for {what}: it has bool, integers, floats and complex numbers"
        )
    return words.dlpack
