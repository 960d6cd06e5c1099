"""Standing: how far one membership has come, from its entry to its end. Private to the
process; a forked child finds it ended.

Each flag is set once and never taken back, by one step, so a thread, a signal handler
and a finalizer may look at any time.
"""

from __future__ import annotations

import sys

from muninn.system.forks import Identity

#: How long a process waits for its background thread to enter the domain.
JOIN_BOUND_SECONDS = 10.0


class Standing:
    """The state of one membership.

    Attributes
    ----------
    isLeaving
        The good-bye was begun: a refusal by the broker is no error from now on.
    hasLeft
        The slot was given back.
    isLost
        The control block was removed, or another process has the slot.
    isStopping
        The background thread is to end.

    Parameters
    ----------
    isAlone
        Whether the membership has no thread: then it goes on while the interpreter is
        finalised.
    """

    isExiting = False  #: whether this process runs its exit handlers: soon no thread will run

    def __init__(self, identity: Identity, isAlone: bool) -> None:
        self._identity = identity
        self._isAlone = isAlone
        self.isLeaving = self.hasLeft = self.isLost = self.isStopping = False

    def isForked(self) -> bool:
        """Whether this is a forked child of the process that joined."""
        return self._identity.isWiped()

    def isStale(self) -> bool:
        """Whether this is a forked child, or the membership has ended."""
        return (
            self._identity.isWiped()
            or self.hasLeft
            or self.isLost
            or (self.isExiting and not self._isAlone and sys.is_finalizing())
        )
