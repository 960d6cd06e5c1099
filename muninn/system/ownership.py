"""Ownership: each file of a domain belongs to the domain's user, and to no other.

The directory keeps other users out (`folders.py`). So the mode of a file matters only
after a person has opened both, as an administrator does by `chmod -R`; and for the
block's public name, which is outside the directory. If other users could only read,
they can have changed nothing: the process that opens the file corrects its mode. If
they could write, Muninn uses the file only after a person has said by a `chmod` that it
is as it was.

A process may change its effective uid at any moment, so also between any two steps of a
thread. A file that it makes then belongs to another user. As root it may even make the
file in the directory of this user, and that file would keep this user out for ever. So
a process that has made a file checks the file's owner afterwards.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat

from muninn.errors import ControlBlockInvalid, DomainChanged, MuninnError, PermissionDenied
from muninn.system.atomics import Known
from muninn.system.logs import Log

_log = Log("muninn.control")
_PRIVATE = 0o600
_OF_A_DOMAIN = re.compile(r"/dev/shm/muninn-(\d+)-")


def isWritableByOthers(status: os.stat_result) -> bool:
    return bool(status.st_mode & 0o022)


def isOwnFile(status: os.stat_result, uid: int) -> bool:
    """Whether it is a regular file of this user to which no other user can have
    written.
    """
    return stat.S_ISREG(status.st_mode) and status.st_uid == uid and not isWritableByOthers(status)


def requireUnwritten(status: os.stat_result, path: str) -> None:
    """Raise `ControlBlockInvalid` if other users could have written to it."""
    if isWritableByOthers(status):
        raise ControlBlockInvalid(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others may have written to it",
            f"`chmod -R go= {os.path.dirname(path)}` if they have not; otherwise remove it",
        )


def putRight(path: str, uid: int, fd: Known | None = None) -> None:
    """Give a file of the domain mode 0600, so that only its user may read it. Uses the
    descriptor `fd` if it is given.

    Raises
    ------
    ControlBlockInvalid
        The file belongs to another user, or other users could have written to it.
    """
    status = os.lstat(path) if fd is None else os.fstat(fd.number)
    if status.st_uid != uid:
        raise ControlBlockInvalid(
            f"{path} is uid {status.st_uid}'s, among the files of uid {uid}",
            "Remove it: no process of its domain can use it",
        )
    requireUnwritten(status, path)
    if (mode := stat.S_IMODE(status.st_mode)) != _PRIVATE and stat.S_ISREG(status.st_mode):
        os.chmod(path if fd is None else fd.number, _PRIVATE)
        # A umask never sets bits of other users. It only clears bits, until the process
        # that made the file sets them.
        if mode & ~_PRIVATE:
            _log.warning(
                "%s had mode %04o, and has %04o again: others could read it", path, mode, _PRIVATE
            )


def requireMade(path: str, uid: int | None, mode: int, fd: Known | None = None) -> None:
    """Check the owner of a file that this process has just made, and set its mode,
    independent of the umask.

    If it belongs to another uid than `uid`, it is removed, and the call raises
    `DomainChanged`. None stands for the effective uid of this thread.
    """
    uid = os.geteuid() if uid is None else uid
    status = os.lstat(path) if fd is None else os.fstat(fd.number)
    if status.st_uid == uid:
        try:
            if stat.S_IMODE(status.st_mode) != mode:
                os.chmod(path if fd is None else fd.number, mode)
        except PermissionError as error:
            raise refusal(error, path) from error
        return
    # The process may have no right to remove it, under the uid that it has by now.
    # Other processes then avoid the directory as a stranger's.
    with contextlib.suppress(OSError):
        (os.rmdir if stat.S_ISDIR(status.st_mode) else os.unlink)(path)
    raise _changed(path, uid, f"made as uid {status.st_uid}")


def requireUid(path: str, uid: int) -> None:
    """Raise `DomainChanged` if this thread has another effective uid."""
    if os.geteuid() != uid:
        raise _changed(path, uid, f"looked for as uid {os.geteuid()}")


def refusal(error: OSError, path: str) -> MuninnError:
    """The typed error for an operation that the rights of a file or of this process
    forbid.
    """
    paths = [each for each in (path, error.filename) if isinstance(each, str)]
    matches = [match for each in paths if (match := _OF_A_DOMAIN.match(each))]
    if matches and (os.geteuid() != int(matches[0][1]) or _isAllowedNow(matches[0].string)):
        return _changed(matches[0].string, int(matches[0][1]), error.strerror or "refused")
    return PermissionDenied(
        f"{path}: {error.strerror} ({error.filename})"
        if len(paths) > 1 and paths[0] != paths[1]
        else f"{path}: {error.strerror}",
        f"Let uid {os.geteuid()} use it; if this process has changed its uid meanwhile, ask again",
    )


def _changed(path: str, uid: int, what: str) -> DomainChanged:
    return DomainChanged(
        f"{path}: {what}: this process has changed its uid meanwhile, which was {uid}", "Ask again"
    )


def _isAllowedNow(path: str) -> bool:
    folder = os.path.dirname(path)
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=True) and (
        not os.path.lexists(path) or os.access(path, os.R_OK | os.W_OK, effective_ids=True)
    )
