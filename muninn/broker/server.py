"""The server: the sockets of one term in office.

The server owns the broker's listening socket, the connections of the members, and the
epoll by which the broker's thread waits. It is private memory and descriptors of the
broker's process; a death of the broker closes all of it, and the members notice the end
of their connections. The socket's name, which carries the epoch, stays behind, and a
successor removes it.

The server decides nothing about buffers and members. It asks its term (`ServedTerm`)
whether a newcomer may stay, what the answer to a request is, and tells it that a
connection has ended. Requests are served one at a time, on the thread that waits.
"""

from __future__ import annotations

import contextlib
import os
from typing import Protocol

from muninn.broker.sessions import SenderGone, Session
from muninn.control.block import BlockLost
from muninn.control.rows import Deposed
from muninn.errors import MuninnError, ProtocolViolation
from muninn.system import ownership
from muninn.system.descriptors import Descriptor, OwnEvent, OwnPoll, OwnSocket, Socket, unixSocket
from muninn.system.logs import Log
from muninn.wire import messages, requests
from muninn.wire.messages import Message

_log = Log("muninn.broker")
_BACKLOG = 256


class ServedTerm(Protocol):
    """What a server asks of the term that it serves."""

    def admit(self, listener: Socket) -> Socket | None:
        """The connection of a newcomer, if the newcomer may stay."""

    def reply(
        self, session: Session, message: Message, descriptors: list[Descriptor]
    ) -> tuple[Message, tuple[int, ...]]:
        """The answer to one request, and the descriptors that go with it, which stay
        the term's.
        """

    def disconnected(self, session: Session) -> None:
        """A connection has ended, from this side or from the other."""

    def hungUp(self, session: Session) -> None:
        """The other end of a connection has ended it: its member may be dead."""


class Server:
    """The sockets of one term. Writing to `wakeFd`, an eventfd of the member's, ends a
    wait.
    """

    def __init__(self, path: str, uid: int, wakeFd: int, term: ServedTerm) -> None:
        self._path = path
        self._uid = uid
        self._term = term
        self._wakeFd, self._wake = wakeFd, OwnEvent(wakeFd)
        self._listener: OwnSocket | None = None
        self._epoll = OwnPoll()
        self.sessions: dict[int, Session] = {}

    def listen(self) -> None:
        """Listen at the path of the term. Members connect from now on, and are served
        once the thread waits.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        listener = unixSocket()
        self._listener = OwnSocket(listener)
        listener.bind(self._path)
        ownership.requireMade(self._path, self._uid, 0o600)
        listener.listen(_BACKLOG)
        self._epoll.register(self._listener.number)
        self._epoll.register(self._wakeFd)

    def watch(self, descriptor: int) -> None:
        """Let the next wait end when the descriptor is readable, once."""
        self._epoll.register(descriptor, once=True)

    def unwatch(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)

    def wait(self, seconds: float) -> list[int]:
        """The descriptors that are readable, after at most so long."""
        return self._epoll.wait(seconds, self._wake, self._listener)

    def wake(self) -> None:
        """End the wait of the thread that serves. For any thread."""
        self._wake.set()

    def isClosed(self) -> bool:
        return self._epoll.number < 0

    def handle(self, descriptor: int) -> bool:
        """Do what a readable descriptor asks for; False when it is not one of the
        server's.
        """
        if (session := self.sessions.get(descriptor)) is not None:
            (self._serve if session.isOurs() else self.drop)(session)
        elif descriptor == self._wakeFd and self._wake.isOurs():
            # one wake-up may be seen twice, the second time empty
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wakeFd)
        elif self._listener is not None and descriptor == self._listener.checked():
            self._accept(self._listener.socket)
        else:
            return False
        return True

    def _accept(self, listener: Socket) -> None:
        connection = self._term.admit(listener)
        if connection is not None:
            self.sessions[connection.fileno()] = Session(connection)
            self._epoll.register(connection.fileno())

    def drop(self, session: Session) -> None:
        """End a connection. Its member's death, if it is one, is the death watch's to
        confirm.
        """
        if session.connection is not None:
            self.sessions.pop(session.connection.fileno(), None)
            if session.isOurs():
                self._epoll.unregister(session.connection.fileno())
            session.close()
        self._term.disconnected(session)

    def _serve(self, session: Session) -> None:
        assert session.connection is not None
        try:
            try:
                received = messages.receive(session.connection, messages.MAX_DESCRIPTORS)
            except BlockingIOError:
                # the event was that of a descriptor of the same number which this step
                # has closed
                return
            if received is None:
                self.drop(session)
                self._term.hungUp(session)
                return
            reply, descriptors = self._term.reply(session, *received)
            messages.send(session.connection, reply, descriptors)
        except MuninnError as error:
            # Bytes that are no request: this peer does not speak our language, so it is
            # told once and let go.
            (_log.info if isinstance(error, SenderGone) else _log.warning)(
                "dropped a connection: %s", error
            )
            with contextlib.suppress(OSError):
                messages.send(session.connection, requests.failure(error))
            self.drop(session)
        except OSError as error:
            # The member is gone, or does not read its answers; it will connect again if
            # it lives.
            _log.info("dropped a connection: %s", error)
            self.drop(session)
        except (Deposed, BlockLost):
            raise
        except Exception as error:
            # A request that no check refused and no handler can serve. It must not go
            # from broker to broker, and end the term of each.
            _log.exception("dropped a connection")
            refusal = ProtocolViolation(f"the broker could not serve this: {type(error).__name__}")
            with contextlib.suppress(OSError):
                messages.send(session.connection, requests.failure(refusal))
            self.drop(session)

    # --- the end ---------------------------------------------------------------------

    def endConnections(self) -> None:
        """Drop all members, and let nobody connect any more."""
        for session in list(self.sessions.values()):
            self.drop(session)
        if self._listener is not None:
            self._listener.close()

    def close(self) -> None:
        """End the waiting and remove the name, once nothing is watched any more."""
        self._epoll.close()
        # this process may be another uid by now
        with contextlib.suppress(FileNotFoundError, PermissionError):
            os.unlink(self._path)

    def closeInChild(self) -> None:
        """In a forked child: close this process's copies, and leave the parent's
        connections as they are.
        """
        for part in (*self.sessions.values(), self._listener, self._epoll):
            if part is not None:
                part.close()
