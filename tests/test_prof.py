"""`prof`: its statistics, its files, its comparison with an older run, and that it leaves
nothing behind.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import muninn
from muninn.cli import prof as command
from muninn.cli import profreport
from muninn.errors import InvalidArgument
from muninn.prof import deathrows, gpurows, ground, hostrows, results
from muninn.prof.comparison import better, compared
from muninn.prof.ground import Ground
from muninn.prof.measuring import Outcome, measured
from muninn.prof.peer import Peer, PeerFailed
from muninn.prof.quantiles import figuresOf, quantile
from muninn.prof.results import Result
from muninn.prof.rows import GPU, ROWS
from muninn.prof.run import EMULATED, Gpus, Run, fitting
from muninn.prof.timing import repeated, sampled
from muninn.session import membership
from support import BOUND_SECONDS, Background

#: The command as a process, with domains that are the test's own.
_COMMAND = (
    "import os, sys; from muninn.prof import ground; ground._KIND = os.environ.get('MUNINN_DOMAIN');"
    "from muninn.cli.main import main; sys.exit(main(['prof', *sys.argv[1:]]))"
)


def resultOf(row: str = "open", **changed: Any) -> Result:
    made = Result(
        row, 'what, "quoted"', "", 8192, 70, 10e-6, 20e-6, "limit", 5e-6, True, "ma\u00dfine", "0.1"
    )
    return made._replace(**changed)


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    started = start(*arguments)
    stdout, stderr = started.communicate(timeout=2 * BOUND_SECONDS)
    return subprocess.CompletedProcess(arguments, started.returncode, stdout, stderr)


def left(domain: str) -> list[str]:
    """What runs have left that were named after the test's domain."""
    stem = f"muninn-{os.geteuid()}-{domain}-"
    return sorted(each for each in os.listdir("/dev/shm") if each.startswith(stem))


# --- statistics ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "part", "expected"),
    [
        ([3.0], 0.5, 3.0),
        ([3.0], 0.95, 3.0),
        ([2.0, 1.0], 0.5, 2.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([float(each) for each in range(100)], 0.95, 95.0),
        ([float(each) for each in range(20)], 0.95, 19.0),
        ([1.0, 2.0], 0.0, 1.0),
        ([1.0, 2.0], 1.0, 2.0),
    ],
)
def test_aQuantileIsOneOfTheValues(values: list[float], part: float, expected: float) -> None:
    assert quantile(values, part) == expected


def test_noValueHasNoQuantile() -> None:
    with pytest.raises(ValueError, match="no value"):
        quantile([], 0.5)
    with pytest.raises(ValueError, match="no sample"):
        figuresOf([[], []])


def test_oneRoundOfUnrestDoesNotMoveTheFigures() -> None:
    calm = [[1.0, 1.0, 2.0]] * 6
    assert figuresOf(calm) == (1.0, 2.0, 18)
    assert figuresOf([*calm, [50.0, 90.0, 100.0]]) == (1.0, 2.0, 21)
    assert figuresOf([*calm, []]) == figuresOf(calm)


def test_aRoundHasThreeSamplesHoweverLongTheyTake() -> None:
    counts = [0, 0]

    def count(which: int) -> float:
        counts[which] += 1
        return float(which)

    samples = sampled(lambda: count(0), lambda: count(1), 0.0, 4)
    assert samples == ([[0.0] * 3] * 4, [[1.0] * 3] * 4)
    assert counts == [2 + 12, 2 + 12], "two calls of each warm up"
    assert len(repeated(lambda: 1, BOUND_SECONDS)) == 2000, "quick ones end by their number"


@pytest.mark.parametrize(
    ("wanted", "free", "expected"),
    [(64, 512, 64), (64, 511, 32), (64, 64, 8), (64, 0, 1), (1, 0, 1)],
)
def test_sizesFitIntoASmallShm(wanted: int, free: int, expected: int) -> None:
    assert fitting(wanted << 20, free << 20) == expected << 20


def test_everyRowIsMeasuredAndSaysWhatToDo() -> None:
    measures = [*hostrows.MEASURES, *gpurows.MEASURES, *deathrows.MEASURES]
    assert sorted(measures) == sorted(ROWS)
    for name, row in ROWS.items():
        assert row.name == name and row.usual > 0
        assert all((row.what, row.limit, row.meaning, row.advice))


# --- the file --------------------------------------------------------------------------


def test_whatIsWrittenIsRead(tmp_path: Path) -> None:
    path = str(tmp_path / "a.csv")
    rows = [resultOf(), resultOf("p2p", device="GPU, with a comma\nand a line", isQuick=False)]
    results.write(rows, path)
    read = results.read(path)
    assert [each._replace(p50=0, p95=0, limitP50=0) for each in read] == [
        each._replace(p50=0, p95=0, limitP50=0) for each in rows
    ]
    for one, other in zip(read, rows, strict=True):
        assert one[5:7] == pytest.approx(other[5:7], rel=1e-5)
        assert one.ratio == pytest.approx(2.0, rel=1e-4)
    assert os.listdir(tmp_path) == ["a.csv"]


def test_aFileThatCanNotBeReplacedStaysAsItIs(tmp_path: Path) -> None:
    folder = tmp_path / "a.csv"
    folder.mkdir()
    with pytest.raises(OSError, match="directory"):
        results.write([resultOf()], str(folder))
    assert os.listdir(tmp_path) == ["a.csv"]


_GOOD = results.written([resultOf()])
_HEADING, _LINE = _GOOD.splitlines()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"\x00\xff\xfe", "not UTF-8"),
        (b"\x7fELF\x02\x01", "line 1"),
        (b"a" * (2 << 20), "larger than"),
        (b"row,what\nopen,x\n", "no column 'device'"),
        (_HEADING.encode(), "no row"),
        (f"{_HEADING}\nopen\n".encode(), "line 2: 1 cells instead of 13"),
        (f"{_HEADING}\n{_LINE}\n{_LINE}\n".encode(), "line 3: row 'open' is there twice"),
        (_GOOD.replace(",10,", ",ten,").encode(), "p50Us is 'ten', no number"),
        (_GOOD.replace(",10,", ",nan,").encode(), "p50Us is 'nan'"),
        (_GOOD.replace(",10,", ",inf,").encode(), "p50Us is 'inf'"),
        (_GOOD.replace(",10,", ",-1,").encode(), "p50Us is '-1'"),
        (_GOOD.replace(",10,", ",0,").encode(), "p50Us is '0'"),
        (_GOOD.replace(",5,", ",,").encode(), "limitP50Us is ''"),
        (_GOOD.replace(",8192,", ",-8,").encode(), "bytes is '-8', no whole number"),
        (_GOOD.replace(",8192,", f",{'9' * 400},").encode(), "bytes is '999"),
        (_GOOD.replace(",yes,", ",perhaps,").encode(), "quick is 'perhaps'"),
        (_GOOD.replace("\nopen,", "\n,").encode(), "line 2: the row has no name"),
        (_GOOD.replace('"limit"', '"limit').replace("limit,", '"limit,').encode(), "line"),
    ],
)
def test_aFileOfAnotherKindIsRefusedWithItsLine(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "old.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidArgument, match="old.csv") as raised:
        results.read(str(path))
    assert said in str(raised.value)


def test_columnsMayBeAddedAndMoved() -> None:
    headings, cells = _HEADING.split(","), next(iter([_LINE]))
    assert results.parsed(f"new,{_HEADING}\n7,{cells}\n", "x") == results.parsed(_GOOD, "x")
    assert headings[0] == "row"


# --- the comparison -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p50", "p95", "within", "slower"),
    [
        (10e-6, 20e-6, 10, ()),
        (10.99e-6, 21.99e-6, 10, ()),
        (11.01e-6, 20e-6, 10, ("p50",)),
        (10e-6, 22.01e-6, 10, ("p95",)),
        (30e-6, 60e-6, 10, ("p50", "p95")),
        (1e-6, 2e-6, 10, ()),
        (19e-6, 39e-6, 100, ()),
        (10.001e-6, 20e-6, 0, ("p50",)),
        (10e-6, 20e-6, 0, ()),
    ],
)
def test_aRowThatIsSlowerThanIsAllowedHasRegressed(
    p50: float, p95: float, within: float, slower: tuple[str, ...]
) -> None:
    comparison = compared([resultOf()], [resultOf(p50=p50, p95=p95)], within)
    assert [each.slower for each in comparison.changes] == [slower]
    assert [each.new.row for each in comparison.regressed] == ["open"] * bool(slower)


def test_aRowOfOneRunOnlyIsSaid() -> None:
    comparison = compared(
        [resultOf("open"), resultOf("gone")], [resultOf("open"), resultOf("new")], 10
    )
    assert (comparison.onlyOld, comparison.onlyNew) == (["gone"], ["new"])
    assert [each.new.row for each in comparison.changes] == ["open"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"device": "emulated GPU"}, "on no GPU then, on emulated GPU now"),
        ({"sizeBytes": 1}, "8192 bytes then, 1 bytes now"),
        ({"isQuick": False}, "with --quick then"),
    ],
)
def test_whatIsNotAlikeIsNotCompared(changed: dict[str, Any], said: str) -> None:
    comparison = compared([resultOf()], [resultOf(p50=1.0, **changed)], 10)
    assert (comparison.changes, comparison.unlike) == ([], [("open", said)])


def test_theSmallerFiguresOfTwoMeasurementsCount() -> None:
    other = resultOf(p50=5e-6, p95=30e-6, limitP50=4e-6, samples=30)
    assert better(resultOf(), other) == resultOf(p50=5e-6, limitP50=4e-6, samples=100)
    assert better(other, resultOf()) == better(resultOf(), other)


@pytest.mark.parametrize(
    ("again", "measurements", "regressed"),
    [([10e-6], 1, []), ([30e-6, 10e-6], 2, []), ([30e-6, 30e-6], 2, ["open"])],
)
def test_aRowIsMeasuredAgainBeforeItHasRegressed(
    monkeypatch: pytest.MonkeyPatch, again: list[float], measurements: int, regressed: list[str]
) -> None:
    """Noise makes a row slow once, and a regression each time."""
    taken = list[float]()

    def measure(_: object, row: Any) -> Outcome:
        taken.append(again[len(taken)])
        return Outcome(row, resultOf(row.name, p50=taken[-1]))

    monkeypatch.setattr(command, "measured", measure)
    outcomes = [
        Outcome(ROWS["open"], resultOf("open", p50=30e-6)),
        Outcome(ROWS["lock"], resultOf("lock")),
    ]
    old = [resultOf("open"), resultOf("lock")]
    comparison = command._comparedAll(None, old, outcomes, 10)  # type: ignore[arg-type]  # not used
    assert [each.new.row for each in comparison.regressed] == regressed
    assert len(taken) == measurements
    shown = outcomes[0].result
    assert shown is not None and shown.p50 == min(again), "the report has the smaller figures"


# --- the ground -------------------------------------------------------------------------


def test_theGroundLeavesNothingAndGivesTheDomainBack(domain: str) -> None:
    with muninn.share(b"mine", "mine"):
        epoch = muninn.domainInfo()["epoch"]
    assert os.environ["MUNINN_DOMAIN"] == domain
    with Ground({"hostGpus": "3", "device": "host"}, kind=domain) as made:
        for _ in range(2):
            name = made.fresh()
            assert name.startswith(f"{domain}-") and os.environ["MUNINN_DOMAIN"] == name
            peer = made.peer("broker")
            assert peer.line() == peer.pid, "the domain is new"
            assert muninn.createStream(2) is not None, "as many GPUs as were asked for"
            Path(made.file()).write_text("x")
            assert len(left(domain)) >= 4
    assert left(domain) == []
    assert os.environ["MUNINN_DOMAIN"] == domain and "MUNINN_HOST_GPUS" not in os.environ
    assert peer.process.returncode is not None
    assert muninn.domainInfo()["epoch"] >= epoch


def test_aNewRunRemovesWhatADeadOneHasLeft(domain: str) -> None:
    """kill -9 in the middle of it: its peers end with it, and the next run cleans."""
    code = (
        "import os; from muninn.prof.ground import Ground; import muninn\n"
        "with Ground(kind=os.environ['MUNINN_DOMAIN']) as made:\n"
        "    made.fresh(); print(made.peer('broker').line(), flush=True)\n"
        "    muninn.share(b'x', 'x'); print(True, flush=True); input()\n"
    )
    dead = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert dead.stdout is not None
    peerPid = int(dead.stdout.readline())
    assert dead.stdout.readline() == "True\n"
    assert ground.sweep(domain) == [], "it lives"
    dead.kill()
    dead.communicate(timeout=BOUND_SECONDS)
    deadline = time.monotonic() + BOUND_SECONDS
    while os.path.exists(f"/proc/{peerPid}") and time.monotonic() < deadline:
        time.sleep(0.01)  # it ends with its stdin, and holds the mark until then
    assert any(each.endswith(".mark") for each in left(domain)) and len(left(domain)) > 2
    with Ground(kind=domain):
        assert len(left(domain)) == 1, "its own mark"
    assert left(domain) == []


def test_aDomainThatWasLeftIsNotJoinedAgain(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: where /dev/shm had no room, the end of a run failed, as it joined to leave."""
    muninn.domainInfo()
    membership.current().leave()
    joined = list[str]()
    monkeypatch.setattr(membership, "_joinNow", lambda: joined.append("joined"))
    membership.leave()
    assert joined == []


def test_whoLeavesWaitsForAJoinThatWasInterrupted(
    domain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: the join went on in a directory that the end of the run had removed."""
    usual, begun, mayJoin = membership.settingsToJoin, threading.Event(), threading.Event()

    def slow() -> Any:
        begun.set()
        mayJoin.wait(60)
        return usual()

    monkeypatch.setattr(membership, "settingsToJoin", slow)
    joiner = Background(membership.current)
    assert begun.wait(60)
    leaver = Background(membership.leave).asleep()
    mayJoin.set()
    joiner.ended(), leaver.ended()
    assert not membership.isJoined()


def test_aRunWhosePeerLivesIsLeftAlone(domain: str) -> None:
    path = Path(f"/dev/shm/muninn-{os.geteuid()}-{domain}-0123abcd.mark")
    path.touch()
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert ground.sweep(domain) == [] and path.exists()
    assert ground.sweep(domain) == ["0123abcd"] and not path.exists()


@pytest.mark.parametrize("name", ["0123abc.mark", "0123abcd.mark.d", "0123ABCD.mark", "x.mark"])
def test_aFileThatIsNoMarkIsLeftAlone(domain: str, name: str) -> None:
    path = Path(f"/dev/shm/muninn-{os.geteuid()}-{domain}-{name}")
    path.touch()
    assert ground.sweep(domain) == [] and path.exists()


def test_aLinkUnderTheNameOfAMarkIsNotFollowed(domain: str, tmp_path: Path) -> None:
    path = Path(f"/dev/shm/muninn-{os.geteuid()}-{domain}-0123abcd.mark")
    path.symlink_to(tmp_path / "target")
    (tmp_path / "target").touch()
    assert ground.sweep(domain) == [] and path.is_symlink()


def test_aPeerThatFailsSaysWhy() -> None:
    peer = Peer("holdLock")
    with pytest.raises(PeerFailed, match="holdLock.*status 1.*missing 1 required"):
        peer.line()
    peer.end()
    peer.end()


def test_aPeerThatSaysNothingIsNotWaitedForWithoutEnd(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer("sleep")
    assert peer.line() is True
    monkeypatch.setattr(peer, "boundSeconds", 0.05)
    with pytest.raises(PeerFailed, match="said nothing"):
        peer.line()
    monkeypatch.undo()
    peer.end()
    assert peer.process.returncode == 0


def test_aRowThatFailsIsAnOutcome(domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Run(Gpus(EMULATED, 1, True), isQuick=True)
    assert measured(made, ROWS["p2p"]) == Outcome(ROWS["p2p"], None, "there is one GPU")
    monkeypatch.setattr(made, "ground", Ground(kind=domain))
    monkeypatch.setenv("MUNINN_BIG_MODE_MAX_BYTES", "1M")
    with made.ground:
        outcome = measured(made, ROWS["alloc"])
    assert outcome.isFailure and outcome.result is None and "MNN-" in outcome.reason
    assert left(domain) == []


# --- the command -----------------------------------------------------------------------


def test_aQuickRunMeasuresAndLeavesNothing(domain: str, tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    done = run("--quick", "--csv", str(path), "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [each["row"] for each in said["rows"]] == list(ROWS) and said["notMeasured"] == []
    for each in said["rows"]:
        assert 0 < each["p50Us"] <= each["p95Us"] and each["limitP50Us"] > 0, each
        assert each["samples"] >= 4 and each["ratio"] > 0
    emulated = [each for each in said["rows"] if each["device"]]
    assert said["isEmulated"] == all(each["verdict"] == "emulated" for each in emulated)
    assert [each.row for each in results.read(str(path))] == list(ROWS)
    assert "about" in done.stderr and "domain of its own" in done.stderr
    assert left(domain) == []
    stem = f"muninn-{os.geteuid()}-{domain}"
    assert not [each for each in os.listdir("/dev/shm") if each.startswith(stem)], "the user's own"


def test_theGateOfTheCommandHoldsBothWays(domain: str, tmp_path: Path) -> None:
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    only = ("--quick", "--only", "open-again", "--only", "open")
    assert run(*only, "--csv", str(new)).returncode == 0
    (first, second) = results.read(str(new))
    gone = resultOf("no-such-row-any-more")

    results.write([first._replace(p50=1.0, p95=1.0), gone], str(old))
    done = run("--quick", "--only", "open", "--compare", str(old))
    assert done.returncode == 0, done.stderr
    assert "no row is slower by more than 10 %" in done.stdout

    results.write([first._replace(p50=1e-9, p95=1e-9), second._replace(p50=1.0, p95=1.0)], str(old))
    done = run(*only, "--compare", str(old), "--within", "50")
    assert done.returncode == 1
    text = "slower by more than 50 %, each time it was measured: open (p50 and p95)"
    assert text in done.stdout and text in done.stderr
    asJson = json.loads(run(*only, "--compare", str(old), "--json").stdout)["comparison"]
    assert asJson["regressed"] == ["open"] and asJson["withinPercent"] == 10
    assert [each["slower"] for each in asJson["rows"]] == [["p50", "p95"], []]


def test_aLinkStaysOneAndWhatIsNoFileStaysWhatItIs(tmp_path: Path) -> None:
    """Broken: root's `--csv /dev/full` put a file in place of the device."""
    target, link, pipe = tmp_path / "target.csv", tmp_path / "link.csv", tmp_path / "pipe"
    target.touch()
    link.symlink_to(target)
    results.write([resultOf("lock")], str(link))
    assert link.is_symlink() and results.read(str(target))[0].row == "lock"
    os.mkfifo(pipe)
    reader = Background(pipe.read_text)
    results.write([resultOf("lock")], str(pipe))
    assert reader.ended() == target.read_text() and pipe.is_fifo()
    with pytest.raises(OSError, match="No space"):
        results.write([resultOf("lock")], "/dev/full")
    assert Path("/dev/full").is_char_device()


def test_aComparisonOfNothingFails(domain: str, tmp_path: Path) -> None:
    old = tmp_path / "old.csv"
    results.write([resultOf("lock")], str(old))
    done = run("--quick", "--only", "open-again", "--compare", str(old))
    assert done.returncode == 1 and "no row could be compared" in done.stderr
    assert "open-again: only in this run" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_anInterruptedRunLeavesNothing(domain: str, number: int) -> None:
    started = start("--quick", "--only", "exchange", "--only", "takeover-open")
    deadline = time.monotonic() + BOUND_SECONDS
    while len(left(domain)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    started.send_signal(number)
    stdout, stderr = started.communicate(timeout=BOUND_SECONDS)
    assert (started.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    assert left(domain) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "lokc"), "there is no row 'lokc' (did you mean 'lock'?)"),
        (("--within", "5"), "--within is for --compare"),
        (("--compare", "x", "--within", "-1"), "'-1' is no percentage"),
        (("--compare", "x", "--within", "nan"), "'nan' is no percentage"),
        (("--domain", "d"), "leave --domain out"),
        (("--csv", "/dev/shm"), "can not be written"),
        (("--csv", "/nowhere/at/all.csv"), "can not be written"),
    ],
)
def test_wrongUsageIsSaidBeforeAnythingIsMeasured(arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "") and said in done.stderr


def test_aFileIsCheckedBeforeAnythingIsMeasured(tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    done = run("--compare", str(path))
    assert done.returncode == 1 and "No such file" in done.stderr
    path.write_text("garbage\n")
    done = run("--compare", str(path), "--json")
    assert done.returncode == 1 and "domain of its own" not in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "MNN-0026"
    results.write([resultOf(isQuick=False)], str(path))
    done = run("--quick", "--compare", str(path))
    assert done.returncode == 2 and "without --quick" in done.stderr
    done = run("--compare", str(path), "--csv", str(path))
    assert done.returncode == 2 and "would replace" in done.stderr


def test_theListNamesEveryRow() -> None:
    text = run("--list").stdout
    assert all(re.search(rf"^{name} ", text, re.MULTILINE) for name in ROWS)
    assert [each["row"] for each in json.loads(run("--list", "--json").stdout)] == list(ROWS)
    assert [
        each["row"] for each in json.loads(run("--list", "--json", "--only", "p2p").stdout)
    ] == ["p2p"]


def test_theProgramIsTheCommand() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "muninn-prof"), "--list"],
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
    )
    assert done.returncode == 0 and "takeover-open" in done.stdout


# --- the report --------------------------------------------------------------------------


def reportOf(*outcomes: Outcome) -> profreport.Report:
    return profreport.Report("machine", Gpus(EMULATED, 2, True), False, list(outcomes), "")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"busy": "the cat is at work"}, "When it began, the cat is at work."),
        ({"isQuick": True}, "With --quick the sizes are small"),
        ({"smallBytes": 2 << 20}, "large buffers have 2M only"),
    ],
)
def test_theReportSaysWhatItsFiguresLack(
    changed: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = reportOf(Outcome(ROWS["open"], resultOf()))
    for each, isSaid in ((report, False), (report._replace(**changed), True)):
        profreport.printReport(each)
        assert (said in " ".join(capsys.readouterr().out.split())) == isSaid


def test_aSlowRowSaysWhatToDo(capsys: pytest.CaptureFixture[str]) -> None:
    slow, fine = (resultOf("open", p50=each * 5e-6) for each in (100, 2))
    for result, isSlow in ((slow, True), (fine, False)):
        profreport.printReport(reportOf(Outcome(ROWS["open"], result)))
        text = " ".join(capsys.readouterr().out.split())
        assert (ROWS["open"].advice in text) == isSlow
        assert ("1 of 1 rows take more" in text) == isSlow
        assert ("No row takes more" in text) != isSlow
        assert ROWS["open"].meaning in text and "up to 16 × is usual" in text


def test_everyLineOfAnEmulatedGpuSaysSo(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row for row in ROWS.values() if row.group == GPU]
    profreport.printReport(
        reportOf(*(Outcome(row, resultOf(row.name, device=EMULATED, p50=9.0)) for row in rows))
    )
    text = capsys.readouterr().out
    for row in rows:
        line = next(line for line in text.splitlines() if line.startswith(row.name))
        assert line.endswith("emulated")
    assert "what to do" not in text, "its ratio says nothing about a GPU"


@pytest.mark.parametrize("percent", [7, 107])
def test_aComparisonFitsIntoEightyColumns(
    capsys: pytest.CaptureFixture[str], percent: float
) -> None:
    old = [resultOf(name, p50=0.412e-3, p95=987.6e-3) for name in ROWS]
    new = [each._replace(p50=each.p50 * (1 + percent / 100), p95=each.p95 / 2) for each in old]
    profreport.printComparison(compared(old, new, 10), "old.csv", 10, "the cat is at work")
    text = capsys.readouterr().out
    table = text[text.index("ROW") :].splitlines()[: len(ROWS) + 1]
    assert table[-1].startswith(list(ROWS)[-1]) and max(map(len, table)) <= 80
    assert ("the cat is at work: measure again" in text) == (percent > 10)
    assert all(line.endswith("slow") == (percent > 10) for line in table[1:])


def test_throughputIsOfBytesThatMove() -> None:
    large = resultOf("open-vram", sizeBytes=1 << 30, p50=1e-3)
    assert profreport._speedText(Outcome(ROWS["open-vram"], large), 1e-3) == "-"
    moved = Outcome(ROWS["snapshot"], large)
    assert profreport._speedText(moved, 1.0) == "1.07 GB/s"
    assert profreport._speedText(moved._replace(result=resultOf(sizeBytes=64)), 1.0) == "-"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1.5e-7, "0.15 µs"),
        (9.994e-4, "999 µs"),
        (9.996e-4, "1 ms"),
        (0.0123, "12.3 ms"),
        (2.5, "2.5 s"),
    ],
)
def test_timesHaveThreeDigits(seconds: float, text: str) -> None:
    assert profreport.duration(seconds) == text


def test_aRowThatWasNotMeasuredSaysWhy(capsys: pytest.CaptureFixture[str]) -> None:
    profreport.printReport(reportOf(Outcome(ROWS["p2p"], None, "there is one GPU")))
    assert "not measured: there is one GPU" in capsys.readouterr().out


def test_thePageHasEveryRowAsItIs() -> None:
    page = (Path(__file__).parent.parent / "docs" / "prof.md").read_text()
    for name, row in ROWS.items():
        line = f"| `{name}` | {row.what.format(size=profreport._sizeText(row))} | {row.limit} | {row.usual:g} × | {row.meaning} |"
        assert line in page, line
