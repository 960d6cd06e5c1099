"""Rows: words and descriptions are read back as they were written, and a change starts
from exactly the word that was read.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab, bring, describe

from muninn.control import layout
from muninn.control.descriptions import Head, RowDescription
from muninn.control.rows import Deposed, RowTable
from muninn.control.rowstate import MAX_INCARNATION, RowState
from muninn.errors import ControlBlockInvalid, HostMemoryFull, TableFull
from muninn.system import atomics
from muninn.terms import ACCESSES, LIFETIMES, MODES, TRANSPORTS, Lifetime, Mode

_u64 = st.integers(0, (1 << 62) - 1)


def _text(most: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(codec="utf-8"), max_size=most).filter(
        lambda text: len(text.encode()) <= most
    )


@given(
    st.builds(
        RowState,
        st.integers(0, 5),
        st.integers(0, 4095),
        st.integers(0, (1 << 24) - 1),
        st.integers(0, (1 << 24) - 1),
    )
)
def test_aStateSurvivesItsWord(state: RowState) -> None:
    assert RowState.of(state.word()) == state


@given(
    st.builds(
        RowDescription,
        sizeBytes=st.integers(0, 1 << 40),
        segmentBytes=st.integers(1 << 41, 1 << 61),
        createdMs=_u64,
        deadlineMs=_u64,
        metaOffset=st.integers(0, 1 << 40),
        metaBytes=st.integers(0, (1 << 32) - 1),
        mode=st.sampled_from(MODES),
        access=st.sampled_from(ACCESSES),
        lifetime=st.sampled_from(LIFETIMES),
        kind=st.integers(0, 255),
        gpu=st.integers(-1, (1 << 15) - 1),
        flags=st.integers(0, 255),
        transport=st.sampled_from(TRANSPORTS),
        shape=st.lists(_u64, max_size=layout.MAX_NDIM).map(tuple),
        dtype=st.text("<>|fiu248", max_size=layout.MAX_DTYPE_BYTES),
        tenant=_text(layout.MAX_TENANT_BYTES),
        name=_text(layout.MAX_NAME_BYTES),
        origin=_u64,
        head=st.none()
        | st.builds(
            Head,
            st.integers(0, (1 << 20) - 2),
            st.integers(0, (1 << 24) - 1),
            st.integers(0, (1 << 20) - 1),
        ),
    )
)
def test_aDescriptionSurvivesItsBytes(description: RowDescription) -> None:
    assert RowDescription.unpacked(description.packed()) == description


def test_aDamagedDescriptionIsToldInWords() -> None:
    """Broken: the error was that of a codec of Python's."""
    good, said = describe().packed(), set[str]()
    for at in range(len(good)):
        try:
            RowDescription.unpacked(good[:at] + b"\xff" + good[at + 1 :])
        except ControlBlockInvalid as error:
            said.add(error.reason)
    assert {
        "a row's description has bytes that are no text",
        "a row's description has a number that means nothing",
    } <= said
    assert not any("codec" in each or "index" in each for each in said)


@given(st.binary(min_size=len(describe().packed()), max_size=len(describe().packed())))
def test_randomBytesAreADescriptionInRangeOrATypedError(raw: bytes) -> None:
    try:
        description = RowDescription.unpacked(raw)
    except ControlBlockInvalid:
        return
    assert (
        description.sizeBytes <= description.segmentBytes
        and len(description.shape) <= layout.MAX_NDIM
    )


@pytest.mark.parametrize(
    "changes",
    [{"sizeBytes": 5000}, {"segmentBytes": 1 << 63}, {"metaOffset": 4096, "metaBytes": 1}],
)
def test_sizesThatDoNotFitTheSegmentAreRefused(changes: dict[str, int]) -> None:
    """With such sizes a reader would map or read beyond the end of the memory."""
    with pytest.raises(ControlBlockInvalid):
        RowDescription.unpacked(describe(**changes).packed())


def test_aChangeIsFromExactlyWhatWasRead(lab: Lab) -> None:
    row, seen = lab.rows.free(1)
    creating = lab.rows.change(row, seen, 1, layout.ROW_CREATING, creator=3, incarnation=1)
    assert lab.rows.state(row) == creating == RowState(layout.ROW_CREATING, 3, 1, 1)
    with pytest.raises(Deposed):
        lab.rows.change(row, seen, 1, layout.ROW_CREATING)
    assert lab.rows.createdBy(3) == [row] and lab.rows.createdBy(2) == []


def test_theTableGrowsAChunkAtATimeUpToItsEnd(lab: Lab) -> None:
    assert lab.rows.count() == 0
    assert lab.rows.free(1)[0] == 0 and lab.rows.count() == layout.ROW_CHUNK
    assert lab.rows.grow(1) == layout.ROW_CHUNK
    with pytest.raises(TableFull):
        lab.rows.grow(1)


def test_aRowCountAboveTheTableIsNotBelieved(lab: Lab) -> None:
    atomics.storeRelease64(lab.block.rowsReadyAddress, (1 << 40) - 1)
    assert lab.rows.count() == lab.block.geometry.maxBuffers


def test_findsRowsByStateLifetimeAndMode(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    rows = [
        lab.make(directory, member, name, lifetime=lifetime)[0]
        for name, lifetime in (
            ("a", Lifetime.KEEP),
            ("b", Lifetime.LAST_CLOSE),
            ("c", Lifetime.LAST_CLOSE),
        )
    ]
    assert lab.rows.inState(layout.ROW_LIVE) == rows
    assert (
        lab.rows.lastClosed(0, lab.rows.count()) == rows[1:]
        and lab.rows.lastClosed(rows[2], lab.rows.count()) == rows[2:]
    )
    assert lab.rows.lastClosed(5, 5) == []
    assert lab.rows.fastMode() == []
    lab.rows.describe(rows[0], describe(mode=Mode.FAST))
    assert lab.rows.fastMode() == rows[:1]
    assert [row for row, _ in lab.rows.notFree()] == rows


def test_describingClearsWhatTheLastBufferLeft(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    row, _ = lab.make(directory, member)
    for offset in (
        layout.ROW_GENERATION_OFFSET,
        layout.ROW_TICKETS_OFFSET,
        layout.ROW_TICKET_NEXT_OFFSET,
    ):
        atomics.storeRelease64(lab.block.rowAddress(row) + offset, 77)
    lab.rows.describe(row, describe("b"))
    assert atomics.loadAcquire64(lab.block.rowAddress(row) + layout.ROW_GENERATION_OFFSET) == 0
    assert atomics.loadAcquire64(lab.block.rowAddress(row) + layout.ROW_TICKETS_OFFSET) == 0
    assert (
        lab.rows.nameIs(row, b"b")
        and not lab.rows.nameIs(row, b"a")
        and not lab.rows.nameIs(row, b"bb")
    )


def test_liveIsALiveRowOfThisIncarnation(lab: Lab) -> None:
    """Broken: `isLive` did not compare the state, or the incarnation."""
    directory, member = lab.directory(1), lab.member()
    row, incarnation = lab.make(directory, member)
    assert lab.rows.isLive(row, incarnation) and not lab.rows.isLive(row, incarnation + 1)
    directory.rows.change(row, lab.rows.state(row), 1, layout.ROW_DYING)
    assert not lab.rows.isLive(row, incarnation)


def test_aNameIsComparedWhole(lab: Lab) -> None:
    """Two names may share their hash. Broken: only the lengths were compared."""
    row, _ = lab.make(lab.directory(1), lab.member(), "name")
    assert (
        lab.rows.nameIs(row, b"name")
        and not lab.rows.nameIs(row, b"nama")
        and not lab.rows.nameIs(row, b"nam")
    )


def test_aBrokerDeposedWhileTheTableGrowsIsTold(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: `grow` did not check whether its CAS had succeeded, although only the
    successor may count the rows.
    """
    allocate = lab.block.allocate

    def slowly(offset: int, sizeBytes: int) -> None:
        allocate(offset, sizeBytes)
        lab.rows.fence(2)

    monkeypatch.setattr(lab.block, "allocate", slowly)
    with pytest.raises(Deposed):
        lab.rows.grow(1)
    assert lab.rows.count() == 0


@pytest.mark.parametrize("what", ["rows", "fences"])
def test_rowsHaveTheirPagesBeforeTheyCount(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Broken: `grow` did not call `allocate`: on a full `/dev/shm` the first touch was
    a SIGBUS.
    """
    first = getattr(lab.block.geometry, f"{what}Offset")

    def full(offset: int, sizeBytes: int) -> None:
        if offset == first:
            raise HostMemoryFull("full")

    monkeypatch.setattr(lab.block, "allocate", full)
    with pytest.raises(HostMemoryFull):
        lab.rows.grow(1)
    assert lab.rows.count() == 0


@pytest.mark.parametrize("length", [0, 1, 359, 361])
def test_aDescriptionOfAnotherLengthIsATypedError(length: int) -> None:
    """A journal of a program of another version may have it. Broken: `doctor --repair`
    failed on it.
    """
    with pytest.raises(ControlBlockInvalid, match=f"{length} bytes"):
        RowDescription.unpacked(bytes(length))


def test_aFreeRowIsFoundWhereverItIs(lab: Lab) -> None:
    """Broken: rows that became free below the last found row were never used again."""
    lab.rows.grow(1)
    lab.rows.grow(1)
    for row in range(300):
        assert lab.rows.free(1)[0] == row
        lab.rows.change(row, lab.rows.state(row), 1, layout.ROW_CREATING)
    bring(lab.rows, 7, layout.ROW_DEAD)
    lab.rows.change(7, lab.rows.state(7), 1, layout.ROW_FREE)
    assert lab.rows.free(1)[0] == 7
    lab.rows.change(7, lab.rows.state(7), 1, layout.ROW_CREATING)
    assert lab.rows.free(1)[0] == 300
    bring(RowTable(lab.block), 9, layout.ROW_FREE)  # granted by another table object
    for row in range(300, 512):
        lab.rows.change(row, lab.rows.state(row), 1, layout.ROW_CREATING)
    assert lab.rows.free(1)[0] == 9


def test_aRowWhoseIncarnationsAreUsedUpIsNotGranted(lab: Lab) -> None:
    """Broken: incarnations began at 1 again, and a handle of 2^24 buffers ago opened
    the new buffer.
    """

    def useUp(row: int) -> None:
        word = lab.rows.state(row)._replace(incarnation=MAX_INCARNATION).word()
        atomics.exchangeSeqCst64(lab.block.rowAddress(row), word)

    lab.rows.grow(1)
    used = lab.rows.free(1)[0]
    useUp(used)
    assert lab.rows.free(1)[0] == used + 1
    for row in range(lab.rows.count()):
        useUp(row)
    assert lab.rows.free(1)[0] == layout.ROW_CHUNK


def test_aFreeRowThatIsDamagedAfterTheScanIsNotGranted(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the row's word was read once more after the check, so `change` met what
    the check had not seen, and took it for a mistake of the program's.
    """
    lab.rows.grow(1)
    read, damaged = lab.rows.state, RowState(layout.ROW_LIVE, 0, 1, 1)
    used = RowState(layout.ROW_FREE, 0, 1, MAX_INCARNATION)
    monkeypatch.setattr(lab.rows, "state", lambda row: {0: damaged, 1: used}.get(row) or read(row))
    row, seen = lab.rows.free(1)
    assert row == 2 and seen.state == layout.ROW_FREE


@pytest.mark.parametrize(
    "state", [(layout.ROW_LIVE, 0, 1, 1), (layout.ROW_FREE, 0, 1, MAX_INCARNATION)]
)
def test_aRowCountThatIsTooSmallIsDamage(lab: Lab, state: tuple[int, int, int, int]) -> None:
    """Broken: the row after the last one was taken for a new one, so its buffer made a
    mistake of the program's, and its incarnation did not fit into the word.
    """
    lab.rows.grow(1)
    before = int(atomics.loadAcquire64(lab.block.rowsReadyAddress))
    atomics.exchangeSeqCst64(lab.block.rowAddress(0), RowState(*state).word())
    atomics.exchangeSeqCst64(lab.block.rowsReadyAddress, before - layout.ROW_CHUNK)
    with pytest.raises(ControlBlockInvalid, match="row 0 was just added"):
        lab.rows.free(1)
