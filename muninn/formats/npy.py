"""numpy's own files: ``.npy``, one array, and ``.npz``, a ZIP archive of them.

numpy reads the headers, and never unpickles here. The bytes go straight into the
target. An array must take all of its file or member, so that a read of all its bytes
reaches the end. There the checksum of a member is compared.
"""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

import numpy as np

from muninn.formats.members import ARCHIVE_DAMAGE, Member
from muninn.formats.source import (
    CHUNK_BYTES,
    Checksum,
    Entry,
    Flat,
    Place,
    Progress,
    Room,
    Source,
    shown,
    viewOf,
)

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
                f"version {version} of the header of {shown(key)} is not known",
                "Save it without field names",
            )
        shape, fortran, dtype = readers[version](file)
    except _HEADER_DAMAGE as error:
        raise source.refuse(f"the header of {shown(key)} is damaged: {error}") from error
    return source.checkedEntry(key, shape, dtype), fortran


def _isTurned(entry: Entry, fortran: bool) -> bool:
    """Whether the file has the columns one after the other, and not the rows."""
    return fortran and len(entry.shape) > 1 and entry.sizeBytes > 0


def _turn(
    file: IO[bytes], source: Source, target: Flat, entry: Entry, progress: Progress | None
) -> None:
    """Read an array whose columns stand in the file one after the other. Some of them
    are transposed at a time, so that no second copy of the array is needed.
    """
    itemType = np.dtype(f"V{entry.element.itemBytes}")
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
        entry, fortran = _header(self._file, self, "")
        self._dataOffset = self._file.tell()
        there = self._fileBytes - self._dataOffset
        if there != entry.sizeBytes:
            raise self.refuse(
                f"its header states {entry.sizeBytes} bytes of data, and it has {there}"
            )
        self._isTurned = _isTurned(entry, fortran)
        self.entries = {"": entry}

    def placeOf(self, key: str) -> Place | None:
        return None if self._isTurned else Place(self, self._dataOffset)

    def _decode(self, key: str, target: Flat, progress: Progress | None) -> None:
        self._file.seek(self._dataOffset)
        _turn(self._file, self, target, self.entries[key], progress)


#: The lengths of the name and of the extra field, in the header before a member's data.
_LOCAL_HEADER = struct.Struct("<26xHH")


class NpzSource(Source):
    """Named arrays in a ``.npz`` file, stored or deflated."""

    def _read(self) -> None:
        try:
            self._archive = zipfile.ZipFile(self._file)
            members = self._archive.infolist()
        except ARCHIVE_DAMAGE as error:
            raise self.refuse(f"it is no ZIP archive: {error}") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._turned: set[str] = set()
        self._places: dict[str, Place] = {}
        self.entries = {}
        for member in members:
            self._add(member)
        if not self.entries:
            raise self.refuse("there is no array in it")

    def _add(self, member: zipfile.ZipInfo) -> None:
        name = member.filename
        key = name.removesuffix(".npy")
        if key == name:
            raise self.refuse(f"its member {shown(name)!r} is no .npy file")
        if key in self._members:
            raise self.refuse(f"its member {shown(name)!r} is there twice")
        if member.flag_bits & _ENCRYPTED or member.compress_type not in _METHODS:
            raise self.refuse(
                f"its member {shown(name)!r} is encrypted, or compressed by method "
                f"{member.compress_type}",
                "Use numpy.savez_compressed",
            )
        try:
            with self._archive.open(member) as file:
                entry, fortran = _header(file, self, key)
                headerBytes = file.tell()
        except (*ARCHIVE_DAMAGE, OSError) as error:
            raise self.refuse(f"{shown(key)} is damaged: {error}") from error
        there = member.file_size - headerBytes
        if there != entry.sizeBytes:
            raise self.refuse(
                f"the header of {shown(key)} states {entry.sizeBytes} bytes of data, and it "
                f"has {there}"
            )
        self._members[key] = member
        self.entries[key] = entry
        if _isTurned(entry, fortran):
            self._turned.add(key)
        elif member.compress_type == zipfile.ZIP_STORED:
            self._places[key] = self._placed(key, member, headerBytes)

    def _beginOf(self, member: zipfile.ZipInfo) -> int:
        """The place of a member's data in the archive."""
        local = np.empty(_LOCAL_HEADER.size, np.uint8)
        self.readAt(member.header_offset, local)
        nameBytes, extraBytes = _LOCAL_HEADER.unpack(viewOf(local))
        return int(member.header_offset + _LOCAL_HEADER.size + nameBytes + extraBytes)

    def _placed(self, key: str, member: zipfile.ZipInfo, headerBytes: int) -> Place:
        """The place of a stored member's array, whose header takes `headerBytes`."""
        if member.compress_size != member.file_size:
            raise self.refuse(f"{shown(key)} is stored, and yet has another size in the archive")
        begin, header = self._beginOf(member), np.empty(headerBytes, np.uint8)
        self.readAt(begin, header)
        return Place(self, begin + headerBytes, Checksum(zlib.crc32(viewOf(header)), member.CRC))

    def placeOf(self, key: str) -> Place | None:
        return self._places.get(key)

    def _decode(self, key: str, target: Flat, progress: Progress | None) -> None:
        with self._member(key) as file:
            if key in self._turned:
                _turn(file, self, target, self.entries[key], progress)
            else:
                self.fill(file, target, progress)

    def readThrough(self, key: str, room: Room) -> None:
        if key in self._turned:
            super().readThrough(key, room)
            return
        left = self.entries[key].sizeBytes
        with self._member(key) as file:
            while left:
                target = room(min(CHUNK_BYTES, left))
                self.fill(file, target, None)
                left -= len(target)

    @contextmanager
    def _member(self, key: str) -> Iterator[IO[bytes]]:
        """A member, at its array."""
        member = self._members[key]
        file = cast("IO[bytes]", Member(self, member, self._beginOf(member)))
        try:
            _header(file, self, key)
            yield file
        except ARCHIVE_DAMAGE as error:
            raise self.refuse(f"{shown(key)} is damaged: {error}") from error

    def close(self) -> None:
        self._archive.close()
        super().close()
