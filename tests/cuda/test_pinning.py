"""Host memory is pinned in pieces that harm nobody: their sizes, their seams, and what
is left of them after a failure, a cancellation and an interruption.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.devices.cuda import CudaDevice
from muninn.devices.cuda.deferredfree import DeferredFree, More
from muninn.devices.cuda.pace import USUAL_BOUNDS, Pace, PieceBounds
from muninn.devices.cuda.seams import Seams
from muninn.devices.cuda.semaphores import WAITS
from support import Actor, ActorError, Background, eventually, program

Start = Callable[..., Actor]
MIB, GIB = 1 << 20, 1 << 30
PAGE_BYTES = 4096
HUGE_BYTES = 2 * MIB
PIECES = program("pinsInPieces") + "\n"


# --- the pace --------------------------------------------------------------------------


def _pinned(pace: Pace, sizeBytes: int, secondsOf: Callable[[int], float]) -> list[int]:
    """The sizes of the pieces of a range, whose pages take `secondsOf(offset)` a GiB."""
    pieces, at = [], 0
    while at < sizeBytes:
        end = pace.endOf(at, sizeBytes)
        pieces.append(end - at)
        pace.took(end - at, secondsOf(at) * (end - at) / GIB)
        at = end
    assert at == sizeBytes
    return pieces


@pytest.mark.parametrize(("secondsPerGib", "settled"), [(0.063, 406 * MIB), (0.19, 134 * MIB)])
def test_aPieceTakesTheTimeOfACall(secondsPerGib: float, settled: int) -> None:
    pieces = _pinned(Pace(USUAL_BOUNDS), 64 * GIB, lambda _: secondsPerGib)
    assert pieces[0] == USUAL_BOUNDS.leastBytes
    assert all(later <= 2 * earlier for earlier, later in itertools.pairwise(pieces))
    assert set(pieces[5:-1]) == {settled}
    assert max(pieces) * secondsPerGib / GIB <= USUAL_BOUNDS.callSeconds


def test_slowPagesAfterFastOnesHoldNobodyUpForLong() -> None:
    """The slowest pages that were seen took 0.22 s a GiB."""
    pace = Pace(USUAL_BOUNDS)
    pieces = _pinned(pace, 16 * GIB, lambda at: 0.001 if at < 8 * GIB else 0.22)
    assert max(pieces) == USUAL_BOUNDS.mostBytes, "fast pages come in the largest pieces"
    assert max(pieces) * 0.22 / GIB < 0.12, "and one such piece of slow pages is short"
    begins = list(itertools.accumulate(pieces, initial=0))
    slow = [size for begin, size in zip(begins, pieces, strict=False) if begin >= 8 * GIB]
    assert all(size * 0.22 / GIB <= 0.025 for size in slow[1:])


def test_aPieceIsNeverTooSmall() -> None:
    pieces = _pinned(Pace(USUAL_BOUNDS), GIB, lambda _: 100.0)
    assert set(pieces) == {USUAL_BOUNDS.leastBytes}


def test_aCallThatTookNoTimeIsNoDivisionByZero() -> None:
    pieces = _pinned(Pace(USUAL_BOUNDS), 2 * GIB, lambda _: 0.0)
    assert pieces[:4] == [64 * MIB, 128 * MIB, 256 * MIB, 512 * MIB]


def test_noHugePageIsInTwoPieces() -> None:
    chance = random.Random(1)
    for _ in range(200):
        pace = Pace(USUAL_BOUNDS)
        begin = chance.randrange(1, 1 << 30) * PAGE_BYTES
        end = begin + chance.randrange(1, 1 << 19) * PAGE_BYTES
        at, ends = begin, []
        while at < end:
            following = pace.endOf(at, end)
            assert at < following <= end
            pace.took(following - at, chance.random())
            at = following
            ends.append(at)
        assert all(each % HUGE_BYTES == 0 for each in ends[:-1]) and ends[-1] == end


def test_aPieceSmallerThanTheAlignmentReachesTheNextMultiple() -> None:
    pace = Pace(PieceBounds(PAGE_BYTES, PAGE_BYTES, HUGE_BYTES))
    assert pace.endOf(PAGE_BYTES, GIB) == HUGE_BYTES
    assert pace.endOf(HUGE_BYTES, GIB) == 2 * HUGE_BYTES


def test_theRestIsAShareOfTheCall() -> None:
    assert Pace(USUAL_BOUNDS).restAfter(0.025) == pytest.approx(0.001)


# --- the seams -------------------------------------------------------------------------


def test_aCopyIsCutAtEverySeamOfBothSides() -> None:
    chance = random.Random(2)
    for _ in range(300):
        seams, at = Seams(), sorted(chance.sample(range(1, 400), chance.randrange(12)))
        for each in chance.sample(at, len(at)):
            seams.add(each)
        target, source, size = (chance.randrange(1, 200) for _ in range(3))
        parts = list(seams.parts(target, source, size))
        assert [offset for offset, _ in parts] == [
            0,
            *(
                offset
                for offset in range(1, size)
                if target + offset in at or source + offset in at
            ),
        ]
        assert sum(length for _, length in parts) == size
        assert all(a + length == b for (a, length), (b, _) in itertools.pairwise(parts))


def test_thousandsOfSeamsCostACopyAFewComparisons() -> None:
    """Broken: a copy looked at each seam of the process."""
    compared = [0]

    class Counted(int):
        def __lt__(self, other: int) -> bool:
            compared[0] += 1
            return int(self) < int(other)

        def __gt__(self, other: int) -> bool:
            compared[0] += 1
            return int(self) > int(other)

        def __add__(self, other: int) -> Counted:
            return Counted(int(self) + int(other))

    seams = Seams()
    for number in range(1, 10_001):
        seams.add(number * GIB)
    near, far = Counted(5 * GIB + 7), Counted(9000 * GIB + 5)
    assert list(seams.parts(near, far, GIB)) == [(0, GIB - 7), (GIB - 7, 2), (GIB - 5, 5)]
    assert 0 < compared[0] <= 3 * 2 * 15


def test_aRefusedSecondRegistrationTakesNoSeamAway() -> None:
    seams = Seams()
    seams.add(100)
    seams.add(100)
    seams.remove(100)
    assert list(seams.parts(90, 1000, 20)) == [(0, 10), (10, 10)]


def test_aPartIsFoundWhenItIsCopied() -> None:
    """Memory is pinned while a long copy of it is under way."""
    seams = Seams()
    seams.add(100)
    parts = seams.parts(50, 10_000, 200)
    assert next(parts) == (0, 50)
    seams.add(160)
    assert list(parts) == [(50, 60), (110, 90)]


# --- copies ----------------------------------------------------------------------------


def test_seamsAreWhereThePiecesMeet(domain: str, actor: Start) -> None:
    pinner = actor(PIECES + "seen = []; r = d.registerHost(address, SIZE, True, seen.append)")
    assert pinner.do("address % KIB64 != 0")
    assert pinner.do("sum(seen) == SIZE and seen[0] < KIB64 and set(seen[1:-1]) == {KIB64}")
    assert pinner.do(
        "d._seams._at == tuple(range((address // KIB64 + 1) * KIB64, address + SIZE, KIB64))"
    )
    assert pinner.do("r.devicePointer == address and d._budget.usedBytes == SIZE")
    assert pinner.do("r.close(); isFree()")


@pytest.mark.parametrize("way", ["now", "default", "stream"])
def test_copiesOverManySeamsAreRight(domain: str, actor: Start, way: str) -> None:
    pinner = actor(
        PIECES
        + "r = d.registerHost(address, SIZE, True); v = d.allocate(0, SIZE)\n"
        + "s = {'now': None, 'default': d.asStream(None), 'stream': d.createStream(0)}\n"
        + f"def copy(*given):\n    if '{way}' == 'now': d.copyNow(*given, 0)\n"
        + f"    else: d.copy(*given, s['{way}']); s['{way}'].synchronize(60)\n"
        + "data = np.random.default_rng(3).integers(0, 256, SIZE, np.uint8)"
    )
    for offset, size in ((0, 4 * MIB), (5, 4 * MIB - 11), ((1 << 16) - 1, 3), (70_001, 900_000)):
        # From the pinned memory to the GPU, and back to another place of it.
        pinner.do(f"bytesOf[:] = data; copy(v.address + 1, address + {offset}, {size} - 1)")
        pinner.do(f"bytesOf[:] = 0; copy(address + SIZE - {size} + 1, v.address + 1, {size} - 1)")
        assert pinner.do(
            f"bool((bytesOf[SIZE - {size} + 1:] == data[{offset}:{offset} + {size} - 1]).all())"
            f" and not bytesOf[:SIZE - {size} + 1].any()"
        )
    # From host memory to host memory.
    assert pinner.do(
        "bytesOf[:] = data; half = SIZE // 2; copy(address, address + half, half)\n"
        "bool((bytesOf[:half] == data[half:]).all())"
    )


@pytest.mark.usefixtures("standin")
def test_aCopyThatMeetsANewSeamIsCutAnew(domain: str, actor: Start) -> None:
    """While memory is pinned, a copy can be cut just before a seam is made in it."""
    pinner = actor(
        PIECES
        + "r = d.registerHost(address, SIZE, True); v = d.allocate(0, SIZE); bytesOf[:] = 7\n"
        + "s, real, stale = d.createStream(0), d._seams.parts, []\n"
        + "def parts(*given):\n"
        + "    if not stale: return real(*given)\n"
        + "    if stale.pop() == 'moves': d._seams.add(1 << 45); d._seams.remove(1 << 45)\n"
        + "    return iter([(0, given[2])])\n"
        + "d._seams.parts = parts; out = np.zeros(SIZE, np.uint8)"
    )
    for copy in ("d.copyNow(v.address, address, SIZE, 0)", "d.copy(v.address, address, SIZE, s)"):
        pinner.do(f"stale.append('moves'); {copy}; s.synchronize(60)")
        pinner.do("d.copyNow(out.ctypes.data, v.address, SIZE, 0)")
        assert pinner.do("bool((out == 7).all()) and not stale")
        with pytest.raises(ActorError, match="INVALID_VALUE"):
            pinner.do(f"stale.append('stays'); {copy}")
        with pytest.raises(ActorError, match="INVALID_VALUE"):
            pinner.do(f"stale.extend(['moves'] * 50); {copy}")
        pinner.do("stale.clear(); out[:] = 0")


# --- progress, cancellation, rollback --------------------------------------------------


@pytest.mark.usefixtures("standin")
@pytest.mark.parametrize("piece", [1, 2, 30, 65])
def test_aPieceThatFailsTakesTheOthersWithIt(domain: str, actor: Start, piece: int) -> None:
    pinner = actor(PIECES + "seen = []", STANDIN_FAULTS=f"cuMemHostRegister:2:{piece}")
    # The driver has no memory for the first piece, so closed memory is given back, and
    # the first piece is tried again.
    if piece > 1:
        with pytest.raises(ActorError) as raised:
            pinner.do("d.registerHost(address, SIZE, True, seen.append)")
        assert raised.value.kind == "BarPressureHigh"
        assert pinner.do("len(seen)") == piece - 1
    else:
        pinner.do("d.registerHost(address, SIZE, True, seen.append).close()")
        assert pinner.do("sum(seen) == SIZE")
    assert pinner.do("isFree()")


@pytest.mark.parametrize("kind", ["LookupError", "KeyboardInterrupt"])
@pytest.mark.parametrize("piece", [1, 20, 65])
def test_progressCancels(domain: str, actor: Start, piece: int, kind: str) -> None:
    pinner = actor(
        PIECES
        + "seen = []\ndef progress(part):\n    seen.append(part)\n"
        + f"    if len(seen) == {piece}: raise {kind}('enough')"
    )
    with pytest.raises(ActorError, match="enough") as raised:
        pinner.do("d.registerHost(address, SIZE, True, progress)")
    assert raised.value.kind == kind
    assert pinner.do("d._budget.usedBytes, d._seams._at") == [0, []], "all at once"
    assert pinner.do("len(seen)") == piece and pinner.do("isFree()")


def test_aBufferWhoseMappingWasCancelledCanBeMapped(domain: str, actor: Start) -> None:
    muninn.share(np.arange(MIB, dtype=np.uint8), "a")
    opener = actor("def enough(part): raise LookupError('enough')\nb = muninn.open('a')")
    with pytest.raises(ActorError, match="enough"):
        opener.do("b.open(progress=enough)")
    assert opener.do("hasattr(b, '__cuda_array_interface__')") is False
    assert opener.do("seen = []; p = b.open(progress=seen.append); sum(seen), p > 0") == [MIB, True]


@pytest.mark.parametrize("later", [0, 1, 4, 9])
def test_anInterruptionAnywhereLeavesNothingPinned(domain: str, actor: Start, later: int) -> None:
    """A Ctrl-C at each place of the call where the interpreter looks for one; and a
    second one some places later.
    """
    pinner = actor(PIECES + program("interruptedPinning", LATER=str(later)))
    assert pinner.do("len(places)") > 50
    assert pinner.do("{each.file.rpartition('/')[2] for each in places} >= {'registration.py'}")
    pinner.begin("tryAll()")
    assert pinner.result(300) == []
    # Which places of its waits a call passes is a matter of time.
    assert pinner.do("5 * len(missed) < len(places)"), pinner.do("missed")


# --- unpinning -------------------------------------------------------------------------


@pytest.mark.usefixtures("standin")
def test_anErrorOfOnePieceKeepsNoOtherPinned(domain: str, actor: Start) -> None:
    pinner = actor(PIECES, STANDIN_FAULTS="cuMemHostUnregister:999:3")
    pinner.do("done = []; r = d.registerHost(address, SIZE, True)")
    pinner.do("r.closeThen(lambda: done.append(1)); d.memoryInfo(0)")
    assert pinner.do("done, d._budget.usedBytes, d._seams._at") == [[1], 0, []]
    # Only the piece of the error is still pinned: the third from the end.
    pinner.do("end = (address + SIZE) // KIB64 * KIB64 - KIB64")
    with pytest.raises(ActorError, match="REGISTERED"):
        pinner.do("d.registerHost(end - KIB64, KIB64, True)")
    pinner.do(
        "d.registerHost(end, KIB64, True); d.registerHost(address, end - KIB64 - address, True)"
    )


def test_thousandsOfPiecesAreUnpinned(domain: str, actor: Start) -> None:
    pinner = actor(
        PIECES
        + "e = CudaDevice(pieceBounds=PieceBounds(4096, 4096, 4096, restShare=0.0))\n"
        + "big = mmap.mmap(-1, 3000 * 4096); at = ctypes.addressof(ctypes.c_char.from_buffer(big))\n"
        + "done, seen = [], []; r = e.registerHost(at, 3000 * 4096, True, seen.append)"
    )
    assert pinner.do("len(seen), len(e._seams._at)") == [3000, 2999]
    pinner.do("r.closeThen(lambda: done.append(e._seams._at)); e._deferredFree.drain(60)")
    assert pinner.do("done, e._budget.usedBytes") == [[[]], 0]


def test_aLongDisposalLetsWaitsAndOtherMemoryIn(domain: str) -> None:
    """Streams begin to wait between two turns of it, other memory comes back meanwhile,
    and a mark behind it is reached when it is over.
    """
    CudaDevice()  # it starts the driver
    deferredFree, events = DeferredFree(dict), list[str]()
    begun: list[Any] = []

    def disposal() -> More | None:
        events.append("turn")
        if not begun:
            begun.append(Background(lambda: (WAITS.begin().end(), events.append("wait"))))
        isLet = "wait" in events and "other" in events
        return None if isLet or len(events) > 5000 else More(0.001)

    deferredFree.start()
    deferredFree.defer(disposal)
    eventually(lambda: begun, "the first turn")
    deferredFree.defer(lambda: events.append("other"), locks=False)
    deferredFree.defer(lambda: events.append("locks"))
    assert deferredFree.drain(60)
    assert "wait" in events and "other" in events
    assert events[-1] == "locks" and events[-2] == "turn", "what needs the lock waits its turn"
