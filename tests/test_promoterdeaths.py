"""Deaths of promoters: after any sequence of writes, promotions, writebacks and deaths, a
buffer is what a plain array would be, or says that a writer died.

Another process carries out the steps. It kills itself in the midst of one of them: half
way through a copy, or between two steps of a write.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import muninn
from muninn.errors import PermissionDenied, WriterDied
from muninn.session import membership
from muninn.transfer.arena import arenaOf
from support import Actor, eventually, program

SIZE, WINDOW, SLICE = 20_000, 10_000, 4096
#: Room for a window of each process that takes part, and for what those keep idle, so
#: that none waits for another one's.
_SCRATCH_BYTES = 600_000
_SECONDS = 60.0
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "2")
    monkeypatch.setenv("MUNINN_DEFAULT_SLICE_BYTES", str(SLICE))
    monkeypatch.setenv("MUNINN_PER_GPU_SCRATCH_BYTES", str(_SCRATCH_BYTES))


class Window:
    """The window of the other process, as it should be."""

    def __init__(self, begin: int, plain: Bytes, isTracked: bool) -> None:
        self.begin, self.isTracked = begin, isTracked
        #: What a writeback makes of the buffer, and the window since the last one.
        self.pending, self._kept = plain.copy(), plain.copy()
        self.isStale = self._isMarked = False

    def write(self, at: int, length: int, value: int) -> None:
        self.pending[self.begin + at : self.begin + at + length] = value
        self._isMarked |= self.isTracked

    @property
    def isDirty(self) -> bool:
        return self._isMarked or not np.array_equal(self.pending, self._kept)

    def writtenBack(self) -> None:
        self._kept, self._isMarked, self.isStale = self.pending.copy(), False, False

    def refused(self) -> None:
        self._isMarked = True


class Pair:
    """A buffer and a plain array, on which the same steps are carried out.

    Attributes
    ----------
    isTorn
        A writer has died half way, and nobody has written since.
    """

    def __init__(self, mode: Any) -> None:
        self.plain = np.zeros(SIZE, np.uint8)
        self.generation = 0
        self.isTorn = False
        self.buffer = muninn.share(self.plain, "base", mode=mode, access="readWrite")
        self.source = muninn.share(np.full(SIZE, 77, np.uint8), "source", mode=mode)
        self.window: Window | None = None
        self.deaths = self.tears = 0
        self._other: Actor | None = None

    @property
    def other(self) -> Actor:
        if self._other is None:
            self._other = Actor(program("dyingPromoter"))
        return self._other

    def close(self) -> None:
        if self._other is not None:
            self._other.kill()
        self.buffer.free()
        self.source.free()

    def _published(self, after: Bytes) -> None:
        self.plain[:] = after
        self.generation += 1 if self.isTorn else 2
        self.isTorn = False
        if self.window is not None:
            self.window.isStale = True

    def _do(self, call: str, after: Bytes | None = None, actor: Actor | None = None) -> Any:
        """Let another process make a call that makes `after` of the buffer, if it changes
        it; None if the process died in it.
        """
        asked = actor or self.other
        asked.begin(call)
        try:
            done = asked.result()
        except AssertionError as error:
            assert "ended with status -9" in str(error), error
            asked.kill()
            if asked is self._other:
                self._other = self.window = None
            self.deaths += 1
            self._found(after)
            return None
        if after is not None:
            self._published(after)
        return done

    def _found(self, after: Bytes | None) -> None:
        """After a death the next opener finds what there was before the step, or what is
        there after it, or that the writer died.
        """
        with muninn.open("base") as opened:
            try:
                found = opened.read(timeout=_SECONDS)
            except WriterDied:
                if not self.isTorn:
                    assert after is not None, "only a writer tears"
                    self.generation += 1
                    self.isTorn = True
                    self.tears += 1
                    if self.window is not None:
                        self.window.isStale = True
            else:
                if opened.generation != self.generation:
                    assert after is not None, "only a writer publishes"
                    self._published(after)
                assert not self.isTorn and np.array_equal(found, self.plain)

    def check(self) -> None:
        """The buffer is as the plain array, and if it is torn nobody gets its bytes."""
        assert self.buffer.generation == self.generation
        if not self.isTorn:
            assert np.array_equal(self.buffer.read(timeout=_SECONDS), self.plain)
            return
        for refused in (
            lambda: self.buffer.read(timeout=_SECONDS),
            lambda: self.buffer.promote(0, SLICE, timeout=_SECONDS),
            lambda: self.buffer.copyTo(1, timeout=_SECONDS),
        ):
            with pytest.raises(WriterDied):
                refused()

    def finish(self) -> None:
        """After a whole write, another process can do all; nothing is left of the dead."""
        if self.isTorn:
            self.ours(0, 1)
        self.check()
        if self._other is not None:
            self._other.kill()
        with self.buffer.promote(5000, WINDOW, 1, timeout=_SECONDS) as scratch:
            assert np.array_equal(scratch.array, self.plain[5000 : 5000 + WINDOW])
        arenaOf(membership.current().openBuffers.context).trim(0.0)
        eventually(lambda: not windows(), "a dead process leaves no window")

    # --- steps -----------------------------------------------------------------------

    def write(
        self, at: int, length: int, value: int, moment: int | None, actor: Actor | None = None
    ) -> None:
        if self.isTorn:
            at, length = 0, SIZE  # a part would not repair the rest
        after = self.plain.copy()
        after[at : at + length] = value
        self._do(f"write({at}, {length}, {value}, {moment})", after, actor)

    def rival(self, at: int, length: int, value: int, moment: int | None) -> None:
        """A third process writes, and the window stays."""
        actor = Actor(program("dyingPromoter"))
        try:
            self.write(at, length, value, moment, actor)
        finally:
            actor.kill()

    def copyFrom(self, moment: int | None) -> None:
        self._do(f"copyFrom('source', {moment})", np.full(SIZE, 77, np.uint8))

    def ours(self, at: int, value: int) -> None:
        """This process writes."""
        after = self.plain.copy()
        after[at] = value
        with self.buffer.write() as view:
            view[:] = after
        self._published(after)

    def promote(self, begin: int, gpu: int, isTracked: bool, moment: int | None) -> None:
        self.window = None
        found = self._do(f"promote({begin}, {WINDOW}, {gpu}, {isTracked}, {moment})")
        if self.isTorn:
            assert found in (None, "WriterDied")
        elif found is not None:
            assert bytes.fromhex(found) == self.plain[begin : begin + WINDOW].tobytes()
            self.window = Window(begin, self.plain, isTracked)

    def kernel(self, at: int, length: int, value: int) -> None:
        if self.window is not None:
            self.window.write(at, length, value)
            self._do(f"kernel({at}, {length}, {value})")

    def back(self, isLast: bool, moment: int | None) -> None:
        window = self.window
        if window is None:
            return
        isWritten = window.isDirty and not window.isStale
        done = self._do(f"back({moment}, {isLast})", window.pending if isWritten else None)
        if done is None:
            return
        assert done == (isWritten or not window.isDirty), "a conflict is told"
        if isWritten:
            window.writtenBack()
        elif not done:
            window.refused()
        if isLast:
            self.window = None


def windows() -> list[str]:
    return [each["name"] for each in muninn.listBuffers() if each["kind"] == "window"]


_VALUE, _LENGTH = st.integers(1, 9), st.integers(2, 9000)
#: In a third of the steps nobody dies. More copies than a step has are no death either.
_MOMENT = st.one_of(st.none(), st.integers(0, 4), st.integers(0, 9))
_STEP = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 11_000), _LENGTH, _VALUE, _MOMENT),
    st.tuples(st.just("rival"), st.integers(0, 11_000), _LENGTH, _VALUE, _MOMENT),
    st.tuples(st.just("copyFrom"), _MOMENT),
    st.tuples(st.just("ours"), st.integers(0, SIZE - 1), _VALUE),
    st.tuples(
        st.just("promote"), st.integers(0, WINDOW), st.integers(0, 1), st.booleans(), _MOMENT
    ),
    *[st.tuples(st.just("kernel"), st.integers(0, 1000), _LENGTH, _VALUE)] * 2,
    *[st.tuples(st.just("back"), st.booleans(), _MOMENT)] * 2,
)
_STEPS = st.lists(_STEP, min_size=2, max_size=10)
_MODES = pytest.mark.parametrize("mode", ["bigMode", "fastMode"])


def carryOut(mode: str, steps: list[Any]) -> Pair:
    pair = Pair(mode)
    try:
        for step, *arguments in steps:
            getattr(pair, step)(*arguments)
            pair.check()
        pair.finish()
    finally:
        pair.close()
    return pair


_PROMOTED, _COMPARED = (
    [("promote", 1000, 1, isTracked, None), ("kernel", 0, 10, 5)] for isTracked in (True, False)
)


@_MODES
@example(steps=[*_PROMOTED, ("rival", 0, 9000, 3, 2), ("back", False, None), ("ours", 0, 9)])
@example(steps=[*_PROMOTED, ("ours", 0, 3), ("back", False, None), ("back", False, None)])
@example(steps=[*_COMPARED, ("back", False, None), ("back", False, None)])
@settings(max_examples=12, deadline=None)
@given(steps=_STEPS)
def test_anySequenceWithDeathsEqualsAPlainArray(mode: str, steps: list[Any]) -> None:
    carryOut(mode, steps)


@pytest.mark.long
@pytest.mark.timeout(600)
@_MODES
@settings(max_examples=80, deadline=None)
@given(steps=_STEPS)
def test_anyOfManySequencesWithDeathsEqualsAPlainArray(mode: str, steps: list[Any]) -> None:
    carryOut(mode, steps)


@_MODES
@pytest.mark.parametrize("isTracked", [False, True])
def test_aDeathAtAnyCopyOfAWritebackLeavesOneGeneration(mode: str, isTracked: bool) -> None:
    """Or is told. The copies to the window's own memory come first."""
    steps = [
        ("promote", 1000, 1, isTracked, None),
        ("kernel", 0, 10, 5),
        ("kernel", 2 * SLICE, 10, 5),
    ]
    seen = []
    for moment in range(20):
        pair = carryOut(mode, [*steps, ("back", True, moment)])
        seen.append("torn" if pair.tears else "before" if pair.deaths else "after")
        if not pair.deaths:
            break
    before, torn = seen.index("torn"), seen.count("torn")
    assert seen == ["before"] * before + ["torn"] * torn + ["after"]
    # Two ranges go to the buffer, and to the shadow of a window that is compared.
    assert torn >= 2


@_MODES
def test_aDeathInAPromotionChangesNothing(mode: str) -> None:
    deaths = 0
    for moment in range(20):
        pair = carryOut(mode, [("ours", 3, 9), ("promote", 0, 1, False, moment)])
        assert not pair.tears
        if not pair.deaths:
            break
        deaths += 1
    assert deaths >= 3, "the bytes, the shadow, the flags"


def test_aSharedWindowWhoseHolderStandsStillIsCopiedAgain(
    actor: Callable[..., Actor],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The broker is killed, and the other process that has the window is stopped. Broken:
    nobody else could promote it, nor a part of it.
    """
    # The patience with a silent holder, which goes with it, is to be shorter than the time
    # for which a window is kept.
    monkeypatch.setenv("MUNINN_TAKEOVER_MS", "300")
    caplog.set_level("INFO")
    broker = actor("muninn.share(np.arange(5000, dtype='u4'), 'r', access='readOnly') is None")
    maker = actor("s = muninn.open('r').promote(0, WINDOW, 1)".replace("WINDOW", str(WINDOW)))
    shared = muninn.open("r")
    maker.stop()
    broker.kill()
    note, expected = f"not shared: .* new broker: process {maker.pid} ", shared.read()
    for isFirst in (True, False):
        caplog.clear()
        with shared.promote(0, WINDOW, 1, timeout=_SECONDS) as mine:
            assert not mine.isShared and not mine.array.flags.writeable
            assert np.array_equal(mine.array, expected[: WINDOW // 4])
            with pytest.raises(PermissionDenied):
                mine.markDirty()
            assert re.search(note, caplog.text)
            copied = mine.transfer
            # Nobody has a part of it yet: that one is shared.
            with shared.promote(0, SLICE, 1, timeout=_SECONDS) as part:
                assert part.isShared and np.array_equal(part.array, expected[: SLICE // 4])
        # The second time the bytes are there.
        assert (copied is not None and re.search(note, copied.note)) if isFirst else not copied
    maker.resume()
    with shared.promote(0, WINDOW, 1, timeout=_SECONDS) as theirs:
        assert theirs.isShared
        maker.kill()
        assert np.array_equal(theirs.array, expected[: WINDOW // 4])
