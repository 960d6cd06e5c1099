"""The ``.safetensors`` format: eight bytes of header length, a JSON header, and the tensors without gaps.

It is read here and not by the library of that name, because that one hands out copies, and a model is to be read once, straight
into the segment. The checks are those of the format's specification (https://github.com/huggingface/safetensors#format): the header
fits into the file, offsets are in range, without gap or overlap, and match shape and dtype. bfloat16 and the 8-bit floats are
unknown to numpy: they are kept bit by bit as unsigned integers of their size.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from muninn.formats.source import Progress, Source

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 100 << 20
_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "F8_E4M3": "u1", "F8_E5M2": "u1", "U16": "<u2", "I16": "<i2", "F16": "<f2", "BF16": "<u2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8", "C64": "<c8",
}  # fmt: skip


class SafetensorsSource(Source):
    """The tensors of a ``.safetensors`` file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        fileBytes = path.stat().st_size
        with path.open("rb") as file:
            raw = file.read(_LENGTH.size)
            if len(raw) < _LENGTH.size:
                raise self.refuse(f"it has {len(raw)} bytes, and the header's length takes {_LENGTH.size}")
            (headerBytes,) = _LENGTH.unpack(raw)
            if headerBytes > min(_MAX_HEADER_BYTES, fileBytes - _LENGTH.size):
                raise self.refuse(f"its header states {headerBytes} bytes, and the file has {fileBytes}")
            header = self._parsed(file.read(headerBytes))
        self._dataOffset = _LENGTH.size + headerBytes
        self._begins: dict[str, int] = {}
        self.entries = {}
        for key, value in header.items():
            if key != "__metadata__":
                self._add(key, value)
        if not self.entries:
            raise self.refuse("there is no tensor in it")
        self._checkCover(fileBytes - self._dataOffset)

    def _parsed(self, raw: bytes) -> dict[str, Any]:
        def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            if len({key for key, _ in pairs}) < len(pairs):
                raise ValueError("a key stands twice")
            return dict(pairs)

        try:
            header = json.loads(raw, object_pairs_hook=unique)
        except (ValueError, RecursionError) as error:
            raise self.refuse(f"its header is damaged: {error}") from error
        if not isinstance(header, dict):
            raise self.refuse("its header is no object")
        return header

    def _add(self, key: str, value: Any) -> None:
        try:
            dtype, shape, (begin, end) = np.dtype(_DTYPES[value["dtype"]]), value["shape"], value["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise self.refuse(f"{key} is not described as the format asks: {error!r}") from error
        entry = self.checkedEntry(key, shape, dtype)
        whole = all(isinstance(offset, int) and not isinstance(offset, bool) for offset in (begin, end))
        if not whole or begin < 0 or end - begin != entry.sizeBytes:
            raise self.refuse(f"{key} has offsets {begin} to {end} for {entry.sizeBytes} bytes")
        self.entries[key] = entry
        self._begins[key] = begin

    def _checkCover(self, dataBytes: int) -> None:
        """The tensors cover the data: one after the other, to its end."""
        end = 0
        for key in sorted(self.entries, key=lambda each: (self._begins[each], self.entries[each].sizeBytes)):
            if self._begins[key] != end:
                raise self.refuse(f"{key} begins at {self._begins[key]}, where {end} was expected")
            end += self.entries[key].sizeBytes
        if end != dataBytes:
            raise self.refuse(f"its tensors take {end} bytes, and it has {dataBytes}")

    def readInto(self, key: str, target: np.ndarray[Any, Any], progress: Progress | None = None) -> None:
        with self.path.open("rb") as file:
            file.seek(self._dataOffset + self._begins[key])
            self.fill(file, target, progress)

    def close(self) -> None:
        """Nothing stays open between reads."""
