"""numpy's own files: ``.npy``, one array, and ``.npz``, a ZIP archive of them.

numpy reads the headers, and never unpickles here. The bytes go straight into the
target. An array must take all of its file or member: then its read reaches the end,
where `zipfile` compares the checksum.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from typing import IO, Any

import numpy as np

from muninn.formats.source import CHUNK_BYTES, Entry, Progress, Source

_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 1
_HEADER_DAMAGE = (
    ValueError,
    SyntaxError,
    tokenize.TokenError,
    EOFError,
    TypeError,
    MemoryError,
    RecursionError,
)
#: The errors that `zipfile` raises on damage. The first two errors are its own; the
#: others come from the functions that it calls.
_ARCHIVE_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


def _header(file: IO[bytes], source: Source, key: str) -> tuple[Entry, bool]:
    """(entry, Fortran order) of the array that begins at the position of `file`, which
    afterwards is at the data.
    """
    try:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise source.refuse(
                f"version {version} of the header of {key or 'the array'} is not known",
                "Save it without field names",
            )
        shape, fortran, dtype = readers[version](file)
    except _HEADER_DAMAGE as error:
        raise source.refuse(f"the header of {key or 'the array'} is damaged: {error}") from error
    return source.checkedEntry(key, shape, dtype), fortran


def _fill(
    file: IO[bytes],
    source: Source,
    target: np.ndarray[Any, Any],
    entry: Entry,
    fortran: bool,
    progress: Progress | None,
) -> None:
    if not fortran or len(entry.shape) < 2 or not target.size:
        source.fill(file, target, progress)
        return
    itemType = np.dtype(f"V{entry.element.itemBytes}")
    # The file has the columns one after the other. Some of them are transposed at a
    # time, so that no second copy of the array is needed.
    turned = target.view(itemType).reshape(entry.shape).T
    count = max(1, CHUNK_BYTES // max(1, target.nbytes // len(turned)))
    for start in range(0, len(turned), count):
        columns = turned[start : start + count]
        read = np.empty(columns.shape, itemType)
        source.fill(file, read.reshape(-1).view(np.uint8), progress)
        np.copyto(columns, read)


class NpySource(Source):
    """One array in a ``.npy`` file."""

    isBundle = False

    def _read(self) -> None:
        entry, self._fortran = _header(self._file, self, "")
        self._dataOffset = self._file.tell()
        there = self._fileBytes - self._dataOffset
        if there != entry.sizeBytes:
            raise self.refuse(
                f"its header states {entry.sizeBytes} bytes of data, and it has {there}"
            )
        self.entries = {"": entry}

    def _readInto(self, key: str, target: np.ndarray[Any, Any], progress: Progress | None) -> None:
        self._file.seek(self._dataOffset)
        _fill(self._file, self, target, self.entries[key], self._fortran, progress)


class NpzSource(Source):
    """Named arrays in a ``.npz`` file, stored or deflated."""

    def _read(self) -> None:
        try:
            self._archive = zipfile.ZipFile(self._file)
            members = self._archive.infolist()
        except _ARCHIVE_DAMAGE as error:
            raise self.refuse(f"it is no ZIP archive: {error}") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        self.entries = {}
        for member in members:
            self._add(member)
        if not self.entries:
            raise self.refuse("there is no array in it")

    def _add(self, member: zipfile.ZipInfo) -> None:
        name = member.filename
        key = name.removesuffix(".npy")
        if key == name:
            raise self.refuse(f"its member {name!r} is no .npy file")
        if key in self._members:
            raise self.refuse(f"its member {name!r} is there twice")
        if member.flag_bits & _ENCRYPTED or member.compress_type not in _METHODS:
            raise self.refuse(
                f"its member {name!r} is encrypted, or compressed by method {member.compress_type}",
                "Use numpy.savez_compressed",
            )
        try:
            with self._archive.open(member) as file:
                entry, _ = _header(file, self, key)
                there = member.file_size - file.tell()
        except (*_ARCHIVE_DAMAGE, OSError) as error:
            raise self.refuse(f"{key} is damaged: {error}") from error
        if there != entry.sizeBytes:
            raise self.refuse(
                f"the header of {key} states {entry.sizeBytes} bytes of data, and it has {there}"
            )
        self._members[key] = member
        self.entries[key] = entry

    def _readInto(self, key: str, target: np.ndarray[Any, Any], progress: Progress | None) -> None:
        try:
            with self._archive.open(self._members[key]) as file:
                _, fortran = _header(file, self, key)
                _fill(file, self, target, self.entries[key], fortran, progress)
        except _ARCHIVE_DAMAGE as error:
            raise self.refuse(f"{key} is damaged: {error}") from error

    def close(self) -> None:
        self._archive.close()
        super().close()
