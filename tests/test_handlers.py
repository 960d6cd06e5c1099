"""`broker/handlers/`: one handler for each operation that a member may request."""

from __future__ import annotations

from muninn.broker.handlers.table import HANDLERS
from muninn.wire import requests


def test_eachOperationHasOneHandler() -> None:
    assert HANDLERS.keys() == requests.OPERATIONS.keys()
