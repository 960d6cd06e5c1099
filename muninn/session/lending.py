"""Lending: memory of this process that others use where it lies, from the sharing of it until it is taken back.

Lent memory is its owner's. It is held as long as the buffer object that shared it is open, or the process lives. An owner that closes
waits for those who have it open, up to a grace period, and then takes it back: the broker revokes their leases, and they get `OwnerDied`
at their next use. A death of the owner does the same without the wait.
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


def awaitImporters(tables: Tables, pairs: Iterable[tuple[int, int]]) -> None:
    """Wait until nobody else has these rows open, at most `devices.ipcGraceMs`."""
    waited = list(pairs)
    deadline = clock.now() + tables.settings.devices.ipcGraceMs / 1000
    while clock.now() < deadline and any(_othersHold(tables, *pair) for pair in waited):
        clock.sleep(_LOOK_SECONDS)


def recall(tables: Tables, client: Client, row: int, incarnation: int, name: str) -> None:
    """Wait for those who have a lent array open, then let the broker revoke what they hold and free the name."""
    awaitImporters(tables, [(row, incarnation)])
    try:
        client.request("recall", row=row, incarnation=incarnation)
    except MuninnError as error:
        _log.info("%r: %s", name, error)  # freed meanwhile; our lease goes in any case


def _othersHold(tables: Tables, row: int, incarnation: int) -> bool:
    holds = leases.scanHolds(tables.block, tables.members, row)
    return any(hold.slot != tables.key.slot and hold.incarnation == incarnation and not hold.reason for hold in holds)
