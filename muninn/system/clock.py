"""Time: reading the kernel's monotonic clock, in the C part, and sleeping by it.

Muninn never reads Python's `time`. Test suites stop, move and replace it (`freezegun`,
`time-machine`), while a broker's threads must go on, and loans to other processes must
not end. `tests/test_clock.py` holds that, also for modules of the standard library that
count by `time.monotonic`.

`now` is in seconds of this process's own clock, for waits that begin and end in the
process. Words of shared memory are milliseconds of `monotonicMs`, which is the host's
clock. A process in its own time namespace (`unshare --time`, or a process that was
restored from a checkpoint) has a CLOCK_MONOTONIC that is moved by an offset, and the
kernel tells the offset. A process that can not know its offset writes no time for
others to read, and does not act on a time of theirs (`knowsHostTime`).
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from muninn.system import atomics, green
from muninn.system.files import openFile

_NS_PER_MS = 1_000_000
_NS_PER_SECOND = 1_000_000_000
#: The longest single sleep: far below the 292 years that 64 bits of nanoseconds hold. A
#: longer sleep consists of several.
_LONGEST_SLEEP_SECONDS = 86400.0
_NAMESPACES = "/proc/thread-self/ns"
#: The inode of the host's time namespace (Linux, include/linux/proc_ns.h,
#: PROC_TIME_INIT_INO).
_HOST_NAMESPACE = 0xEFFFFFFA
#: The kernel's names of its clocks in `timens_offsets`; Linux 5.5 wrote their numbers.
_MONOTONIC, _BOOT = ("monotonic", "1"), ("boottime", "7")


class TimeNamespace(NamedTuple):
    """A time namespace, and by how much its clocks are ahead of the host's.

    Attributes
    ----------
    inode
        Identifies the namespace; 0: the offsets are not known.
    """

    inode: int
    monotonicNs: int
    bootNs: int


_HOST = TimeNamespace(_HOST_NAMESPACE, 0, 0)
_UNKNOWN = TimeNamespace(0, 0, 0)
_own = _HOST


def learn() -> TimeNamespace:
    """Find out in which time namespace this process is. Called when the process joins a
    domain, because a forked child may be in another namespace.
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
            # There is no such file below `thread-self`.
            with openFile(f"/proc/{atomics.threadId()}/timens_offsets") as file:
                _own = namespaceOf(own, ofChildren, file.read())
    except OSError:
        # A kernel without time namespaces has one clock for all. Without /proc the
        # process can not find out.
        _own = (
            _HOST
            if os.path.exists(_NAMESPACES) and not os.path.exists(f"{_NAMESPACES}/time")
            else _UNKNOWN
        )
    return _own


def namespaceOf(own: int, ofChildren: int, offsets: str) -> TimeNamespace:
    """The namespace `own` of a process, from the inode of its children's namespace and
    the text of `timens_offsets`, which describes the children's.

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
    """Whether `monotonicMs` means the same in other processes. If it does not, this
    process takes no deadline of theirs to be over.
    """
    return _own.inode != 0


def bootTicks(ticks: int) -> int:
    """Convert clock ticks since boot, as /proc gives them to this process, to the
    host's clock.
    """
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


def ownNs(hostMs: int) -> int:
    """A time of the host's clock as `atomics.monotonicNs` counts."""
    return hostMs * _NS_PER_MS + _own.monotonicNs


def isOver(deadlineMs: int) -> bool:
    """Whether a deadline of the control block has passed. 0 means no deadline. A
    deadline that this process can not compare with its clock has not passed.
    """
    return 0 < deadlineMs <= monotonicMs() and knowsHostTime()


def sleep(seconds: float) -> None:
    """Sleep for so long; not at all for 0 or less. Signal handlers and green threads
    run meanwhile, and an exception that they raise ends the sleep.
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
