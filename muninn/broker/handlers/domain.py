"""Requests about the whole domain: eviction, draining, and whether its broker answers."""

from __future__ import annotations

from muninn.broker.handlers.context import Answer, TermContext
from muninn.broker.sessions import Session
from muninn.control import layout, leases
from muninn.control.rows import RowTable
from muninn.errors import ControlBlockInvalid
from muninn.observe import events
from muninn.system.descriptors import Descriptor
from muninn.wire.messages import Message

_ROWS_A_BEAT = 1024


def evict(context: TermContext, session: Session, message: Message, _: list[Descriptor]) -> Answer:
    """Revoke the leases on the buffers of a name, a tenant, or a process."""
    session.member()
    directory = context.directory
    reason = message["reason"] if message["reason"] in leases.REVOCATION_REASONS[1:] else "evicted"
    rows, revoked = 0, 0
    held = (
        *directory.rows.inState(layout.ROW_LIVE),
        *directory.rows.inState(layout.ROW_REPLACED),
    )
    for number, row in enumerate(held):
        if number % _ROWS_A_BEAT == 0:
            context.beat()
        if _isCalled(directory.rows, row, message["name"], message["tenant"]):
            rows, revoked = (
                rows + 1,
                revoked + directory.holders.revoke(row, reason, message["pid"]),
            )
    return {"revoked": revoked, "buffers": rows}, ()


def drain(context: TermContext, session: Session, message: Message, _: list[Descriptor]) -> Answer:
    """Stop creation in the domain, or let it go on; the answer says how many leases
    there still are.
    """
    session.member()
    context.drain.set(context.term.epoch, message["on"], message["reason"])
    events.say(
        "drain",
        state="on" if message["on"] else "off",
        reason=message["reason"] or "no reason given",
    )
    return {
        "holds": sum(
            leases.heldBy(context.block, context.members, key.slot)
            for key in context.members.there()
        )
    }, ()


def ping(context: TermContext, _: Session, __: Message, ___: list[Descriptor]) -> Answer:
    """The broker answers, and says which epoch it serves."""
    return {"epoch": context.term.epoch}, ()


def _isCalled(rows: RowTable, row: int, name: str, tenant: str) -> bool:
    """Whether the row has this name and this tenant; an empty one is any."""
    try:
        description = rows.description(row)
    except ControlBlockInvalid:
        return False  # damaged; `doctor` reports it
    return name in ("", description.name) and tenant in ("", description.tenant)
