"""The ``.safetensors`` format: eight bytes of header length, a JSON header, and the
tensors without gaps.

This module reads it, and not the library of that name, because the library returns
copies, and a model is to be read once, straight into the segment. The checks are those
of the format's specification (https://github.com/huggingface/safetensors#format): the
header fits into the file; offsets are in range, without gap or overlap, and match shape
and dtype.
"""

from __future__ import annotations

import struct
from typing import Any

from muninn.formats.jsontext import jsonObject
from muninn.formats.source import Entry, Place, Source, shown
from muninn.interop.elements import fileElement

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100_000_000  # the specification's bound
#: The format counts the values of these, of which two are one element.
_PACKED = "F4"


class SafetensorsSource(Source):
    """The tensors of a ``.safetensors`` file."""

    def _read(self) -> None:
        raw = self._file.read(_LENGTH.size)
        if len(raw) < _LENGTH.size:
            raise self.refuse(
                f"it has {len(raw)} bytes, and the header's length alone takes {_LENGTH.size}"
            )
        (headerBytes,) = _LENGTH.unpack(raw)
        if headerBytes > min(_MAX_HEADER_BYTES, self._fileBytes - _LENGTH.size):
            raise self.refuse(
                f"it states a header of {headerBytes} bytes, and has {self._fileBytes} in all"
            )
        header = self._parsed(self._file.read(headerBytes))
        self._dataOffset = _LENGTH.size + headerBytes
        self._begins: dict[str, int] = {}
        self.entries = {}
        for key, value in header.items():
            if key != "__metadata__":
                self._add(key, value)
        if not self.entries:
            raise self.refuse("there is no tensor in it")
        self._checkCover(self._fileBytes - self._dataOffset)

    def _parsed(self, raw: bytes) -> dict[str, Any]:
        header = jsonObject(self, raw, "its header")
        if not raw.startswith(b"{"):
            raise self.refuse("its header is no JSON object")
        metadata = header.get("__metadata__", {})
        if not isinstance(metadata, dict) or not all(
            isinstance(value, str) for value in metadata.values()
        ):
            raise self.refuse("its __metadata__ is no map of texts")
        return header

    def _add(self, key: str, value: Any) -> None:
        try:
            kind, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise self.refuse(
                f"{shown(key)} is not described as the format asks: {error!r}"
            ) from error
        element = fileElement(kind)
        if element is None:
            raise self.refuse(
                f"{shown(key)} has the dtype {str(kind)[:40]!r}, which has no counterpart here",
                "Convert it to another dtype",
            )
        entry = self.checkedEntry(key, shape, element)
        if kind == _PACKED:
            entry = self._packed(key, entry)
        whole = all(
            isinstance(offset, int) and not isinstance(offset, bool) for offset in (begin, end)
        )
        if not whole or begin < 0 or end - begin != entry.sizeBytes:
            raise self.refuse(
                f"{shown(key)} has the offsets {str(begin)[:40]} and {str(end)[:40]}, which do not "
                "match its shape and dtype"
            )
        self.entries[key] = entry
        self._begins[key] = begin

    def _packed(self, key: str, entry: Entry) -> Entry:
        """The entry of packed values in elements of two."""
        if not entry.shape or entry.shape[-1] % 2:
            raise self.refuse(
                f"{shown(key)} has packed values in shape {entry.shape}, whose "
                "last length is not even"
            )
        return entry._replace(shape=(*entry.shape[:-1], entry.shape[-1] // 2))

    def _checkCover(self, dataBytes: int) -> None:
        """The tensors cover the data: one after the other, to its end."""
        end = 0
        for key in sorted(
            self.entries, key=lambda each: (self._begins[each], self.entries[each].sizeBytes)
        ):
            if self._begins[key] != end:
                raise self.refuse(
                    f"{shown(key)} begins at {self._begins[key]}, where {end} was expected"
                )
            end += self.entries[key].sizeBytes
        if end != dataBytes:
            raise self.refuse(f"its tensors take {end} bytes, and it has {dataBytes}")

    def placeOf(self, key: str) -> Place:
        return Place(self, self._dataOffset + self._begins[key])
