"""`api/freedmemory.py`: freed memory that a process still maps has holders, too."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

import muninn
from muninn.api import freedmemory
from muninn.session.membership import current
from support import Actor, eventually


def test_freedMemoryThatAForkedChildMapsIsListedAsTheirs(
    domain: str, actor: Callable[..., Actor]
) -> None:
    """Broken: the list showed no holder, and 400 MiB did not come back."""
    parent = actor(
        "b = muninn.share(np.ones(1 << 20, 'u1'), name='big')\npid = os.fork()\nif not pid: time.sleep(60); os._exit(0)"
    )
    pid = parent.do("pid")
    parent.do("b.free()\ndel b")
    (freed,) = eventually(
        lambda: [each for each in muninn.listBuffers() if each["state"] == "freed"], "it is listed"
    )
    assert [holder["pid"] for holder in freed["importers"]] == [pid]
    assert freed["size"] == 1 << 20
    assert [each["state"] for each in muninn.listBuffers()] == ["freed"]
    # The row is listed as dying, and its segment goes before `/proc` is read.
    assert freedmemory.lingering(current().tables, {freed["bufferId"]}) == []
    os.kill(pid, 9)
    parent.do(f"os.waitpid({pid}, 0)")
    assert muninn.listBuffers() == []


def test_aBufferInUseIsListedOnce(domain: str, actor: Callable[..., Actor]) -> None:
    """A holder that goes on after `free` has a lease, and the row is dying."""
    holder = actor("b = muninn.share(np.ones(8), name='a')\nkept = b.array")
    holder.do("b.free()")
    assert [each["state"] for each in muninn.listBuffers()] == ["dying"]


def test_processesAreLookedThroughIfOneMayMapFreedMemory(
    domain: str, actor: Callable[..., Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: each list read `/proc/<pid>/maps` of all processes, which took forty
    times as long as the list.
    """
    looked: list[set[int]] = []
    pids = freedmemory._pids
    monkeypatch.setattr(
        freedmemory, "_pids", lambda members: looked.append(members) or pids(members)
    )  # type: ignore[func-returns-value]
    kept = muninn.share(np.ones(8), name="a")
    for _ in range(3):
        assert [each["name"] for each in muninn.listBuffers()] == ["a"]
    assert len(looked) == 1  # an earlier block may have had children
    actor(
        "pid = os.fork()\nif not pid: os._exit(0)\nos.waitpid(pid, 0)\nmuninn.open('a')\nchild = os.fork()\nif not child: os._exit(0)\nos.waitpid(child, 0)"
    )
    muninn.listBuffers()
    muninn.listBuffers()
    assert len(looked) == 3
    kept.free()
