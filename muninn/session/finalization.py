"""Finalization: a membership while the interpreter is finalized, when only one thread
still runs Python.

The interpreter then calls the `__del__` of the objects that are left, and one of these
may free a buffer. Exit handlers have run before, so this process has usually left its
domain. It joins once more, without a background thread: the calling thread enters the
slot, and if no other member is broker, it serves its own requests. When the process
ends, the broker reclaims what is left. Nothing is imported here, since `lateimports.py`
has done that.
"""

from __future__ import annotations

import ctypes

from muninn.control.election import Term
from muninn.session.member import Membership
from muninn.session.role import BrokerRole

#: The robust lists. They must never be collected, since the kernel reads them when the
#: last thread ends.
_endless: list[object] = []
#: How many steps a new broker takes for its first maintenance. The first step makes the
#: calling thread the one that serves.
_STEPS = 8


class _LoneRole(BrokerRole):
    """A broker without a thread: it serves a request when the request is made."""

    def campaign(self, term: Term) -> None:
        key, election = self._tables.key, self._tables.election
        mine = None if term.slot == key.slot else election.replace(term, key.slot)
        if mine is None:
            return
        broker = self._made(mine, lambda: None)
        self._begin(broker, mine)
        for _ in range(_STEPS):
            broker.step(0)
        self.broker = broker


class FinalizingMembership(Membership):
    """One process in one domain, for the rest of a thread's life."""

    _role = _LoneRole
    _isAlone = True

    def _begin(self) -> None:
        # The kernel reads the robust list when the last thread ends, after the last
        # module has gone. A reference that is never given back keeps its memory.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.worker.robustList))
        self.worker.enter()
