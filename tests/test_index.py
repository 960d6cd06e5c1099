"""The name index: against a dictionary it may know too much, never too little while it has room."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lab import Lab, opened

from muninn.control import atomics, layout
from muninn.control.index import NameIndex

_operations = st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=120)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
            from conftest import removeDomain

            removeDomain(lab.places.domain)


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


def test_withoutRoomTheNameIsNotIndexedAndNothingElseIsHarmed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muninn.control.index.zlib.crc32", lambda name: 0)
    index = NameIndex(lab.block)
    for row in range(layout.MAX_INDEX_PROBES + 5):
        index.insert(b"%d" % row, row, 1)
    assert len(index.candidates(b"x")) == layout.MAX_INDEX_PROBES


def test_aHintOutOfRangeIsNoHint(lab: Lab) -> None:
    """Broken: rows that no table has were looked up."""
    index = NameIndex(lab.block)
    for row in (lab.block.geometry.maxBuffers, 0xFFFF0):
        index.insert(b"a", row, 1)
    assert index.candidates(b"a") == []


def test_anEntryThatCameInBetweenIsKept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deposed broker and its successor insert at once. Broken: the entry was stored, and not compared."""
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
