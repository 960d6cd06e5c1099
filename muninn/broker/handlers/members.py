"""Requests about members: a member says hello, brings memory, leaves, or takes over as
broker.
"""

from __future__ import annotations

from muninn.broker.handlers.context import Answer, TermContext
from muninn.broker.sessions import SenderGone, Session
from muninn.control import layout
from muninn.control.members import MemberKey
from muninn.errors import ProtocolViolation
from muninn.observe import events
from muninn.system.descriptors import Descriptor
from muninn.system.processes import pidOf
from muninn.wire import requests
from muninn.wire.messages import Message


def hello(
    context: TermContext, session: Session, message: Message, descriptors: list[Descriptor]
) -> Answer:
    """A member begins its session: it shows that the slot is its own by a nonce and by
    a pidfd, and brings the memory that it has open.
    """
    members, key = context.members, MemberKey(message["slot"], message["generation"])
    if not 0 <= key.slot < members.count:
        raise ProtocolViolation(f"there is no member slot {key.slot}")
    # The member may die between any two of these reads. So the descriptor is read only
    # once, and the owner of the slot is read after the nonce.
    pid = pidOf(descriptors[0].number) if descriptors else None
    isKnown = members.identity(key.slot).nonce == message["nonce"]
    if not members.isCurrent(key):
        raise SenderGone(f"member slot {key.slot} was given back")
    if isKnown and pid == -1:
        context.maintenance.sweepSoon()
        raise SenderGone(f"the member of slot {key.slot} died before its hello was read")
    if not isKnown or pid is None or not members.isPidOf(pid, key):
        raise ProtocolViolation(f"hello does not match member slot {key.slot}")
    requests.allocationsOf(message, descriptors[1:])  # before anything is used
    session.key = key
    context.deathWatch.connected(key, descriptors.pop(0))
    bring(context, session, message, descriptors)
    return {"epoch": context.term.epoch}, ()


def bring(
    context: TermContext, session: Session, message: Message, descriptors: list[Descriptor]
) -> Answer:
    """A member brings descriptors of memory without a name to a new broker."""
    session.member()
    pairs = requests.allocationsOf(message, descriptors)
    session.bringsMore = len(pairs) >= requests.FULL_BATCH
    context.directory.descriptorStore.keep(context.directory.rows, pairs, descriptors)
    context.maintenance.collectLostAfterTakeover()
    return {}, ()


def leave(context: TermContext, session: Session, _: Message, __: list[Descriptor]) -> Answer:
    """A member gives its slot back, with everything that it still has."""
    key = session.member()
    context.reclaimer.leave(key, isBroker=key == context.own.key)
    context.maintenance.tryReclaimUnheld()
    return {}, ()


def takeOverPolitely(
    context: TermContext, session: Session, _: Message, __: list[Descriptor]
) -> Answer:
    """A member that is preferred as broker takes over, unless this broker is preferred
    too. This is the last request of the term then.
    """
    key, own = session.member(), context.own.member()
    if key == own or context.members.identity(own.slot).flags & layout.MEMBER_FLAG_PREFERRED:
        return {"yielded": False}, ()
    isYielded = context.election.replace(context.term, key.slot) is not None
    if isYielded:
        members = context.members
        who = f"process {members.identity(key.slot).pid} ({members.program(key.slot)})"
        events.say("handover", term=context.term.epoch, reason=f"{who} stays, and has asked for it")
    return {"yielded": isYielded}, ()
