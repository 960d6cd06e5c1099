"""The descriptor server: descriptors of memory that has no name, handed out by a C
thread of the broker's process.

What it saves is the interpreter at both ends: whoever opens VRAM does not wait for the
broker's process to get to it, however busy with Python that is. It decides nothing.
What it hands out is what the descriptor store holds, and whether the row is live its
asker sees for itself, behind a lease. What it does not have, or does not say in time,
the broker is asked by a request.
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
#: How long a descriptor server that did not answer is left alone.
_SHUNNED_SECONDS = 1.0


class DescriptorServer:
    """The broker's side: what is put here is handed out until it is taken back. The
    descriptors stay the caller's.

    Raises
    ------
    OSError
        It can not be opened.
    """

    def __init__(self, path: str) -> None:
        self._descriptorServer: int | None = atomics.openedDescriptorServer(path)

    def put(self, row: int, incarnation: int, descriptor: int | Known) -> None:
        """Hand it out from now on. Raises `OSError` when there is no memory for that."""
        if self._descriptorServer is not None:
            atomics.checked(
                atomics.descriptorServerPut(self._descriptorServer, row, incarnation, descriptor),
                "the descriptor server",
            )

    def take(self, row: int, incarnation: int) -> None:
        """Hand it out no more; from then on it may be closed."""
        if self._descriptorServer is not None:
            atomics.descriptorServerTake(self._descriptorServer, row, incarnation)

    def close(self) -> None:
        """End the thread and all connections. Again is fine."""
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
        """A descriptor, the caller's; None: ask the broker. Bounded by 20 ms.

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
            # In hand, and given back when it owes no answer: a handler that comes here
            # in the middle finds none, and asks the broker.
            connection, self._connection = self._connection, None
            if connection is None:
                return None
            got = Descriptor(-errno.EINTR)
            try:
                got = atomics.descriptorServerFetch(
                    connection, row, incarnation, SPIN_NS, _TIMEOUT_NS
                )
            finally:
                # otherwise its next answer could be the one to this question
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
        """Let go of a descriptor server of before `epoch`: it answers no more, and
        where this process is the next broker nobody fetches.
        """
        with self._using:
            if self._epoch < epoch:
                self._disconnect()

    def close(self) -> None:
        with self._using:
            self._disconnect()

    def closeInChild(self) -> None:
        """Close this process's copy of the parent's connection. No lock: its holder was
        not forked.
        """
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
