"""The context of a client: the parts of the membership that the client uses.

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
    """The parts of a membership that its client needs."""

    paths: Paths
    members: MemberTable
    election: Election
    key: MemberKey
    nonce: int
    takeoverMs: int
    requestTimeoutMs: int
    #: This process's own broker, while it is elected.
    broker: Callable[[], Broker | None]
    #: Stands for election as successor of a term.
    campaign: Callable[[Term], None]
    #: Whether this process has to join again, because the control block was removed.
    isLost: Callable[[], bool]
    #: ((row, incarnation), descriptor) of the memory without a name that is open here.
    allocations: Callable[[], list[tuple[tuple[int, int], Descriptor]]]
    #: Wakes the background thread.
    wake: Callable[[], None] = lambda: None
    #: Raises `DomainChanged` when this process has lost its slot.
    requireSlot: Callable[[], None] = lambda: None
    #: Whether this process has given its slot back.
    hasLeft: Callable[[], bool] = lambda: False
