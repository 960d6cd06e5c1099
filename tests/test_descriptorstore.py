"""The descriptor store: it keeps one descriptor for each piece of memory, and closes
each.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from muninn.broker.descriptorstore import DescriptorStore


def _isOpen(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_aDescriptorThatComesTwiceIsKeptOnce() -> None:
    """Each holder sends a descriptor after a takeover. Broken: all but the first stayed
    open for ever.
    """
    descriptorStore = DescriptorStore()
    first, second = os.memfd_create("a"), os.memfd_create("a")
    descriptorStore.put(1, 1, first)
    descriptorStore.put(1, 1, second)
    assert descriptorStore.get(1, 1) == first and len(descriptorStore) == 1 and not _isOpen(second)
    descriptorStore.put(1, 1, first)
    assert _isOpen(first), "the same descriptor again replaces nothing"
    descriptorStore.drop(1, 1)
    descriptorStore.drop(1, 1)
    assert not _isOpen(first) and descriptorStore.get(1, 1) is None


def test_aTakenDescriptorBelongsToTheTaker() -> None:
    descriptorStore = DescriptorStore()
    descriptor = os.memfd_create("a")
    descriptorStore.put(2, 5, descriptor)
    taken = descriptorStore.takeAll()
    descriptorStore.close()
    assert [(pair, each.number) for pair, each in taken] == [((2, 5), descriptor)] and _isOpen(
        descriptor
    )
    del taken
    assert not _isOpen(descriptor)


def test_aDescriptorServerThatCanNotBeOpenedIsDoneWithout(tmp_path: Path) -> None:
    """For example, no thread is left. Broken: the broker resigned, although each
    request hands out the descriptors that the descriptor server would.
    """
    descriptorStore = DescriptorStore()
    descriptorStore.open(str(tmp_path / "missing" / "socket"))
    descriptorStore.put(1, 1, os.memfd_create("kept"))
    assert descriptorStore.get(1, 1) is not None
    descriptorStore.close()


def test_aDescriptorServerThatASuccessorHasRemovedIsNoConcern(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The process was stopped while its term began. Broken: the store wrote a warning
    to the program's standard error.
    """
    caplog.set_level("INFO")
    DescriptorStore().open(str(tmp_path / "removed" / "socket"))
    DescriptorStore().open(str(tmp_path / ("long" * 60)))
    assert [each.levelname for each in caplog.records] == ["INFO", "WARNING"]


def test_aDescriptorThatTheProgramClosedIsNotHandedOut() -> None:
    descriptorStore = DescriptorStore()
    descriptorStore.put(1, 1, kept := os.memfd_create("a"))
    os.close(kept)
    other = os.open("/dev/null", os.O_RDONLY)
    assert other == kept and descriptorStore.get(1, 1) is None
    descriptorStore.drop(1, 1)
    assert _isOpen(other)
    os.close(other)
