"""The plays: a player uses a little of everything that the library offers, and checks
afterwards that all is well.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import numpy as np

import muninn
from muninn.api import admin
from muninn.api.opening import openAny
from muninn.broker.catalog import Catalog
from muninn.control import layout, leases
from muninn.control.rows import RowTable
from muninn.errors import BufferExists, BufferFreed, BufferNotFound, OwnerDied, WriterDied
from muninn.session import membership
from muninn.session.member import Membership
from muninn.session.role import limitsOf
from muninn.storage.paths import Paths

_WORDS = 64
_BOUND_SECONDS = 20.0
_held: list[Any] = []
_SHARED = ("kept", "precious", "served", "vram")


def prepare() -> None:
    """Make the buffers of the scene, unless they exist. No player writes `precious`,
    every player writes `kept`, and every player publishes versions of `served`.
    """
    for name in ("precious", "kept", "served"):
        if name not in {each["name"] for each in muninn.listBuffers() if each["state"] == "live"}:
            muninn.share(np.full(_WORDS, 7), name=name).close()
    _held[:] = [_vram()]


def _vram() -> muninn.MuninnBuffer:
    """The memory of a GPU goes with its last holder; its name is free once the broker
    has seen that.
    """
    deadline = time.monotonic() + _BOUND_SECONDS
    while True:
        try:
            return muninn.share(np.full(_WORDS, 7), name="vram", mode="fastMode")
        except BufferExists:
            try:
                return muninn.open("vram")
            except (OwnerDied, BufferNotFound, BufferFreed):
                assert time.monotonic() < deadline, "the name of lost memory is not given free"
                time.sleep(0.01)


def join() -> None:
    """Be a member, and hold the memory of `vram` and the lock that others take, so that
    both outlive their creators.
    """
    _held[:] = [muninn.open("vram"), muninn.Lock("held")]


def holdBack() -> None:
    """Join, and let others be elected first. A second call changes nothing."""
    join()
    member = membership.current()
    if "_campaign" in vars(member):
        return
    stand = member.role.campaign

    def campaign(term: Any) -> None:
        time.sleep(0.03)
        if member.election.term() == term:
            stand(term)

    member.role.campaign = campaign  # type: ignore[method-assign]
    member.client._context = member.client._connector._context = member.client._context._replace(
        campaign=campaign
    )


def hold() -> None:
    """Hold something of each kind that a death must give back. The broker marks the
    lock for which no process waits; a waiter may recover the other one first.
    """
    nameless = muninn.share(b"nameless")
    lock, unwanted = muninn.Lock("held"), muninn.Lock("unwanted")
    lock.acquire()
    unwanted.acquire()
    kept = muninn.open("precious")
    stream = muninn.createStream(0)
    stream.submit(lambda: time.sleep(_BOUND_SECONDS))
    kept.signal(stream)
    _held[:] = [nameless, lock, unwanted, kept, stream, muninn.open("vram")]


def holdForAMoment() -> None:
    """Hold a lock for which others wait, then wait for a lock of theirs."""
    with muninn.Lock("held"):
        time.sleep(0.08)
    theirs = muninn.Lock("lock")
    for _ in range(20):
        with contextlib.suppress(TimeoutError), theirs.held(0.2):  # the holder may be stopped
            time.sleep(0.001)


def everything(tag: str, isExclusive: bool = True) -> None:
    """A call of each kind, under names of the player's own; calls that others may block
    are left out unless `isExclusive`.
    """
    if isExclusive:
        _common()
    _bigMode(tag)
    _fastMode(tag)
    _together(tag)
    assert _sum("precious") == 7 * _WORDS
    assert admin.drain(False) >= 0


def _bigMode(tag: str) -> None:
    mine = muninn.share(np.zeros(_WORDS), name=f"{tag}-mine")
    mine.setHints(hotRanges=[(0, 8)], priority="high")
    with mine.write() as view:
        view += 1
    with muninn.open(f"{tag}-mine") as again:
        assert again.read().sum() == _WORDS
    other = muninn.open(mine.handle)
    mine.wait(ticket=mine.signal())
    admin.evict(f"{tag}-mine")
    muninn.free(f"{tag}-mine")
    other.close()
    mine.close()
    nameless = muninn.share(np.arange(9))
    assert nameless.array[8] == 8
    nameless.close()
    muninn.MuninnBuffer(8192).close()
    muninn.share(np.arange(9), reserve="lazy").close()


def _fastMode(tag: str) -> None:
    with muninn.open("vram") as vram:
        assert vram.read().sum() == 7 * _WORDS
    mine = muninn.MuninnBuffer(4096, mode="fastMode", name=f"{tag}-fast")
    mine.array[:] = 3
    muninn.open(f"{tag}-fast").close()
    mine.free()
    mine.close()
    with muninn.share(
        np.arange(9), name=f"{tag}-constant", mode="fastMode", access="readOnly"
    ) as constant:
        assert muninn.open(constant.handle).array.sum() == 36
        constant.free()


def _together(tag: str) -> None:
    bundle = muninn.shareBundle({"a": np.arange(5), "b": np.ones((2, 2))}, name=f"{tag}-bundle")
    assert muninn.openBundle(f"{tag}-bundle")["a"][4] == 4
    bundle.free()
    spread = muninn.shareBundle(
        {"a": np.arange(5), "b": np.arange(6)}, f"{tag}-spread", preferredGpu={"a": 0, "b": 1}
    )
    assert muninn.openBundle(f"{tag}-spread")["b"][5] == 5
    spread.free()
    spread.close()
    once = muninn.shareOnce(f"{tag}-once", lambda: np.arange(3))
    once.free()
    once.close()
    attached = muninn.array(f"{tag}-array", (4,), "f8")
    attached.free()
    attached.close()
    _publish(f"{tag}-versions")
    muninn.free(f"{tag}-versions")


def _publish(name: str) -> None:
    """Publish two versions, of which the older one stays with its holder."""
    older = muninn.publish(name, np.full(_WORDS, 3))
    muninn.publish(name, np.full(_WORDS, 5)).close()
    older.waitNewer(_BOUND_SECONDS)
    assert not older.isCurrent and older.read().sum() == 3 * _WORDS
    with muninn.open(name) as newer:
        assert len(set(newer.read().tolist())) == 1
    older.close()


def _common() -> None:
    with muninn.open("kept", access="readWrite") as kept:
        with kept.write() as view:
            view[:] = view[0] + 1
        assert len(set(kept.read().tolist())) == 1
        with kept.read(timeout=_BOUND_SECONDS, stream=None) as view:
            assert len(set(view.tolist())) == 1
    _publish("served")
    with muninn.Lock("held").held(_BOUND_SECONDS):
        pass
    with muninn.Lock("lock"), muninn.Lock("lock"):
        time.sleep(0.01)


def _sum(name: str) -> int:
    with muninn.open(name) as buffer:
        return int(buffer.read().sum())


def inspect(alive: list[int]) -> None:
    """Check that all is well: the buffers of the scene are there, and nothing is left
    of the dead. `alive` has the pids of the members.
    """
    member = membership.current()
    tidy()
    assert _sum("precious") == 7 * _WORDS
    assert _sum("served") in (3 * _WORDS, 5 * _WORDS, 7 * _WORDS)
    with muninn.open("kept", access="readWrite") as kept:
        try:
            assert len(set(kept.read().tolist())) == 1
        except WriterDied:
            with kept.write() as view:
                view[:] = 8
            assert kept.read().sum() == 8 * _WORDS
    wanted = (sorted(alive), sorted(_SHARED), 3, [], [])
    deadline = time.monotonic() + _BOUND_SECONDS
    while (found := _census(member)) != wanted:
        assert time.monotonic() < deadline, f"{found} and not {wanted}: {muninn.listBuffers()}"
        time.sleep(0.002)


def requireSums() -> None:
    """Check, in the broker's process, that no row is being made, and that the sums by
    which it admits are those of the rows.
    """
    member = membership.current()
    if (broker := member.role.broker) is None:
        return
    directory, limits = broker._directory, limitsOf(member.settings)
    deadline = time.monotonic() + _BOUND_SECONDS
    while True:
        kept, counted = (
            {key: value for key, value in each.quotas._sums.items() if value}
            for each in (directory.catalog, Catalog(RowTable(member.block), limits))
        )
        halfMade = directory.halfMade()
        if kept == counted and not halfMade:
            return
        assert time.monotonic() < deadline, f"{kept} and not {counted}; half made: {halfMade}"
        time.sleep(0.002)


def tidy() -> None:
    """Free the named buffers of the dead, which last until a process frees them, like
    all named buffers.
    """
    for buffer in muninn.listBuffers():
        if buffer["name"] not in _SHARED:
            _endLeftover(buffer["name"])


def _endLeftover(name: str) -> None:
    """A buffer that a dead player made is either complete or not there."""
    try:
        with openAny(name) as buffer:  # it may be a bundle
            buffer.read()
            buffer.free()
    except (BufferNotFound, BufferFreed):
        return
    except WriterDied:
        muninn.free(name)


def _census(
    member: Membership,
) -> tuple[list[int], list[str], int, list[str], list[str]]:
    """The members, the buffers, the number of segments, the leases without a member,
    and the descriptors that the broker keeps in vain.
    """
    slots = member.members.occupied()
    pids = sorted(member.members.identity(slot).pid for slot in slots)
    names = sorted(
        member.rows.description(row).name if state.state == layout.ROW_LIVE else f"{row} is {state}"
        for row, state in member.rows.notFree()
    )
    held = [
        f"slot {slot} holds row {hold.row}"
        for slot in range(member.members.count)
        if slot not in slots
        for hold in leases.holdsOf(member.block, member.members, slot)
    ]
    return (
        pids,
        [name for name in names if name not in _locks(names)],
        len(member.paths.segments()),
        held,
        _inVain(member, len(pids)),
    )


def _locks(names: list[str]) -> list[str]:
    """The rows behind `muninn.Lock`: they have no memory, and are kept like any named
    buffer.
    """
    return [name for name in names if name.startswith("\x01")]


def _inVain(member: Membership, members: int) -> list[str]:
    """The broker's descriptors without a member or a buffer: more pidfds or connections
    than members, more memory than there is.
    """
    slot = member.election.term().slot
    assert slot is not None
    folder = f"/proc/{member.members.identity(slot).pid}/fd"
    kinds = [
        os.readlink(f"{folder}/{entry}")
        for entry in os.listdir(folder)
        if os.path.lexists(f"{folder}/{entry}")
    ]
    pidfds = sum(kind == "anon_inode:[pidfd]" for kind in kinds)
    memories = sum(kind.startswith("/memfd:muninn") for kind in kinds)
    excess = {"pidfds": pidfds - members, "memories": memories - 2}
    return [f"{number} {what} too many" for what, number in excess.items() if number > 0]


def names() -> list[str]:
    """The names that are shared in host memory and whose bytes are right."""
    assert _sum("precious") == 7 * _WORDS
    return sorted(
        each["name"]
        for each in muninn.listBuffers()
        if each["mode"] == "bigMode" and each["kind"] != "lock"
    )


def mend() -> None:
    assert admin.repair()["discarded"] == []


def ownPid() -> int:
    return os.getpid()


def nothingIsLeft(domain: str) -> bool:
    """Whether the block and everything that it named are gone."""
    paths = Paths(os.getuid(), domain)
    return not paths.segments() and not os.path.exists(f"/dev/shm{paths.blockName}")


def wholeLife() -> None:
    """Be the first and the last member."""
    prepare()
    everything("first")
    _held.clear()
    endAll()


def endAll() -> None:
    """Free all buffers, and take the lock that a dead player held, which is kept until
    its next holder has learnt of that: after that nothing may be left.
    """
    with muninn.Lock("unwanted"):
        pass
    for each in muninn.listBuffers():
        muninn.free(each["name"])
