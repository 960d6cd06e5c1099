"""The journal: what the broker of one epoch intended and did, one file per epoch.

Records are appended as {length, CRC-32, msgpack map} before and after each change that
takes several steps. The state words of the rows already say what is half done, and a
successor finishes from those; the journal is what a lost or damaged control block is
rebuilt from (`repair.py`), and an audit. A deposed broker goes on appending to its own
file, which nobody reads further than where its successor found its end.

A journal vouches for the rows that live or are being made. It knows how many bytes
their records take, and is too long when most of it tells of what is over. Then a copy
is begun, which gets what lives a piece at a time (`snapshot.py`) and, from its
beginning on, whatever is appended; when it has all it takes the journal's name in one
step. A death before that leaves the journal as it was, and a file that no name of a
journal fits.

A cleaner may remove the file. Whatever is appended after that nobody would ever read:
the broker notices it at the next record, or at its next sweep, begins a file of that
name anew, and copies into it what lives.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import resource
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import msgpack

from muninn.control import layout
from muninn.errors import (
    ControlBlockInvalid,
    DomainChanged,
    HostMemoryFull,
    MuninnError,
    PlatformUnsupported,
)
from muninn.storage.paths import COPY_SUFFIX, Paths
from muninn.system import atomics
from muninn.system.descriptors import Named
from muninn.system.files import openFile
from muninn.system.logs import Log
from muninn.system.oserrors import fileError, filesLimited, hasProc, isMoved, missingShm
from muninn.system.ownership import refusal, requireUnwritten

_log = Log("muninn.broker")
Record = dict[str, Any]
_FRAME = struct.Struct("<II")
_KEY = msgpack.packb("op")  # the first of every record, after one byte
MAX_RECORD_BYTES = 4096
#: How much of a journal may tell of what is over, beside half as much as what it
#: vouches for. Until a copy is whole, more is appended: the file stays under twice what
#: it vouches for, and this.
SLACK_BYTES = 64 << 10
_VOUCHING, _ENDING = ("create", "live"), ("free", "gone")
#: A journal of no more may tell of the beginning of a term alone.
_EMPTY_BYTES = 64


class Journal:
    """The open journal of this broker's epoch.

    Attributes
    ----------
    hindrance
        Why this process can not go on writing it, although another one could.
    vouchedBytes
        What the records take that vouch for a row.
    isNameless
        Whether the file was removed, as far as this has been seen.
    """

    def __init__(self, paths: Paths, epoch: int) -> None:
        self.hindrance: MuninnError | None = None
        self._path = paths.journalPath(epoch)
        self._uid = paths.uid
        self._file = _opened(self._path, self._uid)
        self._length = 0
        self._copy: Named | None = None
        self._copyLength = 0
        self._weights = array.array("H")  # by row: bytes of the record that vouches for it
        self.vouchedBytes = 0
        self.isNameless = False

    def append(self, op: str, **fields: Any) -> None:
        """Append a record whole, or not at all and raise `HostMemoryFull`."""
        frame = _framed(op, fields)
        self._length = self._written(self._file, frame, self._length)
        self._weigh(op, fields, len(frame))
        # the program has closed it since: the next record opens it anew
        with contextlib.suppress(OSError):
            self.isNameless |= os.fstat(self._file.number).st_nlink == 0
        if self._copy is not None:
            try:
                self._copyLength = self._written(self._copy, frame, self._copyLength)
            except HostMemoryFull as error:
                _log.info("the journal is not shortened now: %s", error.reason)
                self.dropCopy()

    def note(self, op: str, **fields: Any) -> bool:
        """Append a record that must not stop what it tells of; returns whether it
        stands. On a full `/dev/shm` an ending makes room.
        """
        try:
            self.append(op, **fields)
        except HostMemoryFull as error:
            _log.warning("%s %s is not in the journal: %s", op, fields, error.reason)
            return False
        return True

    def look(self) -> None:
        """See whether the file still has its name. Another uid, which may not look,
        says nothing.
        """
        try:
            with contextlib.suppress(PermissionError):
                self.isNameless = os.lstat(self._path).st_ino != self._file.inode
        except OSError:
            self.isNameless = True

    def beginAnew(self) -> None:
        """Begin an empty file of that name. Raises `HostMemoryFull` or
        `DescriptorsExhausted`, and then nothing has changed.
        """
        again = _opened(self._path, self._uid)
        self.dropCopy()
        self._file.close()
        self._file, self._length, self.isNameless = again, 0, False
        self._weights, self.vouchedBytes = array.array("H"), 0

    def hinder(self, error: MuninnError | PermissionError) -> MuninnError:
        """The typed error for what a request failed of. One that only this process has,
        above all since its uid is another, hinders it.
        """
        typed = error if isinstance(error, MuninnError) else refusal(error, self._path)
        if isinstance(typed, DomainChanged) or (
            isinstance(typed, PlatformUnsupported) and not hasProc()
        ):
            self.hindrance = typed
        return typed

    def isHindered(self) -> bool:
        """Whether this process can not go on; not where it has another `/dev/shm` by
        now: the files of the domain are not in it.
        """
        if self.hindrance is None and isMoved():
            self.hindrance = missingShm()
        return self.hindrance is not None

    def isTooLong(self) -> bool:
        """Whether a copy of what it vouches for would be much shorter."""
        return self.wastedBytes() > self.vouchedBytes // 2 + SLACK_BYTES

    def wastedBytes(self) -> int:
        """How much of it tells of what is over."""
        return self._length - self.vouchedBytes

    def close(self) -> None:
        self.dropCopy()
        self._file.close()

    def closeInChild(self) -> None:
        """In a forked child: let go of the files, which are the parent's."""
        self._file.close()
        if self._copy is not None:
            self._copy.close()

    # --- the copy --------------------------------------------------------------------

    def isCopying(self) -> bool:
        return self._copy is not None

    def beginCopy(self) -> None:
        """Begin an empty copy: from here on it gets whatever is appended. Raises
        `HostMemoryFull`, `DescriptorsExhausted`.
        """
        self.dropCopy()
        self._copy, self._copyLength = _opened(self._path + COPY_SUFFIX, self._uid), 0

    def copy(self, records: Iterable[tuple[str, Record]]) -> None:
        """Add records to the copy, all or none and raise `HostMemoryFull`. A copy that
        was dropped meanwhile gets nothing.
        """
        if self._copy is None:
            return
        frames = []
        for op, fields in records:
            frames.append(_framed(op, fields))
            self._weigh(op, fields, len(frames[-1]))
        if frames:
            self._copyLength = self._written(self._copy, b"".join(frames), self._copyLength)

    def finishCopy(self) -> bool:
        """Let the copy, which has all that lives, take the journal's place. False:
        there is none any more, or no journal of that name.
        """
        if self._copy is None:
            return False
        new = self._path + COPY_SUFFIX
        # Exchanged, and not renamed over it: a deposed broker's journal may be gone,
        # and must not be there again.
        result = atomics.exchangeNames(new.encode(), self._path.encode())
        if result in (-errno.EINVAL, -errno.ENOSYS):  # a kernel, or a sandbox, that can not
            os.rename(new, self._path)
        elif result < 0:
            self.dropCopy()
            return False
        _unlinkQuietly(new)
        self._file.close()
        self._file, self._length = self._copy, self._copyLength
        self._file.renamed(self._path)
        self._copy, self.isNameless = None, False
        return True

    def dropCopy(self) -> None:
        """The journal stays as it is. Again is fine."""
        if self._copy is not None:
            self._copy.close()
            self._copy = None
            _unlinkQuietly(self._path + COPY_SUFFIX)

    # --- bytes -----------------------------------------------------------------------

    def _written(self, file: Named, frame: bytes, length: int) -> int:
        """The length of the file once `frame` stands at its end."""
        try:
            fd = file.checked()
            written = os.pwrite(fd, frame, length)
        except OSError as error:
            raise self._refusal(str(error.strerror), length + len(frame)) from error
        if written < len(frame):
            os.ftruncate(fd, length)
            raise self._refusal(
                f"{written} of {len(frame)} bytes were written", length + len(frame)
            )
        return length + len(frame)

    def _refusal(self, reason: str, wantedBytes: int) -> HostMemoryFull:
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY and limit < wantedBytes:
            self.hindrance = limited = filesLimited(self._path)
            return limited
        return HostMemoryFull(f"{self._path} can not grow: {reason}")

    def _weigh(self, op: str, fields: Record, frameBytes: int) -> None:
        """Count the bytes that vouch for a row: those of its last record, if that one
        vouches.
        """
        row, weights = fields.get("row"), self._weights
        if (
            op not in (*_VOUCHING, *_ENDING)
            or type(row) is not int
            or not 0 <= row < layout.MAX_BUFFERS_LIMIT
        ):
            return
        if row >= len(weights):
            weights.extend([0] * (row + 1 - len(weights)))
        weight = frameBytes if op in _VOUCHING else 0
        self.vouchedBytes += weight - weights[row]
        weights[row] = weight


def _opened(path: str, uid: int) -> Named:
    try:
        return Named(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, uid)
    except OSError as error:
        raise fileError(error, path) from error


def _framed(op: str, fields: Record) -> bytes:
    body: bytes = msgpack.packb({"op": op, **fields})
    if len(body) > MAX_RECORD_BYTES:
        raise ValueError(
            f"a record of {len(body)} bytes is above {MAX_RECORD_BYTES}: replay would end before it"
        )
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def _unlinkQuietly(path: str) -> None:
    # this process may be another uid by now
    with contextlib.suppress(FileNotFoundError, PermissionError):
        os.unlink(path)


def dropCopies(paths: Paths) -> None:
    """Remove the copies that brokers did not finish. One that still works at its own
    finds it gone, and keeps its journal.
    """
    for path in paths.copies():
        _unlinkQuietly(path)


def dropEmpty(paths: Paths, before: int) -> None:
    """Remove this block's journals of earlier epochs, all fenced, that tell of nothing
    but the beginning of a term: with their brokers dying one after another there would
    be more and more, and no room for the copy after which they go.
    """
    for epoch in paths.epochsOf("journal"):
        path = paths.journalPath(epoch)
        # the next one says of which others could have written
        with contextlib.suppress(FileNotFoundError, ControlBlockInvalid):
            isShort = epoch < before and os.stat(path).st_size <= _EMPTY_BYTES
            if isShort and all(record["op"] == "begin" for record in read(paths, epoch)):
                os.unlink(path)


def replay(raw: bytes, only: str = "") -> Iterator[Record]:
    """The records of a journal, up to the first that is not whole: a writer may have
    died in it, and what follows is not to be trusted.

    With `only`, those of one kind; of the others nothing is looked at but the length,
    which makes it ten times as fast.
    """
    offset, kind = 0, _KEY + msgpack.packb(only)
    while offset + _FRAME.size <= len(raw):
        length, checksum = _FRAME.unpack_from(raw, offset)
        if (
            only
            and not raw.startswith(kind, offset + _FRAME.size + 1)
            and length <= MAX_RECORD_BYTES
        ):
            offset += _FRAME.size + length
            continue
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


def read(paths: Paths, epoch: int, only: str = "") -> list[Record]:
    """The records of an epoch's journal, or those of one kind; none when it is gone.

    Raises `ControlBlockInvalid` when others could have written it.
    """
    path = paths.journalPath(epoch)
    try:
        with openFile(path, "rb") as file:
            requireUnwritten(os.fstat(file.fileno()), path)
            return list(replay(file.read(), only))
    except (FileNotFoundError, PermissionError):
        # not to be read: its broker died before it could undo the umask, and wrote
        # nothing
        return []
