"""The choice of the format, by the ending of the file's name, or by what is in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from muninn.errors import FileInvalid
from muninn.formats.npy import NpySource, NpzSource
from muninn.formats.safetensors import SafetensorsSource
from muninn.formats.shards import INDEX, INDEX_ENDING, SHARD_ENDING, ShardedSource, indexIn
from muninn.formats.source import Source, missing
from muninn.formats.torchfile import TorchSource

_FORMATS: dict[str, type[Source]] = {
    ".npy": NpySource,
    ".npz": NpzSource,
    SHARD_ENDING: SafetensorsSource,
    ".pt": TorchSource,
    ".pth": TorchSource,
    ".bin": TorchSource,
}


def openFile(path: str | os.PathLike[str]) -> Source:
    """The arrays of a file: ``.npy``, ``.npz``, ``.safetensors``, or PyTorch's ``.pt``,
    ``.pth`` and ``.bin``. Or those of a model in several files: its index,
    ``*.safetensors.index.json``, or the folder with `INDEX`; a folder may also have one
    ``.safetensors`` file alone.

    Raises
    ------
    FileInvalid
        It is missing, unreadable, no regular file, of another kind, truncated, or
        damaged.
    """
    given = Path(path)
    return _kindOf(found := _fileIn(given) if _isFolder(given) else given).opened(found)


def _isFolder(path: Path) -> bool:
    try:
        return path.is_dir() and path.suffix.lower() not in _FORMATS
    except ValueError:  # a NUL in it
        return False


def _kindOf(path: Path) -> type[Source]:
    if path.name.endswith(INDEX_ENDING):
        return ShardedSource
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None and not os.path.lexists(path):
        raise missing(path)
    if kind is None:
        raise FileInvalid(
            f"{path}: files of kind {path.suffix or '(none)'} are not known",
            f"Use one of {', '.join(_FORMATS)}, or *{INDEX_ENDING}",
        )
    return kind


def _fileIn(folder: Path) -> Path:
    """The file by which a model in a folder is read."""
    if (index := indexIn(folder)) is not None:
        return index
    try:
        found = sorted(each for each in folder.iterdir() if each.suffix == SHARD_ENDING)
    except OSError as error:
        raise FileInvalid(f"{folder} can not be read: {error.strerror}") from error
    if len(found) != 1:
        raise FileInvalid(
            f"{folder} has no {INDEX}, and {len(found)} {SHARD_ENDING} files",
            "Name the file, or the index of the model",
        )
    return found[0]
