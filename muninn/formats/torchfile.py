"""PyTorch's own files (``torch.save``): a state dict, read by PyTorch itself.

PyTorch is imported here, when such a file is opened, and may be absent. It reads with
``weights_only=True``, so nothing is unpickled but tensors and plain values, and with
``mmap=True``, so no byte of a tensor is read before it is needed. The tensors then lie
in a mapping of the file, and the kernel tells where (`/proc/self/maps`). So their bytes
are read from the file as those of any other format, in parallel, and a file that is
shortened meanwhile is an error and no SIGBUS. Tensors for which that can not be known,
and those that are not in C order, are copied from the mapping. So are all of a file from
a machine of the other byte order, which PyTorch has turned round in its mapping.

A file holds either a mapping of tensors, or beside other values ``"state_dict"``, which
is one, as checkpoints of training have it; then the rest of the file is left out.
"""

from __future__ import annotations

import os
import pickle
import re
import sys
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from muninn.errors import MuninnError
from muninn.formats.members import ARCHIVE_DAMAGE
from muninn.formats.source import Flat, Place, Progress, Source, shown
from muninn.interop.dlpack import takeTensor
from muninn.interop.elements import torchElement
from muninn.interop.hostarrays import borrowed
from muninn.interop.tensors import isTensor, plainTensor

_NESTED = "state_dict"
#: The record of an archive that names the byte order of the machine that wrote it.
_BYTE_ORDER, _LONGEST_ORDER = "byteorder", 16
#: The first bytes of an archive.
_ARCHIVE = b"PK"
#: How PyTorch names the class of an object that it does not unpickle.
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_SAVE = "Save the tensors alone: torch.save(model.state_dict(), path), or a .safetensors file"


class TorchSource(Source):
    """The tensors of a ``.pt``, ``.pth`` or ``.bin`` file."""

    def _read(self) -> None:
        isTurned = self._isTurned()
        loaded = self._loaded()
        tensors = self._tensorsOf(loaded)
        mapped = [] if isTurned else _mappedRanges(os.fstat(self._file.fileno()).st_ino)
        self._tensors: dict[str, Any] = {}
        self._offsets: dict[str, int] = {}
        self.entries = {}
        for key, tensor in tensors.items():
            try:
                plain = plainTensor(tensor)
                element = torchElement(str(plain.dtype).removeprefix("torch."))
            except MuninnError as error:
                raise self.refuse(f"{shown(key)}: {error.reason}", error.fix) from error
            self.entries[key] = entry = self.checkedEntry(key, list(plain.shape), element)
            self._tensors[key] = plain
            offset = _offsetOf(plain.data_ptr(), mapped)
            if (
                plain.is_contiguous()
                and offset is not None
                and offset + entry.sizeBytes <= self._fileBytes
            ):
                self._offsets[key] = offset

    def _isTurned(self) -> bool:
        """Whether a machine of the other byte order has written the file. Refuses one that
        is not whole, or not an archive, which PyTorch would say in its own words.
        """
        try:
            with zipfile.ZipFile(self._file) as archive:
                orders = [
                    name for name in archive.namelist() if name.partition("/")[2] == _BYTE_ORDER
                ]
                for name in orders:
                    with archive.open(name) as record:
                        return record.read(_LONGEST_ORDER).decode("latin-1") != sys.byteorder
        except ARCHIVE_DAMAGE as error:
            self._file.seek(0)
            if self._file.read(len(_ARCHIVE)) == _ARCHIVE:
                raise self.refuse(
                    f"the archive is damaged, or its end is missing: {error}"
                ) from error
            raise self.refuse(
                "it is no archive, as PyTorch writes them since 1.6",
                "If PyTorch can read it, save it again: torch.save(torch.load(path, "
                "weights_only=True), path)",
            ) from error
        return False

    def _loaded(self) -> Any:
        try:
            import torch
        except ImportError as error:
            raise self.refuse(
                f"only PyTorch reads files of this kind, and it can not be imported: {error}",
                "pip install torch, or save the tensors as a .safetensors file",
            ) from error
        try:
            # By the descriptor: the file that was opened, also when another one has
            # taken its name.
            return torch.load(
                f"/proc/self/fd/{self._file.fileno()}",
                weights_only=True,
                mmap=True,
                map_location="cpu",
            )
        except pickle.UnpicklingError as error:
            kind = _GLOBAL.search(str(error))
            raise self.refuse(
                "it holds more than tensors, and objects are never unpickled here: "
                f"{kind[1] if kind else _firstLine(error)}",
                _SAVE,
            ) from error
        except Exception as error:  # a damaged file may raise anything in PyTorch
            raise self.refuse(f"PyTorch can not map it: {_firstLine(error)}", _SAVE) from error

    def _tensorsOf(self, loaded: Any) -> Mapping[str, Any]:
        found = loaded
        if isinstance(found, Mapping) and isinstance(found.get(_NESTED), Mapping):
            found = found[_NESTED]
        if not isinstance(found, Mapping):
            raise self.refuse(
                f"it holds no mapping of tensors, but a {type(found).__name__}", _SAVE
            )
        if not found:
            raise self.refuse("there is no tensor in it")
        for key, value in found.items():
            if not isinstance(key, str) or not isTensor(value):
                raise self.refuse(
                    f"it holds no mapping of tensors alone: {shown(str(key))} is a "
                    f"{type(value).__name__}",
                    _SAVE,
                )
        return found

    def placeOf(self, key: str) -> Place | None:
        offset = self._offsets.get(key)
        return None if offset is None else Place(self, offset)

    def _decode(self, key: str, target: Flat, progress: Progress | None) -> None:
        try:
            taken = borrowed(takeTensor(self._tensors[key], None))
        except BufferError as error:
            raise self.refuse(f"{shown(key)}: {error}") from error
        np.copyto(target.view(taken.dtype).reshape(taken.shape), taken)
        if progress is not None:
            progress(len(target))

    def close(self) -> None:
        self._tensors = {}
        super().close()


class _Range(NamedTuple):
    """A range of addresses that maps a file, from a place in the file on."""

    begin: int
    end: int
    offset: int


def _mappedRanges(inode: int) -> list[_Range]:
    """The ranges in which this process has mapped a file."""
    found = []
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            addresses, _, offset, _, number, *_ = line.split(maxsplit=5)
            if number == str(inode):
                begin, end = (int(address, 16) for address in addresses.split("-"))
                found.append(_Range(begin, end, int(offset, 16)))
    return found


def _offsetOf(address: int, mapped: list[_Range]) -> int | None:
    """The place in the file of the byte at an address; None where none is mapped."""
    for each in mapped:
        if each.begin <= address < each.end:
            return each.offset + address - each.begin
    return None


def _firstLine(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
