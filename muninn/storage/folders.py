"""The domain's directory: how processes agree on it, if another user has the wanted
name, and how it gets mode 0700 independent of the umask.

The wanted name is `<stem>.d`. While another user has that name, the directory gets the
same name with six random digits after it, which no other user can take first. A
directory is *established* when it has the lock file in it. A domain has at most one
established directory, which remains the domain's for as long as it exists. If the
stranger's name becomes free later, new processes still find the established directory,
because they search `/dev/shm`.

1. A process looks for an established directory of this user: the wanted name first,
   then every other name of the domain in `/dev/shm`. If there is one, the process uses
   it.
2. Otherwise, if this user has no directory for the domain, the process makes one with
   `mkdir`, and searches `/dev/shm` again.
3. It locks every directory of the domain that it has found (`flock`). It goes in the
   order of the names, because otherwise two processes could wait for each other.
4. It searches again. If a directory was added, or one is established by now, it
   releases its locks and begins again at step 1.
5. Otherwise it makes the lock file in the first directory, removes the other
   directories, and releases its locks.

A stale search costs one more round. If two processes make different directories, at
least one of them searches after both were made. That process finds both, so it waits
for the other's lock, and then finds an established directory. If a process dies, the
kernel releases its locks, and the next process goes on with the directories that are
left. The sticky bit of `/dev/shm` keeps other users from renaming or removing them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator

from muninn.errors import BrokerUnavailable, ControlBlockInvalid, DescriptorsExhausted
from muninn.system import clock, descriptors, ownership
from muninn.system.descriptors import Descriptor
from muninn.system.logs import Log
from muninn.system.oserrors import SHM_ROOT, fileError

LOCK_NAME = "lock"
_BOUND_SECONDS = 10.0
_LOOK_SECONDS = 0.001
# The path of a socket has at most 107 bytes. With the longest uid, domain and epoch,
# seven are left.
_RANDOM_BYTES = 3
_NO_DESCRIPTOR = "no descriptor is left to lock the directory with"
_log = Log("muninn.control")
#: The warnings that were written: each is written once.
_strangers: set[tuple[str, str]] = set()


def found(stem: str, uid: int) -> str:
    """The name of the domain's directory. If the domain has none, the name that `made`
    would choose at this moment. Changes nothing.
    """
    if _isEstablished(f"{stem}.d", uid):
        return f"{stem}.d"
    own = _own(stem, uid)
    return next((name for name in own if _isEstablished(name, uid)), own[0] if own else f"{stem}.d")


def made(stem: str, uid: int) -> str:
    """Make the domain's directory if it has none. Returns its name. The directory has
    mode 0700, and the lock file in it.

    Raises
    ------
    ControlBlockInvalid
        Other users could have put files into this user's directory.
    BrokerUnavailable
        Other processes have been choosing the directory for too long.
    HostMemoryFull
    """
    wanted, deadline = f"{stem}.d", clock.now() + _BOUND_SECONDS
    _warnIfTaken(wanted, uid)
    while True:
        if _isPrivate(wanted, uid) and _isEstablished(wanted, uid):
            return wanted
        own = [name for name in _own(stem, uid) if _isPrivate(name, uid)]
        for name in own:
            if _isEstablished(name, uid):
                return name
        if own and _established(stem, uid, own, deadline):
            return own[0]
        if not own:
            _make(wanted, uid)
        ownership.requireUid(wanted, uid)  # another uid could not see the lock file
        if clock.now() > deadline:
            raise BrokerUnavailable(
                f"the directory of {stem!r} was not chosen within {_BOUND_SECONDS:.0f} s",
                "Try again",
            )


def warnOfStranger(path: str, uid: int, what: str) -> None:
    """Warn once that a file which Muninn has not made has a name of the domain."""
    if (path, what) not in _strangers:
        _strangers.add((path, what))
        _log.warning(
            "%s is not used, because Muninn has not made it for uid %d: %s", path, uid, what
        )


def _own(stem: str, uid: int) -> list[str]:
    """The directories of this user that have a name of the domain, the wanted one
    first.
    """
    name = re.compile(rf"{re.escape(stem)}\.d(?:\.[0-9a-f]{{{2 * _RANDOM_BYTES}}})?")
    try:
        entries = os.listdir(SHM_ROOT)
    except OSError as error:
        raise fileError(error, SHM_ROOT) from error
    return sorted(
        entry for entry in entries if name.fullmatch(entry) and _isOwn(_status(entry), uid)
    )


def _status(name: str) -> os.stat_result | None:
    try:
        return os.lstat(f"{SHM_ROOT}/{name}")
    except OSError:  # there is none, or another user's directory hides it
        return None


def _isOwn(status: os.stat_result | None, uid: int) -> bool:
    return status is not None and stat.S_ISDIR(status.st_mode) and status.st_uid == uid


def _isEstablished(name: str, uid: int) -> bool:
    return _isOwn(_status(name), uid) and _status(f"{name}/{LOCK_NAME}") is not None


def _isPrivate(name: str, uid: int) -> bool:
    """Whether the directory belongs to this user. Its mode is corrected to 0700, so
    that no other user can use it. Raises `ControlBlockInvalid` if other users could
    have written to it.
    """
    status = _status(name)
    if status is None or not _isOwn(status, uid):
        return False
    if status.st_mode & 0o022:
        raise ControlBlockInvalid(
            f"{SHM_ROOT}/{name} is uid {uid}'s and has mode "
            f"{stat.S_IMODE(status.st_mode):04o}: others may have put something there",
            f"`chmod 700 {SHM_ROOT}/{name}` if they have not; otherwise remove it",
        )
    if stat.S_IMODE(status.st_mode) & 0o777 != 0o700:
        with contextlib.suppress(FileNotFoundError):  # another directory was chosen
            # The umask has cleared bits, or a person has changed the mode. No other
            # user could write.
            os.chmod(f"{SHM_ROOT}/{name}", 0o700)
    return True


def _warnIfTaken(wanted: str, uid: int) -> None:
    status = _status(wanted)
    if status is not None and not _isOwn(status, uid):
        warnOfStranger(
            f"{SHM_ROOT}/{wanted}", uid, f"uid {status.st_uid}'s, {stat.filemode(status.st_mode)}"
        )


def _make(wanted: str, uid: int) -> None:
    """Make a directory: with the wanted name, or with a random one if another user has
    the wanted name.
    """
    for path in (f"{SHM_ROOT}/{wanted}", f"{SHM_ROOT}/{wanted}.{os.urandom(_RANDOM_BYTES).hex()}"):
        try:
            os.mkdir(path, 0o700)
            ownership.requireMade(path, uid, 0o700)
            return
        except FileExistsError:
            if _isOwn(_status(wanted), uid):
                return  # another process has made it meanwhile
        except FileNotFoundError:
            return  # another process has established its own, and removed this one
        except OSError as error:
            raise fileError(error, path) from error


def _established(stem: str, uid: int, own: list[str], deadline: float) -> bool:
    """Establish the first of this user's directories. Returns False if there are others
    by now, or if one is established.
    """
    with contextlib.ExitStack() as held:
        for name in own:
            if not held.enter_context(locked(name, deadline)):
                return False
        if _own(stem, uid) != own or any(_isEstablished(name, uid) for name in own):
            return False
        _makeLock(f"{SHM_ROOT}/{own[0]}/{LOCK_NAME}", uid)
        for name in own[1:]:
            with contextlib.suppress(OSError):  # it was removed already, or it is not empty
                os.rmdir(f"{SHM_ROOT}/{name}")
        return True


@contextlib.contextmanager
def locked(name: str, deadline: float) -> Iterator[bool]:
    """Hold the lock of a directory; False if the directory is gone. The lock is
    released explicitly, because a forked child may have the descriptor too.
    """
    try:
        fd = descriptors.opened(f"{SHM_ROOT}/{name}", os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, PermissionError):
        # It was removed, or its mode was changed just now.
        yield False
        return
    except OSError as error:
        raise DescriptorsExhausted(
            f"{SHM_ROOT}/{name}: {_NO_DESCRIPTOR}: {error.strerror}"
        ) from error
    try:
        while not _isTaken(fd):
            if clock.now() > deadline:
                raise BrokerUnavailable(
                    f"another process of this user keeps {SHM_ROOT}/{name} locked",
                    "End it: it may be stopped",
                )
            clock.sleep(_LOOK_SECONDS)
        yield True
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
        fd.close()


def _isTaken(fd: Descriptor) -> bool:
    # SYNC directory: pairs with _isTaken in another process, which then sees the lock
    # file, or the socket, that this process has made.
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _makeLock(path: str, uid: int) -> None:
    """Make the lock file. If the process dies here, the file may have a mode that the
    umask has changed; `LockFile` corrects it.
    """
    try:
        # An existing file is never opened here: closing it would release all byte locks
        # that this process has on it.
        descriptors.opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, maker=uid).close()
    except FileExistsError:
        return
    except OSError as error:
        raise fileError(error, path) from error
