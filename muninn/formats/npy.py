"""numpy's own files: ``.npy``, one array, and ``.npz``, a ZIP archive of them. Headers are read by numpy, which never unpickles here."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from muninn.formats.source import Entry, Progress, Source


def _header(file: IO[bytes], source: Source, key: str) -> tuple[Entry, bool]:
    """(entry, Fortran order) of the array that begins where `file` stands; afterwards it stands at the data."""
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise source.refuse(f"version {version} of the format is not known")
        shape, fortran, dtype = readers[version](file)
    except (ValueError, SyntaxError, tokenize.TokenError, EOFError, UnicodeDecodeError, MemoryError, RecursionError) as error:
        raise source.refuse(f"the header of {key or 'the array'} is damaged: {error}") from error
    return source.checkedEntry(key, shape, dtype), fortran


def _read(file: IO[bytes], source: Source, key: str, target: np.ndarray[Any, Any], progress: Progress | None) -> None:
    entry, fortran = _header(file, source, key)
    if not fortran or len(entry.shape) < 2:
        source.fill(file, target, progress)
        return
    turned = np.empty(entry.shape[::-1], entry.dtype)
    source.fill(file, turned, progress)
    np.copyto(target, turned.T)


class NpySource(Source):
    """One array in a ``.npy`` file."""

    isBundle = False

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open("rb") as file:
            entry, _ = _header(file, self, "")
            there = path.stat().st_size - file.tell()
        if there < entry.sizeBytes:
            raise self.refuse(f"it has {there} bytes of data and states {entry.sizeBytes}")
        self.entries = {"": entry}

    def readInto(self, key: str, target: np.ndarray[Any, Any], progress: Progress | None = None) -> None:
        with self.path.open("rb") as file:
            _read(file, self, key, target, progress)

    def close(self) -> None:
        """Nothing stays open between reads."""


class NpzSource(Source):
    """Named arrays in a ``.npz`` file, stored or deflated."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise self.refuse(f"it is no ZIP archive: {error}") from error
        try:
            self._names = {name.removesuffix(".npy"): name for name in self._archive.namelist()}
            self.entries = {key: self._entry(key) for key in self._names}
        except BaseException:
            self._archive.close()
            raise
        if not self.entries:
            raise self.refuse("there is no array in it")

    def _entry(self, key: str) -> Entry:
        try:
            with self._archive.open(self._names[key]) as member:
                entry, _ = _header(member, self, key)
                there = self._archive.getinfo(self._names[key]).file_size
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
            raise self.refuse(f"{key} is damaged: {error}") from error
        if there < entry.sizeBytes:
            raise self.refuse(f"{key} has {there} bytes and states {entry.sizeBytes}")
        return entry

    def readInto(self, key: str, target: np.ndarray[Any, Any], progress: Progress | None = None) -> None:
        try:
            with self._archive.open(self._names[key]) as member:
                _read(member, self, key, target, progress)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise self.refuse(f"{key} is damaged: {error}") from error

    def close(self) -> None:
        self._archive.close()
