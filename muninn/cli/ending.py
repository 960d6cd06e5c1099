"""How commands end: what they say, and the signals that end those that stay."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from typing import Any

from muninn.cli.output import printJson


def stopped() -> threading.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def say(arguments: argparse.Namespace, result: dict[str, Any], text: str) -> int:
    if arguments.json:
        printJson(result)
    else:
        print(text)
    sys.stdout.flush()
    return 0
