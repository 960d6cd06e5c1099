"""Time: the kernel's monotonic clock, read by the C part, and sleeping by it.

Nothing of Muninn reads Python's `time`: test suites stop, move and replace it (`freezegun`, `time-machine`), while the threads of a
broker must go on, and what other processes lent must not end. `tests/test_clock.py` holds that, for what of the standard library
counts by `time.monotonic` too.

`now` is in seconds, for waits that begin and end in this process; words of shared memory are milliseconds of `monotonicMs`.
"""

from __future__ import annotations

import errno

from muninn.control import atomics

_NS_PER_MS = 1_000_000
_NS_PER_SECOND = 1_000_000_000
#: What one sleep may be: far below the 292 years that 64 bits of nanoseconds hold. A longer one is several.
_LONGEST_SLEEP_SECONDS = 86400.0


def now() -> float:
    """Seconds of this process's monotonic clock."""
    ns: int = atomics.monotonicNs()
    return ns / _NS_PER_SECOND


def monotonicMs() -> int:
    """Milliseconds of the one clock that all words of the control block use."""
    ns: int = atomics.monotonicNs()
    return ns // _NS_PER_MS


def sleep(seconds: float) -> None:
    """Sleep so long; not at all for 0 or less. Handlers of signals run meanwhile, and what they raise ends it."""
    while seconds > 0:
        once = min(seconds, _LONGEST_SLEEP_SECONDS)
        deadlineNs = atomics.monotonicNs() + int(once * _NS_PER_SECOND)
        while atomics.sleepUntil(deadlineNs) == -errno.EINTR:
            pass
        seconds -= once
