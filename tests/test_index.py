"""The name index, compared with a dictionary: it may have too many entries, but never
too few while it has room.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab import Lab, opened

from muninn.control import layout
from muninn.control.index import NameIndex
from muninn.system import atomics

_operations = st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=120)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(_operations)
def test_findsWhatADictionaryFinds(operations: list[tuple[bool, int]]) -> None:
    with opened(f"test-{secrets.token_hex(6)}") as lab:
        try:
            index, model = NameIndex(lab.block), dict[int, int]()
            for step, (inserts, name) in enumerate(operations):
                if inserts and name not in model:
                    model[name] = step + 1
                    index.insert(b"%d" % name, name, step + 1)
                elif not inserts and name in model:
                    index.remove(b"%d" % name, name, model.pop(name))
            for name in range(41):
                found = (name, model.get(name)) in index.candidates(b"%d" % name)
                assert found == (name in model)
        finally:
            from support import removeDomain

            removeDomain(lab.paths.domain)


def test_insertingTwiceLeavesOneEntry(lab: Lab) -> None:
    index = NameIndex(lab.block)
    for _ in range(3):
        index.insert(b"a", 5, 1)
    assert index.candidates(b"a") == [(5, 1)]
    index.remove(b"a", 5, 1)
    assert index.candidates(b"a") == []


def test_aTombstoneDoesNotEndAProbe(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muninn.control.index.zlib.crc32", lambda name: 0x12345678)
    index = NameIndex(lab.block)
    for row in range(10):
        index.insert(b"%d" % row, row, 1)
    for row in range(9):
        index.remove(b"%d" % row, row, 1)
    assert index.candidates(b"9") == [(9, 1)]
    index.insert(b"new", 3, 2)
    assert sorted(index.candidates(b"new")) == [(3, 2), (9, 1)]


def test_withoutRoomTheNameIsNotIndexedAndNothingElseIsHarmed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muninn.control.index.zlib.crc32", lambda name: 0)
    index = NameIndex(lab.block)
    for row in range(layout.MAX_INDEX_PROBES + 5):
        index.insert(b"%d" % row, row, 1)
    assert len(index.candidates(b"x")) == layout.MAX_INDEX_PROBES


def test_aHintOutOfRangeIsNoHint(lab: Lab) -> None:
    """Broken: rows beyond the table were looked up."""
    index = NameIndex(lab.block)
    for row in (lab.block.geometry.maxBuffers, 0xFFFF0):
        index.insert(b"a", row, 1)
    assert index.candidates(b"a") == []


def test_anEntryThatCameInBetweenIsKept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deposed broker and its successor insert at the same time. Broken: the entry was
    stored without a comparison.
    """
    index = NameIndex(lab.block)
    load = atomics.loadAcquire64
    came: list[int] = []

    def lateLoad(address: int) -> int:
        seen = int(load(address))
        if not came:
            came.append(address)
            index.insert(b"a", 7, 1)
        return seen

    monkeypatch.setattr(atomics, "loadAcquire64", lateLoad)
    index.insert(b"a", 8, 1)
    monkeypatch.undo()
    assert sorted(index.candidates(b"a")) == [(7, 1), (8, 1)]


def _words(lab: Lab) -> list[int]:
    first = lab.block.address + lab.block.geometry.indexOffset
    return [
        int(atomics.loadAcquire64(first + 8 * slot))
        for slot in range(lab.block.geometry.indexSlots)
    ]


def test_namesThatHaveComeAndGoneLeaveNothing(lab: Lab) -> None:
    """Broken: tombstones stayed for ever. After 300,000 names an open took half as long
    again, and a look for a missing name took 64 probes.
    """
    index = NameIndex(lab.block, 7)
    kept = {b"kept-%d" % number: number for number in range(50)}
    for name, row in kept.items():
        index.insert(name, row, 1)
    for number in range(5000):
        index.insert(b"gone-%d" % number, 100, 1)
        index.remove(b"gone-%d" % number, 100, 1)
    assert all((row, 1) in index.candidates(name) for name, row in kept.items())
    for name, row in kept.items():
        index.remove(name, row, 1)
    assert not any(_words(lab))


def test_anEntryIsInsertedOnceAlsoBehindATombstone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: when a process asked the broker for a name, the broker inserted a second
    entry before the first one, and one of the two stayed for ever.
    """
    monkeypatch.setattr("muninn.control.index.zlib.crc32", lambda name: 5)
    index = NameIndex(lab.block, 1)
    for row in range(4):
        index.insert(b"%d" % row, row, 1)
    index.remove(b"1", 1, 1)
    assert index.insert(b"3", 3, 1) and index.candidates(b"3") == [(0, 1), (2, 1), (3, 1)]


def test_anEntryBehindATombstoneIsNotCutOffByADeposedBroker(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step of the old broker's removal, the new broker inserts behind the old
    entry and removes the entry before it.
    """
    monkeypatch.setattr("muninn.control.index.zlib.crc32", lambda name: 5)
    swap, load, loadToo = atomics.casSeqCst64, atomics.loadAcquire64, atomics.loadSeqCst64
    for halt in range(24):
        old, new = NameIndex(lab.block, 1), NameIndex(lab.block, 2)
        old.insert(b"first", 1, 1)
        old.insert(b"second", 2, 1)
        if halt >= 12:
            new.remove(b"first", 1, 1)  # this tombstone is the new broker's
        calls = [0]

        def meanwhile(
            new: NameIndex = new, calls: list[int] = calls, halt: int = halt % 12
        ) -> None:
            calls[0] += 1
            if calls[0] == halt:
                new.insert(b"third", 3, 1)
                new.insert(b"fourth", 4, 1)
                new.remove(b"third", 3, 1)
                new.remove(b"first", 1, 1)

        def steps(
            call: Callable[..., int], meanwhile: Callable[[], None] = meanwhile
        ) -> Callable[..., int]:
            return lambda *arguments: meanwhile() or call(*arguments)  # type: ignore[func-returns-value]

        with monkeypatch.context() as patch:
            patch.setattr(atomics, "casSeqCst64", steps(swap))
            patch.setattr(atomics, "loadAcquire64", steps(load))
            patch.setattr(atomics, "loadSeqCst64", steps(loadToo))
            old.remove(b"second", 2, 1)
        if calls[0] >= halt % 12 > 0:
            assert (4, 1) in new.candidates(b"fourth"), halt
        for name, row in ((b"first", 1), (b"second", 2), (b"third", 3), (b"fourth", 4)):
            new.remove(name, row, 1)
        assert not any(_words(lab)), halt


def test_tombstonesOfAnEarlierBrokerGoToo(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muninn.control.index.zlib.crc32", lambda name: 5)
    old, new = NameIndex(lab.block, 1), NameIndex(lab.block, 2)
    old.insert(b"first", 1, 1)
    old.insert(b"second", 2, 1)
    old.remove(b"first", 1, 1)
    assert new.candidates(b"second") == [(2, 1)]
    new.remove(b"second", 2, 1)
    assert not any(_words(lab))
