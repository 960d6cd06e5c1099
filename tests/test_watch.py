"""Watching: the background thread sleeps until a wake-up is for it, misses none, and
does not wake for others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from lab import Lab, Member

import muninn
from muninn.session import watch as watching
from muninn.session.watch import Watcher
from muninn.system import atomics
from support import Actor, Background, eventually

_MINUTE_NS = 60_000_000_000
#: Forbids the caller's process `futex_waitv`, as an older kernel or a sandbox does.
_WITHOUT_WAITV = """
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 449), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
filter = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(steps), ctypes.addressof(filter)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
"""


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watchers look again only after a minute, so a test that depends on that look
    hangs.
    """
    monkeypatch.setattr(watching, "_LOOK_NS", _MINUTE_NS)


@pytest.fixture
def broker(lab: Lab) -> Iterator[Member]:
    member = lab.member()
    lab.elect(member.key.slot)
    yield member


def _asleep(lab: Lab, watcher: Watcher) -> Background:
    watcher.look()
    term = lab.election.term()
    return Background(lambda: watcher.sleep(term.slot or 0, term.word(), _MINUTE_NS)).asleep()


@pytest.mark.usefixtures("patient")
def test_theWatchersOfTheOldBrokerAreWokenByAnElection(lab: Lab, broker: Member) -> None:
    """Broken: `replace` woke no watcher."""
    sleeping = [_asleep(lab, Watcher(lab.block, slot)) for slot in range(1, 4)]
    assert lab.election.replace(lab.election.term(), 5) is not None
    for each in sleeping:
        each.ended()


@pytest.mark.usefixtures("patient")
def test_aChangeBeforeTheSleepIsSeen(lab: Lab, broker: Member) -> None:
    """Broken: a watcher compared neither its wake-ups nor the election word, or did not
    check whether the robust word is a dead member's.
    """
    watcher, old = Watcher(lab.block, 1), lab.election.term()
    watcher.look()
    watcher.wake()
    watcher.sleep(broker.key.slot, old.word(), _MINUTE_NS)
    watcher.look()
    lab.elect(5)
    Background(lambda: watcher.sleep(broker.key.slot, old.word(), _MINUTE_NS)).ended()
    broker.die()
    watcher.sleep(broker.key.slot, lab.election.term().word(), _MINUTE_NS)


@pytest.mark.usefixtures("patient")
def test_theKernelWakesOneWatcherWhichWakesTheOthers(lab: Lab, broker: Member) -> None:
    """Broken: the watcher that found the broker dead woke no other: all but one went on
    sleeping.
    """
    sleeping = [_asleep(lab, Watcher(lab.block, slot)) for slot in range(1, 4)]
    broker.die()
    atomics.futexWake32(broker.table.robustAddress(broker.key.slot), 1)
    for each in sleeping:
        each.ended()


@pytest.mark.usefixtures("patient")
def test_aWakeUpWakesTheOwnThreadAndNoOther(lab: Lab, broker: Member) -> None:
    """Broken: a wake-up disturbed the broker's robust word, which all members watch."""
    woken, other = Watcher(lab.block, 1), Watcher(lab.block, 2)
    sleeping, still = _asleep(lab, woken), _asleep(lab, other)
    woken.wake()
    sleeping.ended()
    assert still.asleep().isRunning()
    other.wake()
    still.ended()


def test_aSleepHasABound(lab: Lab, broker: Member) -> None:
    watcher = Watcher(lab.block, 1)
    watcher.look()
    watcher.sleep(broker.key.slot, lab.election.term().word(), 1_000_000)


def _switches(pid: int) -> int:
    """How often the threads of a process have slept."""
    stats = (stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/status"))
    return sum(
        int(line.split()[1])
        for stat in stats
        for line in stat.splitlines()
        if line.startswith("voluntary_ctxt_switches")
    )


def test_anIdleMemberSleepsWhileOthersWork(domain: str, actor: Callable[..., Actor]) -> None:
    """Broken: each last close, and each name that came or went, woke the background
    thread of every member.
    """
    actor("broker = muninn.share(np.ones(2), name='its')")
    idle = [actor().join() for _ in range(3)]
    waiting = actor().join()
    waiting.begin("try: muninn.open('never', timeout=600)\nexcept BaseException: pass")
    muninn.share(np.ones(2)).close()
    time.sleep(0.5)
    before = [_switches(each.pid) for each in (*idle, waiting)]
    for _ in range(300):
        muninn.share(np.ones(2)).close()
        muninn.share(np.ones(2), name="n").free()
    woken = [
        _switches(each.pid) - count for each, count in zip((*idle, waiting), before, strict=True)
    ]
    assert all(count < 150 for count in woken), woken


def test_withoutWaitvItWorksAsWell(domain: str, actor: Callable[..., Actor]) -> None:
    """A wake-up reaches the thread, and so does the broker's death, where a sandbox or
    an old kernel lacks `futex_waitv`.
    """
    broker = actor("held = muninn.share(np.ones(2), name='its')")
    others = [actor(_WITHOUT_WAITV).join() for _ in range(3)]
    for each in others:
        each.do("muninn.share(np.ones(4)).close()")
        assert each.do("np.asarray(muninn.open('its').array).sum()") == 2
    eventually(
        lambda: [buffer["name"] for buffer in muninn.listBuffers()] == ["its"],
        "the closed buffers are gone",
    )
    broker.kill()
    for each in others:
        assert (
            each.do("muninn.share(np.ones(4)).close() or muninn.domainInfo()['brokerPid']")
            != broker.pid
        )
