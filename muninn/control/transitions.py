"""The legal transitions of a row's state and of a member slot's, as data.

`RowTable.change` and the methods of `MemberTable` ask here before their CAS, so a
caller that is wrong changes nothing. A word that another process changed meanwhile is
no such case: then the CAS fails.

A row that is FREE is granted (CREATING), committed (LIVE) and freed (DYING). A row that
goes with its last lease is PROBING while the broker looks whether any process holds it,
and LIVE again if one does. A row whose name a newer version takes is REPLACED, and no
process opens it any more. DEAD is never taken back: from there on the broker removes
the memory, and then the row is FREE. A slot that is FREE is claimed by a member
(CLAIMING), which enters (LIVE); a broker that has confirmed its death marks it (DEAD),
reclaims what it held and frees the slot. A claim that was begun and not finished is
taken over by the next process that claims the slot, or taken back.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from muninn.control import layout


class Actor(Enum):
    """The process that makes a transition."""

    BROKER = "broker"
    MEMBER = "member"


class Transition(NamedTuple):
    """From one state to another, the process that makes it, and when."""

    before: int
    after: int
    by: Actor
    when: str


ROW_TRANSITIONS = (
    Transition(
        layout.ROW_FREE,
        layout.ROW_CREATING,
        Actor.BROKER,
        "a creator is granted the row, or a repair adopts a buffer",
    ),
    Transition(layout.ROW_CREATING, layout.ROW_LIVE, Actor.BROKER, "the creator commits"),
    Transition(
        layout.ROW_CREATING,
        layout.ROW_DEAD,
        Actor.BROKER,
        "the creator gives up, or is confirmed dead",
    ),
    Transition(
        layout.ROW_LIVE,
        layout.ROW_PROBING,
        Actor.BROKER,
        "no process seems to hold a buffer that goes with its last lease",
    ),
    Transition(layout.ROW_LIVE, layout.ROW_DYING, Actor.BROKER, "the buffer is freed"),
    Transition(layout.ROW_PROBING, layout.ROW_LIVE, Actor.BROKER, "a process holds it after all"),
    Transition(layout.ROW_PROBING, layout.ROW_DYING, Actor.BROKER, "the buffer is freed meanwhile"),
    Transition(layout.ROW_PROBING, layout.ROW_DEAD, Actor.BROKER, "no process holds it"),
    Transition(
        layout.ROW_LIVE, layout.ROW_REPLACED, Actor.BROKER, "a newer version takes the name"
    ),
    Transition(
        layout.ROW_PROBING,
        layout.ROW_REPLACED,
        Actor.BROKER,
        "a newer version takes the name meanwhile",
    ),
    Transition(
        layout.ROW_REPLACED, layout.ROW_DEAD, Actor.BROKER, "its last holder has released it"
    ),
    Transition(layout.ROW_DYING, layout.ROW_DEAD, Actor.BROKER, "its last holder has released it"),
    Transition(layout.ROW_DEAD, layout.ROW_FREE, Actor.BROKER, "its memory is gone"),
)
MEMBER_TRANSITIONS = (
    Transition(
        layout.MEMBER_FREE, layout.MEMBER_CLAIMING, Actor.MEMBER, "a process claims the slot"
    ),
    Transition(
        layout.MEMBER_CLAIMING,
        layout.MEMBER_CLAIMING,
        Actor.MEMBER,
        "another process takes over a claim whose process died",
    ),
    Transition(layout.MEMBER_CLAIMING, layout.MEMBER_LIVE, Actor.MEMBER, "the member enters"),
    Transition(
        layout.MEMBER_CLAIMING,
        layout.MEMBER_FREE,
        Actor.MEMBER,
        "the claim fails; the broker does it for a process that died",
    ),
    Transition(
        layout.MEMBER_LIVE,
        layout.MEMBER_DEAD,
        Actor.BROKER,
        "the member has left, or is confirmed dead",
    ),
    Transition(
        layout.MEMBER_DEAD, layout.MEMBER_FREE, Actor.BROKER, "nothing of the member is left"
    ),
)
_ROW_PAIRS = frozenset((each.before, each.after) for each in ROW_TRANSITIONS)
_MEMBER_PAIRS = frozenset((each.before, each.after) for each in MEMBER_TRANSITIONS)


class IllegalTransition(RuntimeError):
    """A mistake in the calling code: it asked for a transition that is not in the
    table. Nothing was changed.
    """


def requireRow(before: int, after: int) -> None:
    """Raise `IllegalTransition` unless a row may go from `before` to `after`."""
    if (before, after) not in _ROW_PAIRS:
        raise IllegalTransition(f"a row does not go from state {before} to {after}")


def requireMember(before: int, after: int) -> None:
    """Raise `IllegalTransition` unless a member slot may go from `before` to `after`."""
    if (before, after) not in _MEMBER_PAIRS:
        raise IllegalTransition(f"a member slot does not go from state {before} to {after}")
