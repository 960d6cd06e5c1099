"""The plays of copies and promoted windows: a player copies buffers between GPUs,
publishes copies, and adds to a buffer by windows that it promotes, while others do so.

Some slices of *tiles*, in host memory, and of *farTiles*, on GPU 0, are written, always
through a window and always to one more than before. So each of their words is half the
generation: an update that is lost, done twice, or published half, is seen. *landing*
and *farLanding* get whole copies of a level; a window of *constant* is shared.
"""

from __future__ import annotations

import gc
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import muninn
from failpoints import plays
from muninn.devices.host.device import HostDevice
from muninn.devices.topology.cache import Kept
from muninn.devices.topology.verdict import Verdict
from muninn.errors import PromotionDenied, WritebackConflict, WriterDied
from muninn.session import membership
from muninn.transfer.arena import arenaOf

_SLICE_BYTES = 4096
_SLICE_WORDS = _SLICE_BYTES // 8
_SLICES = 8
#: All but the first slice and the last one, by offset and length.
_WINDOW = (_SLICE_BYTES, (_SLICES - 2) * _SLICE_BYTES)
#: No two of them touch: a writeback has a copy for each.
_WRITTEN = (1, 3, 5)
#: Enough for the windows of the players of a scene, and just enough for `roomy`.
SCRATCH_BYTES = 1 << 20
_BASES, _LANDINGS, _LEVELS = ("tiles", "farTiles"), ("landing", "farLanding"), (3, 5)
_NAMES = (*_BASES, *_LANDINGS, "level3", "level5", "constant")
_BOUND_SECONDS, _HEAD_START_SECONDS = 20.0, 0.05
_held: list[Any] = []


def keepVerdicts(path: str) -> None:
    """Let the players find the links verified, and copy by small pieces."""
    device = HostDevice(2, 1 << 30, links="1>0=corrupt")
    near, far = (device.gpuUuid(gpu) for gpu in (0, 1))
    kept = Kept(path, device.driverText())
    kept.put(near, far, Verdict(True, 2e9, 1e9, 2 * _SLICE_BYTES, 2))
    kept.put(far, near, Verdict(False, 0, 1e9, 2 * _SLICE_BYTES, 2, "as the test says"))


# --- the buffers -------------------------------------------------------------------------


def prepare() -> None:
    """Make the buffers, for a player that keeps them."""
    plays.prepare()
    nothing = np.zeros(_SLICES * _SLICE_WORDS, np.int64)
    kept = [
        muninn.share(nothing, "tiles", access="readWrite"),
        muninn.share(nothing, "farTiles", mode="fastMode", preferredGpu=0, access="readWrite"),
        muninn.share(nothing, "landing", access="readWrite"),
        muninn.share(nothing, "farLanding", mode="fastMode", preferredGpu=1, access="readWrite"),
        muninn.share(np.arange(nothing.size), "constant", access="readOnly"),
    ]
    kept += [
        muninn.share(nothing + level, f"level{level}", mode=mode, access="readOnly")
        for level, mode in zip(_LEVELS, ("bigMode", "fastMode"), strict=True)
    ]
    _held[:] = kept


def holdBack() -> None:
    """Join, hold what goes with its last holder, and let others be elected first."""
    plays.holdBack()
    _held[:] = [muninn.open(name) for name in _NAMES]


def _valueOf(array: Any, firstSlice: int = 0) -> int:
    """The value of the slices that are written; all else is 0."""
    slices = np.asarray(array).reshape(-1, _SLICE_WORDS)
    found: dict[bool, set[int]] = {True: set(), False: {0}}
    for number, each in enumerate(slices, firstSlice):
        found[number in _WRITTEN] |= {int(each.min()), int(each.max())}
    assert len(found[True]) == 1, f"one slice has another value than the others: {found[True]}"
    assert found[False] == {0}, f"what was not written is {found[False]}"
    return found[True].pop()


def _whole(value: int) -> Any:
    slices = np.zeros((_SLICES, _SLICE_WORDS), np.int64)
    slices[list(_WRITTEN)] = value
    return slices.reshape(-1)


def _requireLevel(array: Any) -> None:
    low, high = int(array.min()), int(array.max())
    assert low == high and low in (0, *_LEVELS), f"a copy is of {low} and of {high}"


def beside(play: Callable[..., Any], seconds: float | None) -> None:
    """Play the same as another player, which is a step ahead in what it makes."""
    rows, deadline = membership.current().rows, time.monotonic() + _HEAD_START_SECONDS
    before = len(rows.notFree())
    while len(rows.notFree()) == before and time.monotonic() < deadline:
        time.sleep(0.0005)
    play("other", seconds)


# --- windows -----------------------------------------------------------------------------


def promote(tag: str, seconds: float | None = None) -> int:
    """Add to both bases, by windows on both GPUs; returns how often. With `seconds` a
    call that takes longer gives up: others may be stopped inside an access.
    """
    return sum(
        _promoted(name, gpu, seconds, isTracked)
        for name in _BASES
        for gpu, isTracked in ((1, False), (1, True), (0, False))
    )


def _promoted(name: str, gpu: int, seconds: float | None, isTracked: bool) -> int:
    """Add 1 by a window, and once more at the end of its block; returns how often that
    was published.
    """
    bound, published = _BOUND_SECONDS if seconds is None else seconds, 0
    with muninn.open(name, access="readWrite") as base:
        try:
            with base.promote(*_WINDOW, gpu, timeout=bound, track=isTracked) as scratch:
                _add(scratch, isTracked)
                scratch.writeback(bound)
                published += 1
                if seconds is None:  # the end of the block waits for ever
                    _add(scratch, isTracked)
                    published += 1
        except WritebackConflict:
            return max(0, published - 1)
        except (PromotionDenied, TimeoutError):
            if seconds is None:
                raise
        except WriterDied:
            _mend(name)
    return published


def _add(scratch: Any, isTracked: bool) -> None:
    value, slices = _valueOf(scratch.array, 1), scratch.array.reshape(-1, _SLICE_WORDS)
    for each in _WRITTEN:
        slices[each - 1] = value + 1
        if isTracked:
            scratch.markDirty((each - 1) * _SLICE_BYTES, _SLICE_BYTES)


def _mend(name: str) -> None:
    """A base, or a landing, is as a dead writer left it: nobody gets its bytes until
    the next write, which is whole.
    """
    with muninn.open(name, access="readWrite") as buffer:
        generation = buffer.generation
        if generation % 2 == 0:
            return  # another player has mended it
        _refused(lambda: buffer.read(timeout=_BOUND_SECONDS))
        _refused(lambda: buffer.promote(*_WINDOW, 1, timeout=_BOUND_SECONDS))
        _refused(lambda: buffer.copyTo(1, timeout=_BOUND_SECONDS))
        value = (generation + 1) // 2 if name in _BASES else _LEVELS[0]
        whole = _whole(value) if name in _BASES else np.full(_SLICES * _SLICE_WORDS, value)
        with muninn.share(whole) as source:
            assert buffer.copyFrom(source, timeout=_BOUND_SECONDS) == generation + 1


def _refused(call: Callable[[], Any]) -> None:
    try:
        made = call()
    except WriterDied:
        return
    raise AssertionError(f"half-written bytes are given away as {made}")


def shareWindow(tag: str, seconds: float | None = None) -> bool:
    """Use the window that all players share, for a while; returns whether it was there in
    time. With `seconds` a player that has it may be stopped and the broker dead: then
    this one has a copy of its own.
    """
    with muninn.open("constant") as constant:
        try:
            scratch = constant.promote(
                *_WINDOW, 1, timeout=_BOUND_SECONDS if seconds is None else seconds
            )
        except (PromotionDenied, TimeoutError):
            if seconds is None:
                raise
            return False
        with scratch, constant.promote(*_WINDOW, 1) as again:
            if seconds is None or (scratch.isShared and again.isShared):
                assert scratch.isShared and again.address == scratch.address
            for _ in range(2):
                expected = np.arange(_SLICE_WORDS, (_SLICES - 1) * _SLICE_WORDS)
                assert np.array_equal(scratch.array, expected)
                time.sleep(0.01)  # others find it, or its maker dies
    return True


# --- copies ------------------------------------------------------------------------------


def copy(tag: str, seconds: float | None = None) -> None:
    """Copy to each GPU, by the link and by the host, and publish copies."""
    bound = _BOUND_SECONDS if seconds is None else seconds
    for name in _BASES:
        try:
            _copyTo(tag, name, bound)
        except WriterDied:
            _mend(name)
        except TimeoutError:
            if seconds is None:
                raise
    for name in _LANDINGS:
        for level in _LEVELS:
            try:
                with (
                    muninn.open(f"level{level}") as source,
                    muninn.open(name, access="readWrite") as landing,
                ):
                    landing.copyFrom(source, timeout=bound)
            except TimeoutError:
                if seconds is None:
                    raise


def _copyTo(tag: str, name: str, bound: float) -> None:
    with (
        muninn.open(name) as base,
        # A name that a late copy has taken is free only when the broker has seen its end.
        base.copyTo(1, name=f"{tag}-{secrets.token_hex(4)}", timeout=bound) as there,
    ):
        value = _valueOf(there.read())
        with there.copyTo(0, timeout=bound) as back, there.startCopyTo(1).result(bound) as beside:
            assert _valueOf(back.read()) == _valueOf(beside.read()) == value
        there.free()


def probe(tag: str, seconds: float | None = None) -> None:
    """Copy over links that no process has verified, and wait until they are measured."""
    copy(tag, seconds)
    deadline = time.monotonic() + _BOUND_SECONDS
    while any(each.name == "muninn-links" for each in threading.enumerate()):
        assert time.monotonic() < deadline, "a link is measured for ever"
        time.sleep(0.002)


# --- afterwards --------------------------------------------------------------------------


def holdWindows() -> None:
    """Hold windows that a death must give back, and one that others use."""
    for name in _BASES:
        base = muninn.open(name, access="readWrite")
        scratch = base.promote(*_WINDOW, 1)
        scratch.array[:] = 99
        _held.append(scratch)
    _held.append(muninn.open("constant").promote(*_WINDOW, 1))


def goOn() -> None:
    """What was torn is said to be, and is mended by the next write; then all can be
    done.
    """
    _mendAll()
    assert promote("survivor") == 12
    assert shareWindow("survivor")
    copy("survivor")


def _mendAll() -> None:
    for name in (*_BASES, *_LANDINGS):
        _mend(name)


def dropIdle() -> None:
    """Give back scratch memory that no window uses."""
    arenaOf(membership.current().openBuffers.context).trim(0.0)
    gc.collect()


def inspect() -> None:
    """Each update was published once and whole, no window is left, and all scratch memory
    can be had. Then free the buffers.
    """
    _mendAll()
    for name in _BASES:
        with muninn.open(name) as base:
            assert 2 * _valueOf(base.read()) == base.generation
    for name in _LANDINGS:
        with muninn.open(name) as landing:
            _requireLevel(landing.read())
    deadline = time.monotonic() + _BOUND_SECONDS
    while left := [each for each in muninn.listBuffers() if each["kind"] == "window"]:
        assert time.monotonic() < deadline, f"windows without a user are left: {left}"
        time.sleep(0.002)
    for gpu in (0, 1):
        with (
            muninn.share(np.zeros(SCRATCH_BYTES, np.uint8), access="readOnly") as roomy,
            roomy.promote(targetGpu=gpu) as scratch,
        ):
            assert scratch.nbytes == SCRATCH_BYTES
    for name in _NAMES:
        muninn.free(name)


def letGo() -> None:
    """Close what this player holds."""
    _held.clear()
    gc.collect()
