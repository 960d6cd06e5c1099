"""Descriptors: no descriptor of Muninn is a standard stream, and none is used or closed
once its number leads to another file.

C libraries print to the numbers below 3. If a program is started with closed standard
streams, the next files that are opened get these numbers, and an error message of a
library would then be written into the lock file or the control block. So each
descriptor that is opened for Muninn is moved above them here, in Python as in C
(`mnnOwn`), and `tests/test_descriptors.py` finds code that opens files in another way.

Programs close descriptors that are not theirs: a daemon closes all of them after its
fork, and many programs do before an exec. The program's own files get the numbers next.
So a descriptor that is kept for longer than a call is a `Descriptor`, which knows its
file. Each descriptor of ours also has a mark (F_SETSIG of a signal that is never sent),
because eventfds and epoll objects all have the same inode. A descriptor that was lost
in this way is forgotten, and not closed.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import socket
from typing import ClassVar

from muninn.system import atomics, clock, green, ownership
from muninn.system.atomics import Descriptor, Known

__all__ = ["Descriptor", "Known"]

#: The first number above the standard streams.
FIRST = 3
#: How often a waiter checks that the program has not closed the descriptor on which it
#: waits.
_LOOK_SECONDS = 0.5


def own(descriptor: int | Descriptor) -> Descriptor:
    """Make a new descriptor ours; its number may change. After an `OSError` the
    descriptor is closed.
    """
    return (
        descriptor
        if isinstance(descriptor, Descriptor)
        else atomics.opened(atomics.own(descriptor))
    )


def opened(path: str, flags: int, mode: int = 0o600, maker: int | None = None) -> Descriptor:
    """Open a file, close-on-exec and not through a link. A file that the call creates
    gets this mode, independent of the umask.

    If the process no longer has the uid `maker`, a file that it has just created is
    removed, and the call raises `DomainChanged`.
    """
    made = atomics.opened(atomics.openFile(os.fsencode(path), flags | os.O_NOFOLLOW, mode), path)
    if flags & os.O_CREAT:
        ownership.requireMade(path, maker, mode, made)
    return made


def memfd(name: str) -> Descriptor:
    """A new, empty memfd, which may be sealed. Only its owner may open it."""
    return atomics.opened(atomics.memfdCreate(name.encode(), 0), name)


def duplicate(descriptor: int | Known) -> Descriptor:
    """A duplicate, close-on-exec."""
    return atomics.opened(atomics.duplicate(descriptor))


def eventfd() -> Descriptor:
    """An eventfd that does not block."""
    return atomics.opened(atomics.eventfd())


class Socket(_socket.socket):
    """Python's socket in C, without the wrapper of the module `socket`, which libraries
    replace (`green.py`).
    """

    def accept(self) -> Socket:
        """The next connection."""
        descriptor, _ = self._accept()  # type: ignore[attr-defined]
        return Socket(self.family, self.type, self.proto, descriptor)


def epoll() -> select.epoll:
    """An epoll object."""
    low = []
    while (made := green.epoll()).fileno() < FIRST:
        low.append(made)
    atomics.mark(made.fileno())
    return made


def unixSocket() -> Socket:
    """A non-blocking socket of the kind that brokers and members use."""
    low = []
    while (
        made := Socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
    ).fileno() < FIRST:
        low.append(made)
    return ownSocket(made)


def streamSocket(family: int) -> Socket:
    """A non-blocking socket for a TCP listener."""
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    return ownSocket(Socket(family, kind))


def ownSocket(made: Socket) -> Socket:
    """Give the socket a number of ours, and make it non-blocking. Returns it, or a new
    object for it.
    """
    if made.fileno() < FIRST:
        kind = made.family, made.type, made.proto
        made = Socket(*kind, own(made.detach()).release())
    else:
        atomics.mark(made.fileno())
    made.setblocking(False)
    return made


class OwnSocket(Known):
    """A socket that is kept. The `socket` object owns the number."""

    def __init__(self, made: Socket) -> None:
        self.socket = made
        super().__init__(*atomics.known(made.fileno()).parts())

    def close(self) -> None:
        if self.isOurs():
            self.socket.close()
        else:
            self.socket.detach()  # its finalizer would close another file
        self.number = -1


class OwnPoll(Known):
    """An epoll object that is kept."""

    #: The end of an epoll object closes its number. So an object whose number leads to
    #: another file must not end.
    _kept: ClassVar[list[select.epoll]] = []

    def __init__(self) -> None:
        self.poll = epoll()
        super().__init__(*atomics.known(self.poll.fileno()).parts())

    def register(self, descriptor: int, once: bool = False) -> None:
        """Wait until it is readable; `once`: for the first time only."""
        self.poll.register(descriptor, select.EPOLLIN | (select.EPOLLONESHOT if once else 0))

    def unregister(self, descriptor: int) -> None:
        if self.isOurs():
            self.poll.unregister(descriptor)

    def wait(self, seconds: float, *needed: Known | OwnEvent | None) -> list[int]:
        """Return the descriptors that are readable, after so long at most. Raises
        `OSError` once the program has closed this descriptor, or one of those in
        `needed`.

        Closing a descriptor wakes no waiter, so a long wait consists of many short
        ones.
        """
        deadline = clock.now() + seconds
        while True:
            self.checked()
            left = deadline - clock.now()
            events = [
                descriptor for descriptor, _ in self.poll.poll(max(0.0, min(left, _LOOK_SECONDS)))
            ]
            if not events:
                for each in needed:
                    if each is not None and not each.isOurs():
                        raise atomics.closedByProgram(each.number)
            if events or left <= _LOOK_SECONDS:
                return events

    def close(self) -> None:
        if self.isOurs():
            self.poll.close()
        elif self.number >= 0:
            self._kept.append(self.poll)
        self.number = -1


class _Kept:
    """A descriptor that may be replaced by another."""

    __slots__ = ("_kept",)

    def __init__(self, kept: Known) -> None:
        self._kept = kept

    @property
    def number(self) -> int:
        """The number under which it is open; below 0 once it was closed."""
        return self._kept.number

    def isOurs(self) -> bool:
        """Whether the number still leads to the same file."""
        return self._kept.isOurs()

    def close(self) -> None:
        """Close it if it still is ours. A second call does nothing."""
        self._kept.close()


class OwnEvent(_Kept):
    """An eventfd that is kept; with `number`, an eventfd that another owner closes."""

    __slots__ = ()

    def __init__(self, number: int | None = None) -> None:
        super().__init__(eventfd() if number is None else atomics.opened(atomics.known(number)))

    def checked(self) -> int:
        """The number. If the eventfd was lost, it is replaced by a new one first."""
        if self.number >= 0 and not self.isOurs():
            if isinstance(self._kept, Descriptor):
                # The end of the object would close the new eventfd, which may get the
                # same number.
                self._kept.release()
            self._kept = eventfd()
        return self.number

    def set(self) -> None:
        """Wake the thread that waits for it. Takes no lock, so finalizers and signal
        handlers may call it.

        The call keeps the interpreter's lock. Otherwise the thread that wakes would
        take it, and a Ctrl-C that comes before a finalizer has it back would be lost.
        """
        atomics.eventSet(self._kept)


class Named(_Kept):
    """A descriptor of a file that has a name: if it was lost, the file is opened again.
    Only `close` closes it.

    The end of the object does not, because closing it would release the locks that the
    process has on the file.
    """

    __slots__ = ("_flags", "_path")

    def __init__(self, path: str, flags: int, maker: int | None = None) -> None:
        super().__init__(_lasting(opened(path, flags, maker=maker)))
        self._path, self._flags = path, flags & ~(os.O_CREAT | os.O_TRUNC | os.O_EXCL)

    @property
    def inode(self) -> int:
        """The inode of the file, on its device."""
        return self._kept.inode

    def renamed(self, path: str) -> None:
        """Use another name of the file from now on."""
        self._path = path

    def reopen(self) -> None:
        """Open the file again by its name. Raises `OSError`, also if the name leads to
        another file by now.
        """
        again, before = opened(self._path, self._flags), self._kept
        if (again.device, again.inode) != (before.device, before.inode):
            raise OSError(errno.ESTALE, f"{self._path} is another file by now")
        self._kept = _lasting(again)

    def checked(self) -> int:
        """The number, to be used at once. Raises `OSError` if the descriptor was lost
        and the file can not be opened again.
        """
        if not self.isOurs():
            if self.number < 0:
                raise OSError(errno.EBADF, f"{self._path} was closed")
            self.reopen()
        return self.number


def _lasting(made: Descriptor) -> Known:
    """The same descriptor, which no object closes at its end any more."""
    lasting = atomics.known(made)
    made.release()
    return lasting
