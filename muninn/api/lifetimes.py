"""The lifetime that a user gives to a buffer or to its hints."""

from __future__ import annotations

from muninn.arguments import asInteger
from muninn.errors import InvalidArgument
from muninn.system import clock
from muninn.system.clock import monotonicMs

_LONGEST_MS = 1 << 50  # 35,000 years


def asDeadline(caller: str, lifetimeMs: object) -> int:
    """Monotonic ms of the host at which a lifetime that begins now ends; 0 for None."""
    if lifetimeMs is None:
        return 0
    milliseconds = asInteger(lifetimeMs)
    if milliseconds is None:
        raise TypeError(
            f"{caller}: lifetimeMs must be a number of milliseconds, not "
            f"{type(lifetimeMs).__name__}"
        )
    if not 0 < milliseconds <= _LONGEST_MS:
        raise InvalidArgument(
            f"{caller}: lifetimeMs {lifetimeMs!r} can not be",
            f"Use milliseconds from 1 to {_LONGEST_MS}, or leave it out",
        )
    if not clock.knowsHostTime():
        raise InvalidArgument(
            f"{caller}: lifetimeMs {lifetimeMs} can not be counted: this process left its time "
            "namespace, and the kernel does not tell by how much",
            "Fork after unshare(CLONE_NEWTIME) and share in the child, or leave lifetimeMs out",
        )
    return monotonicMs() + milliseconds
