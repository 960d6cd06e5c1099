"""Requests about members: a member says hello, brings memory, leaves, or takes the office over."""

from __future__ import annotations

from muninn.broker.handlers.context import Answer, TermContext
from muninn.broker.sessions import SenderGone, Session
from muninn.control import layout
from muninn.control.members import MemberKey
from muninn.errors import ProtocolViolation
from muninn.system.descriptors import Descriptor
from muninn.system.processes import pidOf
from muninn.wire import requests
from muninn.wire.messages import Message


def hello(office: TermContext, session: Session, message: Message, descriptors: list[Descriptor]) -> Answer:
    """A member begins its session: it proves its slot by a nonce and by a pidfd, and brings the memory that it holds."""
    members, key = office.members, MemberKey(message["slot"], message["generation"])
    if not 0 <= key.slot < members.count:
        raise ProtocolViolation(f"there is no member slot {key.slot}")
    # Its death can come between any two looks: what the descriptor names is read once, and the slot's owner after its nonce.
    pid = pidOf(descriptors[0].number) if descriptors else None
    isKnown = members.identity(key.slot).nonce == message["nonce"]
    if not members.isCurrent(key):
        raise SenderGone(f"member slot {key.slot} was given back")
    if isKnown and pid == -1:
        office.maintenance.sweepSoon()
        raise SenderGone(f"the member of slot {key.slot} died before its hello was read")
    if not isKnown or pid is None or not members.isPidOf(pid, key):
        raise ProtocolViolation(f"hello does not match member slot {key.slot}")
    requests.allocationsOf(message, descriptors[1:])  # before anything is believed
    session.key = key
    office.deathWatch.greeted(key, descriptors.pop(0))
    bring(office, session, message, descriptors)
    return {"epoch": office.term.epoch}, ()


def bring(office: TermContext, session: Session, message: Message, descriptors: list[Descriptor]) -> Answer:
    """A member hands descriptors of memory without a name to a new broker."""
    session.member()
    pairs = requests.allocationsOf(message, descriptors)
    session.bringsMore = len(pairs) >= requests.FULL_BATCH
    office.directory.keep(pairs, descriptors)
    office.maintenance.collectLostOnce()
    return {}, ()


def leave(office: TermContext, session: Session, _: Message, __: list[Descriptor]) -> Answer:
    """A member gives its slot back, with everything that it still has."""
    key = session.member()
    office.reclaimer.leave(key, isBroker=key == office.own.key)
    office.maintenance.settleUnheld()
    return {}, ()


def yieldOffice(office: TermContext, session: Session, _: Message, __: list[Descriptor]) -> Answer:
    """A member that stays takes over politely. Its request was the last one of this term."""
    key, own = session.member(), office.own.member()
    if key == own or office.members.identity(own.slot).flags & layout.MEMBER_FLAG_PREFERRED:
        return {"yielded": False}, ()
    return {"yielded": office.election.replace(office.term, key.slot) is not None}, ()
