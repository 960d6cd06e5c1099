"""Lending: memory of this process that other processes use in place, from the call that
shares it until the owner takes it back.

Lent memory belongs to its owner. It stays as long as the buffer object that shared it
is open, or the process lives. When the owner closes that object, it waits up to a grace
period for the processes that have the memory open, and then takes it back: the broker
revokes their leases, and they get `OwnerDied` at their next use. After a death of the
owner the broker does the same without the wait.
"""

from __future__ import annotations

from collections.abc import Iterable

from muninn.control import leases
from muninn.errors import MuninnError
from muninn.session.client import Client
from muninn.session.tables import Tables
from muninn.system import clock
from muninn.system.logs import Log

_log = Log("muninn.member")
_LOOK_SECONDS = 0.005


class Lent:
    """The memory that one membership lends, by row, until it is taken back."""

    def __init__(self, tables: Tables, client: Client) -> None:
        self._tables = tables
        self._client = client
        self._memories: dict[tuple[int, int], object] = {}

    def add(self, row: int, incarnation: int, memory: object) -> None:
        """Keep this memory until it is taken back."""
        self._memories[row, incarnation] = memory

    def takeBack(self, row: int, incarnation: int, name: str) -> None:
        """End the sharing of an array, if it is lent: wait for its importers, then
        revoke their leases and free the name.
        """
        if self._memories.pop((row, incarnation), None) is None:
            return
        self._awaitImporters([(row, incarnation)])
        try:
            self._client.request("recall", row=row, incarnation=incarnation)
        except MuninnError as error:
            # It was freed meanwhile; our lease goes in any case.
            _log.debug("%r is taken back already: %s", name, error)

    def awaitAll(self) -> None:
        """Wait for the importers of all of it."""
        if self._memories:
            self._awaitImporters(self._memories)

    def forgetFreed(self) -> None:
        """Drop the memory of buffers that were freed and that no other process has
        open any more.
        """
        tables = self._tables
        for pair in list(self._memories):
            if (
                not tables.rows.isLive(*pair)
                and leases.countHolds(tables.block, tables.members, *pair) <= 1
            ):
                del self._memories[pair]

    def _awaitImporters(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Wait at most `devices.ipcGraceMs` until no other process has these open."""
        waited = list(pairs)
        deadline = clock.now() + self._tables.settings.devices.ipcGraceMs / 1000
        while clock.now() < deadline and any(_othersHold(self._tables, *pair) for pair in waited):
            clock.sleep(_LOOK_SECONDS)


def _othersHold(tables: Tables, row: int, incarnation: int) -> bool:
    holds = leases.scanHolds(tables.block, tables.members, row)
    return any(
        hold.slot != tables.key.slot and hold.incarnation == incarnation and not hold.reason
        for hold in holds
    )
