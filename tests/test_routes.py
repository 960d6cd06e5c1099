"""Routes: the same facts give the same route, and each has its reason."""

from __future__ import annotations

import itertools

import pytest

from muninn.devices.host.links import Links
from muninn.errors import InvalidConfig, TopologyNotPeerable
from muninn.transfer.routes import Choice, PeerFacts, Reason, Route, between, within
from muninn.transfer.states import NEXT, State
from muninn.transfer.tiers import Place, Tier

HOST, FIRST, SECOND = Place(Tier.HOST), Place(Tier.VRAM, 0), Place(Tier.VRAM, 1)


def test_onlyTwoGpusHaveAChoice() -> None:
    assert within(HOST, FIRST) == Choice(Route.UPLOAD, Reason.HOST_MEMORY)
    assert within(SECOND, HOST) == Choice(Route.DOWNLOAD, Reason.HOST_MEMORY)
    assert within(HOST, HOST) == Choice(Route.LOCAL, Reason.HOST_MEMORY)
    assert within(SECOND, SECOND) == Choice(Route.LOCAL, Reason.SAME_GPU)
    assert within(FIRST, SECOND) is None


@pytest.mark.parametrize(
    ("facts", "route", "reason"),
    [
        (PeerFacts(True, True), Route.P2P, Reason.PEER_ACCESS),
        (PeerFacts(False), Route.STAGED, Reason.PEER_DENIED),
        (PeerFacts(False, True), Route.STAGED, Reason.PEER_DENIED),
        (PeerFacts(True, None), Route.STAGED, Reason.PEER_UNVERIFIED),
        (PeerFacts(True, False), Route.STAGED, Reason.PEER_CORRUPT),
        (PeerFacts(True, False, True), Route.STAGED, Reason.PEER_CORRUPT),
        (PeerFacts(True, True, True), Route.STAGED, Reason.PEER_SLOWER),
    ],
)
def test_aRouteIsChosenByWhatIsKnown(facts: PeerFacts, route: Route, reason: Reason) -> None:
    assert between(facts, True, None)[:2] == (route, reason)
    assert between(facts, True, Route.STAGED)[:2] == (Route.STAGED, Reason.ASKED)
    preferred = between(facts, False, None)
    assert preferred.route is Route.STAGED
    if reason in (Reason.PEER_ACCESS, Reason.PEER_SLOWER):
        # The caller's word is above the policy's, and above speed.
        assert preferred.reason is Reason.POLICY_PREFERS_STAGED
        for policy in (True, False):
            assert between(facts, policy, Route.P2P)[:2] == (Route.P2P, Reason.ASKED)
    else:
        assert preferred.reason is reason
        with pytest.raises(TopologyNotPeerable, match=reason.value):
            between(facts, True, Route.P2P)


def test_noByteGoesOverALinkThatIsNotIntact() -> None:
    for hasPath, isIntact, isSlower, policy, asked in itertools.product(
        (True, False), (None, True, False), (True, False), (True, False), (None, *Route)
    ):
        try:
            choice = between(PeerFacts(hasPath, isIntact, isSlower), policy, asked)
        except TopologyNotPeerable:
            assert asked is Route.P2P
            continue
        assert choice.route is not Route.P2P or (hasPath and isIntact)


def test_aTransferThatHasEndedStaysThere() -> None:
    assert set(NEXT) == set(State)
    ends = {state for state, following in NEXT.items() if not following}
    assert ends == {State.DONE, State.FAILED, State.CANCELLED, State.OVERDUE}
    reached, unseen = set[State](), {State.QUEUED}
    while unseen:
        reached |= unseen
        unseen = {after for state in unseen for after in NEXT[state]} - reached
    assert reached == set(State), "each state can be reached"
    assert all(ends & set(NEXT[state]) for state in set(State) - ends), "and left for an end"


def test_linksAreReadAsTheyAreWritten() -> None:
    links = Links("0-1=none, 1>2=corrupt,0-2=slow:2M,2>1=refuse", 3)
    assert not links.between(0, 1).isThere and not links.between(1, 0).isThere
    assert links.between(1, 2).corrupts and not links.between(2, 1).corrupts
    assert links.between(0, 2).bytesPerSecond == links.between(2, 0).bytesPerSecond == 2 << 20
    assert links.between(2, 1).refuses and links.between(2, 1).isThere
    links.require(1, 2)
    for pair in ((0, 1), (1, 0), (2, 1)):
        with pytest.raises(TopologyNotPeerable):
            links.require(*pair)


@pytest.mark.parametrize(
    "text",
    [
        "0-1",
        "0-1=bad",
        "0-0=none",
        "0-3=none",
        "a-b=none",
        "0-1=slow:",
        "0=none",
        "0-1=slow:x",
        "0-1=slow:1.2.3",
        "0-1=nonesuch",
    ],
)
def test_linksThatAreNoneAreRefused(text: str) -> None:
    with pytest.raises(InvalidConfig, match="devices.hostLinks"):
        Links(text, 3)
