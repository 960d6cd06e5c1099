"""The domain's directory: which one it is, where another user may have taken the name
that is wanted, and mode 0700 whatever the umask.

Algorithm. The wanted name is `<stem>.d`. While a stranger has it, the directory gets
the same name with six random digits after it, which no other user can take first. A
directory is *established* by the lock file in it, and a domain has one established
directory at most, which stays the domain's for as long as it is there: when the
stranger's name becomes free, newcomers still find the other by a look through
`/dev/shm`.

A process that finds none makes one, by `mkdir`, and looks through `/dev/shm`
afterwards; whatever this user has there by then it locks (`flock`, in the order of the
names, without which two could wait for one another) and looks again. If that is the
same, it makes the lock file in the first of them and removes the others. Of two
processes that made different directories one looks after both were made, so it waits
for the other's lock and then finds an established directory. A death lets go of its
locks, and leaves a directory that the next process takes; the sticky bit of `/dev/shm`
keeps strangers from what is ours.
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
# the path of a socket has 107 bytes, of which the longest uid, domain and epoch leave
# seven
_RANDOM_BYTES = 3
_NO_DESCRIPTOR = "no descriptor is left to lock the directory with"
_log = Log("muninn.control")
#: What was warned of, once.
_strangers: set[tuple[str, str]] = set()


def found(stem: str, uid: int) -> str:
    """The name of the directory that the domain is in; of the one that it would get,
    when it is in none. Changes nothing.
    """
    if _isEstablished(f"{stem}.d", uid):
        return f"{stem}.d"
    own = _own(stem, uid)
    return next((name for name in own if _isEstablished(name, uid)), own[0] if own else f"{stem}.d")


def made(stem: str, uid: int) -> str:
    """The name of the domain's directory, which is there from now on, of mode 0700 and
    with its lock file.

    Raises
    ------
    ControlBlockInvalid
        Others could have put something into this user's directory.
    BrokerUnavailable
        A process has been choosing the directory for long.
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
        ownership.requireUid(wanted, uid)  # another one sees no lock file in it
        if clock.now() > deadline:
            raise BrokerUnavailable(
                f"which directory {stem!r} is in was not settled within {_BOUND_SECONDS:.0f} s",
                "Try again",
            )


def warnOfStranger(path: str, uid: int, what: str) -> None:
    """Say once that a name of ours is another user's."""
    if (path, what) not in _strangers:
        _strangers.add((path, what))
        _log.warning(
            "%s is left alone, it is not uid %d's own: %s; `python -m muninn doctor` says more",
            path,
            uid,
            what,
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
    except OSError:  # there is none, or it is in a stranger's directory
        return None


def _isOwn(status: os.stat_result | None, uid: int) -> bool:
    return status is not None and stat.S_ISDIR(status.st_mode) and status.st_uid == uid


def _isEstablished(name: str, uid: int) -> bool:
    return _isOwn(_status(name), uid) and _status(f"{name}/{LOCK_NAME}") is not None


def _isPrivate(name: str, uid: int) -> bool:
    """Whether it is this user's, and nobody else's to use: made so, unless others could
    have written there.
    """
    status = _status(name)
    if status is None or not _isOwn(status, uid):
        return False
    if status.st_mode & 0o022:
        raise ControlBlockInvalid(
            f"{SHM_ROOT}/{name} is uid {uid}'s and has mode "
            f"{stat.S_IMODE(status.st_mode):04o}: others may have put something there",
            f"`chmod 700 {SHM_ROOT}/{name}` if nobody has; otherwise remove it",
        )
    if stat.S_IMODE(status.st_mode) & 0o777 != 0o700:
        with contextlib.suppress(FileNotFoundError):  # not chosen after all
            # after a umask that took bits away, or by hand; of others nobody could
            # write
            os.chmod(f"{SHM_ROOT}/{name}", 0o700)
    return True


def _warnIfTaken(wanted: str, uid: int) -> None:
    status = _status(wanted)
    if status is not None and not _isOwn(status, uid):
        warnOfStranger(
            f"{SHM_ROOT}/{wanted}", uid, f"uid {status.st_uid}'s, {stat.filemode(status.st_mode)}"
        )


def _make(wanted: str, uid: int) -> None:
    """Make a directory; beside the wanted one, when that name is another user's."""
    for path in (f"{SHM_ROOT}/{wanted}", f"{SHM_ROOT}/{wanted}.{os.urandom(_RANDOM_BYTES).hex()}"):
        try:
            os.mkdir(path, 0o700)
            ownership.requireMade(path, uid, 0o700)
            return
        except FileExistsError:
            if _isOwn(_status(wanted), uid):
                return  # another process has made it meanwhile
        except FileNotFoundError:
            return  # another process has settled on its own, and removed this one
        except OSError as error:
            raise fileError(error, path) from error


def _established(stem: str, uid: int, own: list[str], deadline: float) -> bool:
    """Settle on the first of this user's directories; False when there are others by
    now, or one is established.
    """
    with contextlib.ExitStack() as held:
        for name in own:
            if not held.enter_context(_locked(name, deadline)):
                return False
        if _own(stem, uid) != own or any(_isEstablished(name, uid) for name in own):
            return False
        _makeLock(f"{SHM_ROOT}/{own[0]}/{LOCK_NAME}", uid)
        for name in own[1:]:
            with contextlib.suppress(OSError):  # a cleaner was faster, or there is something in it
                os.rmdir(f"{SHM_ROOT}/{name}")
        return True


@contextlib.contextmanager
def _locked(name: str, deadline: float) -> Iterator[bool]:
    """Hold the lock of a directory; False when it is gone. The lock is given back by
    itself: a forked child may have the descriptor too.
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
                    f"another process of this user has locked {SHM_ROOT}/{name} for "
                    f"{_BOUND_SECONDS:.0f} s",
                    "End it: it may be stopped",
                )
            clock.sleep(_LOOK_SECONDS)
        yield True
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
        fd.close()


def _isTaken(fd: Descriptor) -> bool:
    # SYNC directory: pairs with _isTaken in another process, which sees the lock file
    # that this one has made meanwhile.
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _makeLock(path: str, uid: int) -> None:
    """Make the lock file. A death may leave one whose mode the umask has made;
    `LockFile` sets it right.
    """
    try:
        # Never one that is there: to close it would drop all byte locks of this process
        # on it.
        descriptors.opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, maker=uid).close()
    except FileExistsError:
        return
    except OSError as error:
        raise fileError(error, path) from error
