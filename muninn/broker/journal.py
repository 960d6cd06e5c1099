"""The journal: what the broker of one epoch intended and did, one file per epoch.

Records are appended as {length, CRC-32, msgpack map} before and after each change that takes several steps. The state words of the
rows already say what is half done, and a successor finishes from those; the journal is what a lost or damaged control block is
rebuilt from (`repair.py`), and an audit. A deposed broker goes on appending to its own file, which nobody reads further than where
its successor found its end.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import msgpack

from muninn.control.lockfile import fileError
from muninn.control.places import Places
from muninn.errors import HostMemoryFull

_log = logging.getLogger("muninn.broker")
Record = dict[str, Any]
_FRAME = struct.Struct("<II")
MAX_RECORD_BYTES = 4096


class Journal:
    """The open journal of this broker's epoch."""

    def __init__(self, places: Places, epoch: int) -> None:
        self._path = places.journalPath(epoch)
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise fileError(error, self._path) from error
        self._length = 0

    def append(self, op: str, **fields: object) -> None:
        """Append a record whole, or not at all and raise `HostMemoryFull`."""
        body: bytes = msgpack.packb({"op": op, **fields})
        if len(body) > MAX_RECORD_BYTES:
            raise ValueError(f"a record of {len(body)} bytes is above {MAX_RECORD_BYTES}: replay would end before it")
        frame = _FRAME.pack(len(body), zlib.crc32(body)) + body
        try:
            written = os.pwrite(self._fd, frame, self._length)
        except OSError as error:
            raise HostMemoryFull(f"{self._path} can not grow: {error.strerror}") from error
        if written < len(frame):
            os.ftruncate(self._fd, self._length)
            raise HostMemoryFull(f"{self._path} can not grow: {written} of {len(frame)} bytes were written")
        self._length += len(frame)

    def note(self, op: str, **fields: object) -> bool:
        """Append a record that must not stop what it tells of; returns whether it stands. On a full `/dev/shm` an ending makes room."""
        try:
            self.append(op, **fields)
        except HostMemoryFull as error:
            _log.warning("%s %s is not in the journal: %s", op, fields, error.reason)
            return False
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def replay(raw: bytes) -> Iterator[Record]:
    """The records of a journal, up to the first that is not whole: a writer may have died in it, and what follows is not to be trusted."""
    offset = 0
    while offset + _FRAME.size <= len(raw):
        length, checksum = _FRAME.unpack_from(raw, offset)
        body = raw[offset + _FRAME.size : offset + _FRAME.size + length]
        if length > MAX_RECORD_BYTES or len(body) < length or zlib.crc32(body) != checksum:
            return
        try:
            record = msgpack.unpackb(body, strict_map_key=True)
        except (ValueError, msgpack.UnpackException, RecursionError):
            return
        if not isinstance(record, dict) or not isinstance(record.get("op"), str):
            return
        yield record
        offset += _FRAME.size + length


def read(places: Places, epoch: int) -> list[Record]:
    """The records of an epoch's journal; none when it is gone."""
    try:
        with open(places.journalPath(epoch), "rb") as file:
            return list(replay(file.read()))
    except FileNotFoundError:
        return []
