"""Routes: the way between two places, chosen from what is known, with its reason.

The choice is a function of its arguments alone, so the same facts give the same route.
Nothing here asks a device.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from muninn.errors import TopologyNotPeerable
from muninn.transfer.tiers import Place, Tier


class Route(enum.StrEnum):
    """How bytes go."""

    #: Within one GPU, or within host memory.
    LOCAL = "local"
    #: From one GPU straight to another one.
    P2P = "p2p"
    #: From one GPU to pinned host memory, and from there to another one.
    STAGED = "staged"
    #: From host memory to a GPU.
    UPLOAD = "upload"
    #: From a GPU to host memory.
    DOWNLOAD = "download"


class Reason(enum.StrEnum):
    """Why a route was chosen."""

    SAME_GPU = "sameGpu"
    HOST_MEMORY = "hostMemory"
    PEER_ACCESS = "peerAccess"
    PEER_DENIED = "peerDenied"
    PEER_CORRUPT = "peerCorrupt"
    PEER_SLOWER = "peerSlower"
    PEER_UNVERIFIED = "peerUnverified"
    PEER_ENABLE_FAILED = "peerEnableFailed"
    POLICY_PREFERS_STAGED = "policyPrefersStaged"
    ASKED = "asked"


class Choice(NamedTuple):
    """A route, its reason, and a sentence for people where there is more to say."""

    route: Route
    reason: Reason
    note: str = ""


#: The words that a caller may pass.
ASKABLE = (Route.P2P, Route.STAGED)


class PeerFacts(NamedTuple):
    """What is known of the way from one GPU to another one.

    Attributes
    ----------
    hasPath
        Whether the driver says so.
    isIntact
        Whether bytes were seen to arrive as they were sent; None: it could not be tried.
    isSlower
        Whether staging was seen to be faster.
    note
        What was found, for people.
    """

    hasPath: bool
    isIntact: bool | None = None
    isSlower: bool = False
    note: str = ""


def within(source: Place, target: Place) -> Choice | None:
    """The choice where there is only one; None between two GPUs."""
    if source.tier is target.tier is Tier.HOST:
        return Choice(Route.LOCAL, Reason.HOST_MEMORY)
    if Tier.HOST in (source.tier, target.tier):
        route = Route.UPLOAD if source.tier is Tier.HOST else Route.DOWNLOAD
        return Choice(route, Reason.HOST_MEMORY)
    return Choice(Route.LOCAL, Reason.SAME_GPU) if source.gpu == target.gpu else None


def between(facts: PeerFacts, preferP2p: bool, asked: Route | None) -> Choice:
    """The choice between two GPUs.

    Parameters
    ----------
    asked
        The route that the caller demands, of `ASKABLE`.

    Raises
    ------
    TopologyNotPeerable
        The caller demands p2p, and it can not be.
    """
    obstacle = _obstacle(facts)
    if asked is Route.P2P:
        if obstacle is not None:
            raise refusal(obstacle, facts.note)
        return Choice(Route.P2P, Reason.ASKED)
    if asked is Route.STAGED:
        return Choice(Route.STAGED, Reason.ASKED)
    if obstacle is not None:
        return Choice(Route.STAGED, obstacle, facts.note)
    if not preferP2p:
        return Choice(Route.STAGED, Reason.POLICY_PREFERS_STAGED, "topology.preferP2P is false")
    if facts.isSlower:
        return Choice(Route.STAGED, Reason.PEER_SLOWER, facts.note)
    return Choice(Route.P2P, Reason.PEER_ACCESS)


def refusal(reason: Reason, note: str) -> TopologyNotPeerable:
    """The error for a caller that demands p2p."""
    said = f": {note}" if note else ""
    return TopologyNotPeerable(
        f"route p2p can not be ({reason.value}){said}",
        'Leave route out, or pass route="staged"',
    )


def _obstacle(facts: PeerFacts) -> Reason | None:
    """The reason for which no byte may go straight."""
    if not facts.hasPath:
        return Reason.PEER_DENIED
    if facts.isIntact is None:
        return Reason.PEER_UNVERIFIED
    return None if facts.isIntact else Reason.PEER_CORRUPT
