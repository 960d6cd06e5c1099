"""Owner locks: one owner at a time, which the word names, and a takeover when the death
of the owner is confirmed.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator

import claiming
import pytest
from claiming import Acquired
from hypothesis import given
from hypothesis import strategies as st

from muninn.control import ownerlock
from muninn.control.members import MemberKey
from muninn.system import atomics
from support import Background

_MINE, _THEIRS = MemberKey(3, 70000), MemberKey(4, 1)


@pytest.fixture
def address() -> Iterator[int]:
    word = ctypes.c_uint32(0)
    yield ctypes.addressof(word)


@given(st.integers(0, 4093), st.integers(0, (1 << 32) - 1))
def test_anOwnerLockNamesItsOwner(slot: int, generation: int) -> None:
    key = MemberKey(slot, generation)
    assert ownerlock.ownerOf(ownerlock.ownerLockWord(key)) == (slot, generation & 0x7FFFF)
    assert ownerlock.belongsTo(ownerlock.ownerLockWord(key) | 1 << 31, key)


def test_isFreeOrOwned(address: int) -> None:
    assert claiming.acquire(address, _MINE, lambda *_: False, 0) is Acquired.OWNED
    assert claiming.acquire(address, _THEIRS, lambda *_: False, 0.01) is Acquired.TIME_OVER
    claiming.release(address)
    assert claiming.acquire(address, _THEIRS, lambda *_: False, 0) is Acquired.OWNED


def test_theDeadLoseIt(address: int) -> None:
    claiming.acquire(address, _THEIRS, lambda *_: False, 0)
    asked: list[tuple[int, int]] = []
    assert (
        claiming.acquire(address, _MINE, lambda *owner: asked.append(owner) or True, 0)
        is Acquired.RECOVERED
    )
    assert asked == [(_THEIRS.slot, _THEIRS.generation)]
    assert ownerlock.belongsTo(atomics.loadAcquire32(address), _MINE)


def test_aReleaseWakesEveryWaiter(address: int) -> None:
    claiming.acquire(address, _THEIRS, lambda *_: False, 0)
    got: list[Acquired] = []

    def take(slot: int) -> None:
        got.append(claiming.acquire(address, MemberKey(slot, 1), lambda *_: False, 60))
        claiming.release(address)

    threads = [threading.Thread(target=take, args=(slot,)) for slot in range(10, 16)]
    for thread in threads:
        thread.start()
    claiming.release(address)
    for thread in threads:
        thread.join(60)
    assert got == [Acquired.OWNED] * 6 and atomics.loadAcquire32(address) == 0


def test_aReleaseOrADeathEndsASleep(address: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: `release` or `markDead` woke no sleeper; the look every 50 ms hid that."""
    monkeypatch.setattr(claiming, "_CHECK_NS", 60_000_000_000)
    claiming.acquire(address, _THEIRS, lambda *_: False, 0)
    waiting = Background(lambda: claiming.acquire(address, _MINE, lambda *_: False, 60)).asleep()
    claiming.release(address)
    assert waiting.ended() is Acquired.OWNED
    died = threading.Event()
    waiting = Background(
        lambda: claiming.acquire(address, _THEIRS, lambda *_: died.is_set(), 60)
    ).asleep()
    died.set()
    ownerlock.markDead(address, _MINE)
    assert waiting.ended() is Acquired.RECOVERED


def test_aSuccessorWakesTheWaitersOfTheDead(address: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: a process that took the lock over from a dead one forgot that others
    waited, and its release woke none of them.
    """
    monkeypatch.setattr(claiming, "_CHECK_NS", 60_000_000_000)
    claiming.acquire(address, _THEIRS, lambda *_: False, 0)
    waiting = Background(
        lambda: claiming.acquire(address, MemberKey(9, 1), lambda *_: False, 60)
    ).asleep()
    assert claiming.acquire(address, _MINE, lambda *_: True, 0) is Acquired.RECOVERED
    claiming.release(address)
    assert waiting.ended() is Acquired.OWNED


def test_ofTwoSuccessorsOneGetsIt(address: int) -> None:
    """Another process took the owner lock over while this one asked whether its owner
    was dead. Broken: the word was stored without a comparison.
    """
    claiming.acquire(address, _THEIRS, lambda *_: False, 0)
    successor = MemberKey(9, 1)

    def isDead(slot: int, generation: int) -> bool:
        if slot != _THEIRS.slot:
            return False
        claiming.acquire(address, successor, lambda *_: True, 0)
        return True

    assert claiming.acquire(address, _MINE, isDead, 0.05) is Acquired.TIME_OVER
    assert ownerlock.belongsTo(atomics.loadAcquire32(address), successor)


def test_anAcquisitionThatWasInterruptedIsTakenUpAgain(address: int) -> None:
    """Ctrl-C comes between the CAS and the return. Broken: the process waited for
    itself.
    """
    claiming.acquire(address, _MINE, lambda *_: False, 0)
    assert claiming.acquire(address, _MINE, lambda *_: False, 0.05) is Acquired.RECOVERED
