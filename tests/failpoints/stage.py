"""The stage of a scene: a domain of its own, the players in it, and what happens to them."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from failpoints import plays, tiers
from failpoints.player import (
    BOUND_SECONDS,
    Deed,
    Player,
    PlayerError,
    count,
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
    # The bytes of the players go by the link one way, and by the host the other way.
    "MUNINN_HOST_LINKS": "1>0=corrupt",
    "MUNINN_CACHE_PATH": "-",
    "MUNINN_DEFAULT_SLICE_BYTES": "4096",
    "MUNINN_PER_GPU_SCRATCH_BYTES": str(tiers.SCRATCH_BYTES),
}


class Stage:
    """A domain of its own and the players in it. The scene fails if anything is left of
    them at the end.
    """

    def __init__(self) -> None:
        self.domain = f"scene-{secrets.token_hex(6)}"
        self.players: list[Player] = []
        #: For files of the players.
        self.folder = tempfile.mkdtemp(prefix="muninn-scene-")
        resetCue()

    def enter(self, name: str, **environment: str) -> Player:
        player = Player(name, {**_ENVIRONMENT, "MUNINN_DOMAIN": self.domain, **environment})
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
        for player in self.alive():
            player.call(plays.requireSums)
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
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def staged() -> Iterator[Stage]:
    stage = Stage()
    try:
        yield stage
    finally:
        stage.close()


def happens(player: Player, deed: Deed | None) -> None:
    """Give a player its deed; without a deed it counts its passes."""
    if deed is None:
        player.call(count)
    else:
        player.begin(meet, deed)
        player.result()  # its background thread may do the deed before it answers


def act(player: Player, function: Callable[..., Any], *arguments: Any) -> bool:
    """Let a player perform a call, which it may not survive, and leave; returns whether
    its deed was done.
    """
    for step, given in ((function, arguments), (leave, ())):
        player.begin(step, *given)
        player.result()
        if player.fate != "alive":
            return True
    return False


def comesBack(victim: Player, play: Callable[[str], Any] = plays.everything) -> bool:
    """A stopped player goes on, ends its call, and makes further ones; it may have been
    at its good-bye.
    """
    victim.resume()
    victim.result()
    if victim.fate != "alive":
        raise PlayerError(f"{victim.name} is {victim.fate} after it went on\n{victim.log()}")
    victim.call(play, "victim")
    return True


def awaitFate(player: Player, meanwhile: Callable[[], Any]) -> None:
    """Wait until the deed of a player that works in the background may be done."""
    for _ in range(3):
        if player._look() != "alive":
            return
        meanwhile()
        time.sleep(0.02)
    player._look()
