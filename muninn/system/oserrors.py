"""Errors of the operating system: each gets a type, with the reason and the fix that a
look at `/dev/shm`, `/proc` and the limits of this process shows.

One errno has many reasons. `EACCES` may mean that only root can write to `/dev/shm`.
`ENOENT` may mean that `/dev/shm` is not mounted, or that this process has another root
directory than when it joined. `ENOSPC` may mean that no inodes are left. So the
functions here look at the system to find the reason.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from muninn.config.sizes import exactly
from muninn.errors import (
    ControlBlockInvalid,
    DescriptorsExhausted,
    HostMemoryFull,
    MuninnError,
    PlatformUnsupported,
)
from muninn.system import ownership

SHM_ROOT = "/dev/shm"
_MOUNT = f"`mount -t tmpfs -o mode=1777 tmpfs {SHM_ROOT}` as root"
_NO_SUCH = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
#: The identities of `/dev/shm` and of the root directory when this process joined;
#: empty before that.
_seen: dict[str, tuple[int, int] | None] = {}


def joined() -> None:
    """Remember the `/dev/shm` that this process sees now: it joins, and its domain is
    in there.
    """
    _seen.update({path: _identity(path) for path in ("/", SHM_ROOT)})


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def typedErrors(what: str) -> Iterator[None]:
    """Convert an `OSError` of the body to the typed error for it, if there is one:
    above all, that no descriptor is left.
    """
    try:
        yield
    except MuninnError:
        raise
    except OSError as error:
        typed = fileError(error, what)
        if typed is error:
            raise
        raise typed from error


def lacksDescriptors(error: OSError) -> bool:
    """Whether the process, or the machine, has no descriptor left."""
    # posix_ipc has its own texts for EMFILE and ENFILE, and gives no errno.
    return error.errno in (errno.EMFILE, errno.ENFILE) or (
        error.errno is None and "files" in str(error)
    )


def fileError(error: OSError, path: str) -> Exception:
    """The typed error for an operation that failed at `path`, which is a path or the
    name of the operation. If there is no type for it, the error itself.
    """
    if lacksDescriptors(error):
        return DescriptorsExhausted(f"{path}: {error.strerror or error}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _full(error, path)
    if error.errno == errno.ENOMEM:
        return HostMemoryFull(
            f"{path}: {error.strerror}{_addressLimits()}",
            "Close or free buffers, or raise this program's `ulimit -v`, its `ulimit -d`, and "
            "vm.max_map_count",
        )
    if error.errno == errno.EAGAIN and "mmap" in str(error):
        return HostMemoryFull(
            f"{path}: this program locks all its memory (mlockall), and may lock "
            f"{resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]} bytes",
            "Raise its `ulimit -l`, or let it lock what it needs only",
        )
    if error.errno == errno.EFBIG:
        return filesLimited(path)
    if error.errno in (errno.ELOOP, errno.EISDIR):
        return ControlBlockInvalid(
            f"{path} is not the file that Muninn makes there: {error.strerror}",
            "End the domain's processes, and remove it",
        )
    if (unusable := _unusable(error, path)) is not None:
        return unusable
    isRefused = error.errno in (errno.EPERM, errno.EACCES) and not isinstance(error, MuninnError)
    return ownership.refusal(error, path) if isRefused else error


def _addressLimits() -> str:
    """The limits of the process on the memory that it may map, as text."""
    limits = (
        (option, resource.getrlimit(limit)[0])
        for option, limit in (("-v", resource.RLIMIT_AS), ("-d", resource.RLIMIT_DATA))
    )
    return "".join(
        f"; `ulimit {option}` is {exactly(soft)}"
        for option, soft in limits
        if soft != resource.RLIM_INFINITY
    )


def requireFileBytes(path: str, sizeBytes: int) -> None:
    """Raise `HostMemoryFull` if the process may not make a file of this size. A thread
    of the program that tried it would get SIGXFSZ, which ends the process.

    Python ignores that signal, until a program restores the default action. Muninn's
    own threads block signals, and get EFBIG.
    """
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and sizeBytes > limit:
        raise filesLimited(path)


def filesLimited(path: str) -> HostMemoryFull:
    """The error for a limit of this process on the size of files."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return HostMemoryFull(
        f"{path}: process {os.getpid()} may write no file of more than {limit} bytes",
        "Raise its `ulimit -f`",
    )


def _full(error: OSError, path: str) -> HostMemoryFull:
    if error.errno == errno.EDQUOT:
        return HostMemoryFull(
            f"{path}: {error.strerror}",
            f"Raise the quota of uid {os.geteuid()} in {SHM_ROOT}, or free buffers",
        )
    if not hasInodes():
        return HostMemoryFull(
            f"{path}: {SHM_ROOT} has no inodes left, which every file needs",
            "Remove files there, or raise their number: `mount -o remount,nr_inodes=… "
            f"{SHM_ROOT}` as root",
        )
    return HostMemoryFull(f"{path}: {error.strerror}")


def hasInodes() -> bool:
    """Whether `/dev/shm` has an inode for another file."""
    try:
        status = os.statvfs(SHM_ROOT)
    except OSError:
        return True
    return not status.f_files or status.f_ffree > 0


def _unusable(error: OSError, path: str) -> PlatformUnsupported | None:
    """The error if `/dev/shm` or `/proc` is the reason; None if neither is."""
    if error.errno in _NO_SUCH and (missing := missingShm()) is not None:
        return missing  # first: in another root, /proc is missing for the same reason
    if error.errno in _NO_SUCH and (error.filename or "").startswith("/proc"):
        return PlatformUnsupported(
            f"{path}: {error.filename} is not there", "Mount it: `mount -t proc proc /proc` as root"
        )
    if error.errno == errno.EROFS:
        return PlatformUnsupported(
            f"{path}: {SHM_ROOT} is mounted read-only",
            f"`mount -o remount,rw {SHM_ROOT}` as root, or give the container one that it may "
            f"write (`--tmpfs {SHM_ROOT}`)",
        )
    isRefused = error.errno in (errno.EACCES, errno.EPERM) and os.path.isdir(SHM_ROOT)
    if isRefused and not os.access(SHM_ROOT, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        status = os.stat(SHM_ROOT)
        right = "list" if os.access(SHM_ROOT, os.W_OK | os.X_OK, effective_ids=True) else "write to"
        return PlatformUnsupported(
            f"{path}: uid {os.geteuid()} may not {right} {SHM_ROOT}, which is uid "
            f"{status.st_uid}'s and {stat.filemode(status.st_mode)}",
            f"`chmod 1777 {SHM_ROOT}` as root",
        )
    return None


def hasProc() -> bool:
    """Whether `/proc` is mounted. Without it, a missing file there says nothing about a
    process.
    """
    return os.path.lexists("/proc/self")


def isMoved() -> bool:
    """Whether `/dev/shm` is another one than when this process joined, or is gone.
    Takes a microsecond.
    """
    return bool(_seen) and _identity(SHM_ROOT) != _seen[SHM_ROOT]


def missingShm() -> PlatformUnsupported | None:
    """The error if nothing can be found because there is no `/dev/shm`, or another one
    than before; None if it is there.
    """
    if isMoved():
        if _seen["/"] != _identity("/"):
            return PlatformUnsupported(
                "this process has changed its root directory since it joined, and its domain "
                f"is in the {SHM_ROOT} of the old one",
                f"Open and share what it needs before that, or `mount --bind {SHM_ROOT} "
                f"NEW{SHM_ROOT}` first",
            )
        return PlatformUnsupported(
            f"{SHM_ROOT} is another one than when this process joined its domain",
            "Unmount what was mounted over it, or begin the program anew",
        )
    if os.path.isdir(SHM_ROOT):
        return None
    found = "is no directory" if os.path.lexists(SHM_ROOT) else "is not there"
    return PlatformUnsupported(
        f"{SHM_ROOT} {found}", f"Remove what is in its place, if anything, and mount it: {_MOUNT}"
    )
