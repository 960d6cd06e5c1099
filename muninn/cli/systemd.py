"""`keep --systemd`: what a service of type `notify` tells systemd, over the socket of
NOTIFY_SOCKET: READY=1 once the process is in the domain, STOPPING=1 when it leaves, and
WATCHDOG=1 for as long as it works.

The process works if the domain's broker answers it: its own background thread is the
broker, or deposes one that does not answer. So systemd restarts a keeper whose thread is
stuck, and leaves one alone that waits for a takeover.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from muninn.errors import InvalidConfig
from muninn.system import descriptors

if TYPE_CHECKING:
    from muninn.session.member import Membership

_SOCKET, _PERIOD, _PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
#: systemd asks for a sign twice in its period; a third leaves time for the broker.
_SIGNS = 3
#: How long the end waits for the thread, which may be waiting for the broker.
_END_SECONDS = 5.0


def addressOf() -> str:
    """The address of systemd's socket, for `bind`. Raises `InvalidConfig`."""
    said = os.environ.get(_SOCKET, "")
    if not said:
        raise InvalidConfig(
            f"{_SOCKET} is not set: systemd has not started this process as a notifying service",
            "Set Type=notify in the unit, or leave `--systemd` out",
        )
    if said[0] not in "/@":
        raise InvalidConfig(
            f"{_SOCKET} is {said!r}, and neither a path nor an abstract address",
            "Let systemd set it",
        )
    return said.replace("@", "\0", 1) if said[0] == "@" else said


def periodSeconds() -> float | None:
    """How often systemd wants a sign of life; None: it does not."""
    period, pid = os.environ.get(_PERIOD, ""), os.environ.get(_PID, "")
    if not (period.isascii() and period.isdecimal()) or int(period) == 0:
        return None
    return None if pid and pid != str(os.getpid()) else int(period) / 1e6


@contextlib.contextmanager
def notifying(member: Membership, address: str, stop: threading.Event) -> Iterator[None]:
    """Say READY=1 now, WATCHDOG=1 in between, and at the end STOPPING=1 if `stop` is set."""
    tell(address, f"READY=1\nSTATUS=keeps domain {member.domain}")
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(member, address, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_END_SECONDS)
        if stop.is_set():
            tell(address, "STOPPING=1")


def _watch(member: Membership, address: str, over: threading.Event) -> None:
    period = periodSeconds()
    pause = None if period is None else period / _SIGNS
    while not over.wait(pause):
        if not member.isStale() and member.client.awaitAnswer(pause or 0.0):
            tell(address, "WATCHDOG=1")


def tell(address: str, text: str) -> None:
    """Send a message to systemd. Nobody is told if that fails: systemd itself finds out,
    since it misses the message.
    """
    made = descriptors.Socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            made.sendto(text.encode(), address)
    finally:
        made.close()
