"""Generations: odd while a process writes, up by two with each publication, and read
whole or not at all.
"""

from __future__ import annotations

import ctypes
import errno
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from muninn.control import generations, layout
from muninn.control.generations import Generation, Starved
from muninn.system import atomics
from support import Background


@pytest.fixture
def row() -> Iterator[int]:
    memory = ctypes.create_string_buffer(layout.ROW_BYTES)
    yield ctypes.addressof(memory)
    del memory


def test_isOddWhileAProcessWrites(row: int) -> None:
    generation = Generation(row)
    assert generation.value() == 0
    assert generation.begin() == 1 and generation.begin() == 1, (
        "the next writer finds the word odd when the last writer died"
    )
    assert generation.value() == 1, "a reader sees that"
    assert generation.publish(1) == 2 == generation.value()


def test_waitsForAPublicationAfterTheOneThatIsKnown(row: int) -> None:
    generation = Generation(row)
    assert generation.wait(0, 0.01, lambda: None) is None
    begun = generation.begin()
    assert generation.wait(0, 0.01, lambda: None) is None
    generation.publish(begun)
    assert generation.wait(0, None, lambda: None) == 2
    thread = threading.Timer(0.05, lambda: generation.publish(generation.begin()))
    thread.start()
    assert generation.wait(2, 60, lambda: None) == 4
    thread.join()


def test_aPublicationIsSeenAlthoughAWriterIsAtWorkAgain(row: int) -> None:
    """Broken: the waiter believed only an even word, and a writer that computes inside
    its accesses leaves the word odd nearly always.
    """
    generation = Generation(row)
    generation.publish(generation.begin())
    generation.begin()
    assert generation.wait(0, 0, lambda: None) == 2
    assert generation.wait(2, 0.01, lambda: None) is None, "the unfinished write is not published"


def test_anErrorOfTheCheckEndsAWait(row: int) -> None:
    def check() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Generation(row).wait(0, None, check)


def test_aCopyIsNeverTorn(row: int) -> None:
    generation, shared = Generation(row), np.zeros(20_000, np.int64)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            begun = generation.begin()
            shared[:] = (number := number + 1)
            generation.publish(begun)
            stop.wait(0.0005)

    thread = threading.Thread(target=write)
    thread.start()
    copy = np.empty_like(shared)
    try:
        for _ in range(200):
            assert (
                generation.copy(
                    shared.ctypes.data, copy.ctypes.data, copy.nbytes, 60, lambda: False
                )
                is not None
            )
            assert (copy == copy[0]).all()
    finally:
        stop.set()
        thread.join()


def test_aDeadWriterIsToldAndASlowOneIsATimeout(row: int) -> None:
    generation, data = Generation(row), np.zeros(8)
    generation.begin()
    arguments = data.ctypes.data, np.empty(8).ctypes.data, data.nbytes
    assert generation.copy(*arguments, 60, lambda: True) is None
    with pytest.raises(TimeoutError):
        generation.copy(*arguments, 0.01, lambda: False)


def test_aPublicationAndAWakeUpEndASleep(row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: `publish` or `wake` did not wake the sleepers; the look every 0.2 s hid
    this.
    """
    monkeypatch.setattr(generations, "_CHECK_NS", 60_000_000_000)
    generation, stop = Generation(row), threading.Event()

    def check() -> None:
        if stop.is_set():
            raise InterruptedError

    waiting = Background(lambda: generation.wait(0, None, check)).asleep()
    generation.publish(generation.begin())
    assert waiting.ended() == 2
    waiting = Background(lambda: generation.wait(2, None, check)).asleep()
    stop.set()
    generation.wake()
    assert isinstance(waiting.ended(), InterruptedError)


def test_aWriterThatEndedJustNowHasNotDied(row: int) -> None:
    """The writer published and released the lock between the look at the word and the
    look at the owner lock. Broken: the word was not read again.
    """
    generation = Generation(row)
    begun = generation.begin()
    source, target = np.arange(4.0), np.empty(4)

    def endedNow() -> bool:
        if generation.value() & 1:
            generation.publish(begun)
        return True

    assert generation.copy(source.ctypes.data, target.ctypes.data, source.nbytes, 5, endedNow) == 2


def test_anAccessThatEndedIsNotTakenForTheNextOne(row: int) -> None:
    generation = Generation(row)
    begun = generation.begin()

    def isUnclaimed() -> bool:
        generation.publish(begun)
        generation.begin()
        return True

    assert not generation.isLeft(begun, isUnclaimed), "the access ended, and the next one has begun"
    assert generation.isLeft(begun + 2, lambda: True) and not generation.isLeft(
        begun + 2, lambda: False
    )
    assert not generation.isLeft(generation.publish(begun + 2), lambda: True)


class Fences:
    """Streams that write. A fence takes a moment, and is completed by a wait."""

    def __init__(self) -> None:
        self.issued, self.completed, self.waits = 0, 0, list[float]()

    def streams(self) -> generations.Streams:
        return generations.Streams(lambda: self.issued, self.complete)

    def complete(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.completed = self.issued


def test_theKernelsOfAGenerationAreWaitedFor(row: int) -> None:
    """Broken: a copy ran as soon as the word was even, while kernels of that generation
    were still at work.
    """
    generation, fences = Generation(row), Fences()
    source, target, seen = np.zeros(4), np.empty(4), list[int]()

    def copy() -> None:
        seen.append(fences.completed)

    assert generation.copyBy(copy, 5, lambda: False, fences.streams()) == 0 and fences.waits == []
    begun = generation.begin()
    publishing = threading.Timer(
        0.05, lambda: (setattr(fences, "issued", 1), generation.publish(begun))
    )
    publishing.start()
    assert generation.copyBy(copy, 5, lambda: False, fences.streams()) == 2 and seen == [0, 1]
    publishing.join()
    assert (
        generation.copy(
            source.ctypes.data,
            target.ctypes.data,
            source.nbytes,
            5,
            lambda: False,
            fences.streams(),
        )
        == 2
    )
    assert len(fences.waits) == 2 and all(0 < seconds <= 5 for seconds in fences.waits)


def test_theKernelsOfANewerGenerationAreWaitedForToo(
    row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer announced the kernels between the look at the fences and the copy."""
    generation, fences, read = Generation(row), Fences(), atomics.seqRead
    source, target = np.zeros(4), np.empty(4)
    fences.issued = 1

    def overtaken(*arguments: Any) -> int:
        if fences.issued == 1:
            begun = generation.begin()
            fences.issued = 2
            generation.publish(begun)
        return int(read(*arguments))

    monkeypatch.setattr(generations.atomics, "seqRead", overtaken)
    assert (
        generation.copy(
            source.ctypes.data,
            target.ctypes.data,
            source.nbytes,
            5,
            lambda: False,
            fences.streams(),
        )
        == 2
    )
    assert fences.completed == 2


def test_aCopyDuringWhichTheGenerationChangedIsMadeAgain() -> None:
    """The copy itself changes the word here, so the change is between the two looks.
    Broken: `seqRead` looked only once.
    """
    word, source = ctypes.c_uint64(2), ctypes.c_uint64(4)
    address = ctypes.addressof(word)
    assert atomics.seqRead(address, ctypes.addressof(source), address, 8, 1) == -errno.EAGAIN
    word.value = 2
    assert atomics.seqRead(address, ctypes.addressof(source), address, 8, 2) == 4


@pytest.mark.parametrize("scopes", ["short", "long"])
def test_aReaderThatCanTakeAnAccessIsPatientForAWhileOnly(
    row: int, scopes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the reader let three publications pass, however long each took; a writer
    that took 0.4 s for each made a read of 1 s a TimeoutError.
    """
    generation, now = Generation(row), 100.0
    generation.begin()

    def sleep(word: int, value: int, nanoseconds: int) -> None:
        """At the next look, the next access has begun already."""
        nonlocal now
        now += max(nanoseconds / 1e9, 0.001) if scopes == "long" else 0.0001
        if scopes == "short":
            generation.publish(generation.begin())
            generation.begin()

    monkeypatch.setattr(generations.clock, "now", lambda: now)
    monkeypatch.setattr(generations.atomics, "futexWait32", sleep)
    with pytest.raises(Starved):
        generation.copy(0, 0, 0, 1.0, lambda: False, canTakeAccess=True)
    assert now < 100.5 and generation.value() <= 1 + 2 * generations._MAX_PASSED
