"""The scenes of copies and promoted windows. A player dies or stops while it copies to
GPUs and publishes copies (*copier*), while it verifies and measures a link (*prober*),
while it promotes windows and writes them back (*promoter*), while it promotes a window
that another one wants to share (*sharer*), or as the broker that admits windows and
takes back those of the dead (*granter*). Others do the same at the same time.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from failpoints import tiers
from failpoints.player import Deed, Player, counted, leave, meet
from failpoints.stage import Stage, act, awaitFate, comesBack, happens

#: How long a player waits for one that may be stopped.
_SECONDS = 0.1
Play = Callable[..., Any]


def _verdicts(stage: Stage, name: str = "verdicts") -> dict[str, str]:
    """The variables of players that find their links verified; of others without."""
    return {"MUNINN_CACHE_PATH": os.path.join(stage.folder, name)}


def _entered(stage: Stage) -> tuple[Player, Player]:
    """The player that makes the buffers and is broker, and one that holds them too."""
    verdicts = _verdicts(stage)
    tiers.keepVerdicts(*verdicts.values())
    host, other = (stage.enter(name, **verdicts) for name in ("host", "other"))
    host.call(tiers.prepare)
    other.call(tiers.holdBack)
    return host, other


def _patience(deed: Deed | None) -> float | None:
    """For how long the others wait for a player that dies or stops."""
    return _SECONDS if deed is not None and deed.signal == signal.SIGSTOP else None


def _member(
    stage: Stage, deed: Deed | None, second: Deed | None, play: Play, verdicts: str = "verdicts"
) -> Any:
    host, other = _entered(stage)
    if second is not None:
        host.call(meet, second._replace(cue=1))
    victim = stage.enter("victim", **_verdicts(stage, verdicts))
    happens(victim, deed)
    other.begin(tiers.beside, play, _patience(deed))
    happened = act(victim, play, "victim")
    other.result()
    if deed is None:
        return victim.call(counted)
    if not happened:
        return False
    if victim.fate == "stopped":
        other.call(play, "other", _SECONDS)
        if host.fate == "alive":
            host.kill()  # the broker dies meanwhile
        other.call(play, "other", _SECONDS)
        comesBack(victim, play)
    other.call(tiers.goOn)
    if second is not None:
        awaitFate(host, lambda: other.call(tiers.goOn))
        if host.fate == "alive":
            return False
    _settle(stage)
    return True


def _granter(stage: Stage, deed: Deed | None, _: Deed | None) -> Any:
    victim, successor = _entered(stage)
    verdicts = _verdicts(stage)
    client = stage.enter("client", **verdicts)
    client.call(tiers.holdBack)
    happens(victim, deed)
    doomed, halfway = (stage.enter(name, **verdicts) for name in ("doomed", "halfway"))
    doomed.call(tiers.holdWindows)
    halfway.call(meet, Deed("device.HostDevice.copy.work:copy", hit=2))
    halfway.begin(tiers.promote, "halfway")
    halfway.result()
    client.begin(tiers.shareWindow, "client", _patience(deed))
    time.sleep(0.005)
    doomed.kill()
    client.result()
    client.call(tiers.promote, "client", _patience(deed))
    client.call(tiers.copy, "client", _patience(deed))
    if deed is None:
        victim.call(leave)
        return victim.call(counted)
    if victim._look() == "alive":
        act(victim, tiers.shareWindow, "victim")
    if victim.fate == "alive":
        return False
    if victim.fate == "stopped":
        for play in (tiers.shareWindow, tiers.promote, tiers.copy):
            client.call(play, "client", _SECONDS)
        comesBack(victim, tiers.promote)
    client.call(tiers.goOn)
    successor.call(tiers.goOn)
    _settle(stage)
    return True


def _settle(stage: Stage) -> None:
    """Nothing of the windows and copies is left, and the other scenes' buffers stay."""
    newcomer = stage.enter("surveyor", **_verdicts(stage))
    newcomer.call(tiers.holdBack)
    newcomer.call(tiers.goOn)
    for player in stage.alive():
        player.call(tiers.dropIdle)
    newcomer.call(tiers.inspect)
    for player in stage.alive():
        player.call(tiers.letGo)


def _of(play: Play, verdicts: str = "verdicts") -> Callable[..., Any]:
    return lambda stage, deed, second: _member(stage, deed, second, play, verdicts)


PERFORM: dict[str, Callable[[Stage, Deed | None, Deed | None], Any]] = {
    "copier": _of(tiers.copy),
    "prober": _of(tiers.probe, "folder/others"),
    "promoter": _of(tiers.promote),
    "sharer": _of(tiers.shareWindow),
    "granter": _granter,
}
#: The roles in which the broker dies or stops during the recovery.
PAIRED = ("copier", "promoter", "sharer")
