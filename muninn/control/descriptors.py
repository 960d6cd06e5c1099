"""Descriptors of ours: never one of the standard streams, and never used or closed once the number is somebody else's.

A number below 3 is what C libraries print to. A program that was started with closed standard streams gives these numbers to whatever
opens first, and what a library prints to its standard error would then go into the lock file or the control block. So whatever is opened
for Muninn is moved above them here, in Python as in C (`mnnOwn`), and `tests/test_descriptors.py` finds what is opened otherwise.

Programs close descriptors that are not theirs: a daemon closes all of them after its fork, and so does many a program before an exec.
The numbers go to its own files next. What is kept open for longer than a call is therefore a `Descriptor`: it knows which file it was, and
each descriptor of ours has a mark besides (F_SETSIG of a signal that nothing asks for), since an eventfd or an epoll is no file of its own.
A descriptor that is lost is forgotten and not closed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
from typing import ClassVar

from muninn.control import atomics

#: The first number that is no standard stream.
FIRST = 3


def own(descriptor: int) -> int:
    """Make a new descriptor ours: returns the number that it has from now on. Raises `OSError`, and then it is closed."""
    return atomics.checked(atomics.own(descriptor), "a descriptor")


def opened(path: str, flags: int, mode: int = 0o600) -> int:
    """`os.open`, close-on-exec and not through a link; what it makes has this mode, whatever the umask takes away."""
    fd = own(os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode))
    if flags & os.O_CREAT:
        try:
            os.fchmod(fd, mode)
        except BaseException:
            os.close(fd)
            raise
    return fd


def duplicate(descriptor: int) -> int:
    """A duplicate, close-on-exec."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FIRST)


def eventfd() -> int:
    """An eventfd that does not block."""
    return own(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))


def epoll() -> select.epoll:
    """An epoll object."""
    made = select.epoll()
    if made.fileno() < FIRST:
        with made:
            made = select.epoll.fromfd(duplicate(made.fileno()))
    own(made.fileno())
    return made


def unixSocket() -> socket.socket:
    """A socket as brokers and members use it, which does not block."""
    return ownSocket(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC))


def ownSocket(made: socket.socket) -> socket.socket:
    """The socket, or another object of it, by a number of ours; it does not block from now on."""
    if made.fileno() < FIRST:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=own(made.detach()))
    else:
        own(made.fileno())
    made.setblocking(False)
    return made


class Descriptor:
    """A descriptor that is kept, and what it was.

    Attributes
    ----------
    number
        Under which it was opened; below 0 once it was closed.
    """

    __slots__ = ("_what", "number")

    def __init__(self, number: int) -> None:
        status = os.fstat(number)
        self.number = number
        self._what = (status.st_dev, status.st_ino, atomics.markOf(number))

    @property
    def inode(self) -> int:
        """Which file it is, on its device."""
        return self._what[1]

    def fileno(self) -> int:
        return self.number

    __index__ = fileno

    def isOurs(self) -> bool:
        """Whether the number still is what it was. One that was closed and opened again by somebody else is not."""
        return self.number >= 0 and atomics.isSameFile(self.number, *self._what) == 1

    def checked(self) -> int:
        """The number, to be used at once. Raises `OSError` when it is somebody else's by now."""
        if not self.isOurs():
            raise OSError(errno.EBADF, f"descriptor {self.number} was closed by the program, and perhaps opened again for something else")
        return self.number

    def close(self) -> None:
        """Close it, if it still is ours; again is fine."""
        number = self.number
        if self.isOurs():
            os.close(number)
        self.number = -1


class OwnSocket(Descriptor):
    """A socket that is kept."""

    __slots__ = ("socket",)

    def __init__(self, made: socket.socket) -> None:
        super().__init__(made.fileno())
        self.socket = made

    def close(self) -> None:
        if self.isOurs():
            self.socket.close()
        else:
            self.socket.detach()  # or its finalizer would close somebody else's
        self.number = -1


class OwnPoll(Descriptor):
    """An epoll object that is kept."""

    __slots__ = ("poll",)
    #: An epoll object closes its number when it goes. One whose number is somebody else's must not go.
    _kept: ClassVar[list[select.epoll]] = []

    def __init__(self) -> None:
        self.poll = epoll()
        super().__init__(self.poll.fileno())

    def register(self, descriptor: int, once: bool = False) -> None:
        """Wait for what can be read from it; once only, if so wanted."""
        self.poll.register(descriptor, select.EPOLLIN | (select.EPOLLONESHOT if once else 0))

    def unregister(self, descriptor: int) -> None:
        if self.isOurs():
            self.poll.unregister(descriptor)

    def wait(self, seconds: float) -> list[int]:
        """The descriptors that have something, after so long at most. Raises `OSError` when the program has closed this one."""
        self.checked()
        return [descriptor for descriptor, _ in self.poll.poll(seconds)]

    def close(self) -> None:
        if self.isOurs():
            self.poll.close()
        elif self.number >= 0:
            self._kept.append(self.poll)
        self.number = -1


class OwnEvent(Descriptor):
    """An eventfd that is kept."""

    __slots__ = ()

    def __init__(self, number: int | None = None) -> None:
        super().__init__(eventfd() if number is None else number)

    def checked(self) -> int:
        """The number; of another eventfd, in the place of one that was lost."""
        if self.number >= 0 and not self.isOurs():
            super().__init__(eventfd())
        return self.number

    def set(self) -> None:
        """Wake whoever waits for it. Takes no lock: finalizers and signal handlers call it."""
        if self.isOurs():
            os.eventfd_write(self.number, 1)


class Named(Descriptor):
    """A descriptor of a file that has a name: one that is lost can be opened again."""

    __slots__ = ("_flags", "_path")

    def __init__(self, path: str, flags: int) -> None:
        super().__init__(opened(path, flags))
        self._path, self._flags = path, flags & ~(os.O_CREAT | os.O_TRUNC | os.O_EXCL)

    def renamed(self, path: str) -> None:
        """The file has another name from now on."""
        self._path = path

    def reopen(self) -> None:
        """Open the file by its name. Raises `OSError`, also when the name leads to another file by now."""
        again = Descriptor(opened(self._path, self._flags))
        if again._what[:2] != self._what[:2]:
            again.close()
            raise OSError(errno.ESTALE, f"{self._path} is another file by now")
        self.number, self._what = again.number, again._what

    def checked(self) -> int:
        """The number, to be used at once. Raises `OSError` when it was lost and can not be opened again."""
        if not self.isOurs():
            if self.number < 0:
                raise OSError(errno.EBADF, f"{self._path} was closed")
            self.reopen()
        return self.number
