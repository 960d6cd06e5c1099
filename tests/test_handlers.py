"""`broker/handlers/`: one handler for each operation that a member may ask for."""

from __future__ import annotations

from muninn.broker.handlers.table import HANDLERS
from muninn.wire import requests


def test_eachOperationHasOneHandler() -> None:
    assert HANDLERS.keys() == requests.OPERATIONS.keys()
