"""`api/membership.py`: one process in its domain, and how it goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

import muninn
from muninn.api import membership
from support import Actor, eventually


def test_goesQuietlyAlthoughItsThreadStillAsksAfterTheGoodBye(
    domain: str, actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The background thread may have a request under way when the slot is given back: that it is refused is no error.

    Broken: the soak saw `ProtocolViolation: member slot 4 was given back` logged by one of some thirty processes that ended politely.
    """
    actor().join()  # the broker is another
    muninn.domainInfo()
    current = membership.current()
    request = current.client.request

    def slowly(op: str, *arguments: Any, **fields: Any) -> Any:
        answer = request(op, *arguments, **fields)
        if op == "leave":
            current.holdings._released.append((0, 1))
            current.kick()
            time.sleep(0.3)
        return answer

    monkeypatch.setattr(current.client, "request", slowly)
    with caplog.at_level(logging.ERROR, "muninn"):
        current.leave()
    assert not caplog.records, caplog.text


def test_hasLoadedWhatASuccessorNeeds(domain: str, actor: Callable[..., Actor]) -> None:
    """Importing the broker takes 15 ms, which is three times what the rest of a takeover does.

    Broken: the import had gone from the background thread, as one that nobody used, and each takeover waited for it.
    """
    actor().join()
    follower = actor("import sys").join()
    eventually(lambda: follower.do("'muninn.broker.broker' in sys.modules"), "a follower has loaded the broker")
