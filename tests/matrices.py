"""Matrices: what is between each two GPUs of a host, and what the rules say of a copy.

A matrix has a kind of link for each ordered pair of its GPUs. All matrices of two GPUs
are few. Of three and four there is a set in which each two kinds meet on each two
ordered pairs: what one link does to another one shows in it, if two links suffice for
that.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

Pair = tuple[int, int]


class Kind(NamedTuple):
    """What bytes from one GPU to another meet.

    Attributes
    ----------
    onHost, onStandin
        The word for it in `devices.hostLinks` and in STANDIN_LINKS; "" is a good link.
    isKeptGood
        Whether an earlier process has kept the verdict that the link is good.
    route, reason
        Of a first copy.
    later
        Route and reason of a copy once the link was measured.
    isGiven
        Whether the one can be given access to the other, and is.
    """

    onHost: str
    onStandin: str
    isKeptGood: bool
    route: str
    reason: str
    later: tuple[str, str]
    isGiven: bool


def _staged(word: str, reason: str, isKeptGood: bool = False, isGiven: bool = False) -> Kind:
    return Kind(word, word, isKeptGood, "staged", reason, ("staged", reason), isGiven)


#: `refuse` and `corrupt` are links that the driver says are good. `turned` was good when
#: an earlier process verified it, and refuses now.
KINDS = {
    "good": Kind("", "", False, "p2p", "peerAccess", ("p2p", "peerAccess"), True),
    "none": _staged("none", "peerDenied"),
    "refuse": _staged("refuse", "peerEnableFailed"),
    "corrupt": _staged("corrupt", "peerCorrupt", isGiven=True),
    "slow": Kind(
        "slow:100M", "slow:100M", False, "p2p", "peerAccess", ("staged", "peerSlower"), True
    ),
    "turned": _staged("refuse", "peerEnableFailed", isKeptGood=True),
}


class Matrix(NamedTuple):
    """The kinds of a host's links, in the order of `pairsOf`."""

    gpuCount: int
    kinds: tuple[str, ...]

    def links(self) -> Iterator[tuple[Pair, Kind]]:
        """Each ordered pair, source and target, with its kind."""
        for pair, kind in zip(pairsOf(self.gpuCount), self.kinds, strict=True):
            yield pair, KINDS[kind]

    def onHost(self) -> str:
        """The matrix as `devices.hostLinks`."""
        return ",".join(
            f"{source}>{target}={kind.onHost}"
            for (source, target), kind in self.links()
            if kind.onHost
        )

    def onStandin(self) -> str:
        """The matrix as STANDIN_LINKS. There access is named by the GPU that has it, and
        what happens to bytes by the GPU that sends them.
        """
        words = []
        for (source, target), kind in self.links():
            isOfAccess = kind.onStandin in ("none", "refuse")
            one, other = (target, source) if isOfAccess else (source, target)
            words += [f"{one}>{other}={kind.onStandin}"] if kind.onStandin else []
        return ",".join(words)

    def __str__(self) -> str:
        pairs = zip(pairsOf(self.gpuCount), self.kinds, strict=True)
        return ", ".join(f"{source}>{target}={kind}" for (source, target), kind in pairs)


def pairsOf(gpuCount: int) -> list[Pair]:
    """The ordered pairs of GPUs, source and target."""
    return list(itertools.permutations(range(gpuCount), 2))


def everyMatrix(gpuCount: int) -> list[Matrix]:
    """All of them: 36 of two GPUs, and 46,656 of three."""
    links = len(pairsOf(gpuCount))
    return [Matrix(gpuCount, kinds) for kinds in itertools.product(KINDS, repeat=links)]


def coveringMatrices(gpuCount: int) -> list[Matrix]:
    """Matrices in which each two kinds are on each two ordered pairs at least once.

    Greedy: a matrix begins with two kinds that have not met yet, and gets for each
    further pair the kind by which the most others meet.
    """
    places = len(pairsOf(gpuCount))
    missing = dict.fromkeys(meetings(places))
    found = []
    while missing:
        (one, other), (first, second) = next(iter(missing))
        chosen = {one: first, other: second}
        for place in (each for each in range(places) if each not in chosen):
            chosen[place] = max(
                KINDS,
                key=lambda kind: sum(
                    _meeting(place, kind, *known) in missing for known in chosen.items()
                ),
            )
        found.append(Matrix(gpuCount, tuple(chosen[place] for place in range(places))))
        for met in metIn(found[-1]):
            missing.pop(met, None)
    return found


Meeting = tuple[tuple[int, int], tuple[str, str]]


def meetings(places: int) -> list[Meeting]:
    """Each two kinds on each two of so many places."""
    kinds = itertools.product(KINDS, repeat=2)
    return list(itertools.product(itertools.combinations(range(places), 2), kinds))


def metIn(matrix: Matrix) -> list[Meeting]:
    """Which kinds meet in a matrix, and where."""
    at = enumerate(matrix.kinds)
    return [_meeting(*one, *other) for one, other in itertools.combinations(at, 2)]


def _meeting(one: int, kind: str, other: int, otherKind: str) -> Meeting:
    if one < other:
        return (one, other), (kind, otherKind)
    return (other, one), (otherKind, kind)
