"""The server: the sockets of one broker's term.

The server owns the broker's listening socket, the connections of the members, and the
epoll by which the broker's thread waits. It is private memory and descriptors of the
broker's process; a death of the broker closes all of it, and the members notice the end
of their connections. The socket's name, which carries the epoch, stays behind, and a
successor removes it.

The server decides nothing about buffers and members. It asks its term (`ServedTerm`)
whether a new connection may stay, and what the answer to a request is; it tells the
term when a connection has ended. Requests are served one at a time, on the thread that
waits.
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
    """The methods of a term that its server calls."""

    def admit(self, listener: Socket) -> Socket | None:
        """Accept a new connection; returns it if it may stay."""

    def reply(
        self, session: Session, message: Message, descriptors: list[Descriptor]
    ) -> tuple[Message, tuple[int, ...]]:
        """The answer to one request, and the descriptors that go with it, which the
        term still owns.
        """

    def disconnected(self, session: Session) -> None:
        """A connection has ended, from this side or from the other."""

    def hungUp(self, session: Session) -> None:
        """The other end of a connection has ended it: its member may be dead."""


class Server:
    """The sockets of one term. A write to `wakeFd`, an eventfd of the member, ends a
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
        """Listen at the path of the term. Members can connect from now on; the thread
        serves them once it waits.
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
        """The descriptors that are readable, after at most `seconds`."""
        return self._epoll.wait(seconds, self._wake, self._listener)

    def wake(self) -> None:
        """End the wait of the thread that serves. For any thread."""
        self._wake.set()

    def isClosed(self) -> bool:
        return self._epoll.number < 0

    def handle(self, descriptor: int) -> bool:
        """Serve a readable descriptor; False when it does not belong to the server."""
        if (session := self.sessions.get(descriptor)) is not None:
            (self._serve if session.isOurs() else self.drop)(session)
        elif descriptor == self._wakeFd and self._wake.isOurs():
            # One wake-up may be seen twice; the second read finds nothing.
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
        """End a connection. If its member has died, the death watch confirms that."""
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
                # The event belonged to a descriptor of the same number, which this step
                # has closed.
                return
            if received is None:
                self.drop(session)
                self._term.hungUp(session)
                return
            reply, descriptors = self._term.reply(session, *received)
            messages.send(session.connection, reply, descriptors)
        except MuninnError as error:
            # These bytes are no request: the peer does not keep the protocol, so it is
            # told once and disconnected.
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
            # No check refused this request, and the handler failed. If the error ended
            # this term, the member would send the same request to the next broker, and
            # end that term too.
            _log.exception("dropped a connection")
            refusal = ProtocolViolation(f"the broker could not serve this: {type(error).__name__}")
            with contextlib.suppress(OSError):
                messages.send(session.connection, requests.failure(refusal))
            self.drop(session)

    # --- the end ---------------------------------------------------------------------

    def endConnections(self) -> None:
        """End the connections of all members, and accept no more."""
        for session in list(self.sessions.values()):
            self.drop(session)
        if self._listener is not None:
            self._listener.close()

    def close(self) -> None:
        """Close the epoll and remove the socket's name, once nothing is watched."""
        self._epoll.close()
        # This process may have another uid by now.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            os.unlink(self._path)

    def closeInChild(self) -> None:
        """In a forked child: close this process's copies, and leave the parent's
        connections as they are.
        """
        for part in (*self.sessions.values(), self._listener, self._epoll):
            if part is not None:
                part.close()
