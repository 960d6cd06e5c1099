"""Processes, as the kernel tells of them: whether one has ended, when it began, its PID
namespace and what a person would call it.

A pid alone names no process, since the kernel gives it to another process later. A
process is told from all others by its pid, its start time and its PID namespace; a
pidfd stays that process's. `kill(pid, 0)` is never asked: it succeeds on zombies and on
strangers.
"""

from __future__ import annotations

import errno
import os
import sys

from muninn.system import atomics, clock
from muninn.system.descriptors import Descriptor
from muninn.system.files import openFile
from muninn.system.oserrors import fileError, hasProc

#: What pidfd_open says of a number that no process has: nobody's, or that of another
#: process's thread (EINVAL, since Linux 6.15 ENOENT).
_NO_SUCH_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)
#: This process's PID namespace, as it was read last: after a chroot there may be no
#: /proc.
_seen: dict[str, int] = {}


def processIsGone(pid: int, startTime: int) -> bool:
    """Whether the process that had `pid` and began at `startTime` has ended (a zombie
    has).

    False when this process has no descriptor left to find out.
    """
    pidfd = openPidfd(pid, startTime)
    if pidfd.number < 0:
        return -pidfd.number in _NO_SUCH_PROCESS
    try:
        return bool(atomics.pidfdDead(pidfd) == 1)
    finally:
        pidfd.close()


def pidOf(pidfd: int) -> int | None:
    """The process that a pidfd names; -1 when it has ended, also in the eyes of its
    parent; None when this is no pidfd.

    Raises `PlatformUnsupported` where there is no `/proc` to tell.
    """
    try:
        with openFile(f"/proc/thread-self/fdinfo/{pidfd}") as file:
            return next(
                (int(line.partition(":")[2]) for line in file if line.startswith("Pid:")), None
            )
    except FileNotFoundError as error:
        if not hasProc():
            raise fileError(error, "who says hello") from error
        return None
    except OSError:
        return None


def openPidfd(pid: int, startTime: int) -> Descriptor:
    """A pidfd of the process that had `pid` and began at `startTime`.

    Its number is `-ESRCH` when that one has ended, another `-errno` when there is no
    telling.
    """
    pidfd: Descriptor = atomics.pidfdOpen(pid)
    if pidfd.number < 0:
        return Descriptor(-errno.ESRCH) if -pidfd.number in _NO_SUCH_PROCESS else pidfd
    try:
        # The descriptor is opened first: whatever has the pid now, what is read of
        # /proc next is of it or of a later one.
        sameProcess = startTimeOf(pid) == startTime
    except OSError:
        pidfd.close()
        return Descriptor(-errno.EIO)
    if not sameProcess:
        pidfd.close()
        return Descriptor(-errno.ESRCH)
    return pidfd


def startTimeOf(pid: int) -> int:
    """Clock ticks since boot, of the host's clock, at which the process began; 0 when
    there is none. Raises `OSError` without a `/proc`.
    """
    try:
        with openFile(f"/proc/{pid}/stat", "rb") as file:
            return clock.bootTicks(int(file.read().rpartition(b")")[2].split()[19]))
    except (FileNotFoundError, ProcessLookupError):
        if not hasProc():
            raise  # it may be there all the same
        return 0


def ownPidNamespace() -> int:
    """The inode of this process's PID namespace, which it never leaves."""
    # Of this thread, here and wherever /proc is asked about ourselves: a process whose
    # first thread has ended has an empty /proc/self.
    try:
        _seen["pid"] = os.stat("/proc/thread-self/ns/pid").st_ino
    except FileNotFoundError:
        if not _seen:
            raise
    return _seen["pid"]


def programName() -> str:
    """What a person would call this process: the script, the module, or the notebook's
    kernel. The program may have put anything there.
    """
    arguments = getattr(sys, "argv", None)
    first = arguments[0] if isinstance(arguments, list | tuple) and arguments else ""
    main = os.fsdecode(first) if isinstance(first, str | bytes) else ""
    if main in ("", "-c", "-m"):
        return os.path.basename(sys.executable or "python")
    parts = main.rsplit("/", 2)
    return parts[-2] if parts[-1] == "__main__.py" and len(parts) > 1 else parts[-1]
