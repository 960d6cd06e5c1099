"""The owner of a domain: root does for the domain of another user what that user could
do, and no more, since a file of another user may be a trap for root.

A child of this process becomes that user: with its groups, its gid and its uid, the
saved ones too. The euid alone is not enough. The kernel shows the files that a process
has open only to a process whose uid and gid both agree, and would hide that the owner's
processes have files of the domain open. The child tells what it has done as JSON, so
the parent takes no object from it. A child that is killed leaves what a killed command
leaves.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from muninn.errors import PermissionDenied
from muninn.storage.paths import Paths
from muninn.system import descriptors

_DONE, _FAILED, _REFUSED, _INTERRUPTED = 0, 1, 3, 130


def asOwner(paths: Paths, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` returns, which can be written as JSON. It runs in this process, if
    this is the owner's, and otherwise in a child.

    Raises
    ------
    PermissionDenied
        This process may not become that user.
    RuntimeError
        The work failed, and the child has printed why.
    """
    if paths.uid == os.geteuid():
        return work()
    gid, groups = _groupsOf(paths)
    told = descriptors.memfd("muninn-owner")
    try:
        sys.stdout.flush()  # the child has a copy of what was not written yet
        pid = os.fork()
        if pid == 0:
            _endAs(paths.uid, gid, groups, work, told.number)
        status = _statusOf(pid)
        if status == _DONE:
            answer: dict[str, Any] = json.loads(
                os.pread(told.number, os.fstat(told.number).st_size, 0)
            )
            return answer
    finally:
        told.close()
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    if status == _REFUSED:
        raise PermissionDenied(f"this process may not become uid {paths.uid}", "Do it as that user")
    raise RuntimeError(f"the work as uid {paths.uid} ended with status {status}")


def _groupsOf(paths: Paths) -> tuple[int, list[int]]:
    """The gid and the groups of the owner. A uid without an entry has the gid with
    which it has made the domain.
    """
    try:
        user = pwd.getpwuid(paths.uid)
    except KeyError:
        place = paths.directory if os.path.lexists(paths.directory) else paths.blockPath
        gid = os.lstat(place).st_gid
        return gid, [gid]
    return user.pw_gid, os.getgrouplist(user.pw_name, user.pw_gid)


def _endAs(
    uid: int, gid: int, groups: list[int], work: Callable[[], dict[str, Any]], into: int
) -> None:
    """Become that user, do the work, and end this process."""
    status = _FAILED
    try:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
        except PermissionError:
            status = _REFUSED
        else:
            os.pwrite(into, json.dumps(work()).encode(), 0)
            status = _DONE
    except KeyboardInterrupt:
        status = _INTERRUPTED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # no code of the parent runs here


def _statusOf(pid: int) -> int:
    """The status with which the child ends. It may ask the user, so the wait has no
    bound of its own.
    """
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except KeyboardInterrupt:
        # The terminal has told the child as well; a `kill` has not.
        os.kill(pid, signal.SIGINT)
        os.waitpid(pid, 0)
        raise
