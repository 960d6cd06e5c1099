"""The journal: the intentions and the changes of the broker of one epoch, one file per
epoch.

Only the broker of the epoch writes its file. The journal survives a crash of every
process, and a control block that is lost or damaged is rebuilt from it (`repair.py`). A
successor does not need it to finish half-done changes: the state words of the rows say
that.

Append. A record is {length, CRC-32, msgpack map}. The broker appends a record before
and after each change that takes several steps. If a write is cut short, the broker
truncates the file to its old length. A reader stops at the first record that is not
whole, since its writer may have died in the middle of it. A deposed broker may go on
appending to its own file: a stale record there costs nothing, since the fence lets none
of its changes happen and its successor drops the file.

Shorten. A journal vouches for the rows that are LIVE or CREATING, and counts how many
bytes their records take. When most of the journal is about rows that are gone:

1. The broker begins a copy under a name that no reader takes for a journal. From now on
   it appends each record to both files.
2. It copies the records of the rows that are there, a piece at a time (`snapshot.py`).
3. When the copy is whole, the broker exchanges the names of the two files in one step,
   and removes the old file. It does not rename the copy over the journal, because a
   successor may have removed the journal of a deposed broker, and the file must not
   appear again.

A death before the exchange leaves the journal as it was, and a copy that the next
broker removes.

Removed file. A cleaner may remove the journal from `/dev/shm`. No process would ever
read a record that is appended after that. The broker sees the removal at the next
record or at its next sweep; it begins a new file of that name, and copies into it the
rows that are there.
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
_KEY = msgpack.packb("op")  # every record begins with one byte and this key
MAX_RECORD_BYTES = 4096
#: How many bytes of a journal may be about rows that are gone, in addition to half of
#: the bytes that vouch for rows. Until a copy is whole, more is appended; so the file
#: stays under twice the vouching bytes, plus this.
SLACK_BYTES = 64 << 10
#: The records of a row that a copy has as well, and those after which it has none.
_VOUCHING, _ENDING = ("create", "live", "replaced"), ("free", "gone")
#: The fields of a record that say what it is about.
_IDENTIFYING = ("row", "incarnation", "epoch")
#: A journal up to this size may have nothing but the beginning of a term.
_EMPTY_BYTES = 64


def _shown(fields: Record) -> str:
    """What a record is about."""
    return ", ".join(f"{key} {fields[key]}" for key in _IDENTIFYING if key in fields)


class Journal:
    """The open journal of this broker's epoch.

    Attributes
    ----------
    hindrance
        The reason why this process, but perhaps no other, can not go on writing it.
    vouchedBytes
        How many bytes the records take that vouch for a row.
    isNameless
        Whether this process has seen that the file was removed.
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
        # If the program has closed the descriptor, the next record opens the file
        # again.
        with contextlib.suppress(OSError):
            self.isNameless |= os.fstat(self._file.number).st_nlink == 0
        if self._copy is not None:
            try:
                self._copyLength = self._written(self._copy, frame, self._copyLength)
            except HostMemoryFull as error:
                _log.info("the journal is not shortened now: %s", error.reason)
                self.dropCopy()

    def note(self, op: str, **fields: Any) -> bool:
        """Append a record whose failure must not stop the change; returns whether it
        was written. On a full `/dev/shm` a free must go on, since it makes room.
        """
        try:
            self.append(op, **fields)
        except HostMemoryFull as error:
            _log.warning(
                "the journal lacks the record %r of %s: %s", op, _shown(fields), error.reason
            )
            return False
        return True

    def look(self) -> None:
        """See whether the file still has its name. A process that has another uid now
        may not look, and concludes nothing.
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
        """The typed error for the error of a request. If only this process can have
        this error, for example because its uid has changed, note it as a hindrance.
        """
        typed = error if isinstance(error, MuninnError) else refusal(error, self._path)
        if isinstance(typed, DomainChanged) or (
            isinstance(typed, PlatformUnsupported) and not hasProc()
        ):
            self.hindrance = typed
        return typed

    def isHindered(self) -> bool:
        """Whether this process can not go on as broker. It can not either when it has
        another `/dev/shm` now, in which the files of the domain are not.
        """
        if self.hindrance is None and isMoved():
            self.hindrance = missingShm()
        return self.hindrance is not None

    def isTooLong(self) -> bool:
        """Whether a copy of what it vouches for would be much shorter."""
        return self.wastedBytes() > self.vouchedBytes // 2 + SLACK_BYTES

    def wastedBytes(self) -> int:
        """How many bytes are about rows that are gone."""
        return self._length - self.vouchedBytes

    def close(self) -> None:
        self.dropCopy()
        self._file.close()

    def closeInChild(self) -> None:
        """In a forked child: close the child's copies of the parent's files."""
        self._file.close()
        if self._copy is not None:
            self._copy.close()

    # --- the copy --------------------------------------------------------------------

    def isCopying(self) -> bool:
        return self._copy is not None

    def beginCopy(self) -> None:
        """Begin an empty copy. From here on `append` writes to it as well. Raises
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
        """Let the copy, which is whole, take the journal's place. False if there is no
        copy any more, or no journal of that name.
        """
        if self._copy is None:
            return False
        new = self._path + COPY_SUFFIX
        # Exchanged, and not renamed over it: a successor may have removed the journal
        # of this deposed broker, and the name must not appear again.
        result = atomics.exchangeNames(new.encode(), self._path.encode())
        if result in (-errno.EINVAL, -errno.ENOSYS):  # the kernel, or a sandbox, can not do it
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
        """Remove the copy; the journal stays as it is. A repeated call does nothing."""
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
        return HostMemoryFull(
            f"{self._path} can not grow: {reason}", "Free buffers, or enlarge /dev/shm"
        )

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
    # This process may have another uid by now.
    with contextlib.suppress(FileNotFoundError, PermissionError):
        os.unlink(path)


def dropCopies(paths: Paths) -> None:
    """Remove the copies that brokers did not finish. A deposed broker that still works
    at its copy finds it gone, and keeps its journal.
    """
    for path in paths.copies():
        _unlinkQuietly(path)


def dropEmpty(paths: Paths, before: int) -> None:
    """Remove this block's journals of earlier epochs that have nothing but the
    beginning of a term. If brokers died one after another, there would be more and more
    of these, and no memory left for the copy after which they are removed. Their
    brokers are fenced.
    """
    for epoch in paths.epochsOf("journal"):
        path = paths.journalPath(epoch)
        # If another user could have written the journal, it is left alone.
        with contextlib.suppress(FileNotFoundError, ControlBlockInvalid):
            isShort = epoch < before and os.stat(path).st_size <= _EMPTY_BYTES
            if isShort and all(record["op"] == "begin" for record in read(paths, epoch)):
                os.unlink(path)


def replay(raw: bytes, only: str = "") -> Iterator[Record]:
    """The records of a journal, up to the first that is not whole. Its writer may have
    died in the middle of it, and the bytes after it can not be trusted.

    With `only`, the records of one kind. Of the others only the length is read, which
    is ten times as fast.
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

    Raises `ControlBlockInvalid` when another user could have written the file.
    """
    path = paths.journalPath(epoch)
    try:
        with openFile(path, "rb") as file:
            requireUnwritten(os.fstat(file.fileno()), path)
            return list(replay(file.read(), only))
    except (FileNotFoundError, PermissionError):
        # A file that this uid may not read was opened by a broker that died before it
        # could undo the effect of the umask, and had written nothing.
        return []
