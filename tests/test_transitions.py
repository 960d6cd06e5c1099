"""The tables of legal transitions, and that each change of a state keeps to them."""

from __future__ import annotations

import pytest
from lab import Lab

from muninn.control import layout
from muninn.control.members import MemberKey
from muninn.control.transitions import (
    MEMBER_TRANSITIONS,
    ROW_TRANSITIONS,
    IllegalTransition,
    Transition,
    requireMember,
    requireRow,
)
from muninn.system import atomics

ROW_STATES = (
    layout.ROW_FREE,
    layout.ROW_CREATING,
    layout.ROW_LIVE,
    layout.ROW_PROBING,
    layout.ROW_DYING,
    layout.ROW_DEAD,
    layout.ROW_REPLACED,
)
MEMBER_STATES = (layout.MEMBER_FREE, layout.MEMBER_CLAIMING, layout.MEMBER_LIVE, layout.MEMBER_DEAD)


@pytest.mark.parametrize("before", ROW_STATES)
@pytest.mark.parametrize("after", ROW_STATES)
def test_aRowIsChangedAsTheTableSaysAndNotOtherwise(lab: Lab, before: int, after: int) -> None:
    lab.rows.grow(1)
    word = lab.rows.state(0)._replace(state=before).word()
    atomics.exchangeSeqCst64(lab.block.rowAddress(0), word)
    old = lab.rows.state(0)
    if any((each.before, each.after) == (before, after) for each in ROW_TRANSITIONS):
        assert (
            lab.rows.change(0, old, 1, after)
            == lab.rows.state(0)
            == old._replace(state=after, epoch=1)
        )
    else:
        with pytest.raises(IllegalTransition, match=f"from state {before} to {after}"):
            lab.rows.change(0, old, 1, after)
        assert lab.rows.word(0) == word


@pytest.mark.parametrize("before", MEMBER_STATES)
def test_aSlotIsFreedAsTheTableSaysAndNotOtherwise(lab: Lab, before: int) -> None:
    key, word = MemberKey(0, 7), 7 << layout.MEMBER_GENERATION.shift | before
    atomics.exchangeSeqCst64(lab.block.memberAddress(0), word)
    if any(
        (each.before, each.after) == (before, layout.MEMBER_FREE) for each in MEMBER_TRANSITIONS
    ):
        lab.members.release(key, before)
        assert lab.members.state(0) == (layout.MEMBER_FREE, 7)
    else:
        with pytest.raises(IllegalTransition):
            lab.members.release(key, before)
        assert atomics.loadSeqCst64(lab.block.memberAddress(0)) == word


def test_aTransitionThatIsInNoTableIsIllegal() -> None:
    for states, table, require in (
        (ROW_STATES, ROW_TRANSITIONS, requireRow),
        (MEMBER_STATES, MEMBER_TRANSITIONS, requireMember),
    ):
        legal = {(each.before, each.after) for each in table}
        assert len(legal) == len(table), "each pair once"
        for pair in ((before, after) for before in (*states, 15) for after in (*states, 15)):
            if pair in legal:
                require(*pair)
            else:
                with pytest.raises(IllegalTransition):
                    require(*pair)


@pytest.mark.parametrize("table", [ROW_TRANSITIONS, MEMBER_TRANSITIONS])
def test_everyStateIsReachedFromFreeAndLeadsThereAgain(table: tuple[Transition, ...]) -> None:
    def reached(edges: set[tuple[int, int]]) -> set[int]:
        found = {0}
        for _ in edges:
            found |= {after for before, after in edges if before in found}
        return found

    states = {each.after for each in table} | {each.before for each in table}
    assert reached({(each.before, each.after) for each in table}) == states
    assert reached({(each.after, each.before) for each in table}) == states
