"""Paths: the names of a domain's files in `/dev/shm`.

One uid and one domain name give one set of paths, independent of the environment, so
that two programs of one user can not disagree. All files are on one tmpfs, so a reboot
removes all of them together. They are in one directory of mode 0700 (`folders.py`), to
which no other user can write. Only the control block has a second name outside the
directory, by which POSIX shared memory is opened. The names of segments, journals and
sockets contain the identity of their control block, so a process never takes a file of
one block for a file of another. What a name in the directory stands for is said here
(`Kind`), for all that remove, list and count these files.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from muninn.storage import folders
from muninn.storage.folders import LOCK_NAME
from muninn.system.oserrors import SHM_ROOT as SHM_ROOT
from muninn.system.oserrors import fileError

#: The suffix of the name of a block or of a journal's copy, until it is whole.
COPY_SUFFIX = ".new"
_BLOCK = "block"
_IDENTITY = "[0-9a-f]{16}"
_SEGMENT = re.compile(rf"segment-({_IDENTITY})-(\d+)-(\d+)")


class Kind(Enum):
    """What a file in the domain's directory is, besides the lock file."""

    BLOCK = "block"
    SEGMENT = "segment"
    JOURNAL = "journal"
    SOCKET = "socket"
    #: A block or a journal's copy that is being made. Nothing depends on it.
    UNFINISHED = "unfinished"


_KINDS = {
    Kind.BLOCK: re.compile(_BLOCK),
    Kind.SEGMENT: _SEGMENT,
    Kind.JOURNAL: re.compile(rf"journal-{_IDENTITY}-\d+"),
    Kind.SOCKET: re.compile(
        rf"(?:(?:broker|descriptorServer|endpoint)-{_IDENTITY}-\d+|http)\.sock"
    ),
    Kind.UNFINISHED: re.compile(rf"(?:{_BLOCK}|journal-{_IDENTITY}-\d+){re.escape(COPY_SUFFIX)}"),
}


def kindOf(entry: str) -> Kind | None:
    """What a name in a domain's directory stands for; None for the lock file, and for a
    name that Muninn does not give.
    """
    return next((kind for kind, name in _KINDS.items() if name.fullmatch(entry)), None)


def takenBytes(files: Iterable[str]) -> int:
    """How many bytes of `/dev/shm` these files take. A file with two names counts once,
    and one that is gone not at all.
    """
    taken: dict[int, int] = {}
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(path)
            taken[status.st_ino] = status.st_blocks * 512
    return sum(taken.values())


class SegmentKey(NamedTuple):
    """Identifies a segment: the identity of the block that made it, and the row and
    incarnation for which it was made.
    """

    origin: int
    row: int
    incarnation: int


class Paths(NamedTuple):
    """The names of one domain, and of one control block of it once `identity` is known.

    `folder` is the name of the domain's directory once that is established. Until then
    the directory is looked up at each use.
    """

    uid: int
    domain: str
    identity: int = 0
    folder: str = ""

    @property
    def stem(self) -> str:
        return f"muninn-{self.uid}-{self.domain}"

    @property
    def blockName(self) -> str:
        """The name of the control block for `shm_open`."""
        return f"/{self.stem}"

    @property
    def blockPath(self) -> str:
        """The control block's public name. If another user has taken it, the block has
        only `linkPath`.
        """
        return f"{SHM_ROOT}{self.blockName}"

    @property
    def linkPath(self) -> str:
        """The control block's name in the domain's own directory, which decides."""
        return f"{self.directory}/{_BLOCK}"

    @property
    def temporaryPath(self) -> str:
        """The name of a control block that is being made. No other process opens it,
        and only the process that holds CREATE makes it.
        """
        return f"{self.directory}/{_BLOCK}{COPY_SUFFIX}"

    def segmentName(self, row: int, incarnation: int, origin: int = 0) -> str:
        """The name of a buffer's segment, below `/dev/shm`."""
        origin = origin or self.identity
        return f"/{self.folder or self._found()}/segment-{origin:016x}-{row}-{incarnation}"

    def segmentKeys(self) -> list[SegmentKey]:
        """The segments that exist now, of all blocks."""
        matches = (_SEGMENT.fullmatch(entry) for entry in self._entries())
        return [
            SegmentKey(int(match[1], 16), int(match[2]), int(match[3]))
            for match in matches
            if match
        ]

    @property
    def segmentMark(self) -> str:
        """The prefix of the path of every segment of the domain."""
        return f"{self.directory}/"

    def segmentOf(self, entry: str) -> SegmentKey | None:
        """The segment that a name in the domain's directory stands for; None if it is
        no segment's.
        """
        match = _SEGMENT.fullmatch(entry)
        return SegmentKey(int(match[1], 16), int(match[2]), int(match[3])) if match else None

    def segments(self) -> list[tuple[int, int]]:
        """The same as (row, incarnation)."""
        return [(key.row, key.incarnation) for key in self.segmentKeys()]

    @property
    def directory(self) -> str:
        return f"{SHM_ROOT}/{self.folder or self._found()}"

    @property
    def lockPath(self) -> str:
        return f"{self.directory}/{LOCK_NAME}"

    def journalPath(self, epoch: int) -> str:
        return f"{self.directory}/journal-{self.identity:016x}-{epoch}"

    def socketPath(self, epoch: int) -> str:
        return f"{self.directory}/broker-{self.identity:016x}-{epoch}.sock"

    def descriptorServerPath(self, epoch: int) -> str:
        return f"{self.directory}/descriptorServer-{self.identity:016x}-{epoch}.sock"

    def httpPath(self) -> str:
        """The socket of the HTTP interface, the same for all blocks of the domain."""
        return f"{self.directory}/http.sock"

    def endpointPath(self, port: int) -> str:
        """The socket at which the members that answer on a TCP port hand on that
        port's listening socket.
        """
        return f"{self.directory}/endpoint-{self.identity:016x}-{port}.sock"

    def endpointPaths(self, port: int) -> list[str]:
        """Such sockets that exist, of all blocks."""
        pattern = re.compile(rf"endpoint-{_IDENTITY}-{port}\.sock")
        return [f"{self.directory}/{each}" for each in self._entries() if pattern.fullmatch(each)]

    def epochsOf(self, kind: str) -> list[int]:
        """The epochs of this block, ascending, of which there is a `journal`, or a
        `broker` or `descriptorServer` socket.
        """
        return sorted(epoch for identity, epoch in self._marked(kind) if identity == self.identity)

    def journals(self) -> list[tuple[Paths, int]]:
        """All journals, of all blocks: the paths of its block, and the epoch. The
        journals of one block are in the order of their epochs.
        """
        return [
            (self._replace(identity=identity), epoch)
            for identity, epoch in sorted(self._marked("journal"))
        ]

    def copies(self) -> list[str]:
        """The paths of the copies of journals that are not whole, of all blocks.
        Nothing depends on these copies.
        """
        return [
            f"{self.directory}/{entry}"
            for entry in self._entries()
            if entry.startswith("journal-") and entry.endswith(COPY_SUFFIX)
        ]

    def sockets(self) -> list[str]:
        """The paths of the sockets of all blocks."""
        found = [each for each in self._entries() if kindOf(each) is Kind.SOCKET]
        return [f"{self.directory}/{each}" for each in found]

    def _marked(self, kind: str) -> list[tuple[int, int]]:
        pattern = re.compile(rf"{kind}-({_IDENTITY})-(\d+)(?:\.sock)?")
        return [
            (int(match[1], 16), int(match[2]))
            for match in map(pattern.fullmatch, self._entries())
            if match
        ]

    def _entries(self) -> list[str]:
        try:
            return os.listdir(self.directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise fileError(error, self.directory) from error

    def _found(self) -> str:
        return folders.found(self.stem, self.uid)

    def makeDirectory(self) -> Paths:
        """The same paths with the domain's directory, which is made if there is none.
        Raises the errors of `folders.made`.
        """
        return self._replace(folder=folders.made(self.stem, self.uid))
