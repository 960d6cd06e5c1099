"""Where a domain's things are: names in `/dev/shm`, and nothing else.

One uid and one domain name give one place, whatever the environment, so that two
programs of one user can not disagree. It is all one tmpfs: it goes together at a
reboot. Everything is in one directory of mode 0700 (`folders.py`), which no other user
can write to or plant anything in; only the control block has a second name outside, by
which POSIX shared memory is opened. Segments, journals and sockets carry the identity
of the control block that they belong to, so nothing of two blocks is ever mistaken for
one another's.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from muninn.storage import folders
from muninn.storage.folders import LOCK_NAME
from muninn.system.oserrors import SHM_ROOT as SHM_ROOT
from muninn.system.oserrors import fileError

#: What the name of a journal's copy has more than the journal's own, until it is whole.
COPY_SUFFIX = ".new"
_SEGMENT = re.compile(r"segment-([0-9a-f]{16})-(\d+)-(\d+)")


class SegmentKey(NamedTuple):
    """One segment: the identity of the block that made it, and the row and incarnation
    that it was made for.
    """

    origin: int
    row: int
    incarnation: int


class Paths(NamedTuple):
    """The names that belong to one domain, and to one control block of it once
    `identity` is known.

    `folder` is the name of the domain's directory once that is settled; until then it
    is looked up at each use.
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
        """The control block, as `shm_open` wants it."""
        return f"/{self.stem}"

    @property
    def blockPath(self) -> str:
        """The control block's public name. Another user may be there first, and then it
        has only `linkPath`.
        """
        return f"{SHM_ROOT}{self.blockName}"

    @property
    def linkPath(self) -> str:
        """The control block's name in the domain's own directory: the one that counts."""
        return f"{self.directory}/block"

    @property
    def temporaryPath(self) -> str:
        """A control block that is being made, which no other process opens. Only the
        process that holds CREATE makes one.
        """
        return f"{self.directory}/block.new"

    def segmentName(self, row: int, incarnation: int, origin: int = 0) -> str:
        """The segment of one buffer, below `/dev/shm`."""
        origin = origin or self.identity
        return f"/{self.folder or self._found()}/segment-{origin:016x}-{row}-{incarnation}"

    def segmentKeys(self) -> list[SegmentKey]:
        """The segments that exist now, whichever block made them."""
        matches = (_SEGMENT.fullmatch(entry) for entry in self._entries())
        return [
            SegmentKey(int(match[1], 16), int(match[2]), int(match[3]))
            for match in matches
            if match
        ]

    @property
    def segmentMark(self) -> str:
        """What the path of every segment of the domain begins with."""
        return f"{self.directory}/"

    def segmentOf(self, entry: str) -> SegmentKey | None:
        """Which segment a name in the domain's directory is; None when it is none."""
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

    def epochsOf(self, kind: str) -> list[int]:
        """The epochs of this block, ascending, that left a `journal`, or a `broker` or
        `descriptorServer` socket, behind.
        """
        return sorted(epoch for identity, epoch in self._marked(kind) if identity == self.identity)

    def journals(self) -> list[tuple[Paths, int]]:
        """All journals, of whichever block: its places and the epoch. Those of one
        block are in the order of their epochs.
        """
        return [
            (self._replace(identity=identity), epoch)
            for identity, epoch in sorted(self._marked("journal"))
        ]

    def copies(self) -> list[str]:
        """The paths of the copies of journals, of whichever block, that are not whole.
        Nothing depends on them.
        """
        return [
            f"{self.directory}/{entry}"
            for entry in self._entries()
            if entry.startswith("journal-") and entry.endswith(COPY_SUFFIX)
        ]

    def _marked(self, kind: str) -> list[tuple[int, int]]:
        pattern = re.compile(rf"{kind}-([0-9a-f]{{16}})-(\d+)(?:\.sock)?")
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
        """The same with the directory that is the domain's now, made if there is none.
        Raises what `folders.made` does.
        """
        return self._replace(folder=folders.made(self.stem, self.uid))
