"""The context of a client: what the client needs of the process in its domain, and no
more.

The membership makes it once, when the process joins. Everything in it may be used from
any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from muninn.control.election import Election, Term
from muninn.control.members import MemberKey, MemberTable
from muninn.storage.paths import Paths
from muninn.system.descriptors import Descriptor

if TYPE_CHECKING:
    from muninn.broker.broker import Broker


class ClientContext(NamedTuple):
    """What the client needs of its membership."""

    paths: Paths
    members: MemberTable
    election: Election
    key: MemberKey
    nonce: int
    takeoverMs: int
    requestTimeoutMs: int
    #: This process's own broker, while it is elected.
    broker: Callable[[], Broker | None]
    #: Ask for the succession of a term.
    campaign: Callable[[Term], None]
    #: Whether this process has to join anew, because nobody finds the control block any
    #: more.
    isLost: Callable[[], bool]
    #: ((row, incarnation), descriptor) of the memory held here that has no name.
    allocations: Callable[[], list[tuple[tuple[int, int], Descriptor]]]
    #: Make the background thread look around.
    wake: Callable[[], None] = lambda: None
    #: Raises `DomainChanged` when this process has lost its slot.
    requireSlot: Callable[[], None] = lambda: None
