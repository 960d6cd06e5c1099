"""Time: the kernel's monotonic clock, read by the C part, and sleeping by it.

Nothing of Muninn reads Python's `time`: test suites stop, move and replace it
(`freezegun`, `time-machine`), while the threads of a broker must go on, and what other
processes lent must not end. `tests/test_clock.py` holds that, for what of the standard
library counts by `time.monotonic` too.

`now` is in seconds of this process's own clock, for waits that begin and end in it.
Words of shared memory are milliseconds of `monotonicMs`, which is the host's clock: a
process in a time namespace of its own (`unshare --time`, one restored from a
checkpoint) has a CLOCK_MONOTONIC that is moved by an offset, and the kernel tells
which. A process that can not know its offset writes no time that others would believe,
and believes none of theirs (`knowsHostTime`).
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from muninn.system import atomics, green
from muninn.system.files import openFile

_NS_PER_MS = 1_000_000
_NS_PER_SECOND = 1_000_000_000
#: What one sleep may be: far below the 292 years that 64 bits of nanoseconds hold. A
#: longer one is several.
_LONGEST_SLEEP_SECONDS = 86400.0
_NAMESPACES = "/proc/thread-self/ns"
#: The inode of the host's time namespace (Linux, include/linux/proc_ns.h,
#: PROC_TIME_INIT_INO).
_HOST_NAMESPACE = 0xEFFFFFFA
#: What the kernel calls its clocks in `timens_offsets`; Linux 5.5 gave their numbers.
_MONOTONIC, _BOOT = ("monotonic", "1"), ("boottime", "7")


class TimeNamespace(NamedTuple):
    """A time namespace, and by how much its clocks are ahead of the host's.

    Attributes
    ----------
    inode
        Which one; 0: the offsets are not known.
    """

    inode: int
    monotonicNs: int
    bootNs: int


_HOST = TimeNamespace(_HOST_NAMESPACE, 0, 0)
_UNKNOWN = TimeNamespace(0, 0, 0)
_own = _HOST


def learn() -> TimeNamespace:
    """Find out in which time namespace this process is; called when it joins a domain:
    a forked child may be in another one.
    """
    global _own
    try:
        own, ofChildren = (
            os.stat(f"{_NAMESPACES}/{name}").st_ino for name in ("time", "time_for_children")
        )
        if own == _own.inode:
            return _own
        if own == _HOST_NAMESPACE:
            _own = _HOST
        else:
            # `thread-self` has none
            with openFile(f"/proc/{atomics.threadId()}/timens_offsets") as file:
                _own = namespaceOf(own, ofChildren, file.read())
    except OSError:
        # A kernel without time namespaces has one clock for all. Without /proc there is
        # no telling.
        _own = (
            _HOST
            if os.path.exists(_NAMESPACES) and not os.path.exists(f"{_NAMESPACES}/time")
            else _UNKNOWN
        )
    return _own


def namespaceOf(own: int, ofChildren: int, offsets: str) -> TimeNamespace:
    """The namespace `own` of a process, from the inode of its children's and the text
    of `timens_offsets`, which is about theirs.

    The two differ for a process that called `unshare(CLONE_NEWTIME)` and has not forked
    since.
    """
    if own == _HOST_NAMESPACE:
        return _HOST
    moved = {
        fields[0]: fields[1:]
        for fields in (line.split() for line in offsets.splitlines())
        if len(fields) == 3
    }
    try:
        monotonicNs, bootNs = (
            next(
                int(moved[name][0]) * _NS_PER_SECOND + int(moved[name][1])
                for name in names
                if name in moved
            )
            for names in (_MONOTONIC, _BOOT)
        )
    except (RuntimeError, ValueError):  # one of them is not there, or no number
        return _UNKNOWN
    return TimeNamespace(own, monotonicNs, bootNs) if own == ofChildren else _UNKNOWN


def knowsHostTime() -> bool:
    """Whether `monotonicMs` means to others what it means here. Where it does not, no
    deadline of others is believed to be over.
    """
    return _own.inode != 0


def bootTicks(ticks: int) -> int:
    """Clock ticks since boot, as /proc tells this process, on the host's clock."""
    return (
        ticks - _own.bootNs * os.sysconf("SC_CLK_TCK") // _NS_PER_SECOND if _own.bootNs else ticks
    )


def now() -> float:
    """Seconds of this process's monotonic clock."""
    ns: int = atomics.monotonicNs()
    return ns / _NS_PER_SECOND


def monotonicMs() -> int:
    """Milliseconds of the host's monotonic clock, which all words of the control block
    use.
    """
    ns: int = atomics.monotonicNs() - _own.monotonicNs
    return ns // _NS_PER_MS


def isOver(deadlineMs: int) -> bool:
    """Whether a deadline of the control block has passed; 0 is none, and one that this
    process can not compare with its clock has not.
    """
    return 0 < deadlineMs <= monotonicMs() and knowsHostTime()


def sleep(seconds: float) -> None:
    """Sleep so long; not at all for 0 or less. Handlers of signals run meanwhile, and
    green threads; what they raise ends it.
    """
    while seconds > 0:
        once = min(seconds, _LONGEST_SLEEP_SECONDS)
        if green.pause(once):
            seconds -= once
            continue
        deadlineNs = atomics.monotonicNs() + int(once * _NS_PER_SECOND)
        while atomics.sleepUntil(deadlineNs) == -errno.EINTR:
            pass
        seconds -= once
