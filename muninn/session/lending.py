"""Lending: memory of this process that others use where it lies, from the sharing of it
until it is taken back.

Lent memory is its owner's. It is held as long as the buffer object that shared it is
open, or the process lives. An owner that closes waits for those who have it open, up to
a grace period, and then takes it back: the broker revokes their leases, and they get
`OwnerDied` at their next use. A death of the owner does the same without the wait.
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
    """What one membership lends, each by its row until it is taken back."""

    def __init__(self, tables: Tables, client: Client) -> None:
        self._tables = tables
        self._client = client
        self._memories: dict[tuple[int, int], object] = {}

    def add(self, row: int, incarnation: int, memory: object) -> None:
        """Keep this memory until it is taken back."""
        self._memories[row, incarnation] = memory

    def takeBack(self, row: int, incarnation: int, name: str) -> None:
        """End the sharing of an array, if it is lent: wait for its importers, then
        revoke what they hold and free the name.
        """
        if self._memories.pop((row, incarnation), None) is None:
            return
        self._awaitImporters([(row, incarnation)])
        try:
            self._client.request("recall", row=row, incarnation=incarnation)
        except MuninnError as error:
            _log.info("%r: %s", name, error)  # freed meanwhile; our lease goes in any case

    def awaitAll(self) -> None:
        """Wait for the importers of all of it."""
        if self._memories:
            self._awaitImporters(self._memories)

    def forgetFreed(self) -> None:
        """Let go of what somebody has freed, and all others have let go of: nobody is
        lent it any more.
        """
        tables = self._tables
        for pair in list(self._memories):
            if (
                not tables.rows.isLive(*pair)
                and leases.countHolds(tables.block, tables.members, *pair) <= 1
            ):
                del self._memories[pair]

    def _awaitImporters(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Wait until nobody else has these rows open, at most `devices.ipcGraceMs`."""
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
