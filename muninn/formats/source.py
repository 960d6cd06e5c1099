"""The contract of a file format: a source has the entries from the beginning, and reads
bytes when it is asked for them.

One thread makes a source and closes it. Meanwhile several threads may read different
entries, and parts of one entry whose place the source tells. A source keeps the file
open, so it reads the file that it checked, also when another file takes its name
meanwhile. If the file is shortened in place, the read finds that the bytes end early.
"""

from __future__ import annotations

import math
import os
import stat
import zlib
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np

from muninn.errors import FileInvalid, InvalidDtype
from muninn.interop.elements import ElementType, asElement
from muninn.system.closable import Closable

Progress = Callable[[int], object]
Flat = np.ndarray[Any, np.dtype[np.uint8]]
#: Gives the room for the next bytes of an entry, at most so many.
Room = Callable[[int], Flat]
#: Bytes read at a time: large enough for the disk, small enough for a smooth progress
#: bar.
CHUNK_BYTES = 8 << 20
_LONGEST_SHOWN = 100


def viewOf(target: Flat) -> memoryview:
    """The bytes of an array, for functions that take the buffer protocol."""
    return memoryview(target)  # type: ignore[arg-type]  # numpy declares it from Python 3.12 on


def shown(key: str) -> str:
    """The key of an entry as messages show it."""
    if len(key) > _LONGEST_SHOWN:
        return f"{key[:_LONGEST_SHOWN]}... ({len(key)} characters)"
    return key or "the array"


def missing(path: Path) -> FileInvalid:
    """The error for a path that leads to nothing."""
    isHome = path.parts[:1] and path.parts[0].startswith("~")
    return FileInvalid(
        f"{path}: there is no such file or folder",
        "Expand the ~ by os.path.expanduser" if isHome else None,
    )


class Checksum(NamedTuple):
    """The CRC-32 of a range of a file that ends with the bytes of an entry.

    Attributes
    ----------
    before
        The checksum of what stands before those bytes.
    whole
        The checksum that the file states for the range.
    """

    before: int
    whole: int


class Place(NamedTuple):
    """The bytes of an entry in a file: one after the other, in C order.

    Attributes
    ----------
    source
        The source that has the file open.
    offset
        The place of the first byte in the file.
    checksum
        If there is one, the bytes are to be read in their order, and compared.
    """

    source: Source
    offset: int
    checksum: Checksum | None = None

    def compare(self, key: str, found: int) -> None:
        """Raise `FileInvalid` if the bytes that were read have another checksum."""
        if self.checksum is not None and found != self.checksum.whole:
            raise self.source.refuse(f"{shown(key)} is damaged: it has another checksum")


class Entry(NamedTuple):
    """One array of a file, as its header states it."""

    shape: tuple[int, ...]
    element: ElementType

    @property
    def sizeBytes(self) -> int:
        return math.prod(self.shape) * self.element.itemBytes


class Source(Closable):
    """An open file of arrays.

    Parameters
    ----------
    path
        The name of the file, for messages.
    file
        The file, open for reading at its beginning. The source owns it from now on.

    Attributes
    ----------
    entries
        Key to shape and type, checked against the length of the file.
    isBundle
        Whether the file holds named arrays; otherwise its one entry has the key ``""``.
    """

    entries: dict[str, Entry]
    isBundle = True

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self._file = file
        self._fileBytes = os.fstat(file.fileno()).st_size
        if not self._fileBytes:
            raise self.refuse(
                "it is empty", "Let the program that writes it finish, or fetch it again"
            )
        self._read()

    @property
    def sizeBytes(self) -> int:
        return sum(entry.sizeBytes for entry in self.entries.values())

    @classmethod
    def opened(cls, path: Path) -> Self:
        """The source of a regular file. Raises `FileInvalid`."""
        try:
            # Check before opening: to open a pipe waits for its writer.
            if not stat.S_ISREG(path.stat().st_mode):
                raise FileInvalid(f"{path} is no regular file")
            file = path.open("rb")
            try:
                return cls(path, file)
            except BaseException:
                file.close()
                raise
        except FileNotFoundError:
            raise missing(path) from None
        except (OSError, ValueError) as error:
            # ValueError: a path with a NUL in it.
            raise FileInvalid(
                f"{path} can not be read: {getattr(error, 'strerror', None) or error}"
            ) from error

    def placeOf(self, key: str) -> Place | None:
        """Where the bytes of an entry lie in a file; None: they have to be decoded."""
        return None

    def readAt(self, offset: int, target: Flat) -> None:
        """Read exactly the bytes of `target` from a place in the file. Does not move
        the file's position.
        """
        done, view = 0, viewOf(target)
        try:
            while done < len(target):
                count = os.preadv(self._file.fileno(), [view[done:]], offset + done)
                if not count:
                    raise self.refuse(f"it ends {len(target) - done} bytes early")
                done += count
        except OSError as error:
            raise self.refuse(f"it can not be read: {error.strerror or error}") from error

    def readThrough(self, key: str, room: Room) -> None:
        """Decode one entry from its beginning to its end, into one room after the
        other. A format that can not do so decodes it as a whole first.
        """
        sizeBytes = self.entries[key].sizeBytes
        whole = np.empty(sizeBytes, np.uint8)
        self.readInto(key, whole)
        done = 0
        while done < sizeBytes:
            given = room(sizeBytes - done)
            np.copyto(given, whole[done : done + len(given)])
            done += len(given)

    def readInto(self, key: str, target: Flat, progress: Progress | None = None) -> None:
        """Read one entry into an array.

        Parameters
        ----------
        target
            The bytes of the entry: a flat, contiguous, writable array of uint8.
        progress
            Called with the bytes read since its last call.

        Raises
        ------
        FileInvalid
            The file ends early, is damaged, or the disk fails. `target` then has no
            valid contents.
        """
        entry = self.entries[key]
        isFitting = target.shape == (entry.sizeBytes,) and target.dtype == np.uint8
        if not isFitting or not target.flags.c_contiguous:
            raise ValueError(
                f"the target of {key!r} must be {entry.sizeBytes} bytes, flat and contiguous"
            )
        if (place := self.placeOf(key)) is not None:
            self._readPlace(key, place, target, progress)
            return
        try:
            self._decode(key, target, progress)
        except OSError as error:
            raise self.refuse(f"{shown(key)} can not be read: {error.strerror or error}") from error

    def _readPlace(self, key: str, place: Place, target: Flat, progress: Progress | None) -> None:
        checksum = place.checksum.before if place.checksum else 0
        for start in range(0, len(target), CHUNK_BYTES):
            part = target[start : start + CHUNK_BYTES]
            place.source.readAt(place.offset + start, part)
            checksum = zlib.crc32(viewOf(part), checksum) if place.checksum else 0
            if progress is not None:
                progress(len(part))
        place.compare(key, checksum)

    def close(self) -> None:
        self._file.close()

    @abstractmethod
    def _read(self) -> None:
        """Read and check the headers, and set `entries`."""

    def _decode(self, key: str, target: Flat, progress: Progress | None) -> None:
        """Read an entry that has no place."""
        raise NotImplementedError(f"{type(self).__name__} has a place for each entry")

    def refuse(self, reason: str, fix: str | None = None) -> FileInvalid:
        """The error for a problem of this file."""
        return FileInvalid(f"{self.path}: {reason}", fix)

    def checkedEntry(self, key: str, shape: Any, dtype: ElementType | np.dtype[Any]) -> Entry:
        """An entry whose key, shape and type are valid by themselves."""
        what = shown(key)
        try:
            key.encode()
        except UnicodeEncodeError:
            raise self.refuse(f"the key {what!r} is not valid Unicode") from None
        if isinstance(dtype, np.dtype) and dtype.hasobject:
            raise self.refuse(
                f"{what} holds Python objects, which are never unpickled here",
                "Save it again as an array of numbers or text",
            )
        try:
            element = asElement(dtype)
        except InvalidDtype as error:
            raise self.refuse(f"{what}: {error.reason}", error.fix) from None
        lengths = shape if isinstance(shape, list | tuple) else [-1]
        if (
            any(
                isinstance(length, bool) or not isinstance(length, int) or length < 0
                for length in lengths
            )
            or len(lengths) > 64
        ):
            raise self.refuse(f"the shape {str(shape)[:80]} of {what} can not be")
        return Entry(tuple(lengths), element)

    def fill(
        self, file: IO[bytes], target: np.ndarray[Any, Any], progress: Progress | None
    ) -> None:
        """Read exactly the bytes of a flat `target` of uint8 from the position of
        `file`.
        """
        done, view = 0, viewOf(target)
        while done < len(view):
            count = file.readinto(view[done : done + CHUNK_BYTES])  # type: ignore[attr-defined]  # every binary file here has it
            if not count:
                raise self.refuse(f"it ends {len(view) - done} bytes early")
            done += count
            if progress is not None:
                progress(count)
