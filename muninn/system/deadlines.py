"""Deadlines: the times of `clock.now` at which waits end; None is for ever."""

from __future__ import annotations

from muninn.system import clock


def deadlineOf(timeout: float | None) -> float | None:
    """The deadline `timeout` seconds from now."""
    return None if timeout is None else clock.now() + timeout


def remaining(deadline: float | None) -> float | None:
    """The seconds until then, not below 0."""
    return None if deadline is None else max(0.0, deadline - clock.now())


def shown(seconds: float | None) -> str:
    """A timeout as an error names it, such as ``"3 s"``; also one of which a part was over."""
    if seconds is None:
        return "ever"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def sleepNs(deadline: float | None, longestNs: int) -> int:
    """How long to sleep before the next look, at most `longestNs`. 0 or less means that
    the time is over.
    """
    return longestNs if deadline is None else min(longestNs, int((deadline - clock.now()) * 1e9))
