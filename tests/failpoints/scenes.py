"""The scenes: the players, the death or stop of one of them or of two, and the check
that all is well afterwards.

In every scene a player dies or stops at a fail point: as the *first* and only process,
as an ordinary member (*client*), as *broker*, as the broker's *successor*, as the
*last* process that leaves a domain in which a buffer is shared, or as its *mender*. In
a *pair* a second player dies or stops while the others still recover from the first.
Afterwards the survivors and a newcomer go on as if nothing had happened; otherwise the
scene has failed.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from failpoints import plays
from failpoints.player import (
    BOUND_SECONDS,
    Deed,
    Player,
    PlayerError,
    count,
    counted,
    giveCue,
    leave,
    meet,
    resetCue,
)
from support import removeDomain

_ENVIRONMENT = {
    "MUNINN_TAKEOVER_MS": "100",
    "MUNINN_MAX_MEMBERS": "8",
    "MUNINN_MAX_BUFFERS": "32",
    "MUNINN_MAX_LEASES": "16",
    "MUNINN_HOST_GPUS": "2",
    "MUNINN_DEVICE": "host",
}
#: More passes than the smallest table has rows.
REPEATS = 33


class Scene(NamedTuple):
    """One performance: a role, and the deeds in it."""

    role: str
    deed: Deed
    second: Deed | None = None

    def __str__(self) -> str:
        return f"{self.role} {self.deed}" + (
            f", then {_SECOND[self.role]} {self.second}" if self.second else ""
        )


#: The player of the second deed of a pair.
_SECOND = {"client": "the broker", "broker": "its successor"}


class Stage:
    """A domain of its own and the players in it. The scene fails if anything is left of
    them at the end.
    """

    def __init__(self) -> None:
        self.domain = f"scene-{secrets.token_hex(6)}"
        self.players: list[Player] = []
        resetCue()

    def enter(self, name: str) -> Player:
        player = Player(name, {**_ENVIRONMENT, "MUNINN_DOMAIN": self.domain})
        self.players.append(player)
        return player

    def alive(self) -> list[Player]:
        return [player for player in self.players if player.fate == "alive"]

    def finish(self) -> None:
        """A newcomer finds all well; then all players leave, and nothing is left."""
        newcomer = self.enter("newcomer")
        newcomer.call(plays.join)
        for player in self.alive():
            player.call(plays.everything, player.name)
        newcomer.call(plays.inspect, [player.pid for player in self.alive()])
        newcomer.call(plays.endAll)
        for player in self.alive():
            player.call(leave)
        deadline = time.monotonic() + BOUND_SECONDS
        while not plays.nothingIsLeft(self.domain):
            if time.monotonic() > deadline:
                raise PlayerError("something of the domain is left after all have gone")
            time.sleep(0.002)

    def close(self) -> None:
        for player in self.players:
            player.kill()
        removeDomain(self.domain)


@contextlib.contextmanager
def staged() -> Iterator[Stage]:
    stage = Stage()
    try:
        yield stage
    finally:
        stage.close()


def _happens(player: Player, deed: Deed | None) -> None:
    """Give a player its deed; without a deed it counts its passes."""
    if deed is None:
        player.call(count)
    else:
        player.call(meet, deed)


def perform(scene: Scene) -> bool:
    """Perform a scene; returns whether its deeds were done. Raises `PlayerError` when
    not all is well afterwards.
    """
    with staged() as stage:
        happened = _PERFORM[scene.role](stage, scene.deed, scene.second)
        if happened:
            stage.finish()
        return happened


def rehearse(role: str) -> dict[str, int]:
    """How often a player in that role passes each point without a deed."""
    with staged() as stage:
        passes: dict[str, int] = _PERFORM[role](stage, None, None)
        return passes


def repeat(scene: Scene) -> bool:
    """The same deed for one client after the other in one domain, more often than any
    table has rows; returns whether it was done each time.
    """
    with staged() as stage:
        host = stage.enter("host")
        host.call(plays.prepare)
        happened = 0
        for number in range(REPEATS):
            victim = stage.enter(f"victim{number}")
            _happens(victim, scene.deed)
            happened += _act(victim, plays.everything, "victim")
            victim.kill()
            stage.players.remove(victim)
            host.call(plays.tidy)
            resetCue()
        stage.finish()
        return happened == REPEATS


def _act(player: Player, function: Callable[..., Any], *arguments: Any) -> bool:
    """Let a player perform a call, which it may not survive, and leave; returns whether
    its deed was done.
    """
    for step, given in ((function, arguments), (leave, ())):
        player.begin(step, *given)
        player.result()
        if player.fate != "alive":
            return True
    return False


def _client(stage: Stage, deed: Deed | None, second: Deed | None) -> Any:
    host = stage.enter("host")
    host.call(plays.prepare)
    other = stage.enter("other")
    other.call(plays.holdBack)
    if second is not None:
        host.call(meet, second._replace(cue=1))
    victim = stage.enter("victim")
    _happens(victim, deed)
    other.begin(plays.holdForAMoment)
    happened = _act(victim, plays.everything, "victim")
    other.result()
    if deed is None:
        return victim.call(counted)
    if not happened:
        return False
    if victim.fate == "stopped":
        other.call(plays.everything, "other", False)
        if host.fate == "alive":
            host.kill()  # the broker dies meanwhile
        other.call(plays.everything, "again", False)
        return _comesBack(victim)
    other.call(plays.everything, "other")
    if second is not None:
        _awaitFate(host, lambda: other.call(plays.everything, "other"))
        return host.fate != "alive"
    return True


def _first(stage: Stage, deed: Deed | None, _: Deed | None) -> Any:
    victim = stage.enter("victim")
    _happens(victim, deed)
    happened = _act(victim, plays.wholeLife)
    if deed is None:
        return victim.call(counted)
    if not happened:
        return False
    if victim.fate == "stopped":
        victim.resume()  # the others may not be able to go on without it
        victim.result()
        victim.call(plays.prepare)
    else:
        stage.enter("host").call(plays.prepare)
    return True


def _comesBack(victim: Player) -> bool:
    """A stopped player goes on, ends its call, and makes further ones; it may have been
    at its good-bye.
    """
    victim.resume()
    victim.result()
    if victim.fate != "alive":
        raise PlayerError(f"{victim.name} is {victim.fate} after it went on\n{victim.log()}")
    victim.call(plays.everything, "victim")
    return True


def _awaitFate(player: Player, meanwhile: Callable[[], Any]) -> None:
    """Wait until the deed of a player that works in the background may be done."""
    for _ in range(3):
        if player._look() != "alive":
            return
        meanwhile()
        time.sleep(0.02)
    player._look()


def _broker(stage: Stage, deed: Deed | None, second: Deed | None) -> Any:
    victim = stage.enter("victim")
    victim.call(plays.prepare)
    successor = stage.enter("successor")
    successor.call(plays.join)
    client = stage.enter("client")
    if second is not None:
        # A third player has the memory of `vram`, which would go with the other two.
        client.call(plays.holdBack)
        successor.call(meet, second._replace(cue=1))
    _happens(victim, deed)
    client.call(plays.holdBack)
    doomed = stage.enter("doomed")
    doomed.call(plays.hold)
    client.begin(plays.everything, "client")
    time.sleep(0.03)  # the client waits for the lock of the doomed player
    doomed.kill()
    client.result()
    if victim._look() == "alive" and deed is not None:
        _act(victim, plays.join)
    if deed is None:
        victim.call(leave)
        return victim.call(counted)
    if victim.fate == "alive":
        return False
    client.call(plays.everything, "client")
    if victim.fate == "stopped":
        return _comesBack(victim)
    if second is not None:
        _awaitFate(successor, lambda: client.call(plays.everything, "client"))
        return successor.fate != "alive"
    return True


def _successor(stage: Stage, deed: Deed | None, _: Deed | None) -> Any:
    host = stage.enter("host")
    host.call(plays.prepare)
    victim = stage.enter("victim")
    victim.call(plays.join)
    if deed is None:
        victim.call(count, 1)
    else:
        victim.call(meet, deed._replace(cue=1))
    client = stage.enter("client")
    client.call(plays.holdBack)
    doomed = stage.enter("doomed")
    doomed.call(plays.hold)
    halfway = stage.enter("halfway")
    halfway.call(meet, Deed("rows.RowTable.describe:put"))
    halfway.begin(plays.everything, "halfway", False)
    halfway.result()
    doomed.kill()
    giveCue()
    host.kill()
    client.call(plays.everything, "client")
    if deed is None:
        return victim.call(counted)
    _awaitFate(victim, lambda: client.call(plays.everything, "client"))
    if victim.fate == "alive":
        return False
    client.call(plays.everything, "client")
    return _comesBack(victim) if victim.fate == "stopped" else True


def _last(stage: Stage, deed: Deed | None, _: Deed | None) -> Any:
    """The only process of a domain in which a buffer is shared says good-bye."""
    return _alone(stage, deed, leave, plays.names)


def _mender(stage: Stage, deed: Deed | None, _: Deed | None) -> Any:
    """A process repairs a domain without members."""
    return _alone(stage, deed, plays.mend)


def _alone(
    stage: Stage,
    deed: Deed | None,
    act: Callable[[], Any],
    prepared: Callable[[], Any] | None = None,
) -> Any:
    maker = stage.enter("maker")
    maker.call(plays.prepare)
    maker.kill()
    victim = stage.enter("victim")
    if prepared is not None:
        victim.call(prepared)
    _happens(victim, deed)
    victim.begin(act)
    victim.result()
    if deed is None:
        return victim.call(counted)
    if victim.fate == "alive":
        return False
    if victim.fate == "stopped":
        victim.resume()  # it may hold CREATE, which others wait for
        victim.result()
    newcomer = stage.enter("next")
    if (names := newcomer.call(plays.names)) != ["kept", "precious", "served"]:
        raise PlayerError(f"of what was shared there is {names} after {deed}")
    newcomer.call(plays.prepare)
    return True


_PERFORM: dict[str, Callable[[Stage, Deed | None, Deed | None], Any]] = {
    "first": _first,
    "client": _client,
    "broker": _broker,
    "successor": _successor,
    "last": _last,
    "mender": _mender,
}
ROLES = tuple(_PERFORM)
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)
