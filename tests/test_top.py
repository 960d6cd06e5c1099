"""The live view as functions: rates, graphs, texts, keys, the order of the table, and
frames of every size.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from muninn.cli.top import graphs, tables, texts, waiters
from muninn.cli.top.buffers import Names, buffersOf
from muninn.cli.top.keys import BINDINGS, decoded, pressed
from muninn.cli.top.options import GROUPS, SORTS
from muninn.cli.top.people import Person, Usage, treeOf
from muninn.cli.top.picture import Picture, Tier, tiersOf
from muninn.cli.top.rates import History
from muninn.cli.top.report import nobody, reportOf
from muninn.cli.top.screen import frameOf, nobodyFrame, onceLines
from muninn.cli.top.view import PANELS, Group, View, linesOf, whereIs
from muninn.cli.top.waiters import Waiter, Waiters
from muninn.control import layout
from muninn.control.cells import CELLS
from muninn.control.leases import REVOCATION_REASONS
from muninn.control.memberreader import MemberKey
from muninn.observe.families import FAMILIES
from muninn.service.readings import Held, Reading, Rows
from muninn.session.windownames import WindowPlace

SIZES = [(40, 24), (80, 24), (200, 50), (20, 5), (300, 100)]


def row(name: str, **fields: Any) -> SimpleNamespace:
    """A row of a reading; `holders` are the slots of members."""
    given = {
        "number": 0,
        "incarnation": 1,
        "kind": layout.ROW_KIND_ARRAY,
        "isFast": False,
        "gpu": -1,
        "sizeBytes": 4096,
        "generation": 0,
        "tenant": "default",
        "holders": (),
        "head": -1,
        "createdMs": 0,
        "isOver": False,
        "writer": -1,
        "isAwaited": False,
        "revoked": (),
    }
    return SimpleNamespace(name=name, **{**given, **fields})


def readingOf(
    rows: list[SimpleNamespace],
    atMs: int = 1000,
    identity: int = 7,
    slots: tuple[int, ...] = (0, 1),
    cells: dict[int, Any] | None = None,
    brokerSlot: int | None = 0,
) -> Reading:
    for number, each in enumerate(rows):
        each.number = each.number or number
    tenants = sorted({each.tenant for each in rows})

    def column(field: str, kind: Any = np.int64) -> Any:
        return np.array([getattr(each, field) for each in rows], kind)

    held = [(each.number, slot, slot in each.revoked) for each in rows for slot in each.holders]
    ofSlots = {slot: np.zeros(CELLS, np.uint64) for slot in slots} if cells is None else cells
    return Reading(
        identity,
        atMs,
        3,
        brokerSlot,
        [MemberKey(slot, 1) for slot in slots],
        Rows(
            column("number"),
            column("incarnation"),
            column("kind"),
            column("isFast", bool),
            column("gpu"),
            column("sizeBytes"),
            column("generation"),
            np.array([tenants.index(each.tenant) for each in rows], np.int64),
            np.array([len(each.holders) for each in rows], np.int64),
            column("head"),
            column("createdMs"),
            column("isOver", bool),
            column("writer"),
            column("isAwaited", bool),
            tuple(tenants),
        ),
        {},
        Held(
            np.array([each[0] for each in held], np.int64),
            np.array([each[1] for each in held], np.int64),
            np.array([int(each[2]) for each in held], np.int64),
        ),
        np.sum([*ofSlots.values()], axis=0).tolist(),
        ofSlots,
    )


def person(slot: int, pid: int = 0, **fields: Any) -> Person:
    given: dict[str, Any] = {
        "program": f"work{slot}.py",
        "command": f"python work{slot}.py",
        "user": "root",
        "ancestors": ((10, "bash"),),
        "isNear": True,
        "joinedMs": 0,
    }
    return Person(MemberKey(slot, 1), pid or 100 + slot, **{**given, **fields})


def pictureOf(rows: list[SimpleNamespace], **fields: Any) -> Picture:
    reading = readingOf(rows)
    names = {each.number: each.name for each in rows}
    history = History()
    rates = history.add(reading)
    shown = Names(lambda numbers: [names[number] for number in numbers.tolist()]).of(reading)
    picture = Picture(
        "tests",
        0,
        reading,
        rates,
        history,
        buffersOf(reading, rates, shown),
        {slot: person(slot) for slot in (0, 1)},
        [Tier("GPU 0", 1 << 30, 1 << 29, 1 << 31), Tier("host", 1 << 20, 0, None)],
        lambda each: Usage(12.0, 1 << 20),
        lambda people: [],
        None,
        "12:00:00",
    )
    return picture._replace(**fields)


def shown(picture: Picture, view: View, width: int = 200, height: int = 50) -> list[str]:
    return [line.plain.rstrip() for line in frameOf(picture, view, width, height, True).lines]


def cellsWith(family: str, label: str, **amounts: int) -> Any:
    cells = np.zeros(CELLS, np.uint64)
    where = FAMILIES[family]
    for amount, value in amounts.items():
        cells[where.cellOf(label) + where.amounts.index(amount)] = value
    return cells


# --- rates ---------------------------------------------------------------------------


def test_aPublicationIsTwoStepsOfTheGeneration() -> None:
    history = History()
    history.add(readingOf([row("a", generation=10)], 1000))
    rates = history.add(readingOf([row("a", generation=50)], 3000))
    assert rates.publications.tolist() == [10.0]
    assert history.ofRow(0)[-1] == 10.0


def test_aRowWithAnotherBufferHasNoRateOfTheOneBefore() -> None:
    history = History()
    history.add(readingOf([row("a", generation=1000)], 1000))
    rates = history.add(readingOf([row("b", generation=4, incarnation=2)], 2000))
    assert rates.publications.tolist() == [2.0]
    assert history.ofRow(0)[:-1] == [0.0] * (len(history.ofRow(0)) - 1)


def test_throughputIsBytesByTheClockByRouteAndByProcess() -> None:
    history = History()
    before = {0: cellsWith("transfers", "p2p/asked", times=1, bytes=1000)}
    after = {
        0: cellsWith("transfers", "p2p/asked", times=3, bytes=5000),
        1: cellsWith("transfers", "p2p/peerAccess", times=2, bytes=400),
    }
    history.add(readingOf([row("a")], 1000, cells=before))
    rates = history.add(readingOf([row("a")], 3000, cells=after))
    assert rates.routes["p2p"] == (2.0, 2200.0, 5, 5400)
    assert set(rates.routes) == {"p2p"}, "a route that was never taken is not there"
    assert rates.moved == {0: 2000.0, 1: 200.0}
    assert [*history.series["moved"]] == [2200.0]


def test_aMappingMovesNoBytes() -> None:
    history = History()
    history.add(readingOf([row("a")], 1000))
    cells = {0: cellsWith("transfers", "mapped/asked", times=1)}
    rates = history.add(readingOf([row("a")], 2000, cells=cells))
    assert (rates.routes["mapped"].times, rates.routes["mapped"].bytesPerSecond) == (1, 0.0)


def test_anotherControlBlockIsNotComparedWithTheOneBefore() -> None:
    history = History()
    history.add(readingOf([row("a", generation=1000)], 1000))
    history.add(readingOf([row("a", generation=1002)], 2000))
    rates = history.add(readingOf([row("a", generation=2)], 3000, identity=8))
    assert rates.seconds == 0.0 and rates.publications.tolist() == [0.0]
    assert history.series == {}


def test_revocationsAndErrorsAreNamed() -> None:
    cells = {0: cellsWith("revocations", "evicted", times=2)}
    rates = History().add(readingOf([row("a")], cells=cells))
    assert rates.reasons == {"revocations": {"evicted": 2}, "errors": {}}
    assert rates.events["revocations"].times == 2


# --- graphs and texts ----------------------------------------------------------------


def test_aGraphIsAsHighAsItsLargestValueAndShowsEveryOther() -> None:
    assert graphs.spark([0, 1, 100, 50], 2) == "⢀⡇".replace("⡇", chr(0x2800 + 0x47 + 0xA0))
    assert graphs.spark([0, 0, 0, 0], 2) == "  "
    assert graphs.spark([], 3) == "   "
    assert graphs.spark([1, 7], 4, isUnicode=False) == "  .#"
    assert graphs.spark(range(1000), 5)[-1] != " "


@pytest.mark.parametrize("parts", [(1, 0, 99), (0, 0, 0), (5, 5, 5), (1, 1, 10**12), (3, 2, 0)])
@pytest.mark.parametrize("width", [0, 1, 2, 10, 40])
def test_aBarIsAsLongAsItsRoomAndHidesNoPart(parts: tuple[int, ...], width: int) -> None:
    shown = graphs.bar(parts, width)
    assert sum(map(len, shown)) == width
    if width >= 10:
        assert all(text for part, text in zip(parts[:-1], shown[:-1], strict=True) if part)


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        ("weights", 7, "weights"),
        ("layers/0/weights", 9, "laye…ghts"),
        ("日本語の名前です", 9, "日本…です"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
        ("a\x1b[2Jb", 6, "a�[2Jb"),
    ],
)
def test_namesAreShortenedInTheMiddle(text: str, width: int, short: str) -> None:
    assert texts.shortened(text, width) == short


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "-"), (999, "999 B/s"), (1234, "1.2 kB/s"), (12.34e9, "12.3 GB/s"), (250e9, "250 GB/s")],
)
def test_throughputIsInPowersOfAThousand(value: float, text: str) -> None:
    assert texts.throughput(value) == text


# --- keys ----------------------------------------------------------------------------


def test_keysAreDecodedAsTerminalsSendThem() -> None:
    sent = "\x1b[A\x1bOBq\x1b[6~\x1b[99~\x1b ü"
    assert decoded(sent) == ["up", "down", "q", "pageDown", "escape", "space", "ü"]


def test_everyKeyOfTheFooterAndTheHelpDoesSomething() -> None:
    keys = [key for binding in BINDINGS for key in binding.keys]
    assert len(keys) == len(set(keys)), "no key has two meanings"
    idle = {"q", "redraw", "escape", "home", "up", "k", "pageUp"}
    for key in set(keys) - idle:
        assert pressed(View(), key, 10) != View(), key
    assert pressed(View(), "q", 10) is None


def test_keysGoIntoTheFilterWhileItIsTyped() -> None:
    view: View | None = View(position=4)
    for key in ("/", "q", "space", "x", "backspace", "h", "enter"):
        assert view is not None
        view = pressed(view, key, 10)
    assert view is not None and (view.filter, view.isTyping) == ("q h", False)
    assert pressed(view, "escape", 10) == replace(view, filter="")


def test_speedStaysInItsBounds() -> None:
    fast, slow = View(), View()
    for _ in range(20):
        fast, slow = pressed(fast, "+", 1) or fast, pressed(slow, "-", 1) or slow
    assert (fast.interval, slow.interval) == (0.5, 60.0)


# --- the table -----------------------------------------------------------------------

MIXED = [
    row("beta", sizeBytes=300, tenant="t1", holders=(0,), generation=6, createdMs=300),
    row("alpha", sizeBytes=100, tenant="t2", holders=(0, 1), createdMs=100),
    row("gamma", sizeBytes=200, tenant="t1", isFast=True, gpu=1, createdMs=200),
]


def namesShown(picture: Picture, view: View) -> list[str]:
    lines = linesOf(picture.buffers, view, picture.titleOf)
    return [
        line.title if isinstance(line, Group) else picture.buffers.names[line] for line in lines
    ]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("name", ["alpha", "beta", "gamma"]),
        ("size", ["beta", "gamma", "alpha"]),
        ("holders", ["alpha", "beta", "gamma"]),
        ("rate", ["alpha", "beta", "gamma"]),
        ("age", ["alpha", "gamma", "beta"]),
        ("tenant", ["beta", "gamma", "alpha"]),
        ("gpu", ["alpha", "beta", "gamma"]),
    ],
)
def test_buffersAreSorted(sort: str, order: list[str]) -> None:
    assert namesShown(pictureOf(MIXED), View(sort=sort)) == order


def test_everyWordOfSortAndGroupIsKnown() -> None:
    picture = pictureOf(MIXED)
    for sort in SORTS:
        for group in GROUPS:
            for isReversed in (False, True):
                view = View(sort=sort, group=group, isReversed=isReversed)
                assert {"alpha", "beta", "gamma"} <= set(namesShown(picture, view))


def test_aGroupHasTheSumsOfItsBuffers() -> None:
    picture = pictureOf(MIXED)
    first = linesOf(picture.buffers, View(group="tenant"), picture.titleOf)[0]
    assert first == Group("t1", 2, 500, 0.0)


def test_aBufferIsInTheGroupOfEachProcessThatHoldsIt() -> None:
    assert namesShown(pictureOf(MIXED), View(group="process")) == [
        "100 work0.py",
        "beta",
        "alpha",
        "101 work1.py",
        "alpha",
        "no process",
        "gamma",
    ]


def test_theFilterLooksAtNamesTenantsAndHoldersInAnyCase() -> None:
    picture = pictureOf(MIXED)
    assert namesShown(picture, View(filter="ALPHA")) == ["alpha"]
    assert namesShown(picture, View(filter="t1")) == ["beta", "gamma"]
    assert namesShown(picture, View(filter="101 WORK1")) == ["alpha"]
    assert "BUFFERS 1 of 3" in "\n".join(shown(picture, View(filter="ALPHA")))


def test_theChoiceFollowsItsBuffer() -> None:
    picture = pictureOf(MIXED)
    chosen = frameOf(picture, View(position=1), 80, 24, True).chosen
    view = View(sort="name", position=1, chosen=chosen)
    lines = linesOf(picture.buffers, view, picture.titleOf)
    assert picture.buffers.names[lines[whereIs(view, lines, picture.buffers)]] == "gamma"  # type: ignore[index]


def test_partsCountAsTheirBundlesAndLocksAreNoBuffers() -> None:
    rows = [
        row("model", kind=layout.ROW_KIND_BUNDLE, isFast=True, gpu=0, sizeBytes=100),
        row("model part", kind=layout.ROW_KIND_PART, isFast=True, gpu=1, sizeBytes=50, head=0),
        row("\x01lock", kind=layout.ROW_KIND_LOCK, number=2),
    ]
    buffers = pictureOf(rows).buffers
    assert len(buffers) == 1
    assert buffers.one(0)[:6] == ((0, 1), "model", "bundle", "fastMode", "0,1", 150)


def test_aWindowIsNamedByItsBuffer() -> None:
    name = WindowPlace(0, 1, "uuid", 4096, 8192).name()
    flags = WindowPlace(0, 1, "uuid", 4096, 8192, isFlags=True).name()
    kind = layout.ROW_KIND_WINDOW
    rows = [row("w"), row(name, kind=kind, gpu=0), row(flags, kind=kind, gpu=0, number=2)]
    assert pictureOf(rows).buffers.names == ["w", "w[4K + 8K]"]


def test_namesAreReadOnlyForNewBuffers() -> None:
    asked = list[list[int]]()

    def read(numbers: Any) -> list[str]:
        asked.append(numbers.tolist())
        return [f"n{number}" for number in numbers.tolist()]

    names = Names(read)
    assert names.of(readingOf([row("a"), row("b")])) == ["n0", "n1"]
    assert names.of(readingOf([row("a"), row("b")])) == ["n0", "n1"]
    assert names.of(readingOf([row("a"), row("b", incarnation=2)])) == ["n0", "n1"]
    assert asked == [[0, 1], [1]]


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"holders": (0,)}, "active"),
        ({}, "idle"),
        ({"holders": (0,), "revoked": (0,)}, "revoked"),
        ({"holders": (0,), "isOver": True}, "ending"),
    ],
)
def test_theStateOfABufferIsAWord(fields: dict[str, Any], state: str) -> None:
    assert pictureOf([row("a", **fields)]).buffers.one(0).state == state


def test_tiersTellActiveIdleAndEmpty() -> None:
    rows = [
        row("a", sizeBytes=5, holders=(0,)),
        row("b", sizeBytes=7),
        row("c", sizeBytes=9, gpu=2),
    ]
    tiers = tiersOf(readingOf(rows), 1, lambda: 1000, lambda gpu, taken: 100 - taken)
    assert tiers == [
        Tier("GPU 0", 0, 0, 100),
        Tier("GPU 2", 0, 9, 91),
        Tier("host", 5, 7, 1000),
    ]


# --- processes -----------------------------------------------------------------------


def test_membersStandBelowTheirParents() -> None:
    people = [
        person(0, 50, ancestors=((40, "torchrun"), (10, "bash"))),
        person(1, 51, ancestors=((50, "python"), (40, "torchrun"), (10, "bash"))),
        person(2, 52, ancestors=((40, "torchrun"), (10, "bash"))),
        person(3, 7, isNear=False),
    ]
    assert [(line.prefix, line.pid, line.person is not None) for line in treeOf(people)] == [
        ("", 7, True),
        ("", 40, False),
        ("├─ ", 50, True),
        ("│  └─ ", 51, True),
        ("└─ ", 52, True),
    ]


def test_theBrokerIsMarkedUnlessItIsDead() -> None:
    picture = pictureOf(MIXED)
    lines = shown(picture, View(panel="processes"))
    assert next(line.split()[3] for line in lines if "─ " in line) == "broker"
    dead = picture._replace(reading=picture.reading._replace(brokerSlot=5))
    assert "broker none" in shown(dead, View())[0]


def test_aThreadThatSleepsAtAWordOfARowIsAWaiter() -> None:
    look = Waiters(rowsOffset=4096, inode=1)
    start, word = 0x7F0000000000, 4096 + 3 * layout.ROW_BYTES
    futex = str(waiters._FUTEX.get(waiters.platform.machine()))

    def at(offset: int, call: str = futex) -> Waiter | None:
        return look._waiterOf(5, start, [call, hex(start + word + offset), "0x0"])

    assert at(layout.ROW_OWNER_LOCK_OFFSET) == Waiter(3, 5, "write")
    assert at(layout.ROW_GENERATION_OFFSET) == Waiter(3, 5, "publication")
    assert at(layout.ROW_TICKET_WAKE_OFFSET) == Waiter(3, 5, "fence")
    assert at(layout.ROW_READERS_OFFSET) == Waiter(3, 5, "readers")
    assert at(layout.ROW_STATE_OFFSET) is None
    assert at(layout.ROW_OWNER_LOCK_OFFSET, "1") is None
    assert look._waiterOf(5, start, ["running"]) is None


def test_theDetailsNameTheWriterTheWaitersAndWhoWasRevoked() -> None:
    rows = [row("a", holders=(0, 1), writer=0, isAwaited=True, revoked=(1,))]
    picture = pictureOf(rows, waitersOf=lambda people: [Waiter(0, 1, "write")])
    text = "\n".join(shown(picture, View()))
    assert re.search(r"100 writes python work0.py .*< bash\(10\)", text)
    assert re.search(rf"101 waits for write revoked \({REVOCATION_REASONS[1]}\)", text)
    table = next(line for line in shown(picture, View()) if line.startswith("a "))
    assert table.split()[5:8] == ["2", "100", "1"]


# --- frames --------------------------------------------------------------------------

HOSTILE = "\x1b]0;owned\x07\x1b[2J日本語" + "x" * 90
VIEWS = [
    View(),
    View(panel="processes"),
    View(group="process"),
    View(isHelp=True),
    View(filter="no such", isTyping=True),
    View(isPaused=True, position=10**9),
]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("isUnicode", [True, False])
def test_aFrameFitsTheWindow(view: View, width: int, height: int, isUnicode: bool) -> None:
    rows = [row(f"{HOSTILE}{number}", holders=(0,), tenant=HOSTILE[:60]) for number in range(300)]
    people = {0: person(0, command=HOSTILE, program=HOSTILE), 1: person(1, isNear=False)}
    picture = pictureOf(rows, people=people, drainReason=HOSTILE)
    lines = frameOf(picture, view, width, height, isUnicode).lines
    assert len(lines) == height
    assert max(line.cell_len for line in lines) <= width
    assert all(line.plain.isprintable() for line in lines)
    if not isUnicode and width >= 80:
        assert not set("█⣿▼") & set("".join(line.plain for line in lines))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_aFrameOfAnEmptyDomainFitsTheWindow(width: int, height: int) -> None:
    for view in VIEWS:
        for lines in (
            frameOf(pictureOf([]), view, width, height, True).lines,
            nobodyFrame("tests", view, width, height).lines,
        ):
            assert len(lines) == height
            assert max(line.cell_len for line in lines) <= width


def test_tenThousandBuffersAreAPageAtATime() -> None:
    rows = [row(f"n{number:05}", sizeBytes=10**6 - number) for number in range(10_000)]
    picture = pictureOf(rows)
    first = frameOf(picture, View(), 80, 24, True)
    last = frameOf(picture, View(position=10**9), 80, 24, True)
    assert first.position == 0 and last.position == 9_999
    assert "n00000" in "\n".join(line.plain for line in first.lines)
    assert "n09999" in "\n".join(line.plain for line in last.lines)
    assert "of 10000" in "\n".join(line.plain for line in last.lines)
    view = pressed(View(), "pageDown", first.page)
    assert view is not None and frameOf(picture, view, 80, 24, True).position == first.page


def test_theMostImportantColumnsStayInANarrowWindow() -> None:
    picture = pictureOf([row("a" * 30, tenant="t" * 20, holders=(0,))])
    heads = [
        next(line for line in shown(picture, View(), width) if line.startswith("BUFFER "))
        for width in (40, 80, 200)
    ]
    assert heads[0].split()[:4] == ["BUFFER", "SIZE▼", "HELD", "PUB/s"]
    assert {"MODE", "GPU", "STATE"} <= set(heads[1].split())
    assert heads[2].split()[-4:] == ["HISTORY", "GENERATION", "AGE", "TENANT"]


def test_theKeysAreShown() -> None:
    assert shown(pictureOf(MIXED), View())[-1].split()[:4] == ["q", "quit", "h", "help"]
    text = "\n".join(shown(pictureOf(MIXED), View(isHelp=True)))
    assert all(binding.text in text for binding in BINDINGS)


def test_theEventsSayHowManyAndHowOften() -> None:
    picture = pictureOf(MIXED)
    flow = picture.rates.events["promotions"]._replace(
        times=74, perSecond=4.0, bytesPerSecond=16.7e6
    )
    events = {**picture.rates.events, "promotions": flow}
    reasons = {"revocations": {}, "errors": {"MNN-0001": 2, "MNN-0002": 1}}
    rates = picture.rates._replace(events=events, reasons=reasons)
    text = "\n".join(shown(picture._replace(rates=rates), View()))
    assert "promotions 74 at 4.0/s 16.7 MB/s" in text
    assert "(MNN-0001 2, MNN-0002 1)" in text


def test_theSeriesOfATierAreDrawnBesideIt() -> None:
    picture = pictureOf(MIXED)
    picture.history.series["tier/GPU 0"] = deque([1.0, 2.0, 4.0])
    assert re.search(r"^GPU 0 .*empty 2G +\S", shown(picture, View())[1])


def test_onceIsWholeAndHasNoWindow() -> None:
    rows = [row("n" * 100 + str(number)) for number in range(200)]
    lines = [line.plain for line in onceLines(pictureOf(rows), View(), None, True)]
    assert sum("n" * 100 in line for line in lines) == 200
    assert "HISTORY" not in "\n".join(lines)
    text = "\n".join(
        line.plain for line in onceLines(pictureOf(rows), View(panel="processes"), None, True)
    )
    assert "PROCESSES 2" in text and "python work1.py" in text and "nnn" not in text


def test_theReportHasTheSameKeysWithAndWithoutADomain() -> None:
    report = reportOf(pictureOf(MIXED), View(filter="alpha"))
    assert report.keys() == nobody("tests").keys()
    assert [buffer["name"] for buffer in report["buffers"]] == ["alpha"]
    assert report["buffers"][0]["holders"] == [100, 101]
    assert report["tiers"][1]["emptyBytes"] is None


def test_thePageExplainsEveryColumnAndKey() -> None:
    page = (Path(__file__).parents[1] / "docs" / "top.md").read_text()
    for column in (*tables.BUFFER_COLUMNS, *tables.PROCESS_COLUMNS):
        assert f"| `{column.heading}` |" in page, column.heading
    keys = {key for binding in BINDINGS for key in binding.shown.split()}
    rows = page.partition("## The keys")[2]
    assert not {key for key in keys if f"`{key}`" not in rows}
    for option in ("once", "json", "interval", "sort", "group", "filter", "processes", "user"):
        assert f"`--{option}" in page


def test_panelsAreTheOnesThatTheKeySwitches() -> None:
    view: View | None = View()
    seen = []
    for _ in PANELS:
        assert view is not None
        seen.append(view.panel)
        view = pressed(view, "t", 10)
    assert tuple(seen) == PANELS and view is not None and view.panel == PANELS[0]
