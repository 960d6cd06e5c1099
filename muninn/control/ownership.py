"""Ownership: a file of the domain is its user's alone.

The directory keeps others out (`folders.py`), so a file's own mode matters after somebody has opened both, as an administrator does by
`chmod -R`; and for the block's public name, which is outside. Where others could only read, nothing can have been changed: whoever opens
the file puts its mode right. Where they could write nothing is believed before a person has said so, by a `chmod`.
"""

from __future__ import annotations

import os
import stat

from muninn.control.atomics import Known
from muninn.control.logs import Log
from muninn.errors import ControlBlockInvalid

_log = Log("muninn.control")
_PRIVATE = 0o600


def isWritableByOthers(status: os.stat_result) -> bool:
    return bool(status.st_mode & 0o022)


def isOwnFile(status: os.stat_result, uid: int) -> bool:
    """Whether it is a regular file of this user that nobody else can have written to."""
    return stat.S_ISREG(status.st_mode) and status.st_uid == uid and not isWritableByOthers(status)


def requireUnwritten(status: os.stat_result, path: str) -> None:
    """Raise `ControlBlockInvalid` when others could have written to it."""
    if isWritableByOthers(status):
        raise ControlBlockInvalid(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others may have written to it",
            f"`chmod -R go= {os.path.dirname(path)}` if nobody has; otherwise remove it",
        )


def putRight(path: str, uid: int, fd: Known | None = None) -> None:
    """See that a file of the domain is nobody else's to read either, and its user's to open; by a descriptor where there is one.

    Raises
    ------
    ControlBlockInvalid
        It is another user's, or others could have written to it.
    """
    status = os.lstat(path) if fd is None else os.fstat(fd.number)
    if status.st_uid != uid:
        raise ControlBlockInvalid(
            f"{path} is uid {status.st_uid}'s, among the files of uid {uid}", "Remove it: nobody of its domain can use it"
        )
    requireUnwritten(status, path)
    if (mode := stat.S_IMODE(status.st_mode)) != _PRIVATE and stat.S_ISREG(status.st_mode):
        os.chmod(path if fd is None else fd.number, _PRIVATE)
        if mode & ~_PRIVATE:  # others' bits do not come from a umask, which takes some away until the file's maker gives them back
            _log.warning("%s had mode %04o, and has %04o again: others could read it", path, mode, _PRIVATE)
