"""The endpoint: `/metrics` over HTTP, for Prometheus, as long as one member is there
that may answer.

Each member with a port (`server.metricsPort`, or `keep --metrics`) has a thread that
waits at the one listening socket which all of them have (`sockets.py`). One of them is
first: the broker, or else the first member in the order of the slots. It takes a
connection at once. The second waits a moment, the third two, and so on, and then takes
the connection if it is still there. So a member that is killed, stopped or busy is
passed over, with no election and no message, and a connection waits for some tenths of
a second at most. All of them would give the same answer, because it is read from shared
memory.

The one word that is written is the flag `MEMBER_FLAG_ANSWERS` in the own slot. A stale
read costs a moment. A death at any place leaves the others the socket and its queue;
the scraper loses the answer that was being written.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, make_wsgi_app

from muninn.errors import MuninnError
from muninn.service.answers import answer, isWhole
from muninn.service.metrics import DomainCollector
from muninn.service.readings import read
from muninn.service.sockets import NoAnswer, PortTaken, Sockets
from muninn.system import clock, threads
from muninn.system.aside import markOwn
from muninn.system.descriptors import OwnEvent, OwnPoll, OwnSocket
from muninn.system.logs import Log

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from muninn.devices.port import Device
    from muninn.session.gpus import Gpus
    from muninn.session.tables import Tables

_log = Log("muninn.metrics")
#: How much longer each member waits than the one before it. A scrape takes some 20 ms.
_TURN_SECONDS = 0.1
_MOST_TURNS = 5
_LOOK_SECONDS = 0.02
#: How often the thread looks whether its membership goes on.
_LONGEST_WAIT_SECONDS = 1.0
_RETRY_SECONDS = 1.0
#: Attempts in short order: another member may have bound the port, and not the door yet.
_QUICK_ATTEMPTS, _QUICK_RETRY_SECONDS = 5, 0.1
#: How long a client may take to send its request, or to read the answer.
_CLIENT_SECONDS = 5.0
_MAX_CONNECTIONS = 64
_SEND_BUFFER_BYTES = 1 << 20
_END_SECONDS = 5.0
#: How long a process that leaves answers the requests that it has accepted.
_FINISH_SECONDS = 0.5


def _application(collector: DomainCollector) -> WSGIApplication:
    """The application of `prometheus_client` at `/metrics`, and a word at any other
    path.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    metrics: WSGIApplication = make_wsgi_app(registry)

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start)
        status = "200 OK" if path == "/" else "404 Not Found"
        start(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [b"Muninn's metrics are at /metrics.\n"]

    return application


def urlOf(address: str, port: int) -> str:
    """Where the metrics are."""
    return f"http://{f'[{address}]' if ':' in address else address}:{port}/metrics"


class _Connection:
    """A client, and what it has sent."""

    def __init__(self, own: OwnSocket) -> None:
        self.own = own
        self.received = b""
        self.deadline = clock.now() + _CLIENT_SECONDS


class Endpoint:
    """The endpoint of this process, for one membership. A thread serves it.

    Parameters
    ----------
    isPreferred
        Whether this process is `keep`: then it asks the GPUs of the machine. Another
        program that has not used a GPU yet may want to fork, and is left alone.
    """

    def __init__(self, tables: Tables, gpus: Gpus, isPreferred: bool) -> None:
        server = tables.settings.server
        self._tables = tables
        self._gpus = gpus
        self._isPreferred = isPreferred
        self._url = urlOf(server.metricsAddress, server.metricsPort)
        self._port = server.metricsPort
        self._application = _application(DomainCollector(lambda: read(tables), self._device))
        self._sockets = Sockets(tables.paths, server.metricsAddress, server.metricsPort)
        self._poll: OwnPoll | None = None
        self._connections: dict[int, _Connection] = {}
        self._isEnding = False
        self._wake = OwnEvent()
        self._saidWhyNot = ""
        self._attempts = 0
        self._thread = threads.start(self._run, "muninn-metrics")

    def _device(self) -> Device | None:
        if not self._isPreferred:
            return self._gpus.device
        try:
            return self._gpus.chosen()
        except MuninnError as error:
            _log.debug("the metrics have no GPUs: %s", error)
            return None

    # --- its end ---------------------------------------------------------------------

    def end(self) -> None:
        """Answer no more, and close the sockets; others that have them go on."""
        self._isEnding = True
        self._wake.set()
        self._thread.join(_END_SECONDS)

    def forget(self) -> None:
        """In a forked child: close the descriptors. Its parent goes on."""
        self._isEnding = True
        self._sockets.close()
        if self._poll is not None:
            self._poll.close()
        self._wake.close()

    def _isOver(self) -> bool:
        tables = self._tables
        return (
            self._isEnding
            or tables.identity.isWiped()
            or not tables.members.isCurrent(tables.key)
            or not tables.block.hasName()
        )

    # --- the thread ------------------------------------------------------------------

    def _run(self) -> None:
        markOwn()
        while not self._isOver():
            try:
                self._serve()
            except (PortTaken, NoAnswer) as error:
                self._sayWhyNot(error)
            except Exception as error:
                self._attempts += 1
                # The same error, each second, is one line.
                if repr(error) != self._saidWhyNot:
                    self._saidWhyNot = repr(error)
                    _log.exception("the endpoint of the metrics goes on")
            finally:
                self._close()
            isQuick = self._attempts < _QUICK_ATTEMPTS
            self._pause(_QUICK_RETRY_SECONDS if isQuick else _RETRY_SECONDS)
        self._wake.close()

    def _sayWhyNot(self, error: Exception) -> None:
        """Say once why there is no endpoint, after some attempts."""
        self._attempts += 1
        text = str(error) or "the processes that have the port do not answer: they are stopped"
        if self._attempts >= _QUICK_ATTEMPTS and text != self._saidWhyNot:
            self._saidWhyNot = text
            _log.warning(
                "no metrics of domain %r from this process: %s. It tries again each second",
                self._tables.paths.domain,
                text,
            )

    def _pause(self, seconds: float) -> None:
        deadline = clock.now() + seconds
        while not self._isEnding and (left := deadline - clock.now()) > 0:
            clock.sleep(min(left, _LOOK_SECONDS))

    def _close(self) -> None:
        """Close everything, in the order in which nothing can be lost."""
        tables = self._tables
        if tables.members.isCurrent(tables.key):
            tables.members.tellAnswers(tables.key.slot, False)
        # The poll goes first: it would still report a socket that other members have.
        poll, self._poll = self._poll, None
        if poll is not None:
            poll.close()
        self._connections.clear()
        self._sockets.close()

    def _serve(self) -> None:
        """Take the sockets, and answer at them until this member leaves."""
        self._sockets.take()
        listener, door = self._sockets.listener, self._sockets.door
        assert listener is not None and door is not None
        self._poll = poll = OwnPoll()
        for each in (listener.number, door.number, self._wake.checked()):
            poll.register(each)
        self._tables.members.tellAnswers(self._tables.key.slot, True)
        self._attempts, self._saidWhyNot = 0, ""
        _log.info("metrics of domain %r: %s", self._tables.paths.domain, self._url)
        while not self._isOver():
            ready = poll.wait(_LONGEST_WAIT_SECONDS, listener, door)
            if not self._sockets.areOurs():
                _log.warning("the program has closed the sockets of the metrics: they begin anew")
                return
            for number in ready:
                if number in self._connections:
                    self._read(self._connections[number])
                elif number == listener.number:
                    self._welcome(poll, listener)
                elif number == door.number and (asking := self._accepted(door)) is not None:
                    self._sockets.handOn(asking)
                    self._sockets.drop(asking)
            self._dropLate()
        self._finish(poll)

    def _finish(self, poll: OwnPoll) -> None:
        """Answer those whose connections this process has accepted."""
        deadline = clock.now() + _FINISH_SECONDS
        while self._connections and (left := deadline - clock.now()) > 0:
            for number in poll.wait(min(left, _LOOK_SECONDS)):
                if number in self._connections:
                    self._read(self._connections[number])

    def _rank(self) -> int:
        """How many members take a connection before this one."""
        broker = self._tables.election.term().slot
        own, answering = self._tables.key.slot, self._tables.members.answering()
        if own == broker:
            return 0
        return sum(slot < own or slot == broker for slot in answering if slot != own)

    def _accepted(self, of: OwnSocket) -> OwnSocket | None:
        """A connection, if the members before this one leave it to this one."""
        self._pause(min(self._rank(), _MOST_TURNS) * _TURN_SECONDS)
        return None if self._isEnding and self._rank() else self._sockets.accept(of)

    def _welcome(self, poll: OwnPoll, listener: OwnSocket) -> None:
        own = self._accepted(listener)
        if own is None:
            return
        if len(self._connections) >= _MAX_CONNECTIONS:
            # The oldest first: clients that say nothing keep nobody from the metrics.
            self._drop(next(iter(self._connections.values())))
        self._connections[own.number] = _Connection(own)
        poll.register(own.number)

    def _read(self, connection: _Connection) -> None:
        """Read what a client has sent, and answer once it is a request."""
        client = connection.own.socket
        try:
            received = client.recv(1 << 16)
            connection.received += received
            if received and not isWhole(connection.received):
                return
            if received:
                text = answer(connection.received, self._application, self._port)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
                client.settimeout(_CLIENT_SECONDS)
                client.sendall(text)
                client.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError as error:
            _log.debug("a client of the metrics has gone: %s", error)
        self._drop(connection)

    def _dropLate(self) -> None:
        now = clock.now()
        for each in [each for each in self._connections.values() if each.deadline < now]:
            self._drop(each)

    def _drop(self, connection: _Connection) -> None:
        self._connections.pop(connection.own.number, None)
        if self._poll is not None:
            with contextlib.suppress(OSError):  # the program has closed it
                self._poll.unregister(connection.own.number)
        self._sockets.drop(connection.own)
