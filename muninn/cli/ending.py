"""How commands end: what they say, and the signals that end those that stay."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from muninn.cli.output import printJson
from muninn.system import clock

_LOOK_SECONDS = 0.5


def stopped() -> threading.Event:
    """An event that SIGINT and SIGTERM set, and SIGHUP unless `nohup` has it ignored."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: stop.set())
    return stop


def hold(look: Callable[[], object], stop: threading.Event, seconds: float | None = None) -> None:
    """Stay until `stop` is set or `seconds` are over, and call `look` now and then: it uses
    what the command holds. If that was revoked or freed, it raises that.
    """
    deadline = None if seconds is None else clock.now() + seconds
    while True:
        left = _LOOK_SECONDS if deadline is None else min(_LOOK_SECONDS, deadline - clock.now())
        if left <= 0 or stop.wait(left):
            return
        look()


def say(arguments: argparse.Namespace, result: dict[str, Any], text: str) -> int:
    if arguments.json:
        printJson(result)
    else:
        print(text)
    sys.stdout.flush()
    return 0
