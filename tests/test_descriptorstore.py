"""The vault: one descriptor for each piece of memory, and none that is forgotten."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from muninn.broker.descriptorstore import Vault


def _isOpen(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_whatIsBroughtTwiceIsKeptOnce() -> None:
    """Each holder brings a descriptor after a takeover. Broken: all but the first stayed open for ever."""
    vault = Vault()
    first, second = os.memfd_create("a"), os.memfd_create("a")
    vault.put(1, 1, first)
    vault.put(1, 1, second)
    assert vault.get(1, 1) == first and len(vault) == 1 and not _isOpen(second)
    vault.put(1, 1, first)
    assert _isOpen(first), "the same one again is no second one"
    vault.drop(1, 1)
    vault.drop(1, 1)
    assert not _isOpen(first) and vault.get(1, 1) is None


def test_whatIsTakenIsTheTakers() -> None:
    vault = Vault()
    descriptor = os.memfd_create("a")
    vault.put(2, 5, descriptor)
    taken = vault.takeAll()
    vault.close()
    assert [(pair, each.number) for pair, each in taken] == [((2, 5), descriptor)] and _isOpen(descriptor)
    del taken
    assert not _isOpen(descriptor)


def test_aHatchThatCanNotBeOpenedIsDoneWithout(tmp_path: Path) -> None:
    """No thread left, say. Broken: the broker resigned, although each request hands out what the hatch would."""
    vault = Vault()
    vault.open(str(tmp_path / "missing" / "hatch"))
    vault.put(1, 1, os.memfd_create("kept"))
    assert vault.get(1, 1) is not None
    vault.close()


def test_aHatchThatASuccessorHasRemovedIsNobodysConcern(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its process was stopped while its term began. Broken: a warning on the program's standard error."""
    caplog.set_level("INFO")
    Vault().open(str(tmp_path / "removed" / "hatch"))
    Vault().open(str(tmp_path / ("long" * 60)))
    assert [each.levelname for each in caplog.records] == ["INFO", "WARNING"]


def test_whatTheProgramClosedIsNotHandedOut() -> None:
    vault = Vault()
    vault.put(1, 1, kept := os.memfd_create("a"))
    os.close(kept)
    other = os.open("/dev/null", os.O_RDONLY)
    assert other == kept and vault.get(1, 1) is None
    vault.drop(1, 1)
    assert _isOpen(other)
    os.close(other)
