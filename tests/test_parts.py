"""Parts: a bundle with a segment on each of several GPUs is there whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab import PAGE, Lab, Member, describe, usage

import muninn
from muninn.broker.directory import Directory
from muninn.control import layout
from muninn.control.descriptions import Head
from muninn.control.rows import RowTable
from muninn.errors import (
    BufferFreed,
    ControlBlockInvalid,
    DeviceUnavailable,
    InvalidArgument,
    ProtocolViolation,
    QuotaExceeded,
)
from muninn.session import newmemory
from muninn.session.membership import current
from muninn.session.reservation import Reservation
from muninn.storage import segments
from muninn.system.clock import monotonicMs
from support import Actor, ActorError, eventually, leftovers, program

Start = Callable[..., Actor]
TWO_GPUS = {"MUNINN_DEVICE": "host", "MUNINN_HOST_GPUS": "2"}
#: A bundle on two GPUs, and how another process reads it.
MODEL = """
PLACES = {"layers.0": 0, "": 1}
def model(token):
    return {"layers.0.w": np.full(3000, token), "layers.0.b": np.full(3, token),
            "layers.1.w": np.full(5000, token)}
def tokens(bundle):
    return sorted({int(value) for each in bundle.values() for value in np.asarray(each)})
"""
SHARE = MODEL + "held = muninn.shareBundle(model(7), 'm', preferredGpu=PLACES)\n"


class Died(BaseException):
    """The broker dies here."""


def head(directory: Directory, creator: Member) -> tuple[int, int]:
    """A bundle's row that has parts, before its commit."""
    row, incarnation = directory.grant(creator.key, usage("m"), 0)
    described = describe("m", kind=layout.ROW_KIND_BUNDLE, flags=layout.ROW_FLAG_PARTS)
    directory.rows.describe(row, described)
    return row, incarnation


def part(
    lab: Lab, directory: Directory, creator: Member, of: tuple[int, int], number: int
) -> tuple[int, int]:
    """A part with a segment, committed."""
    name = f"\x01\x01part:{of}:{number}"
    row, incarnation = directory.grant(creator.key, usage(name), 0)
    os.close(segments.create(lab.paths, row, incarnation, PAGE))
    directory.rows.describe(row, describe(name, kind=layout.ROW_KIND_PART, head=Head(*of, number)))
    directory.commit(creator.key, row, incarnation, None)
    return row, incarnation


def bundle(lab: Lab, directory: Directory, creator: Member) -> list[tuple[int, int]]:
    """A head and two parts, all LIVE."""
    first = head(directory, creator)
    rows = [first, *(part(lab, directory, creator, first, number) for number in (2, 1))]
    directory.commit(creator.key, *first, None)
    return rows


def states(lab: Lab, rows: list[tuple[int, int]]) -> list[int]:
    return [lab.rows.state(row).state for row, _ in rows]


LIVE, DYING, FREE = layout.ROW_LIVE, layout.ROW_DYING, layout.ROW_FREE


def test_partsAreFoundByTheirHeadInTheirOrder(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    rows = bundle(lab, directory, member)
    assert lab.rows.partsOf(*rows[0]) == [rows[2], rows[1]]
    assert lab.rows.partsOf(rows[0][0], rows[0][1] + 1) == [] == lab.rows.partsOf(*rows[1])
    directory.free(*rows[2])
    assert lab.rows.partsOf(*rows[0]) == [rows[1]], "the other one is not LIVE"
    assert lab.rows.headOf(rows[1][0]) == Head(*rows[0], 2) and lab.rows.headOf(rows[0][0]) is None
    assert lab.rows.description(rows[1][0]).head == Head(*rows[0], 2)


def test_partsEndWithTheirHead(lab: Lab) -> None:
    """The parts of a bundle that was freed stay until its last lease is gone, and one
    that is still leased stays until that lease is gone.
    """
    directory, member = lab.directory(1), lab.member()
    rows = bundle(lab, directory, member)
    onHead, onPart = (member.leases.take(*row, 1000) for row in rows[:2])
    directory.free(*rows[0])
    assert states(lab, rows) == [DYING, LIVE, LIVE]
    member.leases.giveBack(onHead)
    directory.tryReclaim(rows[0][0])
    assert states(lab, rows) == [FREE, DYING, FREE] and lab.paths.segments() == [rows[1]]
    member.leases.giveBack(onPart)
    directory.tryReclaim(rows[1][0])
    assert states(lab, rows) == [FREE] * 3 and lab.paths.segments() == []


def test_aPartIsNotReclaimedWhileItsHeadLives(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    rows = bundle(lab, directory, member)
    for row, _ in rows:
        directory.tryReclaim(row)
    assert states(lab, rows) == [LIVE] * 3


def test_aPartWithoutAHeadThatIsBeingCreatedIsRefused(lab: Lab) -> None:
    """Broken: a late commit would leave memory that nothing frees."""
    directory, member, stranger = lab.directory(1), lab.member(), lab.member()
    first = head(directory, member)
    for creator, of in (
        (stranger, first),
        (member, (first[0], first[1] + 1)),
        (member, (layout.HEAD_ROW.top - 1, 1)),
    ):
        with pytest.raises(ProtocolViolation, match="commits a part"):
            part(lab, directory, creator, of, 1)
    directory.commit(member.key, *first, None)
    with pytest.raises(ProtocolViolation, match="commits a part"):
        part(lab, directory, member, first, 1)
    assert lab.paths.segments() == [] and lab.rows.countInState(LIVE) == 1


def test_aPartThatNamesNoHeadIsRefused(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    row, incarnation = directory.grant(member.key, usage("p"), 0)
    directory.rows.describe(row, describe("p", kind=layout.ROW_KIND_PART))
    with pytest.raises(ProtocolViolation, match="commits a part of None"):
        directory.commit(member.key, row, incarnation, None)


def test_aPartWhoseHeadIsAnotherBufferNowIsOver(lab: Lab) -> None:
    """A broker of an older version of the program may have left it so."""
    directory, member = lab.directory(1), lab.member()
    rows = bundle(lab, directory, member)
    later = rows[0][0], rows[0][1] + 1
    directory.rows.describe(
        rows[1][0], describe("p", kind=layout.ROW_KIND_PART, head=Head(*later, 1))
    )
    directory.tryReclaim(rows[1][0])
    assert states(lab, rows) == [LIVE, FREE, LIVE]


@pytest.mark.parametrize("isGivenUp", [False, True])
def test_partsGoWithAHeadThatIsNotCommitted(lab: Lab, isGivenUp: bool) -> None:
    directory, member = lab.directory(1), lab.member()
    first = head(directory, member)
    rows = [first, part(lab, directory, member, first, 1)]
    if isGivenUp:
        directory.abandon(member.key, *first)
    else:
        directory.orphaned(first[0])
    assert states(lab, rows) == [FREE, FREE] and lab.paths.segments() == []


@pytest.mark.parametrize("step", range(9))
def test_aSuccessorFinishesWhateverStepItsBrokerDiesAt(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    directory, member = lab.directory(1), lab.member()
    rows = bundle(lab, directory, member)
    change, taken = RowTable.change, 0

    def changed(*arguments: Any, **keywords: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken > step:
            raise Died
        return change(*arguments, **keywords)

    monkeypatch.setattr(RowTable, "change", changed)
    try:
        directory.free(*rows[0])
    except Died:
        pass
    else:
        assert step == 8, "the last step is beyond the end"
    monkeypatch.setattr(RowTable, "change", change)
    successor = lab.directory(2)
    successor.fence()
    for row in successor.rows.ending(0, successor.rows.count()):
        successor.tryReclaim(row)
    if step:
        assert states(lab, rows) == [FREE] * 3 and lab.paths.segments() == []
    else:
        assert states(lab, rows) == [LIVE] * 3 and successor.find("m") == (*rows[0], True)


def test_aBundleEndsBeforeThePartThatItHasLost(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """So no process opens a bundle without one of its arrays, and holders are told."""
    directory, member = lab.directory(1), lab.member()
    rows = bundle(lab, directory, member)
    leases = [member.leases.take(*row, 1000) for row in rows]
    freed: list[int] = []
    free = Directory.free
    monkeypatch.setattr(
        Directory, "free", lambda self, row, inc: (freed.append(row), free(self, row, inc))[1]
    )
    directory.ownerGone(rows[1][0])
    assert freed == [rows[0][0], rows[1][0]] and directory.find("m") is None
    assert [member.leases.revocation(lease) for lease in leases[:2]] == ["ownerDied"] * 2
    assert states(lab, rows) == [DYING, DYING, LIVE]


def test_aPartThatIsLostUnheldEndsTheBundle(lab: Lab) -> None:
    """Broken: the part had gone with its bundle, was freed once more, and the broker
    resigned.
    """
    directory, member = lab.directory(1), lab.member()
    rows = bundle(lab, directory, member)
    directory.ownerGone(rows[1][0])
    assert states(lab, rows) == [FREE] * 3


# --- between processes ---------------------------------------------------------------


@pytest.fixture
def two(domain: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for key, value in TWO_GPUS.items():
        monkeypatch.setenv(key, value)
    return domain


def nothingIsLeft() -> None:
    rows = current().rows
    eventually(
        lambda: [row for row, _ in rows.notFree() if not rows.isLock(row)] == [],
        "no row is left",
    )


def test_anotherProcessOpensAllOfIt(two: str, actor: Start) -> None:
    first = actor(SHARE, **TWO_GPUS)
    assert first.do("held.gpus, held.nbytes, len(held)") == [[0, 1], 64088, 3]
    second = actor(MODEL + "held = muninn.openBundle('m')", **TWO_GPUS)
    assert second.do("held.gpus, tokens(held)") == [[0, 1], [7]]
    (listed,) = muninn.listBuffers()
    assert (listed["name"], listed["gpu"], listed["gpus"]) == ("m", 0, [0, 1])
    assert listed["size"] == 64088 and len(listed["importers"]) == 2
    assert second.do("held.describe()['gpus']") == [0, 1]
    assert "on GPU 0, 1" in second.do("held._repr_html_()")
    shown = second.do(
        "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'muninn', 'list'], capture_output=True, text=True).stdout"
    )
    assert " 0,1 " in shown, shown
    first.kill()
    third = actor(MODEL + "held = muninn.openBundle('m')", **TWO_GPUS)
    assert third.do("tokens(held)") == [7], "it outlives its creator"
    second.kill()
    assert third.do("tokens(held), tokens(muninn.openBundle('m'))") == [[7], [7]]
    third.do("held.free(); held.close()")
    nothingIsLeft()
    assert leftovers(two) == []


def test_anArrayKeepsItsOwnSegment(two: str, actor: Start) -> None:
    other = actor(SHARE + "far = held['layers.1.w']; held.free(); held.close()", **TWO_GPUS)
    rows = current().rows
    kinds = lambda: [rows.description(row).kind for row, _ in rows.notFree()]  # noqa: E731
    eventually(lambda: kinds() == [layout.ROW_KIND_PART], "the head has gone")
    assert other.do("int(far.sum())") == 35000
    other.do("far = None")
    nothingIsLeft()


def test_aNewerVersionTakesItsNameWhole(two: str, actor: Start) -> None:
    holder = actor(SHARE, **TWO_GPUS)
    other = actor(MODEL, **TWO_GPUS)
    other.do("next = muninn.publish('m', model(8), preferredGpu={'': 1, 'layers.0.w': 0})")
    assert holder.do("held.isCurrent, tokens(held), tokens(muninn.openBundle('m'))") == [
        False,
        [7],
        [8],
    ]
    assert [each["state"] for each in muninn.listBuffers()] == ["replaced", "live"]
    holder.do("held.close()")
    rows = current().rows
    eventually(
        lambda: (
            sorted(rows.description(row).kind for row, _ in rows.notFree() if not rows.isLock(row))
            == [layout.ROW_KIND_BUNDLE, layout.ROW_KIND_PART]
        ),
        "the older version is gone",
    )
    other.do("muninn.publish('m', model(9), mode='bigMode').close()")
    assert other.do("muninn.openBundle('m').gpus, tokens(muninn.openBundle('m'))") == [[], [9]]


@pytest.mark.parametrize("commit", [0, 1, 2])
@pytest.mark.parametrize("isLeader", [False, True])
def test_aCreatorThatDiesLeavesNothing(two: str, actor: Start, commit: int, isLeader: bool) -> None:
    """In its fill, at the commit of the part, or at its own."""
    keeper = None if isLeader else actor("muninn.domainInfo()", **TWO_GPUS)
    creator = actor(MODEL + program("dyingCreator"), **TWO_GPUS)
    creator.do(f"dieAt({commit})")
    creator.begin(
        "muninn.loadBundle({'layers.0': ((9,), 'u1'), 'b': ((9,), 'u1')}, "
        f"{'lambda draft: None' if commit else 'die'}, 'm', preferredGpu=PLACES)"
    )
    with pytest.raises(AssertionError, match="ended with status"):
        creator.result()
    creator.kill()
    assert keeper is None or keeper.do("muninn.listBuffers()") == []
    nothingIsLeft()


def test_aVersionThatMayBeThereKeepsItsParts(two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption after the commit, and before its answer, of a version."""
    arrays, places = {"a": np.zeros(5), "b": np.ones(5)}, {"a": 0, "b": 1}
    held = muninn.publish("m", arrays, preferredGpu=places)
    commit, commits, own = Reservation.commit, 0, threading.current_thread()

    def interrupted(self: Reservation, descriptors: Any) -> None:
        nonlocal commits
        commit(self, descriptors)
        # A thread that an earlier test has left may commit too.
        commits += threading.current_thread() is own
        if commits == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Reservation, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        muninn.publish("m", {key: array + 1 for key, array in arrays.items()}, preferredGpu=places)
    newer = muninn.openBundle("m")
    assert not held.isCurrent and newer.gpus == (0, 1)
    assert [float(np.asarray(newer[key])[0]) for key in "ab"] == [1, 2]


def test_theLeasesOnPartsAreRenewed(two: str) -> None:
    held = muninn.shareBundle({"a": np.zeros(5), "b": np.ones(5)}, preferredGpu={"a": 0, "b": 1})
    openBuffer = held.buffer._checked()
    leases, index = openBuffer.tables.leases, openBuffer.parts[0].memory.leaseIndex
    before = leases.expiryMs(index)
    eventually(lambda: monotonicMs() > before - openBuffer.ttlMs + 1, "some time has passed")
    openBuffer.renew()
    assert leases.expiryMs(index) > before


def test_anArrayOnTheBytesOfAnotherIsWhereThatIs(two: str) -> None:
    base = np.arange(5.0)
    held = muninn.shareBundle({"a": base, "b": base}, preferredGpu={"a": 1, "b": 0})
    assert held.gpus == (1,) and np.asarray(held["b"]).tolist() == base.tolist()


def test_aFillThatRaisesLeavesNothing(two: str) -> None:
    with pytest.raises(ZeroDivisionError):
        muninn.loadBundle(
            {"a": ((9,), "u1"), "b": ((9,), "u1")},
            lambda draft: 1 / 0,  # type: ignore[arg-type,return-value]
            "m",
            preferredGpu={"a": 0, "b": 1},
        )
    nothingIsLeft()


def test_theSecondGpuThatIsFullLeavesNothing(two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUNINN_HOST_GPU_BYTES", "1M")
    arrays = {"a": np.zeros(1000), "b": np.zeros(1 << 20)}
    with pytest.raises(QuotaExceeded, match="GPU 1"):
        muninn.shareBundle(arrays, "m", preferredGpu={"a": 0, "b": 1})
    nothingIsLeft()


def test_anErrorKeepsNoMemory(two: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter keeps the last error, and with it the frames that it came through."""
    allocated, made = newmemory._allocated, list[object]()

    def full(*arguments: Any) -> Any:
        if made:
            raise QuotaExceeded("GPU 1 is full")
        made.append(None)
        return allocated(*arguments)

    def mapped() -> set[str]:
        return {line for line in Path("/proc/self/maps").open(encoding="utf-8") if "memfd:" in line}

    muninn.domainInfo()  # joins
    before = mapped()
    monkeypatch.setattr(newmemory, "_allocated", full)
    with pytest.raises(QuotaExceeded) as raised:
        muninn.shareBundle({"a": np.ones(9), "b": np.ones(9)}, "m", preferredGpu={"a": 0, "b": 1})
    # Memory of other tests may go meanwhile.
    eventually(lambda: mapped() <= before, "the first segment is unmapped")
    assert raised.value.__traceback__ is not None
    nothingIsLeft()


def test_roomIsFoundOnAllGpusBeforeAnyMemoryIsMade(
    two: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: a publication that waited for room on the second GPU copied the first
    segment again at each look.
    """
    monkeypatch.setenv("MUNINN_HOST_GPU_BYTES", "1M")
    monkeypatch.setattr(newmemory, "_allocated", lambda *_: pytest.fail("memory is made"))
    arrays = {"a": np.zeros(1000), "b": np.zeros(1 << 20)}
    with pytest.raises(QuotaExceeded, match="GPU 1"):
        muninn.publish("m", arrays, preferredGpu={"a": 0, "b": 1}, timeout=0.2)


def test_aForkedChildOpensAllOfIt(two: str, actor: Start) -> None:
    code = SHARE + "reading, writing = os.pipe()\n"
    parent = actor(code, **TWO_GPUS)
    assert (
        parent.do(
            "if (child := os.fork()) == 0:\n"
            "    os.write(writing, repr(tokens(held)).encode()); os._exit(0)\n"
            "os.waitpid(child, 0)\n"
            "os.read(reading, 100).decode()"
        )
        == "[7]"
    )


def test_aPickledBundleOpensAllOfIt(two: str, actor: Start, tmp_path: Path) -> None:
    first = actor(SHARE + "import pickle", **TWO_GPUS)
    path = str(tmp_path / "bundle")
    first.do(f"open({path!r}, 'wb').write(pickle.dumps(held))")
    other = actor(MODEL + "import pickle", **TWO_GPUS)
    assert other.do(f"tokens(pickle.load(open({path!r}, 'rb')))") == [7]


def test_aProcessThatSeesOneGpuIsTold(two: str, actor: Start) -> None:
    holder = actor(SHARE, **TWO_GPUS)
    narrow = actor(**{**TWO_GPUS, "MUNINN_HOST_GPUS": "0"})
    with pytest.raises(ActorError) as raised:
        narrow.do("muninn.openBundle('m')")
    assert raised.value.kind == "DeviceUnavailable"
    assert holder.do("tokens(held)") == [7]


def test_aManifestThatNamesASegmentThatIsNotThereIsRefused(two: str) -> None:
    held = muninn.shareBundle({"a": np.zeros(5), "b": np.ones(5)}, preferredGpu={"a": 0, "b": 1})
    openBuffer = held.buffer._checked()
    openBuffer.parts = ()
    with pytest.raises(ControlBlockInvalid, match="not inside"):
        muninn.Bundle(held.buffer)


def test_filesAreReadToTheGpuThatIsNamed(two: str, tmp_path: Path) -> None:
    arrays = {f"layers.{number}.w": np.full((50, 70), number, np.float32) for number in range(4)}
    np.savez(tmp_path / "model.npz", **arrays)
    held = muninn.load(
        tmp_path / "model.npz", "m", preferredGpu={"layers.0": 1, "layers.1": 1, "": 0}
    )
    assert isinstance(held, muninn.Bundle) and held.gpus == (0, 1)
    for key, array in arrays.items():
        assert np.array_equal(np.asarray(held[key]), array), key


def test_aDraftHasTheArraysOfAllSegments(two: str) -> None:
    def fill(draft: Any) -> None:
        for number, key in enumerate(draft):
            draft[key][:] = number + 1

    specs = {"a": ((5,), "f4"), "b": ((7,), "i8"), "c": ((3,), "bfloat16")}
    held = muninn.loadBundle(specs, fill, preferredGpu={"b": 1, "": 0})
    assert held.gpus == (0, 1)
    assert [float(np.asarray(held[key], np.float64).sum()) for key in held] == [5, 14, 9]


@pytest.mark.parametrize(
    ("places", "error", "match"),
    [
        ({"a": 0}, InvalidArgument, "names no GPU for 'b.c'"),
        ({"": "cuda:0"}, TypeError, "must be the number of a GPU"),
        ({"": -1}, TypeError, "must be the number of a GPU"),
        ({"": 0, "b": True}, TypeError, "must be the number of a GPU"),
        ({"": 0, "b": 9}, DeviceUnavailable, "no GPU 9"),
        ({"": 1 << 70}, InvalidArgument, "can not be"),
    ],
)
def test_aPlaceThatCanNotBeIsRefused(
    two: str, places: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        muninn.shareBundle({"a": np.zeros(3), "b.c": np.zeros(3)}, "m", preferredGpu=places)
    assert current().rows.notFree() == []


def test_onlyABundleIsOnSeveralGpus(two: str) -> None:
    with pytest.raises(TypeError, match="preferredGpu must be an int"):
        muninn.share(np.zeros(3), mode="fastMode", preferredGpu={"": 0})


def test_anAccessCoversAllSegments(two: str, actor: Start) -> None:
    held = muninn.shareBundle(
        {"a": np.zeros(5), "b": np.zeros(5)}, "m", access="readWrite", preferredGpu={"a": 0, "b": 1}
    )
    other = actor("theirs = muninn.openBundle('m', access='readWrite')", **TWO_GPUS)
    with held.buffer.write():
        other.begin("with theirs.buffer.write(timeout=20): theirs['b'][:] += 1")
        for key in held:
            held[key][:] += 5
    other.result()
    assert float(np.asarray(held["b"]).sum()) == 30 and held.buffer.generation == 4


def test_aBundleThatWasFreedGivesNoArrayOfAnySegment(two: str) -> None:
    held = muninn.shareBundle({"a": np.zeros(5), "b": np.ones(5)}, preferredGpu={"a": 0, "b": 1})
    held.free()
    for key in held:
        with pytest.raises(BufferFreed):
            held[key]
