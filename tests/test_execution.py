"""Execution: an executor is asked before bytes move, and what it says is kept; without
one, work waits for a GPU that is too hot.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from interrupts import tracing

import muninn
from muninn import plans
from muninn.api import executing, inprocess, transfers
from muninn.devices.host.device import HostDevice
from muninn.devices.port import GpuCondition, Slowdown
from muninn.errors import InvalidArgument, PromotionDenied
from muninn.plans import GO, Answer, Kind, Rehearsal, Verdict, Work
from muninn.session import membership
from muninn.transfer import backoff
from muninn.transfer.arena import arenaOf
from muninn.transfer.tiers import Place, Tier
from support import Actor, Background, eventually

Start = Callable[..., Actor]
BYTES = 1 << 20
REFUSED = Answer(Verdict.REFUSE, "GPU 1 is at 91 °C")
LATER = Answer(Verdict.LATER, "GPU 1 is at 90 °C", 0.001)
CUT = GpuCondition(92, 90, 400.0, 700.0, (Slowdown.HARDWARE_HEAT,))
NEAR = GpuCondition(88, 90)
COOL = GpuCondition(40, 90, 100.0, 700.0)


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "2")


@pytest.fixture
def buffer() -> muninn.MuninnBuffer:
    hints: Any = {"hotRanges": [(0, 65536), (262144, 65536)], "priority": "high"}
    return muninn.share(np.arange(BYTES, dtype=np.uint8), "data", access="readOnly", hints=hints)


def windows() -> list[str]:
    return [each["name"] for each in muninn.listBuffers() if each["kind"] == "window"]


# --- what is asked -------------------------------------------------------------------------


def test_aPromotionIsAskedAboutOnceAndItsEndIsTold(buffer: muninn.MuninnBuffer) -> None:
    with Rehearsal() as rehearsal, buffer.promote(4096, 8192, 1) as scratch:
        assert (scratch.array == np.arange(4096, 12288).astype(np.uint8)).all()
    (work,), (over,) = rehearsal.asked, rehearsal.over
    places = Place(Tier.HOST), Place(Tier.VRAM, 1)
    assert work._replace(timeoutSeconds=None) == Work(Kind.PROMOTION, "data", *places, 8192, "high")
    assert (over.work, over.error) == (work, None) and over.seconds > 0
    assert work.gpus == (1,)


def test_aWindowThatIsThereIsNotAskedAbout(buffer: muninn.MuninnBuffer) -> None:
    with buffer.promote(4096, 8192, 1), Rehearsal() as rehearsal, buffer.promote(4096, 8192, 1):
        assert rehearsal.asked == []


def test_eachHotRangeIsAskedAbout(buffer: muninn.MuninnBuffer) -> None:
    with Rehearsal() as rehearsal:
        assert buffer.prefetch(1).result() == 131072
    assert [(each.kind, each.sizeBytes) for each in rehearsal.asked] == [(Kind.PREFETCH, 65536)] * 2
    assert len(rehearsal.over) == 2


def test_eachCopyIsAskedAbout(buffer: muninn.MuninnBuffer) -> None:
    with Rehearsal() as rehearsal:
        copied = buffer.copyTo(1, access="readWrite")
        copied.copyFrom(buffer)
        buffer.startCopyTo(0).result()
        muninn.open("data", targetGpu=0)
    assert [each.target.gpu for each in rehearsal.asked] == [1, 1, 0, 0]
    assert {each.kind for each in rehearsal.asked} == {Kind.COPY}
    assert [each.error for each in rehearsal.over] == [None] * 4


# --- what is answered ----------------------------------------------------------------------


def test_whatIsRefusedIsNotBegun(buffer: muninn.MuninnBuffer) -> None:
    with Rehearsal(lambda work: REFUSED) as rehearsal:
        with pytest.raises(PromotionDenied, match=r"promotion of 8192 bytes of 'data' to GPU 1"):
            buffer.promote(0, 8192, 1)
        with pytest.raises(PromotionDenied, match=r"may not begin: GPU 1 is at 91 °C"):
            buffer.copyTo(1, name="copied")
        with pytest.raises(PromotionDenied):
            buffer.prefetch(1).result()
    assert rehearsal.over == [] and windows() == []
    assert [each["name"] for each in muninn.listBuffers()] == ["data"]


def test_whatIsToWaitBeginsLater(buffer: muninn.MuninnBuffer) -> None:
    with Rehearsal([LATER, LATER, GO]) as rehearsal, buffer.promote(0, 4096, 1):
        pass
    assert len(rehearsal.asked) == 3
    assert [each.work for each in rehearsal.over] == rehearsal.asked[-1:]
    waited = [each.waitedSeconds for each in rehearsal.asked]
    assert waited == sorted(waited) and waited[0] == 0 < waited[1]


@pytest.mark.parametrize("timeout", [0, 0.02])
def test_theWaitEndsWithTheTimeout(buffer: muninn.MuninnBuffer, timeout: float) -> None:
    with (
        Rehearsal(lambda work: LATER),
        pytest.raises(PromotionDenied, match=r"may not begin for 0\.\d s: GPU 1 is at 90"),
    ):
        buffer.promote(0, 4096, 1, timeout=timeout)
    assert windows() == []


def test_aCopyWithoutATimeoutWaitsNotForEver(
    buffer: muninn.MuninnBuffer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executing, "LONGEST_SECONDS", 0.02)
    with Rehearsal(lambda work: LATER), pytest.raises(PromotionDenied):
        buffer.copyTo(1)


def test_aCopyThatWaitsCanBeCancelled(buffer: muninn.MuninnBuffer) -> None:
    with Rehearsal(lambda work: LATER) as rehearsal:
        transfer = buffer.startCopyTo(1)
        eventually(lambda: len(rehearsal.asked) > 2, "the copy waits")
        transfer.cancel()
        assert transfer.wait(60) and transfer.state == "cancelled"
    assert rehearsal.over == []


def test_aLongPauseEndsWithTheCopy(buffer: muninn.MuninnBuffer) -> None:
    """Broken: `cancel` was noticed when the pause of the executor was over."""
    with Rehearsal(lambda work: LATER._replace(pauseSeconds=3600)) as rehearsal:
        transfer = buffer.startCopyTo(1)
        eventually(lambda: rehearsal.asked, "the copy waits")
        transfer.cancel()
        assert transfer.wait(60) and transfer.state == "cancelled"
    assert len(rehearsal.asked) == 1


def test_whoWaitsHoldsNoWriterUpAndNoRoom(buffer: muninn.MuninnBuffer) -> None:
    """It is asked before the access begins, and before scratch memory is claimed."""
    other = muninn.share(np.zeros(BYTES, np.uint8), "other", access="readWrite")
    go = threading.Event()
    made = list[Any]()

    def promoted() -> None:
        made.append(other.promote(0, 4096, 1))

    with Rehearsal(lambda work: GO if go.is_set() else LATER) as rehearsal:
        thread = threading.Thread(target=promoted)
        thread.start()
        eventually(lambda: rehearsal.asked, "the promotion waits")
        with other.write(timeout=30) as view:
            view[:] = 7
        assert windows() == []
        go.set()
        thread.join(60)
    with made[0] as scratch:
        assert (scratch.array == 7).all()


@pytest.mark.parametrize("isWarm", [False, True])
def test_whoWaitsHasTakenNoMemoryOfTheArena(monkeypatch: pytest.MonkeyPatch, isWarm: bool) -> None:
    """Broken: idle memory was taken before the question, and the budget had no room for
    another buffer while that waited.
    """
    monkeypatch.setenv("MUNINN_PER_GPU_SCRATCH_BYTES", "3M")
    hot, cool = (
        muninn.share(np.zeros(BYTES, np.uint8), name, access="readWrite")
        for name in ("hot", "cool")
    )
    if isWarm:
        hot.promote(0, BYTES, 1).close()
        with hot.write() as view:
            view[:] = 1
    go = threading.Event()

    def decide(work: Work) -> Answer:
        return LATER if work.name == "hot" and not go.is_set() else GO

    with Rehearsal(decide) as rehearsal:
        waiting = Background(lambda: hot.promote(0, BYTES, 1, timeout=60).close())
        eventually(lambda: rehearsal.asked, "the promotion waits")
        cool.promote(0, BYTES, 1, timeout=10).close()
        go.set()
        assert waiting.ended() is None


def test_whoWaitsForAWriterHasTakenNoMemoryOfTheArena(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUNINN_PER_GPU_SCRATCH_BYTES", "3M")
    data, other = (
        muninn.share(np.zeros(BYTES, np.uint8), name, access="readWrite")
        for name in ("data", "other")
    )
    data.promote(0, BYTES, 1).close()
    with data.write() as view, Rehearsal() as rehearsal:
        view[:] = 1
        waiting = Background(lambda: data.promote(0, BYTES, 1, timeout=60).close())
        eventually(lambda: rehearsal.asked, "the promotion waits for the writer")
        other.promote(0, BYTES, 1, timeout=10).close()
    assert waiting.ended() is None


def test_byHostIsARouteUnlessTheCallerDemandsOne() -> None:
    source = muninn.share(np.zeros(BYTES, np.uint8), mode="fastMode", preferredGpu=0)
    with Rehearsal(lambda work: GO._replace(byHost=True)):
        copied, demanded = source.copyTo(1).transfer, source.copyTo(1, route="p2p").transfer
        assert copied is not None and (copied.route, copied.reason) == ("staged", "asked")
        assert demanded is not None and demanded.route == "p2p"


def test_whoWaitsForRoomIsAskedAboutOnce(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks the broker again every few milliseconds, and the executor no more."""
    monkeypatch.setenv("MUNINN_PER_GPU_SCRATCH_BYTES", "128K")
    data = muninn.share(np.zeros(BYTES, np.uint8), "data", access="readOnly")
    with Rehearsal() as rehearsal:
        first = data.promote(0, 65536, 1)
        second = data.promote(65536, 65536, 1)
        timer = threading.Timer(0.3, second.close)
        timer.start()
        with data.promote(131072, 65536, 1, timeout=60):
            assert len(rehearsal.asked) == 3
        first.close()
        timer.join()
    assert len(rehearsal.over) == 3


class Broken(Rehearsal):
    """It raises."""

    def decide(self, work: Work) -> Answer:
        raise ZeroDivisionError


def test_anErrorOfTheExecutorGoesToTheCaller(buffer: muninn.MuninnBuffer) -> None:
    with Broken():
        for call in (lambda: buffer.promote(0, 4096, 1), lambda: buffer.copyTo(1)):
            with pytest.raises(ZeroDivisionError):
                call()
    with (
        Rehearsal(lambda work: None),  # type: ignore[arg-type,return-value]
        pytest.raises(TypeError, match="decide must return an Answer, not NoneType"),
    ):
        buffer.promote(0, 4096, 1)
    with (
        Rehearsal(lambda work: Answer("go")),  # type: ignore[arg-type]
        pytest.raises(TypeError, match="the verdict must be a Verdict, not 'go'"),
    ):
        buffer.copyTo(1)
    assert windows() == []
    with buffer.promote(0, 4096, 1):
        assert len(windows()) == 1


class Forgetful(Rehearsal):
    """It raises at the end."""

    def ended(self, work: Work, seconds: float, error: BaseException | None) -> None:
        raise ZeroDivisionError


def test_anErrorAtTheEndIsLogged(
    buffer: muninn.MuninnBuffer, caplog: pytest.LogCaptureFixture
) -> None:
    """The bytes have moved: an error of the call would say that they have not."""
    with Forgetful():
        copied = buffer.copyTo(1, access="readWrite")
        assert copied.copyFrom(buffer) == copied.generation
        with buffer.promote(0, 4096, 1):
            pass
    found = [each for each in caplog.records if each.exc_info is not None]
    assert [each.getMessage() for each in found] == [
        f"the executor has failed at the end of a {kind}" for kind in ("copy", "copy", "promotion")
    ]


CALLS: dict[str, Callable[[muninn.MuninnBuffer, muninn.MuninnBuffer], object]] = {
    "copyTo": lambda data, other: other.copyTo(0).close(),
    "copyFrom": lambda data, other: other.copyFrom(data),
    "promote": lambda data, other: other.promote(0, 4096, 0).close(),
}


class Counting(Rehearsal):
    """Counts what it lets go, as the last thing that `decide` does."""

    going = 0

    def decide(self, work: Work) -> Answer:
        self.going += 1
        return GO

    def ended(self, work: Work, seconds: float, error: BaseException | None) -> None:
        self.going -= 1


@pytest.mark.parametrize("name", CALLS)
def test_eachGoHasItsEndWhereverAnInterruptionComes(buffer: muninn.MuninnBuffer, name: str) -> None:
    other = buffer.copyTo(1, access="readWrite")

    def call(_: object) -> None:
        CALLS[name](buffer, other)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with Counting() as counting:
        passes = tracing.rehearse(call, None, None)
        places = [each for each in passes if each.file == executing.__file__]
        places += [
            each for each in passes if each.file == transfers.__file__ and each.mayBeInterrupted()
        ]
        assert len(places) > 100
        for place in places:
            outcome = tracing.interrupt(call, None, place, 1, interrupt, None)
            assert outcome.isDone and isinstance(outcome.raised, KeyboardInterrupt), place
            assert counting.going == 0, place


def test_theEndOfWhatFailsIsToldWithItsError(buffer: muninn.MuninnBuffer) -> None:
    def stop(sizeBytes: int) -> None:
        raise ZeroDivisionError

    with Rehearsal() as rehearsal:
        with pytest.raises(ZeroDivisionError):
            buffer.promote(0, 4096, 1, progress=stop)
        with pytest.raises(ZeroDivisionError):
            buffer.copyTo(1, progress=stop)
    assert [type(each.error) for each in rehearsal.over] == [ZeroDivisionError] * 2


def test_whatIsNoExecutorIsRefused() -> None:
    with pytest.raises(InvalidArgument, match="object has no method decide, ended, topology"):
        plans.setExecutor(object())  # type: ignore[arg-type]
    assert isinstance(plans.executor(), inprocess.InProcess)


def test_theExecutorOfBeforeIsGivenBack() -> None:
    first, second = Rehearsal(), Rehearsal()
    with first:
        assert plans.setExecutor(second) is first
        assert plans.executor() is second
    assert isinstance(plans.executor(), inprocess.InProcess)


# --- the default ---------------------------------------------------------------------------


def work(kind: Kind, waited: float = 0.0) -> Work:
    places = Place(Tier.VRAM, 0), Place(Tier.VRAM, 1)
    return Work(kind, "data", *places, 4096, waitedSeconds=waited)


@pytest.mark.parametrize(
    ("condition", "waiting"),
    [
        (None, set()),
        (GpuCondition(), set()),
        (COOL, set()),
        (GpuCondition(87, 90), set()),
        (NEAR, {Kind.PREFETCH}),
        (GpuCondition(88, None), set()),
        (GpuCondition(slowdowns=(Slowdown.DRIVER_HEAT,)), {Kind.PREFETCH}),
        (GpuCondition(slowdowns=(Slowdown.POWER_CAP,)), set()),
        (CUT, set(Kind)),
        (GpuCondition(slowdowns=(Slowdown.POWER_BRAKE,)), set(Kind)),
        (GpuCondition(slowdowns=(Slowdown.HARDWARE,)), set(Kind)),
    ],
)
def test_whatWaitsForWhat(condition: GpuCondition | None, waiting: set[Kind]) -> None:
    for conditions in ({0: condition, 1: COOL}, {0: None, 1: condition}):
        answers = {kind: backoff.decided(work(kind), conditions) for kind in Kind}
        assert {kind for kind, each in answers.items() if each != GO} == waiting
        assert {each.verdict for each in answers.values()} <= {Verdict.GO, Verdict.LATER}
    assert bool(backoff.trouble(0, condition)) == bool(waiting)


def test_aCopyWaitsForASecondAndThenGoes() -> None:
    assert backoff.decided(work(Kind.COPY, 0.99), {1: CUT}).verdict is Verdict.LATER
    assert backoff.decided(work(Kind.COPY, 1.0), {1: CUT}) == GO
    assert backoff.decided(work(Kind.PROMOTION, 1e3), {1: CUT}).verdict is Verdict.LATER


def test_aCopyWithAShortTimeoutGoesWhileItHasTime() -> None:
    short = work(Kind.COPY)._replace(timeoutSeconds=0.3)
    assert backoff.decided(short, {1: CUT}) == Answer(
        Verdict.LATER, backoff.trouble(1, CUT), pytest.approx(0.15)
    )
    assert backoff.decided(short._replace(waitedSeconds=0.15), {1: CUT}) == GO
    assert backoff.decided(short._replace(kind=Kind.PROMOTION), {1: CUT}).pauseSeconds == 0.25


@pytest.fixture
def heat(monkeypatch: pytest.MonkeyPatch) -> dict[int, GpuCondition]:
    """The conditions of the emulated GPUs, which the default looks at each time."""
    told = dict[int, GpuCondition]()
    monkeypatch.setattr(HostDevice, "condition", lambda self, gpu: told.get(gpu))
    monkeypatch.setattr(inprocess, "FRESH_SECONDS", 0.0)
    return told


def test_aPromotionToAHotGpuIsDeniedWithFigures(
    buffer: muninn.MuninnBuffer, heat: dict[int, GpuCondition]
) -> None:
    heat[1] = CUT
    with pytest.raises(PromotionDenied) as caught:
        buffer.promote(0, 4096, 1, timeout=0.01)
    assert caught.value.code == "MNN-0006"
    assert "92 of 90 °C, 400 of 700 W, clocks cut: hardwareHeat" in caught.value.reason
    with buffer.promote(0, 4096, 0):
        pass


def test_aPromotionGoesWhenTheGpuHasCooledDown(
    buffer: muninn.MuninnBuffer, heat: dict[int, GpuCondition]
) -> None:
    heat[1] = CUT
    timer = threading.Timer(0.3, lambda: heat.update({1: COOL}))
    timer.start()
    with buffer.promote(0, 4096, 1, timeout=60) as scratch:
        assert heat[1] is COOL and scratch.sizeBytes == 4096
    timer.join()


def test_whatNobodyWaitsForIsLeftAloneEarlier(
    buffer: muninn.MuninnBuffer, heat: dict[int, GpuCondition]
) -> None:
    heat[1] = NEAR
    with pytest.raises(PromotionDenied, match="close to its limit: 88 of 90 °C"):
        buffer.prefetch(1, timeout=0.01).result()
    with buffer.promote(0, 4096, 1):
        pass


def test_aCopyToAHotGpuIsOnlyLate(
    buffer: muninn.MuninnBuffer, heat: dict[int, GpuCondition], monkeypatch: pytest.MonkeyPatch
) -> None:
    heat[1] = CUT
    monkeypatch.setattr(backoff, "COPY_SECONDS", 0.05)
    assert (buffer.copyTo(1).read() == buffer.read()).all()
    monkeypatch.setattr(backoff, "COPY_SECONDS", 1e9)
    copied = buffer.copyTo(1, access="readWrite", timeout=2)
    assert copied.copyFrom(buffer, timeout=2) == copied.generation


def test_theDriverIsAskedOnceASecond(
    buffer: muninn.MuninnBuffer, heat: dict[int, GpuCondition], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[int]()
    monkeypatch.setattr(HostDevice, "condition", lambda self, gpu: asked.append(gpu))
    monkeypatch.setattr(inprocess, "FRESH_SECONDS", 1e6)
    for _ in range(5):
        with buffer.promote(0, 4096, 1):
            pass
        buffer.copyTo(1)
    assert asked == [1]


def test_theTopologySaysHowWarmTheGpusAre(heat: dict[int, GpuCondition]) -> None:
    heat[1] = CUT
    found = plans.executor().topology()
    assert [each.condition for each in found.gpus] == [None, CUT]
    assert found.gpus[0].trouble == "" and "GPU 1 is left alone" in found.gpus[1].trouble
    assert found.gpus[0].totalBytes >= found.gpus[0].freeBytes > 0
    assert found.links == {(0, 1): (True, "unknown"), (1, 0): (True, "unknown")}


def test_withoutAnybodyWhoTellsNothingWaits(buffer: muninn.MuninnBuffer) -> None:
    assert all(each.condition is None for each in plans.executor().topology().gpus)
    with buffer.promote(0, 4096, 1, timeout=0):
        pass


# --- reservations --------------------------------------------------------------------------


def test_aReservationIsScratchMemoryThatTheNextPromotionTakes() -> None:
    data = muninn.share(np.arange(BYTES, dtype=np.uint8), "data", access="readWrite")
    reservation = plans.executor().reserve(data, 0, 65536, 1)
    (reserved,) = windows()
    assert reservation.sizeBytes >= 65536
    reservation.handOver()
    reservation.handOver()
    with data.promote(0, 65536, 1) as scratch:
        assert windows() == [reserved]
        assert (scratch.array == np.arange(65536).astype(np.uint8)).all()


def test_aReservationThatIsClosedIsGivenBack() -> None:
    data = muninn.share(np.zeros(BYTES, np.uint8), "data", access="readWrite")
    reservation = plans.executor().reserve(data, 0, 65536, 1)
    reservation.close()
    reservation.handOver()
    eventually(lambda: windows() == [], "the memory is given back")
    assert not arenaOf(membership.current().openBuffers.context).hasIdle()


def test_aReservationKeepsToTheBudgets(
    monkeypatch: pytest.MonkeyPatch, buffer: muninn.MuninnBuffer
) -> None:
    data = muninn.share(np.zeros(BYTES, np.uint8), "more", access="readWrite")
    with pytest.raises(InvalidArgument, match="readOnly"):
        plans.executor().reserve(buffer, 0, 4096, 1)
    with pytest.raises(InvalidArgument, match="reserve: 1048577 bytes from 0 on reach beyond"):
        plans.executor().reserve(data, 0, BYTES + 1, 1)
    membership._current.leave()  # type: ignore[union-attr]
    monkeypatch.setattr(membership, "_current", None)
    monkeypatch.setenv("MUNINN_PER_GPU_SCRATCH_BYTES", "64K")
    data = muninn.share(np.zeros(BYTES, np.uint8), "again", access="readWrite")
    with pytest.raises(PromotionDenied, match="promotion.perGpuScratchBytes"):
        plans.executor().reserve(data, 0, 65536, 1)
