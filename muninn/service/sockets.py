"""Sockets: the listening socket of a domain's endpoint, which all members that may
answer there have in common.

One member binds the TCP port. It also listens at a Unix socket in the domain's
directory, the door, and sends the descriptors of both sockets to each member that
connects there. So the port stays open, and the kernel keeps the connections that wait,
for as long as any of these members lives: no connection is refused because one of them
dies, leaves or is stopped. Whoever has bound the port is the one that may bind the
door, so no lock is needed between two members that begin at the same time.

The name of the door stays behind after the last of them, and the next that binds the
port removes it. All else here is private memory and descriptors of the process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket

from muninn.errors import ProtocolViolation
from muninn.storage.paths import SHM_ROOT, Paths
from muninn.system import green, ownership
from muninn.system.descriptors import (
    Descriptor,
    OwnSocket,
    Socket,
    ownSocket,
    streamSocket,
    unixSocket,
)
from muninn.system.forks import Guard
from muninn.wire import messages

_BACKLOG = 128
#: How long a member that was asked for its sockets may take.
_ANSWER_SECONDS = 2.0
#: Held while a descriptor comes into being, so that a fork finds each of them in a list
#: of those that its child closes.
_having = Guard(isWhole=True)


class PortTaken(Exception):
    """Another program has the port, or the address is not this machine's."""


class NoAnswer(Exception):
    """Other members have the sockets, and none of them answers: they are stopped."""


class Sockets:
    """The sockets of an endpoint, as this process has them.

    Attributes
    ----------
    listener
        The TCP listener; None while this process has none.
    door
        The Unix socket at which other members ask for both.
    """

    def __init__(self, paths: Paths, address: str, port: int) -> None:
        self._paths = paths
        self._address = address
        self._port = port
        self._kept: list[OwnSocket] = []
        self.listener: OwnSocket | None = None
        self.door: OwnSocket | None = None

    def take(self) -> None:
        """Get both sockets, from a member that has them or anew.

        Raises
        ------
        PortTaken, NoAnswer
        OSError
            For example, because the process may open no more descriptors.
        """
        if not self._ask():
            self._make()

    def _keep(self, made: Socket) -> OwnSocket:
        kept = OwnSocket(made)
        self._kept.append(kept)
        return kept

    def _ask(self) -> bool:
        """Get the sockets from another member; False if none has them."""
        with _having.lock:
            asking = self._keep(unixSocket())
        try:
            asking.socket.connect(self._paths.endpointPath(self._port))
            poll = green.poll()
            poll.register(asking.number, select.POLLIN)
            if not poll.poll(_ANSWER_SECONDS * 1000):
                raise NoAnswer
            with _having.lock:
                return self._received(messages.receive(asking.socket, 2))
        except (FileNotFoundError, ConnectionError):
            return False  # nobody has them, or the member that had them is ending
        except BlockingIOError:
            raise NoAnswer from None  # as many ask as may wait
        finally:
            self.drop(asking)

    def _received(self, received: tuple[messages.Message, list[Descriptor]] | None) -> bool:
        if received is None:
            return False
        message, taken = received
        if message.get("port") != self._port or len(taken) != 2:
            messages.closeAll(taken)
            raise ProtocolViolation("a member sent something else than the sockets of its endpoint")
        self.listener, self.door = (
            self._keep(ownSocket(Socket(fileno=each.release()))) for each in taken
        )
        return True

    def _make(self) -> None:
        """Bind the port, and then the door."""
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        path = self._paths.endpointPath(self._port)
        with _having.lock, contextlib.ExitStack() as undo:
            listener = self._keep(streamSocket(family))
            undo.callback(self.drop, listener)
            # Connections of an endpoint that ended a moment ago do not keep the port.
            listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.socket.bind((self._address, self._port))
                listener.socket.listen(_BACKLOG)
            except OSError as error:
                raise PortTaken(self._whyNot(error)) from error
            # The port is ours, so no member listens at any of these.
            for stale in self._paths.endpointPaths(self._port):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(stale)
            door = self._keep(unixSocket())
            undo.callback(self.drop, door)
            door.socket.bind(path)
            ownership.requireMade(path, self._paths.uid, 0o600)
            door.socket.listen(_BACKLOG)
            undo.pop_all()
        self.listener, self.door = listener, door

    def _whyNot(self, error: OSError) -> str:
        where = f"port {self._port} of {self._address}"
        if error.errno != errno.EADDRINUSE:
            return f"{where} can not be bound: {error.strerror}"
        if (other := self._otherDomain()) is not None:
            return f"{where} is the endpoint of domain {other!r}"
        return f"{where} is taken by another program"

    def _otherDomain(self) -> str | None:
        """The domain of this user whose endpoint has the port."""
        begin = f"muninn-{self._paths.uid}-"
        own = os.path.basename(self._paths.directory)
        for folder in os.listdir(SHM_ROOT):
            if not folder.startswith(begin) or ".d" not in folder or folder == own:
                continue
            domain = folder.removeprefix(begin).partition(".d")[0]
            paths = Paths(self._paths.uid, domain, folder=folder)
            if any(map(self._isAnswered, paths.endpointPaths(self._port))):
                return domain
        return None

    def _isAnswered(self, path: str) -> bool:
        asking = self._keep(unixSocket())
        try:
            asking.socket.connect(path)
            return True
        except OSError:
            return False
        finally:
            self.drop(asking)

    # --- while this process has them -------------------------------------------------

    def areOurs(self) -> bool:
        """Whether the program has closed neither of them."""
        pair = (self.listener, self.door)
        return all(each is not None and each.isOurs() for each in pair)

    def accept(self, of: OwnSocket) -> OwnSocket | None:
        """The next connection; None if another member was faster."""
        with _having.lock:
            try:
                return self._keep(ownSocket(of.socket.accept()))
            except (BlockingIOError, ConnectionError):
                return None

    def handOn(self, asking: OwnSocket) -> None:
        """Send both sockets to a member that has connected to the door."""
        assert self.listener is not None and self.door is not None
        with contextlib.suppress(OSError):  # it has given up, or ended
            given = [self.listener.number, self.door.number]
            messages.send(asking.socket, {"port": self._port}, given)

    def drop(self, each: OwnSocket) -> None:
        """Close a socket."""
        with contextlib.suppress(ValueError):  # a forked child has forgotten it
            self._kept.remove(each)
        each.close()

    def close(self) -> None:
        """Close all sockets, also in a forked child. The port stays open while another
        member has it.
        """
        self.listener = self.door = None
        while self._kept:
            self._kept.pop().close()
