"""The stage: a domain of its own, the process that is interrupted in one of three
roles, and another process that checks the domain afterwards.

- *broker*: the domain's broker is the interrupted process's own.
- *member*: the broker is the other process's.
- *newcomer*: the call is the first of a new process, which joins by it.

A process is used again after each interruption as long as all is well, so that most
trials cost some milliseconds.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from failpoints.player import Player, PlayerError

import muninn
from interrupts import calls, census, tracing
from interrupts.tracing import Position
from muninn.errors import (
    BrokerUnavailable,
    BufferExists,
    BufferFreed,
    BufferNotFound,
    ControlBlockInvalid,
    MuninnError,
)
from muninn.session import membership
from support import removeDomain

ROLES = ("broker", "member", "newcomer")
#: "signal": a Ctrl-C, at the bytecodes at which the interpreter looks for one. "twice":
#: a second one some bytecodes later. "reenter": a call of another public function,
#: before any bytecode. "raise": KeyboardInterrupt before any bytecode, which real
#: signals do not do; it is not tried unless it is asked for.
KINDS = ("signal", "twice", "reenter", "raise")
USUAL_KINDS = KINDS[:3]
#: After so long a process that does not come back prints its stack; its player is given
#: up a little later.
WATCHDOG_SECONDS = 10.0
#: A call in the middle of another one that takes longer counts as a standstill.
_STANDSTILL_SECONDS = 3.0
_LATEST_SECOND = 30
_ENVIRONMENT = {
    "MUNINN_TAKEOVER_MS": "5000",
    "MUNINN_REQUEST_TIMEOUT_MS": "4000",
    "MUNINN_MAX_MEMBERS": "8",
    "MUNINN_MAX_BUFFERS": "32",
    "MUNINN_MAX_LEASES": "16",
    "MUNINN_HOST_GPUS": "2",
    "MUNINN_DEVICE": "host",
    "MUNINN_CACHE_PATH": "-",
}


class Trial(NamedTuple):
    """One interruption."""

    call: str
    kind: str
    place: Position
    hit: int
    number: int


class Stage:
    """The processes of one role."""

    def __init__(self, role: str, name: str) -> None:
        self.role = role
        self.domain = f"scene-{secrets.token_hex(6)}"
        self._players: list[Player] = []
        self._actor: Player | None = None
        if role == "broker":
            self._actor = self._enter("interrupted")
            self._actor.call(_join)
        self._other = self._enter("other")
        self._other.call(_prepareOther)
        if role == "member":
            self._actor = self._enter("interrupted")
            self._actor.call(_join)
        if self._actor is not None:
            self._actor.call(_warm, name)

    def rehearse(self, name: str) -> dict[Position, int]:
        """How often the call passes each place without an interruption."""
        actor = self._begin()
        found: dict[Position, int] = actor.call(_rehearse, name)
        self._end(actor)
        return found

    def perform(self, trial: Trial) -> tuple[bool, list[str]]:
        """Whether the interruption took place, and the damage after it."""
        actor = self._begin()
        isDone, wrong = actor.call(perform, trial, self.role == "newcomer")
        wrong = [f"in this process: {each}" for each in wrong]
        self._end(actor)
        wrong += [
            f"for others: {each}"
            for each in self._other.call(lookElsewhere, trial.call, self._pids())
        ]
        return isDone, wrong

    def close(self, isSound: bool) -> list[str]:
        """End all processes; returns the errors of their ends, if they were sound until
        now.
        """
        wrong = []
        try:
            if isSound:
                for player in reversed(self._players):
                    self._sayGoodBye(player)
        except PlayerError as error:
            wrong.append(str(error))
        finally:
            for player in self._players:
                player.kill()
            removeDomain(self.domain)
        return wrong

    def _pids(self) -> list[int]:
        return [player.pid for player in self._players]

    def _enter(self, name: str) -> Player:
        player = Player(name, {**_ENVIRONMENT, "MUNINN_DOMAIN": self.domain})
        self._players.append(player)
        return player

    def _begin(self) -> Player:
        return self._actor or self._enter("newcomer")

    def _end(self, actor: Player) -> None:
        if actor is not self._actor:
            self._sayGoodBye(actor)

    def _sayGoodBye(self, player: Player) -> None:
        player.call(sayGoodBye)
        player._socket.close()
        deadline = time.monotonic() + WATCHDOG_SECONDS
        while True:
            pid, status = os.waitpid(player.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > deadline:
                raise PlayerError(f"{player.name} does not end\n{player.log()}")
            time.sleep(0.0005)
        player.fate = "dead"
        self._players.remove(player)
        if status:
            raise PlayerError(f"{player.name} ended with status {status}\n{player.log()}")


# --- in the processes ---------------------------------------------------------------

_wanted: dict[str, Any] = {}


def _join() -> None:
    """Be a member, warm, and remember the threads and descriptors of this process
    before any interruption.
    """
    faulthandler.enable()
    sys.unraisablehook = lambda _: None  # Finalizers are interrupted on purpose.
    muninn.domainInfo()


def _prepareOther() -> None:
    _join()
    calls.prepareStanding()
    _wanted["lock"] = muninn.Lock("common")


def _warm(name: str) -> None:
    """Make the call twice, so that everything that a process does once is done, and
    remember its threads and descriptors.
    """
    for _ in range(2):
        _rehearse(name)


def _rehearse(name: str) -> dict[Position, int]:
    call = calls.CALLS[name]
    kit = call.prepare() if call.prepare else None
    passes = tracing.rehearse(call.act, kit, call.act.__code__ if call.isWhole else None)
    del kit
    calls.tidy()
    _remember()
    return passes


def _remember() -> None:
    """Remember the threads and descriptors of this process before any interruption."""
    time.sleep(0.01)
    _wanted["threads"], _wanted["files"] = threading.active_count(), census.descriptors()


def perform(trial: Trial, isNewcomer: bool) -> tuple[bool, list[str]]:
    """Interrupt a call, make it again, and take the census."""
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS)
    try:
        isDone, wrong = _interrupted(trial, isNewcomer)
        if isNewcomer:
            _remember()
        gc.collect(0)
        return isDone, wrong + census.inProcess(_wanted["threads"], _wanted["files"])
    finally:
        faulthandler.cancel_dump_traceback_later()


def _interrupted(trial: Trial, isNewcomer: bool) -> tuple[bool, list[str]]:
    call = calls.CALLS[trial.call]
    kit = None if isNewcomer or call.prepare is None else call.prepare()
    wrong: list[str] = []
    deed: Callable[[], object] | None = None
    later = 0
    if trial.kind == "raise":
        deed = _raise
    elif trial.kind == "reenter":
        deed = _Reentry(trial.number, kit, wrong)
    elif trial.kind == "twice":
        later = random.Random(trial.number).randint(1, _LATEST_SECOND)
    body = call.act.__code__ if call.isWhole else None
    outcome = tracing.interrupt(call.act, kit, trial.place, trial.hit, deed, body, later)
    wrong += _judged(trial.kind, outcome)
    isDone = outcome.isDone
    del outcome, deed
    wrong += calls.missing(trial.call, kit)
    calls.again(trial.call, kit, call.ends or trial.kind == "reenter")
    return isDone, wrong


def _raise() -> None:
    raise KeyboardInterrupt


class _Reentry:
    """A call that a signal handler, or a finalizer, makes in the middle of another
    call.
    """

    def __init__(self, number: int, kit: Any, wrong: list[str]) -> None:
        self._function = calls.REENTRIES[number % len(calls.REENTRIES)]
        self._kit, self._wrong = kit, wrong

    def __call__(self) -> None:
        began = time.monotonic()
        try:
            self._function(self._kit)
        except (BrokerUnavailable, ControlBlockInvalid) as error:
            self._wrong.append(f"{self._function.__name__} in the middle of it: {error}")
        except (MuninnError, TimeoutError, RuntimeError):
            pass  # The call may refuse what it can not do now, and does so at once.
        except Exception as error:
            self._wrong.append(
                f"{self._function.__name__} in the middle of it: {type(error).__name__}: {error}"
            )
        if (seconds := time.monotonic() - began) > _STANDSTILL_SECONDS:
            self._wrong.append(
                f"{self._function.__name__} in the middle of it stood still for {seconds:.1f} s"
            )


def _judged(kind: str, outcome: tracing.Outcome) -> list[str]:
    """Check the result of the interrupted call: it may raise the interruption, or end
    as without one.
    """
    raised = outcome.raised
    if raised is None:
        return []
    if kind != "reenter":
        return (
            []
            if isinstance(raised, KeyboardInterrupt)
            else [f"the call raised {type(raised).__name__}: {raised}"]
        )
    if isinstance(raised, BufferFreed | BufferNotFound | BufferExists):
        return []  # The interrupting call may have closed the buffer.
    return [f"the call raised {type(raised).__name__}: {raised}"]


def lookElsewhere(name: str, pids: list[int]) -> list[str]:
    """In another process: everything works, and the interrupted call has left nothing."""
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS)
    try:
        calls.elsewhere(name)
        return census.ofDomain(pids)
    finally:
        faulthandler.cancel_dump_traceback_later()


def sayGoodBye() -> None:
    """Do what the end of a program does."""
    _wanted.clear()
    gc.collect()
    threading._shutdown()  # type: ignore[attr-defined]
    membership._leaveAtExit()
