"""The contract of a file format: a source has the entries from the beginning, and reads
bytes when it is asked for them.

A source belongs to one thread of one process. It keeps the file open, so it reads the
file that it checked, also when another file takes its name meanwhile. If the file is
shortened or overwritten in place, the read finds that the bytes end early.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np

from muninn.errors import FileInvalid, InvalidDtype
from muninn.interop.elements import ElementType, asElement

Progress = Callable[[int], None]
#: Bytes read at a time: large enough for the disk, small enough for a smooth progress
#: bar.
CHUNK_BYTES = 8 << 20


class Entry(NamedTuple):
    """One array of a file, as its header states it."""

    shape: tuple[int, ...]
    element: ElementType

    @property
    def sizeBytes(self) -> int:
        return math.prod(self.shape) * self.element.itemBytes


class Source(ABC):
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
        self._read()

    @property
    def sizeBytes(self) -> int:
        return sum(entry.sizeBytes for entry in self.entries.values())

    def readInto(
        self, key: str, target: np.ndarray[Any, Any], progress: Progress | None = None
    ) -> None:
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
        try:
            self._readInto(key, target, progress)
        except OSError as error:
            raise self.refuse(
                f"{key or 'the array'} can not be read: {error.strerror or error}"
            ) from error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _read(self) -> None:
        """Read and check the headers, and set `entries`."""

    @abstractmethod
    def _readInto(
        self, key: str, target: np.ndarray[Any, Any], progress: Progress | None
    ) -> None: ...

    def refuse(self, reason: str, fix: str | None = None) -> FileInvalid:
        """The error for a problem of this file."""
        return FileInvalid(f"{self.path}: {reason}", fix)

    def checkedEntry(self, key: str, shape: Any, dtype: ElementType | np.dtype[Any]) -> Entry:
        """An entry whose key, shape and type are valid by themselves."""
        what = key or "the array"
        try:
            key.encode()
        except UnicodeEncodeError:
            raise self.refuse(f"the key {key!r} is not valid Unicode") from None
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
        view = memoryview(target)  # type: ignore[arg-type]  # numpy declares the protocol from Python 3.12 on
        done = 0
        while done < len(view):
            count = file.readinto(view[done : done + CHUNK_BYTES])  # type: ignore[attr-defined]  # every binary file here has it
            if not count:
                raise self.refuse(f"it ends {len(view) - done} bytes early")
            done += count
            if progress is not None:
                progress(count)
