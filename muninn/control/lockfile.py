"""The domain's lock file: one byte for the creation of the control block, one byte for
each member slot.

POSIX byte locks belong to the process. The kernel releases them when the last thread of
the process has passed `exit_files`, after its memory: so a free byte is half of a
confirmed death (`memberreader.py`). The kernel also releases them when the process
closes *any* descriptor of the file. Therefore Muninn opens the file once per process
and domain, here, and hands the descriptor to no other module. A program that reads the
file, as a backup of `/dev/shm` does, drops the locks all the same. So this process
takes the byte of its slot again once in a while, and no process believes a free byte
alone.
"""

from __future__ import annotations

import _thread
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from muninn.control import layout
from muninn.errors import BrokerUnavailable, DomainChanged
from muninn.storage.folders import LOCK_NAME
from muninn.storage.paths import SHM_ROOT, Paths
from muninn.system import atomics, clock, oserrors, ownership
from muninn.system.descriptors import Named
from muninn.system.files import openFile
from muninn.system.oserrors import fileError

_CREATE_BYTE = 0
#: The byte of the first member slot.
FIRST_SLOT_BYTE = 16
_CREATE_BOUND_SECONDS = 10.0
#: The byte of a slot is taken again no sooner than after so long, although each request
#: asks for it.
_RETAKE_SECONDS = 1.0


class LockFile:
    """The byte locks of one domain, as this process sees them."""

    def __init__(self, paths: Paths) -> None:
        #: The names of the domain's files.
        self.paths = paths.makeDirectory()
        oserrors.joined()
        self._file = _opened(self.paths.lockPath, self.paths.uid)
        #: The inode of the file: a control block names the lock file that has the bytes
        #: of its slots.
        self.inode = self._file.inode
        self._slots: set[int] = set()
        self._retakeAt = 0.0
        self._reopening = _thread.RLock()

    def restore(self) -> None:
        """Take the locks of this process again if they may be gone: the kernel drops
        them when the program closes the file, perhaps without knowing it.

        It drops them when any descriptor of the file is closed, and reports nothing. So
        they are taken again from time to time, which has no effect on a lock that is
        there.

        Raises
        ------
        DomainChanged
            Another process has the byte of our slot by now, or the name leads to
            another file.
        """
        if not self._file.isOurs():
            self._fd()
        elif clock.now() >= self._retakeAt:
            self._retakeAt = clock.now() + _RETAKE_SECONDS
            self._retake()

    def _fd(self) -> int:
        """The descriptor, to be used at once. If the program has closed it, the file is
        opened again, and the locks are taken again.
        """
        if self._file.isOurs() or self._file.number < 0:
            return self._file.number
        # One thread at a time does this: closing a second descriptor would drop the
        # locks of the first.
        with self._reopening:
            if not self._file.isOurs():
                self._reopen()
            return self._file.number

    def _reopen(self) -> None:
        try:
            self._file.reopen()
        except OSError as error:
            raise DomainChanged(
                f"the program closed Muninn's lock file, and it can not be opened again: {error}",
                "Try again",
            ) from error
        self._retake()

    def _retake(self) -> None:
        """Lock the byte of each slot of ours, whether or not it is locked. Raises
        `DomainChanged` if another process has locked one of them.
        """
        lost = [
            slot
            for slot in list(self._slots)
            if atomics.byteLock(self._file.number, FIRST_SLOT_BYTE + slot) == -errno.EAGAIN
        ]
        if lost:
            self._slots.clear()
            raise DomainChanged(
                f"the program closed Muninn's lock file, and another process took slot {lost[0]}",
                "Try again",
            )

    @contextmanager
    def creating(self, boundSeconds: float | None = None) -> Iterator[None]:
        """Hold the CREATE byte. The process that holds it may be stopped, so the wait
        is bounded: `BrokerUnavailable`.

        Raises `DomainChanged` if this process has closed the file: it is not in the
        domain any more.
        """
        boundSeconds = _CREATE_BOUND_SECONDS if boundSeconds is None else boundSeconds
        deadline = clock.now() + boundSeconds
        while (failure := int(atomics.byteLock(self._fd(), _CREATE_BYTE))) != 0:
            if failure == -errno.EBADF:
                raise DomainChanged(
                    "this process has left its control block, and closed the lock file", "Try again"
                )
            if failure != -errno.EAGAIN:
                raise BrokerUnavailable(
                    f"the lock file can not be locked: {os.strerror(-failure)}",
                    "Raise the limit of file locks",
                )
            if clock.now() >= deadline:
                holder = atomics.byteHolder(self._fd(), _CREATE_BYTE)
                raise BrokerUnavailable(
                    f"process {holder} has been creating the control block for "
                    f"{boundSeconds:.0f} s",
                    "End that process",
                )
            clock.sleep(0.001)
        try:
            yield
        finally:
            atomics.byteUnlock(self._fd(), _CREATE_BYTE)

    def requireCreating(self) -> None:
        """Raise `DomainChanged` if this process has lost CREATE, as it may lose the
        byte of its slot, and another process has it. Called before a step that can not
        be undone.
        """
        if int(atomics.byteHolder(self._fd(), _CREATE_BYTE)) > 0:
            raise DomainChanged(
                "the program closed Muninn's lock file, and another process creates the "
                "control block",
                "Try again",
            )

    def lockSlot(self, slot: int) -> bool:
        """Take the byte of a slot for the rest of this process's life. Returns False if
        another process has it.
        """
        failure = int(atomics.byteLock(self._fd(), FIRST_SLOT_BYTE + slot))
        if failure not in (0, -errno.EAGAIN, -errno.EACCES):
            raise BrokerUnavailable(
                f"the lock file can not be locked: {os.strerror(-failure)}",
                "Raise the limit of file locks",
            )
        if failure:
            return False
        self._slots.add(slot)
        return True

    def unlockSlot(self, slot: int) -> None:
        self._slots.discard(slot)
        atomics.byteUnlock(self._fd(), FIRST_SLOT_BYTE + slot)

    def slotIsLocked(self, slot: int) -> bool:
        """Whether *another* process has the byte; a process does not see its own locks."""
        return int(atomics.byteHolder(self._fd(), FIRST_SLOT_BYTE + slot)) != 0

    def anyLocked(self) -> int:
        """The pid of another process that has the byte of any slot; 0: none has."""
        return int(atomics.rangeHolder(self._fd(), FIRST_SLOT_BYTE, layout.MAX_MEMBERS_LIMIT))

    def close(self) -> None:
        """Close the file, and with it drop every lock that this process has on it."""
        self._slots.clear()
        self._file.close()


def _opened(path: str, uid: int) -> Named:
    try:
        with suppress(FileNotFoundError):
            # The process that made it may have died before it set the bits that the
            # umask had cleared.
            ownership.putRight(path, uid)
        return Named(path, os.O_RDWR | os.O_CREAT, uid)
    except FileNotFoundError:
        raise DomainChanged(f"the directory of {path} was removed", "Try again") from None
    except OSError as error:
        raise fileError(error, path) from error


def removedFileHolder(path: str, boundSeconds: float, amongAll: bool) -> int:
    """The pid of another process of this user that has a removed lock file of this name
    open; 0: there is none that can be seen.

    Unless `amongAll`, it looks only at one process for each file that has byte locks: a
    look at every process of the machine would slow down each first join.
    """
    wanted, deadline = f"{path} (deleted)", clock.now() + boundSeconds
    others = set[str]()
    for pid, file in _processes() if amongAll else _lockers():
        if pid == os.getpid() or file in others:
            continue
        if clock.now() > deadline:
            break
        with suppress(OSError):  # the process has ended, or belongs to another user
            for number in os.listdir(f"/proc/{pid}/fd"):
                with suppress(FileNotFoundError):
                    if os.readlink(f"/proc/{pid}/fd/{number}") == wanted:
                        return pid
            others.add(file)
    return 0


def hiddenHolder(uid: int) -> int:
    """The pid of another process of this user that may have a removed lock file open,
    of which the kernel does not tell: it has byte locks on a file of `/dev/shm` that is
    no domain's lock file, and hides its files. 0: there is none.

    A process hides its files from this user if its gid is another one, or if it has
    changed its uid and has begun no program since.
    """
    device = os.stat(SHM_ROOT).st_dev
    begin = f"{os.major(device):02x}:{os.minor(device):02x}:"
    named = {f"{begin}{inode}" for inode in _lockInodes()}
    for pid, file in _lockers():
        # Where the kernel does not list the locks, each process may have one.
        mayBe = file == str(pid) or (file.startswith(begin) and file not in named)
        if mayBe and pid != os.getpid() and _isHidden(pid) and uid in _uidsOf(pid):
            return pid
    return 0


def _lockInodes() -> Iterator[int]:
    """The inodes of the lock files that have a name."""
    for entry in os.listdir(SHM_ROOT):
        with suppress(OSError):  # it is no domain's directory, or not this user's
            yield os.lstat(f"{SHM_ROOT}/{entry}/{LOCK_NAME}").st_ino


def _isHidden(pid: int) -> bool:
    try:
        for number in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                os.readlink(f"/proc/{pid}/fd/{number}")
    except PermissionError:
        return True
    except OSError:  # the process has ended
        return False
    return False


def _uidsOf(pid: int) -> set[int]:
    """The real, effective, saved and file system uid of a process; empty if it has
    ended.
    """
    try:
        with openFile(f"/proc/{pid}/status") as file:
            line = next((line for line in file if line.startswith("Uid:")), "Uid:")
    except OSError:
        return set()
    return {int(each) for each in line.split()[1:]}


def _processes() -> list[tuple[int, str]]:
    return [(int(entry), entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def _lockers() -> list[tuple[int, str]]:
    """The processes that have byte locks, each with the device and inode of a file. All
    processes, if the kernel does not list the locks.
    """
    try:
        with openFile("/proc/locks") as file:
            fields = [line.split() for line in file]
    except OSError:
        return _processes()
    return [(int(each[4]), each[5]) for each in fields if each[1] == "POSIX"]
