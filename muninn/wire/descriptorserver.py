"""The descriptor server: descriptors of memory that has no name, handed out by a C
thread of the broker's process.

It needs the interpreter at neither end: a process that opens VRAM does not wait until
the broker's process, which may be busy with Python code, serves a request. It decides
nothing. It hands out the descriptors of the descriptor store; the process that asks has
a lease, and reads by itself whether the row is live. If the server does not have a
descriptor, or does not answer in time, the process sends a request to the broker.
"""

from __future__ import annotations

import _thread
import errno

from muninn.errors import DescriptorsExhausted
from muninn.storage.paths import Paths
from muninn.system import atomics, clock
from muninn.system.atomics import SPIN_NS
from muninn.system.descriptors import Descriptor, Known

_TIMEOUT_NS = 20_000_000
#: How long a descriptor server that did not answer is not asked again.
_SHUNNED_SECONDS = 1.0


class DescriptorServer:
    """The broker's side: it hands out each descriptor from `put` to `take`. The caller
    still owns the descriptors.

    Raises
    ------
    OSError
        It can not be opened.
    """

    def __init__(self, path: str) -> None:
        self._descriptorServer: int | None = atomics.openedDescriptorServer(path)

    def put(self, row: int, incarnation: int, descriptor: int | Known) -> None:
        """Hand a descriptor out from now on. Raises `OSError` if there is no memory."""
        if self._descriptorServer is not None:
            atomics.checked(
                atomics.descriptorServerPut(self._descriptorServer, row, incarnation, descriptor),
                "the descriptor server",
            )

    def take(self, row: int, incarnation: int) -> None:
        """Hand the descriptor out no more; afterwards the caller may close it."""
        if self._descriptorServer is not None:
            atomics.descriptorServerTake(self._descriptorServer, row, incarnation)

    def close(self) -> None:
        """End the thread and all connections. A repeated call does nothing."""
        if self._descriptorServer is not None:
            atomics.descriptorServerClose(self._descriptorServer)
            self._descriptorServer = None


class DescriptorClient:
    """A member's side: one connection, made at the first use and anew for each epoch."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._using = _thread.RLock()
        self._connection: Descriptor | None = None
        self._epoch = -1
        self._shunnedUntil = 0.0

    def fetch(self, epoch: int, row: int, incarnation: int) -> Descriptor | None:
        """A descriptor, which the caller owns; None if the broker must be asked. Takes
        at most 20 ms.

        Raises
        ------
        DescriptorsExhausted
        """
        with self._using:
            if self._epoch != epoch:
                self._disconnect()
                self._epoch, self._shunnedUntil = epoch, 0.0
            if self._connection is not None and not self._connection.isOurs():
                self._disconnect()
            if self._connection is None and clock.now() >= self._shunnedUntil:
                connected: Descriptor = atomics.descriptorServerConnect(
                    self._paths.descriptorServerPath(epoch).encode()
                )
                self._connection = connected if connected.number >= 0 else None
                self._shunnedUntil = clock.now() + _SHUNNED_SECONDS
            # The connection is taken, and put back when no answer is due on it. A
            # signal handler that comes here meanwhile finds none, and asks the broker.
            connection, self._connection = self._connection, None
            if connection is None:
                return None
            got = Descriptor(-errno.EINTR)
            try:
                got = atomics.descriptorServerFetch(
                    connection, row, incarnation, SPIN_NS, _TIMEOUT_NS
                )
            finally:
                # After an error its next answer could be the answer to this question.
                isSound = got.number >= 0 or got.number == -errno.ENOENT
                if isSound and self._connection is None:
                    self._connection = connection
                else:
                    connection.close()
            if got.number == -errno.EMFILE:
                raise DescriptorsExhausted(
                    "a descriptor sent to this process was lost, because it may open no more"
                )
            return got if got.number >= 0 else None

    def disconnect(self, epoch: int) -> None:
        """Close the connection to a server of an epoch before `epoch`, which answers no
        more. If this process is the next broker, it does not fetch.
        """
        with self._using:
            if self._epoch < epoch:
                self._disconnect()

    def close(self) -> None:
        with self._using:
            self._disconnect()

    def closeInChild(self) -> None:
        """In a forked child: close the child's copy of the parent's connection. This
        takes no lock, since the thread that holds it was not forked.
        """
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
