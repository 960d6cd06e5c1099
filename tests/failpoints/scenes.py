"""The scenes: the players, the death or stop of one of them or of two, and the check
that all is well afterwards.

In every scene a player dies or stops at a fail point: as the *first* and only process,
as an ordinary member (*client*), as *broker*, as the broker's *successor*, as the
*last* process that leaves a domain in which a buffer is shared, as its *mender*, or
while it copies or promotes (`windows.py`). In a *pair* a second player dies or stops
while the others still recover from the first.
Afterwards the survivors and a newcomer go on as if nothing had happened; otherwise the
scene has failed.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from failpoints import plays, windows
from failpoints.player import Deed, PlayerError, count, counted, giveCue, leave, meet, resetCue
from failpoints.stage import Stage, act, awaitFate, comesBack, happens, staged


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
_SECOND = {
    "client": "the broker",
    "broker": "its successor",
    **dict.fromkeys(windows.PAIRED, "the broker"),
}


#: More passes than the smallest table has rows.
REPEATS = 33


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
            happens(victim, scene.deed)
            happened += act(victim, plays.everything, "victim")
            victim.kill()
            stage.players.remove(victim)
            host.call(plays.tidy)
            resetCue()
        stage.finish()
        return happened == REPEATS


def _client(stage: Stage, deed: Deed | None, second: Deed | None) -> Any:
    host = stage.enter("host")
    host.call(plays.prepare)
    other = stage.enter("other")
    other.call(plays.holdBack)
    if second is not None:
        host.call(meet, second._replace(cue=1))
    victim = stage.enter("victim")
    happens(victim, deed)
    other.begin(plays.holdForAMoment)
    happened = act(victim, plays.everything, "victim")
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
        return comesBack(victim)
    other.call(plays.everything, "other")
    if second is not None:
        awaitFate(host, lambda: other.call(plays.everything, "other"))
        return host.fate != "alive"
    return True


def _first(stage: Stage, deed: Deed | None, _: Deed | None) -> Any:
    victim = stage.enter("victim")
    happens(victim, deed)
    happened = act(victim, plays.wholeLife)
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
    happens(victim, deed)
    client.call(plays.holdBack)
    doomed = stage.enter("doomed")
    doomed.call(plays.hold)
    client.begin(plays.everything, "client")
    time.sleep(0.03)  # the client waits for the lock of the doomed player
    doomed.kill()
    client.result()
    if victim._look() == "alive" and deed is not None:
        act(victim, plays.join)
    if deed is None:
        victim.call(leave)
        return victim.call(counted)
    if victim.fate == "alive":
        return False
    client.call(plays.everything, "client")
    if victim.fate == "stopped":
        return comesBack(victim)
    if second is not None:
        awaitFate(successor, lambda: client.call(plays.everything, "client"))
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
    awaitFate(victim, lambda: client.call(plays.everything, "client"))
    if victim.fate == "alive":
        return False
    client.call(plays.everything, "client")
    return comesBack(victim) if victim.fate == "stopped" else True


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
    happens(victim, deed)
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
    **windows.PERFORM,
}
ROLES = tuple(_PERFORM)
SIGNALS = (signal.SIGKILL, signal.SIGSTOP)
