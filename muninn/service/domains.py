"""Domains: every domain of this machine that this user may see, read from outside.

Whoever looks joins no domain and changes none. So the names and files of a domain are a
stranger's here, also those of the same user (`outside.py`): their bytes are copied
before they are checked, and nothing is mapped.

Another user's domain can be read by root alone, since its directory has mode 0700. Of
such a domain only the name and the uid are known.

A process counts as living if its byte of the lock file is locked, or if no death of it
is known. A stale read shows a process that has just ended, or not yet one that has just
joined.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from muninn.control import layout
from muninn.control.geometry import Geometry
from muninn.control.header import Header, readHeader
from muninn.control.lockfile import FIRST_SLOT_BYTE
from muninn.control.memberidentity import IDENTITY_BYTES, IDENTITY_OFFSET, MemberIdentity
from muninn.control.rowstate import TAKING
from muninn.errors import MuninnError
from muninn.service.outside import openedBlock, openedFile
from muninn.session import membership
from muninn.storage.folders import LOCK_NAME
from muninn.storage.paths import SHM_ROOT, Paths, takenBytes
from muninn.system import atomics
from muninn.system.descriptors import Descriptor
from muninn.system.processes import ownPidNamespace, processIsGone
from muninn.terms import MODES, Mode

_NAMED = re.compile(r"muninn-(\d{1,10})-([A-Za-z0-9_-]{1,32})(\.d(?:\.[0-9a-f]{6})?)?")
_FAST = MODES.index(Mode.FAST)
_LIVE = (layout.ROW_LIVE, layout.ROW_PROBING)
_COUNTED = (layout.ROW_KIND_ARRAY, layout.ROW_KIND_BUNDLE)
#: A directory with more entries than this is not one of Muninn's.
_MAX_ENTRIES = 1 << 20
#: For the pid of a process of another PID namespace.
_ELSEWHERE = (1 << 31) - 1
#: The fields of a row that are read.
_ROW = np.dtype(
    {
        "names": ["state", "size", "mode", "kind", "nameLength", "name"],
        "formats": ["<u8", "<u8", "u1", "u1", "u1", f"S{layout.MAX_NAME_BYTES}"],
        "offsets": [
            layout.ROW_STATE_OFFSET,
            layout.ROW_SEGMENT_BYTES_OFFSET,
            layout.ROW_MODE_OFFSET,
            layout.ROW_KIND_OFFSET,
            layout.ROW_NAME_LENGTH_OFFSET,
            layout.ROW_NAME_OFFSET,
        ],
        "itemsize": layout.ROW_BYTES,
    }
)


class Process(NamedTuple):
    """A living process of a domain; its pid is of its own PID namespace."""

    pid: int
    program: str


class Domain(NamedTuple):
    """A domain, as it looks from outside.

    Attributes
    ----------
    state
        ``live``: a process is in it. ``idle``: none is, and its buffers wait for the
        next one. ``left``: none is, and it has files without a buffer. ``empty``: only
        its lock file is there. ``unreadable``: `why` says it. ``hidden``: another
        user's.
    shmBytes
        What its files take in `/dev/shm`; None: not to be known.
    vramBytes
        What its processes have allocated on GPUs.
    """

    uid: int
    domain: str
    state: str
    shmBytes: int | None = None
    vramBytes: int | None = None
    buffers: int | None = None
    processes: tuple[Process, ...] = ()
    broker: Process | None = None
    why: str = ""


def everyDomain() -> list[Domain]:
    """All domains of this machine's `/dev/shm`, by uid and name.

    Raises
    ------
    RuntimeError
        This process is in a domain: to open its lock file for a look would give its
        locks away.
    """
    if membership.isJoined():
        raise RuntimeError("a process that is in a domain does not look from outside")
    return [_seen(uid, name) for uid, name in found()]


def found() -> list[tuple[int, str]]:
    """(uid, name) of the domains that have a file of that user in `/dev/shm`."""
    names = set()
    with os.scandir(SHM_ROOT) as entries:
        for entry in entries:
            if (match := _NAMED.fullmatch(entry.name)) is None:
                continue
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                isKind = (stat.S_ISDIR if match[3] else stat.S_ISREG)(status.st_mode)
                if isKind and status.st_uid == int(match[1]):
                    names.add((status.st_uid, match[2]))
    return sorted(names)


def namesIn(domain: str) -> list[str]:
    """The names of the buffers of a domain of this user, without joining it; none if it
    can not be read.
    """
    paths, names = Paths(os.geteuid(), domain), list[str]()
    with contextlib.suppress(MuninnError, OSError), _block(paths) as (fd, path):
        geometry = readHeader(fd, path)
        for rows in () if geometry is None else _rows(fd, geometry):
            isNamed = np.isin(rows["state"] & layout.ROW_STATE.mask, _LIVE)
            isNamed &= np.isin(rows["kind"], _COUNTED)
            names += [_nameOf(row) for row in rows[isNamed]]
    return sorted(names)


def _nameOf(row: Any) -> str:
    raw: bytes = row["name"][: row["nameLength"]]
    return raw.decode(errors="replace")


def _seen(uid: int, name: str) -> Domain:
    paths = Paths(uid, name)
    if uid != os.geteuid() and os.geteuid() != 0:
        return Domain(uid, name, "hidden")
    shmBytes = None
    try:
        files = _files(paths)
        shmBytes = takenBytes(files)
        try:
            fd, path = openedBlock(paths)
        except FileNotFoundError:
            return Domain(uid, name, _stateWithoutBlock(paths, files), shmBytes)
        with contextlib.closing(fd):
            return _readable(paths, shmBytes, fd, path)
    except (MuninnError, OSError) as error:
        why = error.reason if isinstance(error, MuninnError) else error.strerror or str(error)
        why = f"its control block: {why.removeprefix(f'{paths.linkPath} ')}"
        return Domain(uid, name, "unreadable", shmBytes, processes=_lockers(paths), why=why)


def _readable(paths: Paths, shmBytes: int, fd: Descriptor, path: str) -> Domain:
    geometry = readHeader(fd, path)
    if geometry is None:
        isOwn = (header := Header.of(fd)) is not None and header.isWithdrawn()
        why = "its control block is withdrawn" if isOwn else "its control block is no longer used"
        state = "idle" if _hasSegments(paths) else "left"
        return Domain(paths.uid, paths.domain, state, shmBytes, why=why)
    living = _living(paths, fd, geometry)
    word = int.from_bytes(os.pread(fd.number, 8, layout.ELECTION_OFFSET), "little")
    broker = living.get(layout.ELECTION_SLOT.of(word) - 1)
    buffers = vramBytes = 0
    for rows in _rows(fd, geometry):
        states = rows["state"] & layout.ROW_STATE.mask
        isCounted = np.isin(states, _LIVE) & np.isin(rows["kind"], _COUNTED)
        isFast = (rows["mode"] == _FAST) & (rows["size"] < 1 << 62)
        if not living:  # memory of a GPU goes with its last process
            isCounted &= ~isFast
        buffers += int(isCounted.sum())
        vramBytes += sum(rows["size"][isFast & np.isin(states, TAKING)].tolist())
    state = "live" if living else "idle" if buffers or _hasSegments(paths) else "left"
    return Domain(
        paths.uid,
        paths.domain,
        state,
        shmBytes,
        vramBytes if living else 0,
        buffers,
        tuple(sorted(set(living.values()))),
        broker,
        "" if os.path.lexists(paths.lockPath) else "its lock file was removed",
    )


def _stateWithoutBlock(paths: Paths, files: list[str]) -> str:
    return "idle" if _hasSegments(paths) else "left" if files else "empty"


def _hasSegments(paths: Paths) -> bool:
    return bool(paths.segmentKeys())


def _files(paths: Paths) -> list[str]:
    """The files of the domain besides the lock file, whoever has made them."""
    files = []
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(paths.blockPath)
        if stat.S_ISREG(status.st_mode) and status.st_uid == paths.uid:
            files.append(paths.blockPath)
    with contextlib.suppress(FileNotFoundError), os.scandir(paths.directory) as entries:
        for number, entry in enumerate(entries):
            if number >= _MAX_ENTRIES:
                raise OSError(0, f"{paths.directory} has more than {_MAX_ENTRIES} files")
            if entry.name != LOCK_NAME:
                files.append(entry.path)
    return files


@contextlib.contextmanager
def _block(paths: Paths) -> Iterator[tuple[Descriptor, str]]:
    """The control block, opened for reading. Raises `FileNotFoundError`."""
    fd, path = openedBlock(paths)
    with contextlib.closing(fd):
        yield fd, path


def _openedLock(paths: Paths) -> Descriptor | None:
    """The lock file, opened for reading; None if it was removed."""
    with contextlib.suppress(FileNotFoundError):
        return openedFile(paths, paths.lockPath)
    return None


def _living(paths: Paths, fd: Descriptor, geometry: Geometry) -> dict[int, Process]:
    """The members that live, by slot. Where the lock file was removed, no byte of it
    tells, and the rest decides.
    """
    raw = os.pread(fd.number, geometry.maxMembers * layout.MEMBER_BYTES, layout.MEMBERS_OFFSET)
    living = {}
    lock = _openedLock(paths)
    with contextlib.nullcontext() if lock is None else contextlib.closing(lock):
        for slot in range(len(raw) // layout.MEMBER_BYTES):
            member = raw[slot * layout.MEMBER_BYTES :][: layout.MEMBER_BYTES]
            if (process := _process(member, lock, slot)) is not None:
                living[slot] = process
    return living


def _lockers(paths: Paths) -> tuple[Process, ...]:
    """The processes that have a byte of the lock file, where no slot can be read: those
    of another version of Muninn.
    """
    pids = set[int]()
    # What is wrong with the domain is said already.
    with (
        contextlib.suppress(OSError, MuninnError),
        contextlib.closing(openedFile(paths, paths.lockPath)) as lock,
    ):
        if atomics.rangeHolder(lock.number, FIRST_SLOT_BYTE, layout.MAX_MEMBERS_LIMIT) > 0:
            slots = range(FIRST_SLOT_BYTE, FIRST_SLOT_BYTE + layout.MAX_MEMBERS_LIMIT)
            pids = {atomics.byteHolder(lock.number, slot) for slot in slots}
    return tuple(Process(pid, "") for pid in sorted(pids) if 0 < pid < _ELSEWHERE)


def _process(member: bytes, lock: Descriptor | None, slot: int) -> Process | None:
    """The process of a member slot, if it lives."""
    state = layout.MEMBER_STATE.of(int.from_bytes(member[:8], "little"))
    if state not in (layout.MEMBER_CLAIMING, layout.MEMBER_LIVE):
        return None
    identity = MemberIdentity.unpacked(member[IDENTITY_OFFSET : IDENTITY_OFFSET + IDENTITY_BYTES])
    robust = int.from_bytes(member[layout.MEMBER_ROBUST_OFFSET :][:4], "little")
    if lock is None or atomics.byteHolder(lock.number, FIRST_SLOT_BYTE + slot) == 0:
        # Whoever reads the lock file takes the byte away from a process that lives.
        isMarked = bool(layout.ROBUST_OWNER_DIED.of(robust))
        isNear = identity.pidNamespace == ownPidNamespace()
        if state == layout.MEMBER_CLAIMING or isMarked:
            return None
        if isNear and processIsGone(identity.pid, identity.startTime):
            return None
    name = member[layout.MEMBER_PROGRAM_OFFSET :][: layout.MEMBER_PROGRAM_BYTES]
    return Process(identity.pid, name.partition(b"\0")[0].decode(errors="replace"))


def _rows(fd: Descriptor, geometry: Geometry) -> Iterator[Any]:
    """The rows that were ever used, some at a time."""
    word = int.from_bytes(os.pread(fd.number, 8, layout.ROWS_READY_OFFSET), "little")
    count = min(layout.ROWS_READY_COUNT.of(word), geometry.maxBuffers)
    for first in range(0, count, layout.ROW_CHUNK):
        wanted = min(layout.ROW_CHUNK, count - first) * layout.ROW_BYTES
        raw = os.pread(fd.number, wanted, geometry.rowsOffset + first * layout.ROW_BYTES)
        yield np.frombuffer(raw[: len(raw) // layout.ROW_BYTES * layout.ROW_BYTES], _ROW)
