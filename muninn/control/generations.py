"""Generations: how a buffer's content is published, and read without locks.

The generation word is a seqlock. A writer takes the owner lock, makes the word odd,
writes the data, makes the word even again by a release store, and wakes the waiters: so
the word goes up by two with every publication. A reader writes nothing. It reads the
word, copies the data, and reads the word again; when the word is odd or has changed, it
copies anew. After some attempts it takes a read access, which makes the next writer
wait for it.

A writer that is killed half way leaves the word odd and the owner lock in a dead
member's name. A reader that finds this raises `WriterDied`; the next writer takes the
owner lock over, writes, and makes the word even. A stale read of the word costs a
reader an older generation, which is whole.

The steps of a writer are in C (`begin` and `endWriting` in `cshim/owners.c`); this
module reads and waits. `Generation.begin` and `publish` are the same steps for tests
that play another member.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from muninn.control import layout
from muninn.system import aside, atomics, clock
from muninn.system.deadlines import deadlineOf, shown, sleepNs
from muninn.system.green import sleepOn

_COPY_ATTEMPTS = 64
#: After so many publications, or so many seconds of a writer's access, a copy takes a
#: read access, which makes the next writer wait for it. The time is for writers that
#: publish seldom and are inside an access all the time.
_MAX_PASSED, _MAX_WRITING_SECONDS = 3, 0.01
#: How often a waiter checks that a writer inside an access still lives. The broker that
#: reclaims a dead writer wakes the waiter sooner.
_CHECK_NS = 200_000_000
#: How long a waiter looks at the word before it sleeps: about as long as a sleep and a
#: wake-up take. So a prompt answer costs no system call, and a late answer at most
#: twice the time. 0 on a single processor, where the writer could not run meanwhile.
_SPIN_NS = 60_000 if len(os.sched_getaffinity(0)) > 1 else 0


class Streams(NamedTuple):
    """The functions by which a reader learns of streams that write the buffer.

    Attributes
    ----------
    last
        Returns the last fence that any stream was given; 0: there was none yet.
    awaitWriters
        Waits until no stream writes a generation that was published so far, at most so
        many seconds: `TimeoutError`.
    """

    last: Callable[[], int]
    awaitWriters: Callable[[float], object]


#: For memory that only CPUs write.
NO_STREAMS = Streams(lambda: 0, lambda seconds: None)


class Starved(Exception):
    """Writers left no time for a whole copy. The caller takes a read access, and copies
    inside it. If it does not get the access, that error names the member that keeps it.
    """


class Generation:
    """The generation word of one row."""

    __slots__ = ("_word",)

    def __init__(self, rowAddress: int) -> None:
        self._word = rowAddress + layout.ROW_GENERATION_OFFSET

    def value(self) -> int:
        return int(atomics.loadAcquire64(self._word))

    def begin(self) -> int:
        """Make the word odd; the caller holds the owner lock. The word is odd already
        if the last writer died.
        """
        value = int(atomics.loadAcquire64(self._word))
        if not value & 1:
            # SYNC write: pairs with mnnSeqRead. An exchange, so that no write to the
            # data is seen before the word is odd.
            atomics.exchangeSeqCst64(self._word, value + 1)
            value += 1
        return value

    def publish(self, begun: int) -> int:
        """Make the word even, and wake the waiters. `begun` is what `begin` returned;
        returns the new generation.
        """
        value = begun + 1
        # SYNC publish: pairs with mnnSeqRead and Generation.wait; the data is visible
        # before the even generation.
        atomics.storeRelease64(self._word, value)
        atomics.futexWake32(self._word, atomics.FUTEX_ALL)
        return value

    def isLeft(self, value: int, isUnclaimed: Callable[[], bool]) -> bool:
        """Whether a writer died or gave up in the access that made the word `value`,
        which the caller has read.

        The second look compares the whole value. An odd value is not enough: in
        between, one access may end, the owner lock may be free for a moment, and the
        next access may begin.
        """
        return bool(value & 1) and isUnclaimed() and self.value() == value

    def wake(self) -> None:
        """Let the waiters look again: the writer has died, or a waiter is to stop."""
        # SYNC again: pairs with Generation.wait, whose caller looks whether the writer
        # lives. The word has not changed.
        atomics.futexWake32(self._word, atomics.FUTEX_ALL)

    def copyNow(self, source: int, target: int, sizeBytes: int) -> int | None:
        """Copy once, if no process writes now. None: there is no whole copy."""
        copied = int(atomics.seqRead(self._word, source, target, sizeBytes, 1))
        return copied if copied >= 0 else None

    def copy(
        self,
        source: int,
        target: int,
        sizeBytes: int,
        timeout: float,
        writerIsDead: Callable[[], bool],
        streams: Streams = NO_STREAMS,
        canTakeAccess: bool = False,
    ) -> int | None:
        """Copy `sizeBytes` of one generation, never torn, to private memory; returns
        the generation.

        None if a writer died half way. `TimeoutError` if writers leave no time for a
        whole copy within `timeout` seconds. For a caller that can take a read access,
        `Starved` comes instead, and sooner.
        """

        def attempt() -> int:
            return int(
                atomics.seqRead(
                    self._word,
                    source,
                    target,
                    sizeBytes,
                    _MAX_PASSED if canTakeAccess else _COPY_ATTEMPTS,
                )
            )

        return self._copied(
            attempt, f"of {sizeBytes} bytes ", timeout, writerIsDead, streams, canTakeAccess
        )

    def copyBy(
        self,
        copy: Callable[[], None],
        timeout: float,
        writerIsDead: Callable[[], bool],
        streams: Streams = NO_STREAMS,
        canTakeAccess: bool = False,
    ) -> int | None:
        """`copy` for memory that the CPU does not reach: `copy` copies all of it, and
        is called again if a process wrote meanwhile.
        """

        def attempt() -> int:
            value = self.value()
            if value & 1:
                return -errno.EBUSY
            copy()
            return value if self.value() == value else -errno.EAGAIN

        return self._copied(attempt, "", timeout, writerIsDead, streams, canTakeAccess)

    def _copied(
        self,
        attempt: Callable[[], int],
        what: str,
        timeout: float,
        writerIsDead: Callable[[], bool],
        streams: Streams,
        canTakeAccess: bool,
    ) -> int | None:
        begun = clock.now()
        deadline, givesUpAt, givesUpFrom = begun + timeout, begun + _MAX_WRITING_SECONDS, 0
        while True:
            value = self.value()
            if value & 1:
                if self.isLeft(value, writerIsDead):
                    return None
                givesUpFrom = givesUpFrom or value + 2 * _MAX_PASSED
                if canTakeAccess and (value >= givesUpFrom or givesUpAt <= clock.now()):
                    raise Starved
            else:
                # A writer may publish before the kernels that it started are done. It
                # has issued their ticket before.
                last = streams.last()
                if last:
                    streams.awaitWriters(max(0.0, deadline - clock.now()))
                result = attempt()
                if result == value or (result >= 0 and streams.last() == last):
                    return result
                if canTakeAccess and result == -errno.EAGAIN:
                    raise Starved
            if (remaining := deadline - clock.now()) <= 0:
                if canTakeAccess:
                    raise Starved
                raise TimeoutError(
                    f"no whole copy {what}within {shown(timeout)}: the buffer is written without a "
                    "pause"
                )
            if value & 1:
                aside.refuseOwn()
                seconds = (
                    min(remaining, max(0.0, givesUpAt - clock.now()))
                    if canTakeAccess
                    else remaining
                )
                # SYNC publish: pairs with endWriting. The odd word is compared
                # as the thread falls asleep.
                sleepOn(self._word, value & 0xFFFFFFFF, min(_CHECK_NS, int(seconds * 1e9)))

    def wait(self, after: int, timeout: float | None, check: Callable[[], None]) -> int | None:
        """Wait until an even generation above `after` is published. Returns the last
        generation; None if the time is over.

        An odd word says that the generation before it was published, although a writer
        is inside the next access already: a writer that computes inside its accesses
        leaves the word even for microseconds only, which a waiter may never see.

        `check` is called after every wake-up. It raises to end the wait: the writer
        died, the lease ended, or the wait was cancelled.
        """
        deadline: float | None = None
        spinNs = _SPIN_NS
        while True:
            value = int(atomics.loadAcquire64(self._word))
            if value & ~1 > after:
                return value & ~1
            if timeout is not None and deadline is None:
                deadline = deadlineOf(timeout)
            if spinNs and atomics.spinWhile64(self._word, value, spinNs) != value:
                continue
            spinNs = 0
            check()
            remainingNs = sleepNs(deadline, _CHECK_NS)
            if remainingNs <= 0:
                return None
            aside.refuseOwn()
            # SYNC publish: pairs with endWriting. The word is compared as the
            # thread falls asleep. SYNC again: pairs with Generation.wake.
            sleepOn(self._word, value & 0xFFFFFFFF, remainingNs)
