"""Alone: a membership while the interpreter is finalised, when no thread but one gets it any more.

Objects that live to the end have their `__del__` called then, and may free a buffer. Exit handlers have run, so this process has left, as a
rule. It joins once more: the thread that asks is the member, the kernel reports its end, and if nobody else serves, it does what it asks by
itself. What is left over is a death's to take back. Nothing is imported here: `lateimports.py` has done that.
"""

from __future__ import annotations

from muninn.control.election import Term
from muninn.session.lateimports import load
from muninn.session.membership import Membership
from muninn.system.threads import NoThread

#: What the kernel reads when the last thread ends, after the last object has gone.
_endless: list[object] = []
#: What a new broker has to do first, a piece a step; the first step makes this the thread that serves.
_STEPS = 8


class LoneMembership(Membership):
    """One process in one domain, for the rest of a thread's life."""

    def _begin(self) -> None:
        self._thread = NoThread()
        _endless.append(self._robustList)
        self._enter()

    def isStale(self) -> bool:
        return self.identity.isWiped() or self._hasLeft or self._lost

    def _campaign(self, term: Term) -> None:
        """Be broker without a thread for it: what is asked here is served when it is asked."""
        mine = None if term.slot == self.key.slot else self.election.replace(term, self.key.slot)
        if mine is None:
            return
        broker = load().broker(self.block, self.members, self.election, mine, self.key, self.limits(), self._wake.checked())
        broker.start()
        for _ in range(_STEPS):
            broker.step(0)
        self._broker = broker
