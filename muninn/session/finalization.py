"""Alone: a membership while the interpreter is finalised, when no thread but one gets
it any more.

Objects that live to the end have their `__del__` called then, and may free a buffer.
Exit handlers have run, so this process has left, as a rule. It joins once more: the
thread that asks is the member, the kernel reports its end, and if nobody else serves,
it does what it asks by itself. What is left over is a death's to take back. Nothing is
imported here: `lateimports.py` has done that.
"""

from __future__ import annotations

from muninn.control.election import Term
from muninn.session.member import Membership
from muninn.session.role import BrokerRole

#: What the kernel reads when the last thread ends, after the last object has gone.
_endless: list[object] = []
#: What a new broker has to do first, a piece a step; the first step makes this the
#: thread that serves.
_STEPS = 8


class _LoneRole(BrokerRole):
    """Broker without a thread for it: what is asked here is served when it is asked."""

    def campaign(self, term: Term) -> None:
        key, election = self._tables.key, self._tables.election
        mine = None if term.slot == key.slot else election.replace(term, key.slot)
        if mine is None:
            return
        broker = self._made(mine, lambda: None)
        broker.start()
        for _ in range(_STEPS):
            broker.step(0)
        self.broker = broker


class FinalizingMembership(Membership):
    """One process in one domain, for the rest of a thread's life."""

    _role = _LoneRole
    _isAlone = True

    def _begin(self) -> None:
        _endless.append(self.worker.robustList)
        self.worker.enter()
