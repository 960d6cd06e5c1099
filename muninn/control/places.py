"""Where a domain's things are: names in `/dev/shm`, and nothing else.

One uid and one domain name give one place, whatever the environment, so that two programs of one user can not disagree. It is
all one tmpfs: it goes together at a reboot.
"""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple

from muninn.errors import ControlBlockInvalid, HostMemoryFull

SHM_ROOT = "/dev/shm"


class Places(NamedTuple):
    """The names that belong to one domain."""

    uid: int
    domain: str

    @property
    def stem(self) -> str:
        return f"muninn-{self.uid}-{self.domain}"

    @property
    def blockName(self) -> str:
        """The control block, as `shm_open` wants it."""
        return f"/{self.stem}"

    def segmentName(self, row: int, incarnation: int) -> str:
        """The segment of one buffer, as `shm_open` wants it."""
        return f"/{self.stem}.{row}.{incarnation}"

    def segments(self) -> list[tuple[int, int]]:
        """The segments that exist now, as (row, incarnation)."""
        pattern = re.compile(re.escape(self.stem) + r"\.(\d+)\.(\d+)")
        matches = (pattern.fullmatch(entry) for entry in os.listdir(SHM_ROOT))
        return [(int(match[1]), int(match[2])) for match in matches if match]

    @property
    def directory(self) -> str:
        return f"{SHM_ROOT}/{self.stem}.d"

    @property
    def lockPath(self) -> str:
        return f"{self.directory}/lock"

    def journalPath(self, epoch: int) -> str:
        return f"{self.directory}/journal-{epoch}"

    def socketPath(self, epoch: int) -> str:
        return f"{self.directory}/broker-{epoch}.sock"

    def hatchPath(self, epoch: int) -> str:
        return f"{self.directory}/hatch-{epoch}.sock"

    def epochsOf(self, kind: str) -> list[int]:
        """The epochs, ascending, that left a `journal`, or a `broker` or `hatch` socket, behind."""
        pattern = re.compile(rf"{kind}-(\d+)(?:\.sock)?")
        try:
            entries = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return sorted(int(match[1]) for match in map(pattern.fullmatch, entries) if match)

    def makeDirectory(self) -> None:
        """Make the directory, or refuse one that somebody else could have put there."""
        try:
            os.mkdir(self.directory, 0o700)
        except FileExistsError:
            status = os.lstat(self.directory)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != self.uid or status.st_mode & 0o077:
                raise ControlBlockInvalid(
                    f"{self.directory} is not a directory of uid {self.uid} with mode 0700", "Remove it, once you know who made it"
                ) from None
        except OSError as error:
            raise HostMemoryFull(f"{self.directory} can not be made: {error.strerror}") from error
