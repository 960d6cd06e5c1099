"""The journal: replay returns the whole records, and ends at the first record that is
not whole.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import zlib
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muninn.broker import journal
from muninn.broker.journal import Journal
from muninn.errors import HostMemoryFull
from muninn.storage.paths import Paths


@pytest.fixture
def paths(domain: str) -> Paths:
    made = Paths(os.getuid(), domain)
    made.makeDirectory()
    return made


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal of ten records."""
    directory = tmp_path_factory.mktemp("journal")

    class Here(Paths):
        @property
        def directory(self) -> str:
            return str(directory)

    here = Here(os.getuid(), "raw")
    written = Journal(here, 1)
    for number in range(10):
        written.append("live", row=number, description=os.urandom(number * 7))
    written.close()
    return Path(here.journalPath(1)).read_bytes()


def rowsOf(content: bytes) -> list[int]:
    return [record["row"] for record in journal.replay(content)]


def test_replaysWhatWasAppended(paths: Paths) -> None:
    written = Journal(paths, 7)
    written.append("create", row=1, name="ä")
    written.append("gone", row=1)
    written.close()
    assert journal.read(paths, 7) == [
        {"op": "create", "row": 1, "name": "ä"},
        {"op": "gone", "row": 1},
    ]


def test_aJournalThatIsGoneHasNoRecords(paths: Paths) -> None:
    assert journal.read(paths, 99) == []


def test_aTornRecordEndsTheReplay(raw: bytes) -> None:
    for length in range(len(raw)):
        rows = rowsOf(raw[:length])
        assert rows == list(range(len(rows))) and len(rows) < 10


@given(st.data())
def test_aFlippedBitEndsTheReplayBeforeItsRecord(raw: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    damaged = bytearray(raw)
    damaged[bit // 8] ^= 1 << bit % 8
    rows = rowsOf(bytes(damaged))
    assert rows == list(range(len(rows))) and len(rows) < 10


@given(st.binary(max_size=300))
def test_garbageIsNoRecord(content: bytes) -> None:
    assert all("op" in record for record in journal.replay(content))


def test_appendsWholeOrNotAtAll(paths: Paths, caplog: pytest.LogCaptureFixture) -> None:
    """RLIMIT_FSIZE stands for a full disk: the write ends in the middle of a record."""
    written = Journal(paths, 3)
    written.append("create", row=1)
    size = os.stat(paths.journalPath(3)).st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, before[1]))
    try:
        with pytest.raises(HostMemoryFull):
            written.append("create", row=2)
        with caplog.at_level(logging.WARNING, "muninn"):
            assert not written.note("gone", row=1, incarnation=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    said = caplog.messages[0]
    assert said.startswith("the journal lacks the record 'gone' of row 1, incarnation 3: ")
    written.append("create", row=3)
    written.close()
    assert [record["row"] for record in journal.read(paths, 3)] == [1, 3]


def test_aRecordTooLongToReplayIsNotWritten(paths: Paths) -> None:
    """`replay` refuses such a record, and would hide all records that follow."""
    written = Journal(paths, 4)
    with pytest.raises(ValueError, match="record"):
        written.append("create", name="x" * journal.MAX_RECORD_BYTES)
    written.append("gone", row=1)
    written.close()
    assert len(journal.read(paths, 4)) == 1


def test_closingTwiceIsFine(paths: Paths) -> None:
    written = Journal(paths, 5)
    written.close()
    written.close()


def test_nothingOfARecordThatDidNotFitStays(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the first bytes stayed in the file, behind the next, shorter record."""
    written = Journal(paths, 6)
    written.append("create", row=1)
    size = os.stat(paths.journalPath(6)).st_size
    pwrite = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "pwrite", lambda fd, data, offset: pwrite(fd, data[: len(data) // 2], offset)
        )
        with pytest.raises(HostMemoryFull):
            written.append("create", row=2, name="x" * 100)
    assert os.stat(paths.journalPath(6)).st_size == size
    written.close()


@pytest.mark.parametrize("value", [7, [1], {}, {"row": 1}, {"op": 3}, {"op": None, "row": 1}])
def test_aFrameThatIsNoRecordEndsTheReplay(raw: bytes, value: object) -> None:
    """The frame is whole and has the right checksum. Broken: any content that msgpack
    can read was a record.
    """
    body = msgpack.packb(value)
    frame = journal._FRAME.pack(len(body), zlib.crc32(body)) + body
    assert rowsOf(raw + frame + raw) == list(range(10))


def test_theCopyTakesTheJournalsPlaceWithAllThatCameMeanwhile(paths: Paths) -> None:
    written = Journal(paths, 8)
    written.append("live", row=1)
    written.beginCopy()
    written.append("live", row=2)
    written.copy([("live", {"row": 1})])
    assert paths.epochsOf("journal") == [8], "an unfinished copy is not a journal"
    assert written.finishCopy()
    written.append("gone", row=2)
    written.close()
    assert [(record["op"], record["row"]) for record in journal.read(paths, 8)] == [
        ("live", 2),
        ("live", 1),
        ("gone", 2),
    ]
    assert [entry for entry in os.listdir(paths.directory) if entry.startswith("journal")] == [
        os.path.basename(paths.journalPath(8))
    ]


def test_aCopyThatDoesNotFitLeavesTheJournalAsItIs(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a record that was appended while the copy was full was refused, or the
    copy replaced the journal without that record.
    """
    written = Journal(paths, 9)
    written.append("live", row=1)
    written.beginCopy()
    assert written._copy is not None
    pwrite, copyFd = os.pwrite, written._copy.number
    with monkeypatch.context() as patch:
        patch.setattr(
            os,
            "pwrite",
            lambda fd, data, offset: pwrite(
                fd, data[: len(data) // 2 if fd == copyFd else None], offset
            ),
        )
        written.append("live", row=2)
    assert not written.isCopying() and not written.finishCopy()
    written.close()
    assert [record["row"] for record in journal.read(paths, 9)] == [1, 2]


def test_isTooLongWhenMostOfItIsOver(paths: Paths) -> None:
    """Broken: the records of living buffers were not counted: the journal of many
    buffers was copied again and again.
    """
    written = Journal(paths, 10)
    for row in range(1000):
        written.append("live", row=row, description=bytes(400))
    assert not written.isTooLong()
    for row in range(1000):
        written.append("gone", row=row)
    assert written.isTooLong()
    written.close()


def test_aJournalThatTellsOfNothingGoes(paths: Paths) -> None:
    """A journal with a record of a buffer stays, however short it is, and so does the
    broker's own one.
    """
    for epoch, op in ((11, "begin"), (12, "gone"), (13, "begin")):
        written = Journal(paths, epoch)
        written.append(op, row=1)
        written.close()
    journal.dropEmpty(paths, 13)
    assert paths.epochsOf("journal") == [12, 13]


def test_leftCopiesOfTheDeadAreRemoved(paths: Paths) -> None:
    dead = Journal(paths, 11)
    dead.beginCopy()
    journal.dropCopies(paths)
    assert not any(entry.endswith(".new") for entry in os.listdir(paths.directory))
    dead.append("live", row=1)
    assert not dead.finishCopy(), "a broker that is not dead keeps its journal"
    dead.close()
    assert len(journal.read(paths, 11)) == 1


def test_recordsOfOneKindAreThoseOfAll(paths: Paths) -> None:
    """Broken: a record that is not whole ended the replay only if it was of that kind."""
    written = Journal(paths, 12)
    for row in range(20):
        written.append("live" if row % 3 else "create", row=row, name="create" * (row % 5))
    written.close()
    with open(paths.journalPath(12), "rb") as file:
        content = file.read()
    for length in (len(content), len(content) - 1, len(content) // 2):
        wanted = [record for record in journal.replay(content[:length]) if record["op"] == "create"]
        assert list(journal.replay(content[:length], "create")) == wanted
    assert journal.read(paths, 12, only="create") == [
        record for record in journal.read(paths, 12) if record["op"] == "create"
    ]
