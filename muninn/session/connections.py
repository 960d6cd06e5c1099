"""Lines: this member's connections to the broker of one epoch.

A thread that sends a request takes an idle line or makes another, uses it alone, and
gives it back. No thread waits for a line that is in use. To take a line and to give it
back are one step each, so a signal handler or a finalizer that asks in the middle of a
request of its own thread takes another line. A line whose thread was interrupted is
closed and not given back, since its next message could be taken for the answer to
another request.

A member that asks with one thread at a time has one line, since each line costs the
broker a descriptor. The background thread and a thread with a request often connect at
the same moment, when a process joins or a term begins. Each counts on the other's line
only once that is greeted, because a thread may be interrupted before it has said hello.
The thread with a request says that its line is greeted, and then looks for an idle one
(`take`). The background thread gives its greeted line back, and then looks for another
one (`giveBackUnlessSpare`). So at least one of the two sees the line of the other, and
that one gives up its own or takes the other's.
"""

from __future__ import annotations

import contextlib
import socket
import weakref

from muninn.system.descriptors import OwnSocket, Socket

#: How many idle lines are kept. A process with more threads that ask at once connects
#: again for the others.
KEPT = 4


class Line:
    """One connection. It ends at the latest when the object is collected.

    Attributes
    ----------
    isGreeted
        Whether the broker has answered the hello on it, and so has the memory that this
        member brings.
    hasRested
        Whether no request used it since the background thread looked last.
    """

    __slots__ = ("__weakref__", "_kept", "connection", "epoch", "hasRested", "isGreeted")

    def __init__(self, connection: Socket, epoch: int) -> None:
        self.connection = connection
        self.epoch = epoch
        self.isGreeted = self.hasRested = False
        self._kept = OwnSocket(connection)
        weakref.finalize(self, self._kept.close).atexit = False

    def isOurs(self) -> bool:
        """Whether the number of the descriptor still belongs to this line."""
        return self._kept.isOurs()

    def callAway(self) -> None:
        """End the wait of a thread for an answer on this line."""
        with contextlib.suppress(OSError):
            self._kept.checked()
            self.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._kept.close()


class Lines:
    """All lines of one member, idle or in use."""

    def __init__(self) -> None:
        self._idle: list[Line] = []
        self._isClosed = False
        self._all: weakref.WeakValueDictionary[int, Line] = weakref.WeakValueDictionary()

    def take(self, epoch: int) -> Line | None:
        """An idle line to the broker of `epoch`, if there is one. The caller uses it
        alone until it gives the line back or closes it.
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
        """A new line, which the caller uses alone."""
        line = Line(connection, epoch)
        self._all[id(line)] = line
        return line

    def giveBack(self, line: Line) -> None:
        line.hasRested = False
        if len(self._idle) >= KEPT:
            line.close()
            return
        self._idle.append(line)
        # Only now: `close` says that it comes, and then looks at the idle lines.
        if self._isClosed:
            self._closeIdle(line)

    def giveBackUnlessSpare(self, line: Line) -> None:
        """Give back a line that was made for no request; close it if there is another."""
        self.giveBack(line)
        if self.isAnyGreeted(line.epoch, butFor=line):
            self._closeIdle(line)

    def thin(self) -> None:
        """Close the idle lines that were not used since the last call, except one. Each
        line costs the broker a descriptor.
        """
        for line in self._idle[:-1]:  # `take` takes the last line first
            if line.hasRested:
                self._closeIdle(line)
            line.hasRested = True

    def _closeIdle(self, line: Line) -> None:
        with contextlib.suppress(ValueError):  # a thread has just taken it
            self._idle.remove(line)
            line.close()

    def isAnyGreeted(self, epoch: int, butFor: Line | None = None) -> bool:
        """Whether the broker of `epoch`, or of a later epoch, has greeted a line that is
        open, idle or not, other than `butFor`. An error that somebody keeps keeps its
        line too, closed.
        """
        return any(
            line is not None
            and line is not butFor
            and line.epoch >= epoch
            and line.isGreeted
            and line.isOurs()
            for line in self._known()
        )

    def disconnect(self, epoch: int) -> None:
        """End all lines to brokers of earlier epochs than `epoch`, also those on which
        a thread waits.
        """
        for line in self._known():
            if line is not None and line.epoch < epoch:
                line.callAway()
        for line in tuple(self._idle):
            if line.epoch < epoch:
                self._closeIdle(line)

    def close(self) -> None:
        """Close the idle lines. Each other line is closed when it is given back."""
        self._isClosed = True
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
