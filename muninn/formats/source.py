"""The contract of a file format: entries first, bytes when they are asked for."""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

import numpy as np

from muninn.errors import FileInvalid

Progress = Callable[[int], None]
#: Bytes read at a time: large enough for the disk, small enough for a smooth progress bar.
CHUNK_BYTES = 8 << 20


class Entry(NamedTuple):
    """One array of a file, as its header states it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def sizeBytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


class Source(ABC):
    """An open file of arrays.

    Attributes
    ----------
    entries
        Key to shape and dtype, checked against the length of the file.
    isBundle
        Whether the file holds named arrays; otherwise its one entry has the key ``""``.
    """

    entries: dict[str, Entry]
    isBundle = True

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def sizeBytes(self) -> int:
        return sum(entry.sizeBytes for entry in self.entries.values())

    @abstractmethod
    def readInto(self, key: str, target: np.ndarray[Any, Any], progress: Progress | None = None) -> None:
        """Read one entry into a C-contiguous array of its shape and dtype. `progress` gets the bytes read since its last call."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def refuse(self, reason: str) -> FileInvalid:
        """The error that says what is wrong with this file."""
        return FileInvalid(f"{self.path}: {reason}")

    def checkedEntry(self, key: str, shape: Any, dtype: np.dtype[Any]) -> Entry:
        """An entry that can be shared."""
        if dtype.hasobject:
            raise self.refuse(f"{key or 'the array'} holds Python objects")
        if not isinstance(shape, list | tuple) or any(
            isinstance(length, bool) or not isinstance(length, int) or length < 0 for length in shape
        ):
            raise self.refuse(f"the shape {shape!r} of {key or 'the array'} can not be")
        return Entry(tuple(shape), dtype)

    def fill(self, file: IO[bytes], target: np.ndarray[Any, Any], progress: Progress | None) -> None:
        """Read exactly the bytes of `target` from where `file` stands."""
        view = memoryview(target.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # numpy declares the protocol from Python 3.12 on
        done = 0
        while done < len(view):
            count = file.readinto(view[done : done + CHUNK_BYTES])  # type: ignore[attr-defined]  # every binary file here has it
            if not count:
                raise self.refuse(f"it ends {len(view) - done} bytes early")
            done += count
            if progress is not None:
                progress(count)


def openFile(path: str | os.PathLike[str]) -> Source:
    """The arrays of a ``.npy``, ``.npz`` or ``.safetensors`` file.

    Raises
    ------
    FileInvalid
        It is missing, unreadable, no regular file, of another kind, truncated, or damaged.
    """
    from muninn.formats.npy import NpySource, NpzSource
    from muninn.formats.safetensors import SafetensorsSource

    kinds: dict[str, type[Source]] = {".npy": NpySource, ".npz": NpzSource, ".safetensors": SafetensorsSource}
    place = Path(path)
    kind = kinds.get(place.suffix.lower())
    if kind is None:
        raise FileInvalid(f"{place}: files of kind {place.suffix or '(none)'} are not known", f"Use one of {', '.join(kinds)}")
    try:
        if not stat.S_ISREG(place.stat().st_mode):
            raise FileInvalid(f"{place} is no regular file")
        return kind(place)
    except OSError as error:
        raise FileInvalid(f"{place} can not be read: {error.strerror or error}") from error
