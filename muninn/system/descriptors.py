"""Descriptors of ours: never one of the standard streams, and never used or closed once
the number is another file's.

A number below 3 is what C libraries print to. A program that was started with closed
standard streams gives these numbers to whatever opens first, and what a library prints
to its standard error would then go into the lock file or the control block. So whatever
is opened for Muninn is moved above them here, in Python as in C (`mnnOwn`), and
`tests/test_descriptors.py` finds what is opened otherwise.

Programs close descriptors that are not theirs: a daemon closes all of them after its
fork, and so does many a program before an exec. The numbers go to its own files next.
What is kept open for longer than a call is therefore a `Descriptor`: it knows which
file it was, and each descriptor of ours has a mark besides (F_SETSIG of a signal that
nothing asks for), since an eventfd or an epoll is no file of its own. A descriptor that
is lost is forgotten and not closed.
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

#: The first number that is no standard stream.
FIRST = 3
#: How often a waiter looks whether the program has closed the descriptor by which it
#: waits.
_LOOK_SECONDS = 0.5


def own(descriptor: int | Descriptor) -> Descriptor:
    """Make a new descriptor ours, which may have another number from now on. Raises
    `OSError`, and then it is closed.
    """
    return (
        descriptor
        if isinstance(descriptor, Descriptor)
        else atomics.opened(atomics.own(descriptor))
    )


def opened(path: str, flags: int, mode: int = 0o600, maker: int | None = None) -> Descriptor:
    """Open a file, close-on-exec and not through a link; what it makes has this mode,
    whatever the umask takes away.

    What a process makes for `maker`, a uid, which is not its own any more, goes again:
    `DomainChanged`.
    """
    made = atomics.opened(atomics.openFile(os.fsencode(path), flags | os.O_NOFOLLOW, mode), path)
    if flags & os.O_CREAT:
        ownership.requireMade(path, maker, mode, made)
    return made


def memfd(name: str) -> Descriptor:
    """A new memfd of no bytes yet, which may be sealed and is its owner's only."""
    return atomics.opened(atomics.memfdCreate(name.encode(), 0), name)


def duplicate(descriptor: int | Known) -> Descriptor:
    """A duplicate, close-on-exec."""
    return atomics.opened(atomics.duplicate(descriptor))


def eventfd() -> Descriptor:
    """An eventfd that does not block."""
    return atomics.opened(atomics.eventfd())


class Socket(_socket.socket):
    """A socket of Python's without what `socket` puts around it, which libraries
    replace (`green.py`).
    """

    def accept(self) -> Socket:
        """The next connection."""
        descriptor, _ = self._accept()  # type: ignore[attr-defined]
        return Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, descriptor)


def epoll() -> select.epoll:
    """An epoll object."""
    low = []
    while (made := green.epoll()).fileno() < FIRST:
        low.append(made)
    atomics.mark(made.fileno())
    return made


def unixSocket() -> Socket:
    """A socket as brokers and members use it, which does not block."""
    low = []
    while (
        made := Socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
    ).fileno() < FIRST:
        low.append(made)
    return ownSocket(made)


def ownSocket(made: Socket) -> Socket:
    """The socket, or another object of it, by a number of ours; it does not block from
    now on.
    """
    if made.fileno() < FIRST:
        made = Socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, own(made.detach()).release())
    else:
        atomics.mark(made.fileno())
    made.setblocking(False)
    return made


class OwnSocket(Known):
    """A socket that is kept. The number goes with the `socket` object."""

    def __init__(self, made: Socket) -> None:
        self.socket = made
        super().__init__(*atomics.known(made.fileno()).parts())

    def close(self) -> None:
        if self.isOurs():
            self.socket.close()
        else:
            self.socket.detach()  # or its finalizer would close another file's
        self.number = -1


class OwnPoll(Known):
    """An epoll object that is kept."""

    #: An epoll object closes its number when it goes. One whose number is somebody
    #: else's must not go.
    _kept: ClassVar[list[select.epoll]] = []

    def __init__(self) -> None:
        self.poll = epoll()
        super().__init__(*atomics.known(self.poll.fileno()).parts())

    def register(self, descriptor: int, once: bool = False) -> None:
        """Wait for what can be read from it; once only, if so wanted."""
        self.poll.register(descriptor, select.EPOLLIN | (select.EPOLLONESHOT if once else 0))

    def unregister(self, descriptor: int) -> None:
        if self.isOurs():
            self.poll.unregister(descriptor)

    def wait(self, seconds: float, *needed: Known | OwnEvent | None) -> list[int]:
        """The descriptors that have something, after so long at most. Raises `OSError`
        once the program has closed this, or a needed one.

        A descriptor that was closed wakes no waiter, so a long wait consists of many
        looks.
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
    """A descriptor in the place of which another one may come."""

    __slots__ = ("_kept",)

    def __init__(self, kept: Known) -> None:
        self._kept = kept

    @property
    def number(self) -> int:
        """Under which it is open; below 0 once it was closed."""
        return self._kept.number

    def isOurs(self) -> bool:
        """Whether the number still is what it was."""
        return self._kept.isOurs()

    def close(self) -> None:
        """Close it, if it still is ours; again is fine."""
        self._kept.close()


class OwnEvent(_Kept):
    """An eventfd that is kept; or, by its number, one that another owner closes."""

    __slots__ = ()

    def __init__(self, number: int | None = None) -> None:
        super().__init__(eventfd() if number is None else atomics.opened(atomics.known(number)))

    def checked(self) -> int:
        """The number; of another eventfd, in the place of one that was lost."""
        if self.number >= 0 and not self.isOurs():
            if isinstance(self._kept, Descriptor):
                # or its end would close the next one, which may get the same number
                self._kept.release()
            self._kept = eventfd()
        return self.number

    def set(self) -> None:
        """Wake the thread that waits for it. Takes no lock: finalizers and signal
        handlers call it.

        It keeps the interpreter's lock: the thread that wakes would take it, and a
        Ctrl-C that comes until a finalizer has it again is lost.
        """
        atomics.eventSet(self._kept)


class Named(_Kept):
    """A descriptor of a file that has a name: one that is lost can be opened again. It
    is closed when that is asked for alone.

    The end of the object does not close it: the locks that the process has on the file
    would go.
    """

    __slots__ = ("_flags", "_path")

    def __init__(self, path: str, flags: int, maker: int | None = None) -> None:
        super().__init__(_lasting(opened(path, flags, maker=maker)))
        self._path, self._flags = path, flags & ~(os.O_CREAT | os.O_TRUNC | os.O_EXCL)

    @property
    def inode(self) -> int:
        """Which file it is, on its device."""
        return self._kept.inode

    def renamed(self, path: str) -> None:
        """The file has another name from now on."""
        self._path = path

    def reopen(self) -> None:
        """Open the file by its name. Raises `OSError`, also when the name leads to
        another file by now.
        """
        again, before = opened(self._path, self._flags), self._kept
        if (again.device, again.inode) != (before.device, before.inode):
            raise OSError(errno.ESTALE, f"{self._path} is another file by now")
        self._kept = _lasting(again)

    def checked(self) -> int:
        """The number, to be used at once. Raises `OSError` when it was lost and can not
        be opened again.
        """
        if not self.isOurs():
            if self.number < 0:
                raise OSError(errno.EBADF, f"{self._path} was closed")
            self.reopen()
        return self.number


def _lasting(made: Descriptor) -> Known:
    """The same, which does not go with an object any more."""
    lasting = atomics.known(made)
    made.release()
    return lasting
