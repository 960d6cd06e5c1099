"""Purging: removing what a domain without a living process has left.

A domain has files after its last process when that process was killed, or left buffers
that stay until they are freed. Some of these files are nobody's: the next process would
remove them, or never look at them. The others are needed: a segment that a journal or
the block vouches for, these journals, and the block that says why the domain drains, or
that the holder of a lock has died.
They are removed only if the user was told what they are.

1. The purging process takes the lock file's CREATE byte, which a creation, a repair and
   a retirement take too, and gives back a withdrawal that a death has interrupted.
2. It withdraws the block, so that no process joins.
3. It looks for a process in the domain as a repair does: a locked slot byte, a member
   that is not confirmed dead, a process that has a removed lock file open. If there is
   one, or if it can not be known, it gives the block back and removes nothing.
4. It asks the journals and the block which segments are known (`vouching.py`).
5. If something is needed that the user was not told of, it removes what is nobody's and
   gives the block back. Otherwise it removes the names of the block first, then the
   segments, the journals and the rest.

A death in between leaves a block without a version, to which the next process gives it
back; or no block, and journals whose segments are partly gone: the next process adopts
the rest. The lock file and the directory stay, because byte locks exclude each other
only while all processes open the same file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from muninn.broker.holders import Holders
from muninn.broker.repair import Adoption
from muninn.control import layout
from muninn.control.block import ControlBlock
from muninn.control.creation import openExisting
from muninn.control.drain import Drain
from muninn.control.header import (
    Header,
    isOurs,
    openNamed,
    readHeader,
    unlinkBlock,
    unlinkFile,
)
from muninn.control.lockfile import LockFile, hiddenHolder
from muninn.control.members import MemberTable
from muninn.control.rows import RowTable
from muninn.control.withdrawal import Withdrawal, inhabitantOf, reinstate
from muninn.errors import ControlBlockInvalid
from muninn.storage.paths import Kind, Paths, SegmentKey, kindOf

#: How long a purge waits for the process that holds CREATE.
_CREATE_SECONDS = 2.0


class Remains(NamedTuple):
    """What a domain without a living process has left.

    Attributes
    ----------
    buffers
        The buffers that the next process would adopt: their names and sizes in bytes.
    known
        Their segments, and those of which this version can not say whose they are.
    why
        Why the domain is kept besides them: it drains, the holder of a lock has died, or
        its block is damaged. Empty: nothing else is needed.
    loose, needed
        The paths of the files that are nobody's, and of the others.
    """

    buffers: dict[str, int]
    known: frozenset[SegmentKey]
    why: str
    loose: list[str]
    needed: list[str]

    def isNeeded(self) -> bool:
        return bool(self.known or self.why)


class Inhabited(NamedTuple):
    """A process is in the domain, or it can not be known that it is not."""

    pid: int
    isCertain: bool = True


def remainsOf(paths: Paths) -> Remains | Inhabited:
    """What a purge would find. Changes nothing, and keeps no process out, so the answer
    may be out of date at once.
    """
    if not os.path.lexists(paths.lockPath):
        # The next process makes a lock file, to which this block does not belong. So it
        # would adopt what the journals vouch for.
        return _inhabited(paths, None, None) or _remains(paths, None, _damage(paths))
    lockFile = LockFile(paths)
    try:
        old, why = _opened(lockFile.paths, lockFile)
        try:
            return _inhabited(lockFile.paths, lockFile, old) or _remains(lockFile.paths, old, why)
        finally:
            if old is not None:
                old.close()
    finally:
        lockFile.close()


def purge(paths: Paths, told: Remains | None) -> Remains | Inhabited:
    """Remove what is nobody's, and also what is needed if it is all in `told`.

    Returns
    -------
    Remains
        What was removed is in `loose`, what was kept in `needed`.

    Raises
    ------
    BrokerUnavailable
        Another process holds CREATE.
    ControlBlockInvalid
        Other users could have written to the domain's files.
    """
    lockFile = LockFile(paths)
    try:
        with lockFile.creating(_CREATE_SECONDS):
            return _purged(lockFile.paths, lockFile, told)
    finally:
        lockFile.close()


def _purged(paths: Paths, lockFile: LockFile, told: Remains | None) -> Remains | Inhabited:
    old, why = _opened(paths, lockFile, mayReinstate=True)
    isGone, withdrawal = False, Withdrawal(paths, lockFile)
    try:
        if inhabited := _inhabited(paths, lockFile, old):
            return inhabited
        remains = _remains(paths, old, why)
        if told is not None and remains.known <= told.known and remains.why in ("", told.why):
            remains = remains._replace(loose=[*remains.loose, *remains.needed], needed=[])
        isGone = not remains.needed
        lockFile.requireCreating()
        if isGone:
            unlinkBlock(paths)
        for path in sorted(remains.loose, key=_isJournal):
            if path not in (paths.linkPath, paths.blockPath):
                unlinkFile(path)
        return remains
    finally:
        if not isGone:
            withdrawal.giveBack()
        withdrawal.close()
        if old is not None:
            old.close()


def _isJournal(path: str) -> bool:
    """Journals go after what they vouch for: a death in between leaves nothing that no
    process would find.
    """
    return kindOf(os.path.basename(path)) is Kind.JOURNAL


def _opened(
    paths: Paths, lockFile: LockFile, mayReinstate: bool = False
) -> tuple[ControlBlock | None, str]:
    """The block, if it can be read, and otherwise why not."""
    try:
        if mayReinstate:
            reinstate(paths, lockFile)
        return openExisting(paths, lockFile), ""
    except ControlBlockInvalid as error:
        return None, _whyUnread(paths, error)


def _damage(paths: Paths) -> str:
    """Why the next process would refuse the block of a domain without a lock file; empty
    if it would replace it.
    """
    try:
        if (named := openNamed(paths)) is None:
            return ""
        fd, path = named
        with contextlib.closing(fd):
            header = Header.of(fd)
            if header is not None and header.magic != layout.MAGIC:
                readHeader(fd, path)
        return ""
    except ControlBlockInvalid as error:
        return _whyUnread(paths, error)


def _whyUnread(paths: Paths, error: ControlBlockInvalid) -> str:
    return f"its control block: {error.reason.removeprefix(f'{paths.linkPath} ')}"


def _inhabited(
    paths: Paths, lockFile: LockFile | None, old: ControlBlock | None
) -> Inhabited | None:
    """The process that is in the domain, or may be. A block that can be read names all
    its members, so without one alone a process that hides its files may be one.
    """
    holder = inhabitantOf(paths, lockFile)
    if not holder and old is not None:
        holder = MemberTable(old).inhabitant()
    if holder:
        return Inhabited(holder)
    hidden = hiddenHolder(paths.uid) if old is None else 0
    return Inhabited(hidden, isCertain=False) if hidden else None


def _remains(paths: Paths, old: ControlBlock | None, why: str) -> Remains:
    there = set(paths.segmentKeys())
    wanted, known = Adoption(old).known(paths, paths.journals(), there)
    if why:  # a block that can not be read may know more than the journals
        known = there
    if old is not None:
        why = ", ".join(_whyNeeded(old))
    buffers = {
        description.name: description.segmentBytes
        for key, description in wanted.items()
        if key in known
    }
    files = _files(paths)
    if not (known or why):
        return Remains({}, frozenset(), "", files, [])
    loose = [path for path in files if _isLoose(paths, path, known)]
    return Remains(
        dict(sorted(buffers.items())),
        frozenset(known),
        why,
        loose,
        [path for path in files if path not in loose],
    )


def _whyNeeded(old: ControlBlock) -> Iterator[str]:
    """What the next process would learn of the block, besides its buffers."""
    if (reason := Drain(old).reason()) is not None:
        yield f"the domain drains{f' ({reason})' * bool(reason)}"
    for name in Holders(old, MemberTable(old), RowTable(old)).locksOfTheDead():
        yield f"the holder of lock {name!r} has died"


def _isLoose(paths: Paths, path: str, known: set[SegmentKey]) -> bool:
    """Whether a file is nobody's although the domain is kept: a segment that nothing
    knows, a socket, a file that was being made.
    """
    if path == paths.blockPath:
        return False
    entry = os.path.basename(path)
    if (key := paths.segmentOf(entry)) is not None:
        return key not in known
    return kindOf(entry) in (Kind.SOCKET, Kind.UNFINISHED)


def _files(paths: Paths) -> list[str]:
    """The files of the domain, without the lock file and without files that Muninn has
    not made.
    """
    found = []
    folder = paths.directory
    if os.path.isdir(folder):
        found = [f"{folder}/{entry}" for entry in sorted(os.listdir(folder)) if kindOf(entry)]
    if os.path.lexists(paths.blockPath) and isOurs(
        os.lstat(paths.blockPath), paths.blockPath, paths
    ):
        found.append(paths.blockPath)
    return found
