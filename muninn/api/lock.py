"""`muninn.Lock`: a named lock between processes that survives its holder's death.

It is the writer claim of a row without memory, so it is found, leased and reclaimed like a buffer. Between processes the owner is
the process; its threads agree among themselves by an `RLock` first, which also makes it re-entrant.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from muninn.api import creation
from muninn.api.departure import Departing
from muninn.api.holdings import Holding
from muninn.api.membership import current
from muninn.api.names import NameWait
from muninn.control import claims
from muninn.control.deadlines import deadlineOf, remaining, timeoutOf
from muninn.errors import BufferExists, BufferNotFound
from muninn.terms import asName

_CREATION_BOUND_SECONDS = 30.0


class Lock:
    """A lock that all processes of the domain know by its name.

    Parameters
    ----------
    name
        1 to 120 bytes. Locks have names of their own: a buffer may be called the same.

    Attributes
    ----------
    recovered
        Whether the last acquisition took the lock over from a holder that had died: what it protects may be half changed.
    """

    def __init__(self, name: str) -> None:
        self.name = asName(name)
        self.recovered = False
        self._holding = self._attach()

    def _attach(self) -> Holding:
        wanted = creation.lockDraft(self.name)
        membership = current()
        waiting, deadline = NameWait(membership, wanted.name), deadlineOf(_CREATION_BOUND_SECONDS)
        while True:
            holding = waiting.look()
            if holding is not None:
                return holding
            try:
                return creation.create(wanted)
            except BufferExists:
                if not waiting.sleep(deadline):
                    break
        raise BufferNotFound(f"the lock {self.name!r} could not be attached within {_CREATION_BOUND_SECONDS:.0f} s")

    def acquire(self, timeout: float | None = None) -> bool:
        """Take the lock, again if this thread has it.

        Parameters
        ----------
        timeout
            Seconds; None waits as long as the holder lives. `TimeoutError` when they are over.
        """
        timeout = timeoutOf("Lock.acquire", timeout)
        deadline = deadlineOf(timeout)
        while True:
            if self._holding.membership.isStale():
                current().requireSameDomain(self._holding.membership, self.name)
                self._holding = self._attach()
            holding = self._holding
            with contextlib.suppress(Departing):
                return self._acquire(holding, timeout, deadline)
            holding.membership.departure.awaitEnd()

    def _acquire(self, holding: Holding, timeout: float | None, deadline: float | None) -> bool:
        if not holding.claimLock.acquire(timeout=-1 if timeout is None else timeout):
            raise TimeoutError(f"another thread has held lock {self.name!r} for {timeout} s")
        try:
            if holding.claimDepth == 0:
                clean = claims.acquire(holding.claimAddress, holding.membership.key, holding.membership.isDead, remaining(deadline))
                if clean is None:
                    raise TimeoutError(f"another process has held lock {self.name!r} for {timeout} s")
                holding.membership.holdings.locked.add(holding)
                try:
                    holding.membership.departure.check()
                except Departing:
                    holding.membership.holdings.locked.discard(holding)
                    claims.release(holding.claimAddress)
                    raise
                self.recovered = not clean
            holding.claimDepth += 1
        except BaseException:
            holding.claimLock.release()
            raise
        return True

    def release(self) -> None:
        """Give the lock back, once for each `acquire`. `RuntimeError` when this thread does not have it."""
        holding = self._holding
        if holding.membership.isStale():
            raise RuntimeError(f"lock {self.name!r} is not held by this process: the one that it was forked from may hold it")
        if not holding.claimLock.acquire(blocking=False):
            raise RuntimeError(f"lock {self.name!r} is held by another thread")
        try:
            if holding.claimDepth == 0:
                raise RuntimeError(f"lock {self.name!r} is not held by this process")
            holding.claimDepth -= 1
            if holding.claimDepth == 0:
                holding.membership.holdings.locked.discard(holding)
                claims.release(holding.claimAddress)
            holding.claimLock.release()
        finally:
            holding.claimLock.release()

    @contextmanager
    def held(self, timeout: float | None) -> Iterator[Lock]:
        """``with lock.held(timeout=2.0):``, for a bounded wait."""
        self.acquire(timeoutOf("Lock.held", timeout))
        try:
            yield self
        finally:
            self.release()

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<muninn.Lock {self.name!r}>"
