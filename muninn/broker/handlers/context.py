"""The context of a term: the parts of the broker that the handlers of requests may use,
and the type of their answers.

The broker makes one context when its term begins, and passes it to all handlers. It
belongs to the thread that serves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from muninn.broker.deathwatch import DeathWatch
from muninn.broker.directory import Directory
from muninn.broker.maintenance import Maintenance
from muninn.broker.reclaiming import Reclaimer
from muninn.broker.sessions import Session
from muninn.control.block import ControlBlock
from muninn.control.drain import Drain
from muninn.control.election import Election, Term
from muninn.control.members import MemberTable
from muninn.system.descriptors import Descriptor
from muninn.wire.messages import Message

#: The answer to a request, and the descriptors that go with it, which the term owns.
Answer = tuple[Message, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class TermContext:
    """One term, as the handlers see it.

    Attributes
    ----------
    own
        The session of the broker's own process.
    beat
        Advances the heartbeat. A handler that takes long calls it. Raises
        `Deposed` when the term has ended.
    mayStillBring
        Whether a living member has not yet brought all the memory without a name that
        it may have.
    """

    block: ControlBlock
    members: MemberTable
    election: Election
    term: Term
    own: Session
    drain: Drain
    directory: Directory
    deathWatch: DeathWatch
    reclaimer: Reclaimer
    maintenance: Maintenance
    beat: Callable[[], None]
    mayStillBring: Callable[[], bool]


#: Serves one request: the term, the session of the member, the checked message, and the
#: descriptors that came with it. A handler takes the descriptors that it keeps out of
#: the list; the others are closed after it.
Handler = Callable[[TermContext, Session, Message, list[Descriptor]], Answer]
