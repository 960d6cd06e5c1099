"""Requests about one buffer, from its creation to its end. `broker/directory.py` has
the protocol; a handler checks the request and the member that sent it.
"""

from __future__ import annotations

from muninn.broker.handlers.context import Answer, TermContext
from muninn.broker.policy.promotionqueue import Asking, Queued
from muninn.broker.policy.usage import Usage
from muninn.broker.sessions import Session
from muninn.control import layout
from muninn.control.block import BlockLost
from muninn.errors import BufferFreed, DomainDraining, InvalidArgument, OwnerDied
from muninn.system.descriptors import Descriptor
from muninn.terms import asMode
from muninn.wire import requests
from muninn.wire.messages import Message


def create(context: TermContext, session: Session, message: Message, _: list[Descriptor]) -> Answer:
    """Grant a row. Its creator fills it, and then commits it or gives it up."""
    if not context.block.hasName():
        raise BlockLost  # no process could ever find a buffer that is created now
    if (why := context.drain.reason()) is not None:
        raise DomainDraining(f"the domain is draining: {why}" if why else "the domain is draining")
    mode = asMode(message["mode"])
    if not 0 <= message["sizeBytes"] < 1 << 62 or (
        message["sizeBytes"] == 0 and not message["name"].startswith("\x01")
    ):
        raise InvalidArgument(f"a buffer of {message['sizeBytes']} bytes can not be")
    for field, most in (("name", layout.MAX_NAME_BYTES), ("tenant", layout.MAX_TENANT_BYTES)):
        if not 0 < len(message[field].encode(errors="replace")) <= most:
            raise InvalidArgument(f"a {field} of {len(message[field])} characters can not be")
    usage = Usage(
        message["name"],
        message["tenant"],
        mode,
        message["gpu"],
        message["sizeBytes"],
        message["deadlineMs"],
    )
    if context.maintenance.mayBeBrought(message["name"]):
        return {"row": requests.LATER, "incarnation": 0}, ()
    asking = Asking(message["rank"], message["isWaiting"])
    try:
        row, incarnation = context.directory.grant(
            session.member(), usage, message["gpuCapacityBytes"], asking
        )
    except Queued as queued:
        waits = {"row": requests.QUEUED, "incarnation": 0, "reason": str(queued)}
        return {**waits, "short": queued.short}, ()
    return {"row": row, "incarnation": incarnation}, ()


def commit(
    context: TermContext, session: Session, message: Message, descriptors: list[Descriptor]
) -> Answer:
    """The creator has filled the row: from now on any process may open it."""
    row, incarnation = _named(context, message)
    descriptor = descriptors.pop(0) if descriptors else None
    replaced = context.directory.commit(
        session.member(), row, incarnation, descriptor, message["replaces"]
    )
    if replaced is not None:
        # Now, and not later: the creator's next grant may need the room.
        context.maintenance.reclaimReplaced(replaced)
    return {}, ()


def abandon(
    context: TermContext, session: Session, message: Message, _: list[Descriptor]
) -> Answer:
    """The creator gives the row up."""
    context.directory.abandon(session.member(), *_named(context, message))
    return {}, ()


def fetch(context: TermContext, session: Session, message: Message, _: list[Descriptor]) -> Answer:
    """A descriptor of memory without a name, if it has been brought to this broker."""
    session.member()
    row, incarnation = _named(context, message)
    descriptor = context.directory.descriptorStore.get(row, incarnation)
    if descriptor is not None:
        return {"found": True}, (descriptor,)
    if context.directory.rows.isLive(row, incarnation) and context.mayStillBring():
        return {"found": False}, ()
    # The name is free at once, so that a member that gets this error can create it
    # again.
    context.maintenance.collectLost()
    raise OwnerDied(f"no process has the memory of row {row}.{incarnation} any more")


def free(context: TermContext, session: Session, message: Message, _: list[Descriptor]) -> Answer:
    """Free the name at once, and the memory when the last lease ends."""
    session.member()
    context.directory.free(*_named(context, message))
    return {}, ()


def recall(context: TermContext, session: Session, message: Message, _: list[Descriptor]) -> Answer:
    """The owner of memory that is shared where it lies takes it back."""
    context.directory.recall(session.member(), *_named(context, message))
    return {}, ()


def tryReclaim(
    context: TermContext, session: Session, message: Message, _: list[Descriptor]
) -> Answer:
    """A member has released its lease: try to reclaim the row."""
    session.member()
    row, incarnation = _named(context, message)
    if context.directory.rows.state(row).incarnation == incarnation:
        context.directory.tryReclaim(row)
    return {}, ()


def _named(context: TermContext, message: Message) -> tuple[int, int]:
    """The row and the incarnation that a request names, if there is such a row."""
    row, incarnation = message["row"], message["incarnation"]
    if not context.directory.exists(row, incarnation):
        raise BufferFreed(f"row {row}.{incarnation} is not there any more")
    return row, incarnation
