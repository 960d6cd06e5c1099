"""Deadlines: until when something is waited for, as `clock.now` counts; None is for ever."""

from __future__ import annotations

import math

from muninn.errors import InvalidArgument
from muninn.system import clock

#: What is longer is for ever: 31 years, which every clock and system call can still count in nanoseconds.
LONGEST_SECONDS = 1e9
_NUMBERS = (float, int)


def isTruth(value: object) -> bool:
    """Whether it is True or False, also numpy's: Python takes the one for a number, and numpy the other."""
    return type(value).__name__ in ("bool", "bool_")


def secondsOf(what: str, timeout: float) -> float:
    """A timeout that a user gave to the function `what`, not above `LONGEST_SECONDS`.

    Raises
    ------
    InvalidArgument
        It is negative, or not a number.
    TypeError
        It is of no kind that is a number.
    """
    if type(timeout) in _NUMBERS and 0 <= timeout <= LONGEST_SECONDS:
        return timeout  # what nearly all give
    try:
        seconds = float(timeout) if not isinstance(timeout, str | bytes | bytearray) and not isTruth(timeout) else None
    except OverflowError:  # an integer that no float can hold
        seconds = math.inf if timeout > 0 else -math.inf
    except (TypeError, ValueError):
        seconds = None
    if seconds is None:
        raise TypeError(f"{what}: timeout must be seconds, not {type(timeout).__name__}")
    if not seconds >= 0:
        raise InvalidArgument(f"{what}: timeout {timeout!r} can not be waited for", "Use seconds from 0 up, or leave it out")
    return min(seconds, LONGEST_SECONDS)


def timeoutOf(what: str, timeout: float | None) -> float | None:
    """The same where None means for ever: so does infinity."""
    if timeout is None:
        return None
    seconds = secondsOf(what, timeout)
    return None if seconds >= LONGEST_SECONDS else seconds


def deadlineOf(timeout: float | None) -> float | None:
    """The deadline `timeout` seconds from now."""
    return None if timeout is None else clock.now() + timeout


def remaining(deadline: float | None) -> float | None:
    """The seconds until then, not below 0."""
    return None if deadline is None else max(0.0, deadline - clock.now())


def sleepNs(deadline: float | None, longestNs: int) -> int:
    """How long to sleep before the next look, at most `longestNs`; 0 or less: the time is over."""
    return longestNs if deadline is None else min(longestNs, int((deadline - clock.now()) * 1e9))
