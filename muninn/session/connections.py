"""Lines: this member's connections to the broker of one epoch.

Nobody waits for a line that is in use: who asks takes one that is idle or makes
another, has it alone, and gives it back. Taking and giving back are one step each, so a
signal handler or a finalizer that asks in the middle of its own thread's question
simply takes another; and a line that was in anybody's hands when he was interrupted
goes with them, since what it still brings could be taken for the answer to another
question.
"""

from __future__ import annotations

import contextlib
import socket
import weakref

from muninn.system.descriptors import OwnSocket, Socket

#: So many wait for the next question; a process with more threads that ask at once
#: connects anew for those beyond.
KEPT = 4


class Line:
    """One connection. It ends with the object at the latest."""

    __slots__ = ("__weakref__", "_kept", "connection", "epoch", "hasRested")

    def __init__(self, connection: Socket, epoch: int) -> None:
        self.connection = connection
        self.epoch = epoch
        self.hasRested = False  # since the background thread looked last
        self._kept = OwnSocket(connection)
        weakref.finalize(self, self._kept.close).atexit = False

    def isOurs(self) -> bool:
        """Whether its number is nobody else's by now."""
        return self._kept.isOurs()

    def callAway(self) -> None:
        """End whatever wait there is on it."""
        with contextlib.suppress(OSError):
            self._kept.checked()
            self.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._kept.close()


class Lines:
    """All lines of one member: those that are idle, and those that somebody has."""

    def __init__(self) -> None:
        self._idle: list[Line] = []
        self._all: weakref.WeakValueDictionary[int, Line] = weakref.WeakValueDictionary()

    def take(self, epoch: int) -> Line | None:
        """An idle line to the broker of `epoch`, which is the caller's until he gives
        it back or lets it go.
        """
        while self._idle:
            try:
                line = self._idle.pop()
            except IndexError:  # another thread was faster
                return None
            if line.epoch == epoch and line.isOurs():
                return line
            line.close()
        return None

    def made(self, connection: Socket, epoch: int) -> Line:
        """A new one, the caller's."""
        line = Line(connection, epoch)
        self._all[id(line)] = line
        return line

    def giveBack(self, line: Line) -> None:
        line.hasRested = False
        if len(self._idle) < KEPT:
            self._idle.append(line)
        else:
            line.close()

    def thin(self) -> None:
        """Close those that nobody has asked by since the last call, all but one: each
        costs the broker a descriptor.
        """
        for line in self._idle[:-1]:  # who asks takes the last
            if line.hasRested:
                with contextlib.suppress(ValueError):  # somebody asks by it just now
                    self._idle.remove(line)
                    line.close()
            line.hasRested = True

    def isAny(self, epoch: int, butFor: Line | None = None) -> bool:
        """Whether there is one to the broker of `epoch`, idle or not, that is not
        `butFor`.
        """
        return any(
            line is not None and line is not butFor and line.epoch == epoch
            for line in self._known()
        )

    def disconnect(self, epoch: int) -> None:
        """End all lines to brokers of before `epoch`, also those that somebody waits
        on.
        """
        for line in self._known():
            if line is not None and line.epoch < epoch:
                line.callAway()
        idle, self._idle = self._idle, []
        for line in idle:
            if line.epoch < epoch:
                line.close()
            else:
                self.giveBack(line)

    def close(self) -> None:
        """End those that are idle; each other one ends when it is given back."""
        while (line := self._idle.pop() if self._idle else None) is not None:
            line.close()

    def closeInChild(self) -> None:
        """Close this process's copies, without ending the parent's connections."""
        for line in self._known():
            if line is not None:
                line.close()
        self._idle = []

    def _known(self) -> list[Line | None]:
        return [reference() for reference in self._all.valuerefs()]
