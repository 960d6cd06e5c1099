"""Requests about names: which row has a name now."""

from __future__ import annotations

from muninn.broker.handlers.context import Answer, TermContext
from muninn.broker.sessions import Session
from muninn.system.descriptors import Descriptor
from muninn.wire.messages import Message


def find(context: TermContext, session: Session, message: Message, _: list[Descriptor]) -> Answer:
    """The row that has a name, live or being created; an empty answer when there is
    none.
    """
    session.member()
    found = context.directory.find(message["name"])
    return (
        ({}, ())
        if found is None
        else ({"row": found[0], "incarnation": found[1], "live": found[2]}, ())
    )
