"""The catalog: each name is granted once, and the sums are the sums of the rows."""

from __future__ import annotations

import os

import pytest
from lab import PAGE, Lab, describe, usage

from muninn.broker.catalog import Catalog
from muninn.broker.policy.limits import Limits
from muninn.broker.policy.promotionqueue import ONCE, Queued
from muninn.broker.policy.usage import Usage
from muninn.control import layout
from muninn.errors import BufferExists, PromotionDenied, QuotaExceeded
from muninn.terms import WINDOW_PREFIX, Mode

_LIMITS = Limits(
    bigModeMaxBytes=1000,
    fastModeMaxBytes=500,
    pinnedHostQuota=600,
    vramQuota=300,
    scratchOfGpu=200,
    scratchOfTenant=100,
    mostPromotions=2,
)


def test_aNameIsTakenOnce(lab: Lab) -> None:
    catalog = Catalog(lab.rows, _LIMITS)
    catalog.add(1, usage("a"))
    with pytest.raises(BufferExists):
        catalog.add(2, usage("a"))
    assert catalog.find("a") == 1


def test_aForgottenNameIsFreeAndItsBytesStillCount(lab: Lab) -> None:
    catalog = Catalog(lab.rows, _LIMITS)
    catalog.add(1, usage("a", sizeBytes=600))
    catalog.forgetName(1)
    assert catalog.find("a") is None
    with pytest.raises(QuotaExceeded):
        catalog.quotas.admit("default", Mode.BIG, -1, 1, 0)
    catalog.remove(1)
    catalog.quotas.admit("default", Mode.BIG, -1, 600, 0)


@pytest.mark.parametrize(
    ("mode", "tenant", "sizeBytes", "key"),
    [
        (Mode.BIG, "b", 501, "memory.bigModeMaxBytes"),
        (Mode.BIG, "default", 101, "tenancy.defaultPinnedHostQuota"),
        (Mode.FAST, "b", 501, "memory.fastModeMaxBytes"),
        (Mode.FAST, "b", 301, "tenancy.defaultVramQuota"),
        (Mode.FAST, "b", 201, "devices.hostGpuBytes"),
    ],
)
def test_refusesAboveTheLimitThatItNames(
    lab: Lab, mode: Mode, tenant: str, sizeBytes: int, key: str
) -> None:
    catalog = Catalog(lab.rows, _LIMITS)
    catalog.add(1, usage("a", sizeBytes=500))
    catalog.quotas.admit(tenant, mode, 0, 100, 200)
    with pytest.raises(QuotaExceeded, match=key):
        catalog.quotas.admit(tenant, mode, 0, sizeBytes, 200)


def test_countingARowTwiceCountsItOnce(lab: Lab) -> None:
    catalog = Catalog(lab.rows, _LIMITS)
    for sizeBytes in (400, 100):
        catalog.add(1, usage("a", sizeBytes=sizeBytes, mode=Mode.FAST, gpu=0))
    assert catalog.quotas.used(0) == 100
    catalog.remove(1)
    catalog.remove(1)
    assert catalog.quotas.used(0) == 0


def test_adoptsNamesAndBytesFromTheRows(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    alive, _ = lab.make(directory, member, "alive")
    dying, incarnation = lab.make(directory, member, "dying")
    member.leases.take(dying, incarnation, 1000)
    directory.free(dying, incarnation)
    assert directory.rows.state(dying).state == layout.ROW_DYING
    catalog = Catalog(lab.rows, Limits(3 * layout.PAGE_BYTES - 1, 0, 1 << 40, 0, 0, 0, 1))
    assert (catalog.find("alive"), catalog.find("dying")) == (alive, None)
    with pytest.raises(QuotaExceeded):
        catalog.quotas.admit("default", Mode.BIG, -1, layout.PAGE_BYTES, 0)


def test_aDamagedRowHidesNoOther(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    row, _ = lab.make(directory, member, "broken")
    lab.make(directory, member, "whole")
    lab.block.bytes[
        lab.block.geometry.rowsOffset + row * layout.ROW_BYTES + layout.ROW_MODE_OFFSET
    ] = 99
    assert Catalog(lab.rows, _LIMITS).find("whole") is not None


def deadlinesOf(catalog: Catalog) -> list[tuple[int, int]]:
    """The deadlines in the order in which the broker meets them; the catalog forgets them."""
    found = []
    while (first := catalog.nextDeadline()) is not None:
        found.append(first)
        catalog.forgetDeadline(first[1])
    return found


def test_deadlinesComeSoonestFirstAndGoWithTheirRow(lab: Lab) -> None:
    catalog = Catalog(lab.rows, _LIMITS)
    for row, deadlineMs in enumerate((30, 10, 0, 20)):
        catalog.add(row, usage(str(row), deadlineMs=deadlineMs))
    catalog.remove(1)
    assert deadlinesOf(catalog) == [(20, 3), (30, 0)]


def test_describesARowAsItsUsage() -> None:
    from muninn.broker.policy.usage import usageOf

    assert usageOf(describe("n", deadlineMs=5)) == usage("n", deadlineMs=5)


def test_aRowForgetsNoOthersName(lab: Lab) -> None:
    """Broken: a row that had given up its name removed the name of its next owner too."""
    catalog = Catalog(lab.rows, _LIMITS)
    catalog.add(1, usage())
    catalog.forgetName(1)
    catalog.add(2, usage())
    catalog.remove(1)
    assert catalog.find("a") == 2


def test_aNameThatIsNotInTheIndexIsFoundInTheRows(lab: Lab) -> None:
    """The index had no room for some rows. Broken: the catalog called each name free
    that the index did not have.
    """
    directory, member = lab.directory(1), lab.member()
    rows = [lab.make(directory, member, f"n{number}") for number in range(5)]
    for number, row in enumerate(rows):
        directory._index.remove(f"n{number}".encode(), *row)
    catalog = Catalog(lab.rows, _LIMITS)
    assert [catalog.find(f"n{number}") for number in range(6)] == [*(row for row, _ in rows), None]
    assert catalog.indexNames(3) and not catalog.indexNames(512)
    assert [directory._index.candidates(f"n{number}".encode()) for number in range(5)] == [
        [row] for row in rows
    ]
    assert [catalog.find(f"n{number}") for number in range(6)] == [*(row for row, _ in rows), None]


def test_anEntryOfTheIndexIsBelievedAfterALookAtItsRow(lab: Lab) -> None:
    """An entry has a part of the name's digest, which other names have too."""
    directory = lab.directory(1)
    row, incarnation = lab.make(directory, lab.member(), "mine")
    assert directory._index.insert(b"other", row, incarnation)
    catalog = Catalog(lab.rows, _LIMITS)
    assert catalog.find("other") is None and catalog.find("mine") == row


def test_aNameIsFreeOnceAllOthersAreInTheIndex(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any thread may ask: the thread that serves may put the name into the index after
    the asking thread looked there, and before it looks how far the index is filled.
    """
    directory, member = lab.directory(1), lab.member()
    row, incarnation = lab.make(directory, member, "late")
    directory._index.remove(b"late", row, incarnation)
    catalog = Catalog(lab.rows, _LIMITS)
    assert not catalog.lacks("late") and not catalog.lacks("never there")
    candidates = catalog._index.candidates

    def andThenAll(name: bytes) -> list[tuple[int, int]]:
        found = candidates(name)
        monkeypatch.setattr(catalog._index, "candidates", candidates)
        catalog.indexNames(512)
        return found

    monkeypatch.setattr(catalog._index, "candidates", andThenAll)
    assert not catalog.lacks("late")
    monkeypatch.setattr(catalog._index, "candidates", candidates)
    assert not catalog.indexNames(512)
    assert not catalog.lacks("late") and catalog.lacks("never there")


def test_aNameThatTheIndexHasNoRoomForIsKept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, member = lab.directory(1), lab.member()
    row, incarnation = lab.make(directory, member, "crowded")
    directory._index.remove(b"crowded", row, incarnation)
    successor = lab.directory(2)
    monkeypatch.setattr(successor.catalog._index, "insert", lambda name, row, incarnation: False)
    assert not successor.catalog.indexNames(512)
    assert successor.catalog.find("crowded") == row
    successor.free(row, incarnation)
    assert successor.catalog.find("crowded") is None


def test_rowsOfAnEarlierTermCountUntilTheyAreGone(lab: Lab) -> None:
    """Broken: the sums were never lowered for rows of an earlier term; for a half-made
    row they were lowered, though never raised.
    """
    directory, member = lab.directory(1), lab.member()
    rows = [
        lab.make(directory, member, f"n{number}", tenant=tenant)
        for number, tenant in enumerate(("default", "other", "default"))
    ]
    half = directory.grant(member.key, usage("half"), 0)
    lab.rows.describe(half[0], describe("half"))
    os.unlink(lab.paths.journalPath(1))
    successor = lab.directory(2)
    sums = successor.catalog.quotas._sums
    assert (sums[Mode.BIG,], sums[Mode.BIG, "default"], sums[Mode.BIG, "other"]) == (
        3 * PAGE,
        2 * PAGE,
        PAGE,
    )
    successor.free(*rows[0])
    successor.free(*rows[1])
    successor.abandon(member.key, *half)
    assert (sums[Mode.BIG,], sums[Mode.BIG, "default"], sums[Mode.BIG, "other"]) == (PAGE, PAGE, 0)


def test_lifetimesOfBeforeAreKnown(lab: Lab) -> None:
    directory, member = lab.directory(1), lab.member()
    lab.make(directory, member, "plain")
    row, _ = lab.make(directory, member, "ends", deadlineMs=77)
    assert deadlinesOf(Catalog(lab.rows, _LIMITS)) == [(77, row)]


def test_manyTenantsHaveASumEach(lab: Lab) -> None:
    """Broken: there was room for few sums, and the tenants beyond that had none."""
    directory, member = lab.directory(1), lab.member()
    for number in range(250):
        lab.make(directory, member, f"n{number}", tenant=f"t{number}")
    sums = Catalog(lab.rows, _LIMITS).quotas._sums
    assert sums[Mode.BIG,] == 250 * PAGE and all(
        sums[Mode.BIG, f"t{number}"] == PAGE for number in range(250)
    )


def test_theNextDeadlineFollowsWhatComesAndGoes(lab: Lab) -> None:
    catalog = Catalog(lab.rows, _LIMITS)
    assert catalog.nextDeadline() is None
    for row, deadlineMs in enumerate((30, 10, 0, 20)):
        catalog.add(row, usage(str(row), deadlineMs=deadlineMs))
    assert catalog.nextDeadline() == (10, 1)
    catalog.forgetDeadline(1)
    catalog.remove(3)
    assert catalog.nextDeadline() == (30, 0)


def test_windowsHaveBudgetsOfTheirOwn(lab: Lab) -> None:
    """Scratch memory counts as VRAM too, and its sums come from the rows."""
    catalog = Catalog(lab.rows, _LIMITS)

    def window(tenant: str, sizeBytes: int, gpu: int = 0) -> Usage:
        name = f"{WINDOW_PREFIX}{tenant}{sizeBytes}{gpu}"
        return Usage(name, tenant, Mode.FAST, gpu, sizeBytes, 0)

    assert window("a", 1).isWindow and not usage("a").isWindow
    catalog.quotas.admitWindow(window("a", 100), 1, ONCE)
    catalog.add(1, window("a", 100))
    for wanted, underWay, reason in (
        (window("a", 1), 0, r"tenant 'a' on GPU 0: 100 B used \+ 1 B wanted > 100 B"),
        (window("b", 101), 0, r"tenant 'b' on GPU 0: 101 B wanted > 100 B allowed in all"),
        (window("b", 201), 0, r"scratch of GPU 0: 201 B wanted > 200 B allowed in all"),
        (window("b", 1), 2, r"under way to GPU 0: 2, and at most 2 may be \(promotion.max"),
    ):
        with pytest.raises((PromotionDenied, Queued), match=reason):
            catalog.quotas.admitWindow(wanted, underWay, ONCE)
    catalog.quotas.admitWindow(window("b", 100), 1, ONCE)
    catalog.add(2, window("b", 60))
    with pytest.raises(Queued, match=r"scratch of GPU 0: 160 B used \+ 50 B wanted > 200 B") as why:
        catalog.quotas.admitWindow(window("c", 50), 0, ONCE)
    assert why.value.short == "gpu"
    catalog.remove(2)
    catalog.quotas.admitWindow(window("a", 100, gpu=1), 0, ONCE)
    assert catalog.quotas.used(0) == 100
    catalog.remove(1)
    catalog.quotas.admitWindow(window("a", 100), 0, ONCE)
