"""Processes, as the kernel describes them: whether a process has ended, when it began,
its PID namespace and its name for people.

A pid alone does not identify a process, because the kernel gives it to another process
later. The pid, the start time and the PID namespace together do. A pidfd keeps its
process. Muninn never calls `kill(pid, 0)`: it succeeds on zombies and on strangers.
"""

from __future__ import annotations

import errno
import os
import sys

from muninn.system import atomics, clock
from muninn.system.descriptors import Descriptor
from muninn.system.files import openFile
from muninn.system.oserrors import fileError, hasProc

#: The errors of pidfd_open for a number that no process has: it is free, or a thread of
#: a process has it (EINVAL, since Linux 6.15 ENOENT).
_NO_SUCH_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)
#: The PID namespace of this process, as it was read last: after a chroot there may be
#: no /proc.
_seen: dict[str, int] = {}


def processIsGone(pid: int, startTime: int) -> bool:
    """Whether the process that had `pid` and began at `startTime` has ended. A zombie
    has.

    Returns False if this process has no descriptor left to find out.
    """
    pidfd = openPidfd(pid, startTime)
    if pidfd.number < 0:
        return -pidfd.number in _NO_SUCH_PROCESS
    try:
        return bool(atomics.pidfdDead(pidfd) == 1)
    finally:
        pidfd.close()


def pidOf(pidfd: int) -> int | None:
    """The pid of the process that a pidfd names; -1 if the process has ended and its
    parent has waited for it; None if this is no pidfd.

    Raises `PlatformUnsupported` if there is no `/proc`.
    """
    try:
        with openFile(f"/proc/thread-self/fdinfo/{pidfd}") as file:
            return next(
                (int(line.partition(":")[2]) for line in file if line.startswith("Pid:")), None
            )
    except FileNotFoundError as error:
        if not hasProc():
            raise fileError(error, "the hello of a member") from error
        return None
    except OSError:
        return None


def openPidfd(pid: int, startTime: int) -> Descriptor:
    """Open a pidfd of the process that had `pid` and began at `startTime`.

    Its number is `-ESRCH` if that process has ended, and another `-errno` if the call
    can not find out.
    """
    pidfd: Descriptor = atomics.pidfdOpen(pid)
    if pidfd.number < 0:
        return Descriptor(-errno.ESRCH) if -pidfd.number in _NO_SUCH_PROCESS else pidfd
    try:
        # The descriptor is opened first, and /proc is read second. So /proc describes
        # the process of the descriptor, or a later one with the same pid.
        sameProcess = startTimeOf(pid) == startTime
    except OSError:
        pidfd.close()
        return Descriptor(-errno.EIO)
    if not sameProcess:
        pidfd.close()
        return Descriptor(-errno.ESRCH)
    return pidfd


def startTimeOf(pid: int) -> int:
    """The start of the process in clock ticks since boot, on the host's clock; 0 if
    there is no such process. Raises `OSError` without a `/proc`.
    """
    try:
        with openFile(f"/proc/{pid}/stat", "rb") as file:
            return clock.bootTicks(int(file.read().rpartition(b")")[2].split()[19]))
    except (FileNotFoundError, ProcessLookupError):
        if not hasProc():
            raise  # the process may be there all the same
        return 0


def ownPidNamespace() -> int:
    """The inode of this process's PID namespace, which it never leaves."""
    # Here and elsewhere Muninn reads /proc/thread-self: if the first thread of a
    # process has ended, its /proc/self is empty.
    try:
        _seen["pid"] = os.stat("/proc/thread-self/ns/pid").st_ino
    except FileNotFoundError:
        if not _seen:
            raise
    return _seen["pid"]


def programName() -> str:
    """A name of this process for people: the script, the module, or the notebook's
    kernel. The program may have put anything into `sys.argv`.
    """
    arguments = getattr(sys, "argv", None)
    first = arguments[0] if isinstance(arguments, list | tuple) and arguments else ""
    main = os.fsdecode(first) if isinstance(first, str | bytes) else ""
    if main in ("", "-c", "-m"):
        return os.path.basename(sys.executable or "python")
    parts = main.rsplit("/", 2)
    return parts[-2] if parts[-1] == "__main__.py" and len(parts) > 1 else parts[-1]
