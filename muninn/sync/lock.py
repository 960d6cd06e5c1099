"""`muninn.Lock`: a named lock between processes that survives its holder's death.

A lock is a row without memory, so processes find, lease and reclaim it like a buffer.
Its name begins with a prefix that no buffer's name has.

*Acquire.* The process writes {slot generation, slot} of its own into the owner lock of
the row by a CAS, if the word is free. If not, it takes a number in the order of arrival
and sleeps on the word; a free lock is reserved for the waiter that came first, for a
few milliseconds (`cshim/owners.h`). It wakes at intervals and asks whether the member
in the word is confirmed dead. Then it takes the lock over by a CAS on the exact word,
and `recovered` is set: the data that the lock protects may be half changed, because its
holder has died. If an exception leaves the block of a process that has recovered the
lock, the next holder gets `recovered` too.

*Again.* The owner lock names a process. Which thread has it, and how often it took it,
stands in the private memory of the process (`session/owners.py`). The same thread may
take the lock again, and releases it as often.

*Release.* The process exchanges the word with 0 and, if the contended bit was set,
wakes all sleepers. The waiter that came first takes the lock, and the others wait
again. If an exception leaves the block of a lock that was recovered, the word becomes
OWNER_DEAD instead of 0.

A stale read of the word costs one sleep, which is bounded: only the CAS on the exact
word takes the lock.
"""

from __future__ import annotations

from ctypes import ArgumentError
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never

from muninn.arguments import checkKeywords, isTruth, keywordsOf, timeoutOf, unwrapped
from muninn.errors import BufferExists, BufferNotFound
from muninn.observe.calls import named
from muninn.session import creation, owners
from muninn.session.membership import current
from muninn.session.names import NameWait
from muninn.session.openbuffer import OpenBuffer
from muninn.session.spec import lockSpec
from muninn.sync.contention import OwnerWait, awaitOwner, holderOf, ownerShown
from muninn.system import atomics, markup
from muninn.system.deadlines import deadlineOf, shown
from muninn.system.digests import digestOf
from muninn.terms import INTERNAL_PREFIX, asName

_CREATION_BOUND_SECONDS = 30.0
_LOCKED_NAME_BYTES = 100
_NO_BOOL = "leave it out to wait, or pass timeout=0 not to"


class _Taking(atomics.AccessScope):
    """One use of a lock, which acquires and releases it. Each of the two is one call of
    C, so nothing interrupts it half way.
    """

    _openBuffer: OpenBuffer
    name: str

    if TYPE_CHECKING:

        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None: ...
    else:
        __exit__ = atomics.lockExit

    def _await(self, until: tuple[float | None, float | None] | None, word: int) -> bool:
        openBuffer = self._openBuffer
        deadline, timeout = until or (None, None)
        ended = awaitOwner(openBuffer, deadline, word)
        if ended is OwnerWait.TIME_OVER:
            other = ownerShown(openBuffer, word)
            name = self.name.removeprefix(INTERNAL_PREFIX)
            raise TimeoutError(f"{other} has held lock {name!r} for {shown(timeout)}")
        return ended is OwnerWait.OWNER_DEAD

    def _refuse(self, reason: int) -> None:
        if reason == owners.REFUSED_VOID:
            raise RuntimeError(
                f"lock {self.name!r} is not held by this process: the one that it was forked "
                "from may hold it"
            )
        what = (
            "held by another thread"
            if reason == owners.REFUSED_OTHER_THREAD
            else "not held by this process"
        )
        raise RuntimeError(f"lock {self.name!r} is {what}")


class Lock(_Taking):
    """A lock that all processes of the domain know by its name.

    Parameters
    ----------
    name
        1 to 120 bytes. Locks have names of their own: a buffer may be called the same.

    Attributes
    ----------
    recovered
        Whether the last acquisition took the lock over from a holder that had died: the
        data that it protects may be half changed. If an exception leaves the ``with``
        block then, the next acquisition sets it as well.
    """

    #: When a wait for another process that creates the lock's row ends, if it ends
    #: before `_CREATION_BOUND_SECONDS`.
    _deadline: float | None = None

    @named
    def __init__(self, name: str) -> None:
        self._begin(asName(name))

    def _begin(self, name: str) -> None:
        super().__init__(None, _CALLS, id(self), id(self))
        self.name = name
        self._openBuffer = self._found()
        self._owner = self._openBuffer.owner

    def _found(self) -> OpenBuffer:
        membership = current()
        openBuffer = membership.openBuffers.known(INTERNAL_PREFIX + self.name)
        if openBuffer is not None:
            return openBuffer
        wanted = lockSpec(self.name)
        waiting, deadline = (
            NameWait(membership.openBuffers, wanted.name),
            deadlineOf(_CREATION_BOUND_SECONDS),
        )
        if self._deadline is not None and deadline is not None:
            deadline = min(deadline, self._deadline)
        while True:
            openBuffer = waiting.look()
            if openBuffer is not None:
                return openBuffer
            try:
                return creation.create(wanted)
            except BufferExists:
                if not waiting.sleep(deadline):
                    break
        if deadline == self._deadline:
            name = self.name.removeprefix(INTERNAL_PREFIX)
            raise TimeoutError(f"another process was still creating the lock {name!r}")
        raise BufferNotFound(
            f"the lock {self.name!r} could not be attached within {_CREATION_BOUND_SECONDS:.0f} s"
        )

    @property
    def recovered(self) -> bool:
        return bool(self._recovered)

    def acquire(
        self, timeout: float | None = None, blocking: None = None, **unknown: Never
    ) -> bool:
        """Take the lock, again if this thread has it.

        As with Python's own locks, an exception of a signal handler may come between
        this and the next statement; ``with lock:`` leaves nothing held then.

        Parameters
        ----------
        timeout
            Seconds; None waits as long as the holder lives. `TimeoutError` when they
            are over.
        blocking
            A parameter of Python's own locks, and refused: use `timeout`.
        """
        # Not by `named`, which would make each call a tenth slower.
        if unknown or blocking is not None:
            checkKeywords("Lock.acquire", unknown, keywordsOf(Lock.acquire))
            raise TypeError(f"Lock.acquire: blocking is of Python's own locks: {_NO_BOOL}")
        try:
            return atomics.lockAcquire(self, timeout)  # type: ignore[no-any-return]
        except ArgumentError as error:
            raise unwrapped(error) from None

    if TYPE_CHECKING:

        def release(self) -> None:
            """Give the lock back, once for each `acquire`. `RuntimeError` when this
            thread does not have it.
            """

        def __enter__(self) -> Lock: ...
    else:
        release = atomics.lockRelease
        __enter__ = atomics.lockEnter

    @named
    def held(self, timeout: float | None) -> _Held:
        """A context manager for a bounded wait: ``with lock.held(timeout=2.0):``."""
        return _Held(self, timeoutOf("Lock.held", timeout))

    def _attach(self) -> None:
        openBuffer = self._openBuffer
        openBuffer.context.departure.awaitEnd()
        if openBuffer.context.isStale():
            current().tables.requireSameDomain(openBuffer.tables, self.name)
            openBuffer = self._openBuffer = self._found()
        self._owner = openBuffer.owner

    def _deadlineOf(self, timeout: float | None) -> tuple[float | None, float | None]:
        if isTruth(timeout):  # as `blocking` of Python's own locks
            raise TypeError(f"Lock.acquire: timeout must be seconds, not bool: {_NO_BOOL}")
        seconds = timeoutOf("Lock.acquire", timeout)
        return deadlineOf(seconds), seconds

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Lock, (self.name,)

    def __repr__(self) -> str:
        return f"<muninn.Lock {self.name!r}>"

    def _repr_html_(self) -> str:
        facts = {
            "name": self.name.removeprefix(INTERNAL_PREFIX),
            "held by": holderOf(self._openBuffer),
            "recovered": "its last holder died" if self.recovered else None,
        }
        return markup.card("Lock", facts)


def _nameOf(purpose: str, name: str) -> str:
    """The name of the lock under which Muninn itself does something with a buffer's
    name: that name stands in it, or its digest where it is too long.
    """
    encoded = name.encode()
    isShort = len(encoded) <= _LOCKED_NAME_BYTES
    return f"{purpose}:{name if isShort else digestOf(encoded, 32).hex()}"


class OwnLock(Lock):
    """A lock of Muninn's own, under which it does something with a buffer's name. No
    user's lock has its name.

    What it protects is whole after a death of its holder. So nobody need be told, and
    it is gone with the last process that uses it.

    Parameters
    ----------
    deadline
        Of the caller. If another process creates the lock's row, and is not ready by
        then, `TimeoutError`.
    """

    def __init__(self, purpose: str, name: str, deadline: float | None) -> None:
        self._deadline = deadline
        self._begin(f"{INTERNAL_PREFIX}{_nameOf(purpose, name)}")


class _Held(_Taking):
    """`Lock.held`."""

    def __init__(self, lock: Lock, timeout: float | None) -> None:
        super().__init__(lock._owner, _HELD_CALLS, id(self), id(lock))
        self._lock, self._timeout, self._openBuffer, self.name = (
            lock,
            timeout,
            lock._openBuffer,
            lock.name,
        )
        self._isTimed = timeout is not None
        self.showIn(lock)

    if TYPE_CHECKING:

        def __enter__(self) -> Lock: ...
    else:
        __enter__ = atomics.lockEnter

    def _attach(self) -> None:
        self._lock._attach()
        self._openBuffer, self._owner = self._lock._openBuffer, self._lock._owner

    def _deadlineOf(self, timeout: None) -> tuple[float | None, float | None]:
        return deadlineOf(self._timeout), self._timeout


_CALLS, _HELD_CALLS = owners.callsOf(Lock), owners.callsOf(_Held)
