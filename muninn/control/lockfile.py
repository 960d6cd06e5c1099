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
from muninn.storage.paths import Paths
from muninn.system import atomics, clock, oserrors, ownership
from muninn.system.descriptors import Named
from muninn.system.files import openFile
from muninn.system.oserrors import fileError

_CREATE_BYTE = 0
_FIRST_SLOT_BYTE = 16
_CREATE_BOUND_SECONDS = 10.0
#: How often the byte of a slot is taken again, at the most: each request asks for it.
_RETAKE_SECONDS = 1.0


class LockFile:
    """The byte locks of one domain, as this process sees them."""

    def __init__(self, paths: Paths) -> None:
        #: Where everything of the domain is.
        self.paths = paths.makeDirectory()
        oserrors.joined()
        self._file = _opened(self.paths.lockPath, self.paths.uid)
        #: Which file it is: a control block names the lock file that has its slots'
        #: bytes.
        self.inode = self._file.inode
        self._slots: set[int] = set()
        self._retakeAt = 0.0
        self._reopening = _thread.RLock()

    def restore(self) -> None:
        """See that the locks of this process are there: the kernel drops them when the
        program closes the file, perhaps without knowing it.

        It drops them with any descriptor of the file, and nothing reports that. So
        they are taken again, which changes nothing where they are there.

        Raises
        ------
        DomainChanged
            Another process has the byte of our slot by now, or the file is another one.
        """
        if not self._file.isOurs():
            self._fd()
        elif clock.now() >= self._retakeAt:
            self._retakeAt = clock.now() + _RETAKE_SECONDS
            self._retake()

    def _fd(self) -> int:
        """The descriptor, to be used at once; opened again, with the locks that were on
        it, if the program has closed it.
        """
        if self._file.isOurs() or self._file.number < 0:
            return self._file.number
        # One thread at a time: closing a second descriptor would drop the locks of the
        # first.
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
        """Lock the byte of each slot of ours, which it may be already. Raises
        `DomainChanged` when another process has one.
        """
        lost = [
            slot
            for slot in list(self._slots)
            if atomics.byteLock(self._file.number, _FIRST_SLOT_BYTE + slot) == -errno.EAGAIN
        ]
        if lost:
            self._slots.clear()
            raise DomainChanged(
                f"the program closed Muninn's lock file, and another process took slot {lost[0]}",
                "Try again",
            )

    @contextmanager
    def creating(self, boundSeconds: float = _CREATE_BOUND_SECONDS) -> Iterator[None]:
        """Hold the CREATE byte. Its holder may have been stopped, so the wait is
        bounded: `BrokerUnavailable`.

        Raises `DomainChanged` when this process has closed the file: it is in the
        domain no more.
        """
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
        """Before a step that can not be undone: raise `DomainChanged` if this process
        has lost CREATE, as it may lose its slot's byte, and another process has it.
        """
        if int(atomics.byteHolder(self._fd(), _CREATE_BYTE)) > 0:
            raise DomainChanged(
                "the program closed Muninn's lock file, and another process creates the "
                "control block",
                "Try again",
            )

    def lockSlot(self, slot: int) -> bool:
        """Take the byte of a slot for the rest of this process's life; False when
        another process has it.
        """
        failure = int(atomics.byteLock(self._fd(), _FIRST_SLOT_BYTE + slot))
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
        atomics.byteUnlock(self._fd(), _FIRST_SLOT_BYTE + slot)

    def slotIsLocked(self, slot: int) -> bool:
        """Whether *another* process has the byte; a process does not see its own locks."""
        return int(atomics.byteHolder(self._fd(), _FIRST_SLOT_BYTE + slot)) != 0

    def anyLocked(self) -> int:
        """The pid of another process that has the byte of some slot; 0: none has."""
        return int(atomics.rangeHolder(self._fd(), _FIRST_SLOT_BYTE, layout.MAX_MEMBERS_LIMIT))

    def close(self) -> None:
        """Close the file, and with it drop every lock that this process has on it."""
        self._slots.clear()
        self._file.close()


def _opened(path: str, uid: int) -> Named:
    try:
        with suppress(FileNotFoundError):
            # Its maker may have died before it undid what the umask took away.
            ownership.putRight(path, uid)
        return Named(path, os.O_RDWR | os.O_CREAT, uid)
    except FileNotFoundError:
        raise DomainChanged(f"the directory of {path} was removed", "Try again") from None
    except OSError as error:
        raise fileError(error, path) from error


def removedFileHolder(path: str, boundSeconds: float, amongAll: bool) -> int:
    """The pid of another process of this user that has a lock file of this name open
    which is gone; 0: none that can be seen.

    Asked of one process for each file that has byte locks, unless `amongAll`: a look at
    each process of the machine would be felt at each first join.
    """
    wanted, deadline = f"{path} (deleted)", clock.now() + boundSeconds
    others = set[str]()
    for pid, file in _processes() if amongAll else _lockers():
        if pid == os.getpid() or file in others:
            continue
        if clock.now() > deadline:
            break
        with suppress(OSError):  # it has ended, or is another user's
            for number in os.listdir(f"/proc/{pid}/fd"):
                with suppress(FileNotFoundError):
                    if os.readlink(f"/proc/{pid}/fd/{number}") == wanted:
                        return pid
            others.add(file)
    return 0


def _processes() -> list[tuple[int, str]]:
    return [(int(entry), entry) for entry in os.listdir("/proc") if entry.isdecimal()]


def _lockers() -> list[tuple[int, str]]:
    """The processes that have byte locks, each with the device and inode of a file; all
    processes, where the kernel does not say.
    """
    try:
        with openFile("/proc/locks") as file:
            fields = [line.split() for line in file]
    except OSError:
        return _processes()
    return [(int(each[4]), each[5]) for each in fields if each[1] == "POSIX"]
