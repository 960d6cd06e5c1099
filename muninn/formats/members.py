"""A member of an archive, stored or deflated, as a file that is read once, from its
beginning.

It reads the archive by its own place, so several threads may read different members at
once; `zipfile` has one lock for all. At the end the checksum is compared, and the read
fails if the member ends early or late.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any

import numpy as np

from muninn.formats.source import Source

_INPUT_BYTES = 256 << 10
#: The errors that `zipfile` raises on damage. The first two errors are its own; the
#: others come from the functions that it calls.
ARCHIVE_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
#: The parameter for a deflated stream without zlib's own header.
_RAW = -zlib.MAX_WBITS


class Member(io.RawIOBase):
    """The bytes of a member, inflated.

    Parameters
    ----------
    source
        Has the archive open.
    begin
        The place of the member's data in the archive.
    """

    def __init__(self, source: Source, member: zipfile.ZipInfo, begin: int) -> None:
        super().__init__()
        self._source, self._member = source, member
        self._next, self._end = begin, begin + member.compress_size
        self._inflater = (
            None if member.compress_type == zipfile.ZIP_STORED else zlib.decompressobj(_RAW)
        )
        self._left, self._checksum = member.file_size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        """Fill at most all of `target`. Returns 0 only at the end. Raises `zlib.error`
        and `zipfile.BadZipFile` for a damaged member.
        """
        room = memoryview(target).cast("B")
        while self._left and room:
            compressed = self._inflater.unconsumed_tail if self._inflater else b""
            compressed = compressed or self._input(len(room))
            found = (
                self._inflater.decompress(compressed, len(room)) if self._inflater else compressed
            )
            if found:
                return self._took(room, found)
            if not compressed or (self._inflater and self._inflater.eof):
                raise zipfile.BadZipFile(f"its data ends {self._left} bytes early")
        return 0

    def _input(self, wantedBytes: int) -> bytes:
        most = _INPUT_BYTES if self._inflater else min(_INPUT_BYTES, wantedBytes)
        target = np.empty(min(most, self._end - self._next), np.uint8)
        self._source.readAt(self._next, target)
        self._next += len(target)
        return target.tobytes()

    def _took(self, room: memoryview, found: bytes) -> int:
        if len(found) > self._left:
            raise zipfile.BadZipFile("its data is longer than the archive states")
        room[: len(found)] = found
        self._checksum = zlib.crc32(found, self._checksum)
        self._left -= len(found)
        if not self._left and self._checksum != self._member.CRC:
            raise zipfile.BadZipFile("it has another checksum")
        return len(found)
