"""The choice of the format, by the ending of the file's name. This module also opens
the file, and checks that it is a regular one.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from muninn.errors import FileInvalid
from muninn.formats.npy import NpySource, NpzSource
from muninn.formats.safetensors import SafetensorsSource
from muninn.formats.source import Source

_FORMATS: dict[str, type[Source]] = {
    ".npy": NpySource,
    ".npz": NpzSource,
    ".safetensors": SafetensorsSource,
}


def openFile(path: str | os.PathLike[str]) -> Source:
    """The arrays of a ``.npy``, ``.npz`` or ``.safetensors`` file.

    Raises
    ------
    FileInvalid
        It is missing, unreadable, no regular file, of another kind, truncated, or
        damaged.
    """
    source = Path(path)
    kind = _FORMATS.get(source.suffix.lower())
    if kind is None:
        raise FileInvalid(
            f"{source}: files of kind {source.suffix or '(none)'} are not known",
            f"Use one of {', '.join(_FORMATS)}",
        )
    try:
        # Check before opening: to open a pipe waits for its writer.
        if not stat.S_ISREG(source.stat().st_mode):
            raise FileInvalid(f"{source} is no regular file")
        file = source.open("rb")
        try:
            return kind(source, file)
        except BaseException:
            file.close()
            raise
    except (OSError, ValueError) as error:
        # ValueError: a path with a NUL in it.
        raise FileInvalid(
            f"{source} can not be read: {getattr(error, 'strerror', None) or error}"
        ) from error
