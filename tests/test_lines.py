"""Lines: what `MUNINN_LOG` shows, where it goes, and that it disturbs nothing."""

from __future__ import annotations

import ast
import json
import logging
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import muninn
from muninn.config import loadSettings
from muninn.errors import InvalidConfig
from muninn.observe import events, lines, outlet
from muninn.observe.events import EVENTS
from muninn.system.logs import surroundings
from support import BOUND_SECONDS, Actor, ActorError, eventually

PACKAGE = Path(muninn.__file__).parent
Start = Callable[..., Actor]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "muninn.log"


@pytest.fixture
def sink() -> Iterator[Callable[..., outlet.Outlet]]:
    """Put an outlet into this process, for as long as the test lasts."""
    before = surroundings.sink

    def put(level: str, path: str) -> outlet.Outlet:
        surroundings.sink = made = outlet.Outlet(level, path)
        return made

    yield put
    surroundings.sink = before


def read(file: Path) -> list[dict[str, Any]]:
    # After the line of a writer that looked as if it had died there is an empty one.
    return [json.loads(line) for line in file.read_text().splitlines() if line]


def named(file: Path, *names: str) -> list[dict[str, Any]]:
    return [line for line in read(file) if line["event"] in names]


def run(code: str, bound: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import os, muninn, numpy as np\n{code}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=bound,
    )


# --- the table ---------------------------------------------------------------------------


def said() -> dict[str, list[tuple[str, set[str] | None]]]:
    """Where each event is said, and with which fields; None if they are not written out."""
    found: dict[str, list[tuple[str, set[str] | None]]] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) == "events.say"
                and isinstance(node.args[0], ast.Constant)
            ):
                given = {each.arg for each in node.keywords}
                fields = None if None in given else {str(each) for each in given}
                found.setdefault(str(node.args[0].value), []).append((f"{path}", fields))
    return found


def test_eachEventIsSaidAndHasTheFieldsOfItsText() -> None:
    places = said()
    assert places.keys() == EVENTS.keys()
    for name, calls in places.items():
        wanted = set(re.findall(r"%\((\w+)\)", EVENTS[name].text)) - {"domain", "size"}
        for where, fields in calls:
            # Fields that come from a function are looked at where the event happens.
            assert fields is None or wanted <= fields, (name, where, wanted - fields)


def test_noFieldIsAnAttributeThatARecordHasAnyway() -> None:
    """`logging` would refuse the record, and the line would be lost."""
    own = vars(logging.LogRecord("", 0, "", 0, "", (), None)).keys() | {"message", "asctime"}
    fields = {each for calls in said().values() for _, known in calls for each in known or ()}
    fields |= {"event", "domain", "traceId", "spanId", "bufferId", "tenant", "window", "offset"}
    assert fields & own == set()


def test_thePageHasEveryEvent() -> None:
    page = (PACKAGE.parent / "docs" / "logs.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| `([\w.]+)` \| (.+) \|$", page, re.MULTILINE)
    assert rows == [
        (name, logging.getLevelName(event.level).lower(), event.logger, event.meaning)
        for name, event in EVENTS.items()
    ]


# --- the setting -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("", ""),
        ("info", "info:"),
        ("DEBUG", "debug:"),
        ("error:", "error:"),
        ("/tmp/a.log", "info:/tmp/a.log"),
        ("a.log", "info:a.log"),
        ("debug:/tmp/a:b", "debug:/tmp/a:b"),
        ("/tmp/a:b", "info:/tmp/a:b"),
        ("./info", "info:./info"),
    ],
)
def test_whatTheSettingMeans(given: str, meant: str) -> None:
    assert loadSettings({"MUNINN_LOG": given}).server.log == meant


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("inof", "did you mean info"),
        ("1", "./1 is one"),
        ("debug:x", "debug:./x is one"),
        ("/\0", "no path"),
    ],
)
def test_aMisspeltLevelMakesNoFile(given: str, told: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        loadSettings({"MUNINN_LOG": given})
    assert told in raised.value.reason
    assert "variable MUNINN_LOG" in raised.value.reason


def test_aFileThatCanNotBeWrittenIsAnErrorWithAFix(domain: str) -> None:
    ended = run("muninn.listBuffers()", MUNINN_LOG="/nowhere/at/all.log")
    assert ended.returncode == 1
    assert "MNN-0001" in ended.stderr
    assert (
        "/nowhere/at/all.log, which can not be written: No such file or directory" in ended.stderr
    )
    assert "`info` for stderr" in ended.stderr


def test_aFileThatIsGoneLaterDisturbsNothing(actor: Start, tmp_path: Path) -> None:
    """Also when the process joins again, as after a change of the uid."""
    folder = tmp_path / "logs"
    folder.mkdir()
    other = actor("muninn.listBuffers()", MUNINN_LOG=f"debug:{folder}/a.log")
    (folder / "a.log").unlink()
    folder.rmdir()
    other.do("muninn.share(np.zeros(8), name='a').free()")
    other.do("from muninn.session import membership; membership.current().leave()")
    assert other.do("[each['name'] for each in muninn.listBuffers()]") == []
    folder.mkdir()
    other.do("kept = muninn.share(np.zeros(8), name='b')")
    assert [line["event"] for line in read(folder / "a.log")][:1] == ["linesLost"]


def test_theFileIsTheSameAfterAChangeOfTheFolder(actor: Start, tmp_path: Path) -> None:
    other = actor(f"os.chdir({str(tmp_path)!r}); muninn.listBuffers()", MUNINN_LOG="debug:./a.log")
    other.do("os.chdir('/'); muninn.share(np.zeros(8), name='a')")
    assert [line["bufferId"] for line in named(tmp_path / "a.log", "creation")] == ["a"]


# --- how a line looks --------------------------------------------------------------------


def record(text: str = "text", **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("muninn.x", logging.INFO, "", 0, text, (), None)
    vars(made).update(fields)
    return made


def test_aLineOfJsonHasTheFieldsThatAreKnown() -> None:
    line = json.loads(lines.asJson(record(bufferId="a", gpu=None, durationMs=1.23456, event="e")))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert line == {
        "level": "info",
        "event": "e",
        "message": "text",
        "pid": os.getpid(),
        "domain": "",
        "logger": "muninn.x",
        "bufferId": "a",
        "durationMs": 1.235,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"bufferId": "x" * 100_000},
        {"bufferId": "\U0001f5ff" * 5000},
        {"bufferId": "\udc80\0\n", "reason": "y" * 4090},
        {f"field{number}": "z" * 500 for number in range(500)},
        {"exc_info": (ValueError, ValueError("w" * 9000), None)},
    ],
    ids=["long", "wide", "odd", "many", "exception"],
)
@pytest.mark.parametrize("text", ["text", "\U0001f5ff" * 9000])
def test_aLineIsNeverLongerThanAPipeTakesWhole(fields: dict[str, Any], text: str) -> None:
    raw = lines.asJson(record(text, **fields))
    assert len(raw) <= lines.MAX_LINE_BYTES
    assert raw.count(b"\n") == 1 and raw.endswith(b"\n")
    assert json.loads(raw).keys() >= set(lines.ALWAYS)


def test_theEndOfALongTracebackStays() -> None:
    error = ValueError("v" * 9000 + "what happened")
    line = json.loads(lines.asJson(record(exc_info=(ValueError, error, None))))
    assert line["exception"].endswith("what happened")


def test_aNameDoesNotCommandTheTerminal() -> None:
    text = lines.asText(record("made \x1b[2J\n\udc80 ü")).decode()
    assert text.endswith("made \\x1b[2J\\n\\udc80 ü\n")
    assert text.count("\n") == 1


# --- what happens, in one line each --------------------------------------------------------


def test_nothingIsSaidWithoutAWish(domain: str) -> None:
    code = "a = muninn.share(np.zeros(8), name='a'); a.close(); muninn.free('a'); import sys\nif os.fork() == 0: muninn.listBuffers(); os._exit(0)\nos.wait(); muninn.share(np.zeros(8), name='b').free()"
    ended = run(code)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_aTakeoverIsOneElectionOneTakeoverAndOneDeath(actor: Start, file: Path) -> None:
    first = actor("a = muninn.share(np.zeros(8), name='a')", MUNINN_LOG=f"debug:{file}")
    second = actor("b = muninn.open('a')", MUNINN_LOG=f"debug:{file}")
    eventually(lambda: named(file, "takeover"), "the first one serves")
    file.write_text("")
    first.kill()
    second.do("muninn.share(np.zeros(8), name='b').free()")
    eventually(lambda: named(file, "memberReclaimed"), "the dead one is reclaimed")
    found = named(file, "election", "takeover", "memberReclaimed", "deposed", "handover")
    assert [line["event"] for line in found] == ["election", "takeover", "memberReclaimed"]
    election, takeover, death = found
    assert election["chosenPid"] == takeover["pid"] == second.pid
    assert f"process {first.pid} (" in election["reason"]
    assert election["reason"].endswith("has died")
    assert election["term"] == takeover["term"]
    assert takeover["buffers"] == 1
    assert (death["memberPid"], death["leases"]) == (first.pid, 1)
    assert all(line["level"] == "info" for line in found)


def test_aBrokerThatStandsStillIsNamed(actor: Start, file: Path) -> None:
    first = actor("muninn.share(np.zeros(8), name='a')", MUNINN_LOG=f"debug:{file}")
    second = actor(MUNINN_LOG=f"debug:{file}").join()
    first.stop()
    second.do("muninn.share(np.zeros(8), name='b')")
    election = named(file, "election")[-1]
    assert re.fullmatch(rf"process {first.pid} \(.+\) did not answer", election["reason"])
    first.resume()
    eventually(
        lambda: [line["pid"] for line in named(file, "deposed")] == [first.pid],
        "the first one says that its term has ended",
    )


def test_aPoliteExitIsNoWarningAndNoDeath(actor: Start, file: Path) -> None:
    first = actor("a = muninn.share(np.zeros(8), name='a')", MUNINN_LOG=f"debug:{file}")
    second = actor("b = muninn.open('a')", MUNINN_LOG=f"debug:{file}").join()
    assert first.leave() == 0
    eventually(
        lambda: [line["memberPid"] for line in named(file, "memberLeft")] == [first.pid],
        "the first one has left",
    )
    found = Counter(line["event"] for line in read(file) if line["level"] != "debug")
    assert found == {"election": 2, "takeover": 2, "handover": 1}
    assert named(file, "election")[1]["reason"] == "there was none"
    assert second.leave() == 0
    assert {line["level"] for line in read(file)} == {"info", "debug"}
    assert not named(file, "memberReclaimed")


def test_eachRevocationIsALineWithItsHolder(actor: Start, file: Path) -> None:
    keeper = actor("a = muninn.share(np.zeros(8), name='a', tenant='t')", MUNINN_LOG=f"info:{file}")
    holder = actor("b = muninn.open('a')")
    other = actor("c = muninn.open('a')")
    other.do("from muninn.api.admin import evict; evict('a')")
    found = named(file, "revocation")
    assert {line["holderPid"] for line in found} == {keeper.pid, holder.pid, other.pid}
    assert len(found) == 3
    for line in found:
        assert (line["bufferId"], line["tenant"], line["reason"]) == ("a", "t", "evicted")
        assert line["leaseId"] == f"{line['holderPid']}:a"
        assert f"process {line['holderPid']} (" in line["message"]


def test_theEvictionOfAWindowNamesItsBuffer(actor: Start, file: Path) -> None:
    other = actor(
        "a = muninn.share(np.zeros(4096), name='a', access='readOnly'); w = a.promote(targetGpu=0)",
        MUNINN_LOG=f"info:{file}",
    )
    other.do("from muninn.api.admin import evictWindows; evictWindows('a')")
    (line,) = named(file, "revocation")
    assert (line["bufferId"], line["offset"]) == ("a", 0)
    assert "on 'a', the window from 0 on: evicted" in line["message"]


def test_bytesThatMoveAreALineEach(actor: Start, file: Path) -> None:
    other = actor(
        "a = muninn.share(np.zeros(1 << 16, np.uint8), name='a', access='readWrite')",
        MUNINN_LOG=f"info:{file}",
        MUNINN_HOST_GPUS="2",
    )
    other.do("c = a.copyTo(1, name='c')")
    (line,) = named(file, "transfer")
    assert (line["bufferId"], line["route"], line["gpu"], line["bytes"]) == (
        "a",
        "upload",
        1,
        1 << 16,
    )
    assert line["durationMs"] > 0
    other.do("w = a.promote(4096, 8192, targetGpu=0); w.markDirty(); w.writeback(); w.close()")
    (promotion,), (writeback,) = named(file, "promotion"), named(file, "writeback")
    assert (promotion["bufferId"], promotion["offset"], promotion["bytes"]) == ("a", 4096, 8192)
    assert (writeback["bytes"], writeback["generation"], writeback["gpu"]) == (8192, 2, 0)
    other.do("d = muninn.publish('a', np.zeros(4))")
    assert [line["bytes"] for line in named(file, "publication")] == [32]
    assert [line["bufferId"] for line in named(file, "transfer")] == ["a", "a"]


def test_aRepeatedCopyIsALineToo(actor: Start, file: Path) -> None:
    other = actor(MUNINN_LOG=f"info:{file}", MUNINN_HOST_GPUS="2")
    other.do(
        "a = muninn.share(np.zeros(1 << 16, np.uint8), name='a', mode='fastMode', preferredGpu=0); b = a.copyTo(1, name='b')"
    )
    file.write_text("")
    other.do("for _ in range(5): b.copyFrom(a)")
    found = named(file, "transfer")
    assert [(line["bufferId"], line["bytes"]) for line in found] == [("a", 1 << 16)] * 5


def test_aPromotionThatFailsHasItsCode(actor: Start, file: Path) -> None:
    other = actor(
        "a = muninn.share(np.zeros(1 << 16, np.uint8), name='a')",
        MUNINN_LOG=f"info:{file}",
        MUNINN_PER_GPU_SCRATCH_BYTES="4096",
    )
    other.do("try: a.promote(targetGpu=0)\nexcept muninn.errors.PromotionDenied: pass")
    (line,) = named(file, "promotionFailure")
    assert (line["errorCode"], line["bufferId"], line["level"]) == ("MNN-0006", "a", "info")


def test_aLeakIsALineWithItsBytes(actor: Start, file: Path, domain: str) -> None:
    first = actor("muninn.share(np.zeros(8), name='a')")
    orphan = first.do(
        "from muninn.session.membership import current; from muninn.storage import segments\n"
        "paths = current().paths; segments.create(paths, 77, 1, 8192).close(); paths.segmentName(77, 1)"
    )
    second = actor(MUNINN_LOG=f"info:{file}").join()
    first.kill()
    second.do("muninn.share(np.zeros(8), name='b')")
    eventually(lambda: named(file, "leakReclaimed"), "the leak is found")
    (line,) = named(file, "leakReclaimed")
    assert (line["segment"], line["bytes"], line["level"]) == (orphan, 8192, "info")


def test_anErrorForTheProgramIsADebugLine(actor: Start, file: Path) -> None:
    other = actor(MUNINN_LOG=f"debug:{file}")
    other.do("try: muninn.open('none')\nexcept muninn.errors.BufferNotFound: pass")
    assert [(line["errorCode"], line["level"]) for line in named(file, "error")] == [
        ("MNN-0011", "debug")
    ]


# --- where the lines go --------------------------------------------------------------------


def test_aPipeGetsJson(domain: str) -> None:
    ended = run("muninn.share(np.zeros(8), name='a')", MUNINN_LOG="debug")
    found = [json.loads(line) for line in ended.stderr.splitlines()]
    assert {line["domain"] for line in found} == {domain}
    assert {"election", "takeover", "creation"} <= {line["event"] for line in found}


def onTerminal(code: str, **environment: str) -> str:
    """What a program writes to a terminal that is its stderr."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", f"import muninn, numpy as np\n{code}"],
        env={**os.environ, **environment},
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # EIO: the terminal's last process has closed it
        pass
    os.close(ours)
    assert process.wait(60) == 0, shown
    return shown.decode()


def test_aTerminalGetsText(domain: str) -> None:
    shown = onTerminal("muninn.share(np.zeros(8), name='a')", MUNINN_LOG="debug")
    assert re.search(
        rf"^\d\d:\d\d:\d\d\.\d{{3}} muninn\[\d+\] serving {domain} as its broker",
        shown,
        re.MULTILINE,
    )
    assert re.search(r"muninn\[\d+\] debug: made 'a': 64 B, bigMode\r$", shown, re.MULTILINE)
    assert "{" not in shown


def test_aTerminalShowsALineOnceWhateverTheProgramConfigures(domain: str) -> None:
    code = "import logging; logging.basicConfig(level='INFO', format='OWN %(message)s')\nmuninn.share(np.zeros(8), name='a')"
    shown = onTerminal(code, MUNINN_LOG="info")
    assert shown.count("as its broker in term") == 1
    assert "OWN serving" in shown
    # A program whose logging leaves the lines out gets them from the variable.
    code = code.replace("INFO", "WARNING").replace("name='a'", "name='b'")
    quiet = onTerminal(code, MUNINN_LOG="info")
    assert quiet.count("as its broker in term") == 1
    assert "OWN" not in quiet


def test_aFileLeavesTheProgramsLoggingAlone(domain: str, file: Path) -> None:
    """Broken by a handler: its level makes the program's handlers show all of it."""
    code = "import logging; logging.basicConfig(format='OWN %(message)s')\nmuninn.share(np.zeros(8), name='a')"
    ended = run(code, MUNINN_LOG=f"debug:{file}")
    assert ended.stderr == ""
    assert named(file, "creation")


def test_aWarningIsSeenWhereItWasSeenBefore(domain: str, file: Path, tmp_path: Path) -> None:
    code = "from muninn.system.logs import Log; muninn.listBuffers(); Log('muninn.x').warning('look %d', 7)"
    assert run(code).stderr == "look 7\n"
    assert run(code, MUNINN_LOG=f"info:{file}").stderr == "look 7\n"
    (line,) = (line for line in read(file) if line["level"] == "warning")
    assert (line["message"], line["event"]) == ("look 7", "message")
    shown = run(code, MUNINN_LOG="warning").stderr
    assert json.loads(shown)["message"] == "look 7"


def test_theCommandLineWritesOnlyJsonWhereAMachineReads(domain: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "muninn", "list"],
        env={**os.environ, "MUNINN_LOG": "debug", "MUNINN_LOG_LEVEL": "info"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert "takeover" in [json.loads(line)["event"] for line in ended.stderr.splitlines()]


def test_programsThatLogThemselvesGetTheFields(domain: str, actor: Start) -> None:
    other = actor(
        "import logging\nseen = []\nclass Keep(logging.Handler):\n    def emit(self, record): seen.append(record)\n"
        "logging.getLogger('muninn').addHandler(Keep()); logging.getLogger('muninn').setLevel('DEBUG')"
    )
    other.do("a = muninn.share(np.zeros(8), name='a')")
    found = other.do(
        "[(r.event, r.bufferId, r.bytes, r.domain, r.getMessage(), r.filename) for r in seen if r.event == 'creation']"
    )
    assert found == [["creation", "a", 64, domain, "made 'a': 64 B, bigMode", "creation.py"]]


def test_aProgramThatReplacesItsHandlersKeepsTheLines(actor: Start, file: Path) -> None:
    other = actor(MUNINN_LOG=f"debug:{file}").join()
    other.do(
        "import logging.config; logging.config.dictConfig({'version': 1, 'handlers': {'null': {'class': 'logging.NullHandler'}}, 'root': {'handlers': ['null'], 'level': 'ERROR'}})\n"
        "logging.disable(logging.CRITICAL); logging.shutdown()\n"
        "def refuse(*_, **__): raise RuntimeError('no')\n"
        "logging.setLogRecordFactory(refuse); logging.getLogger('muninn').addFilter(refuse)\n"
    )
    other.do("a = muninn.share(np.zeros(8), name='a')")
    assert [line["bufferId"] for line in named(file, "creation")] == ["a"]


# --- several writers, and bad ends ---------------------------------------------------------


def test_severalProcessesWriteWholeLinesIntoOneFile(actor: Start, file: Path) -> None:
    others = [actor(MUNINN_LOG=f"debug:{file}").join() for _ in range(4)]
    for number, other in enumerate(others):
        other.begin(
            "from muninn.observe import events\n"
            f"for each in range(300): events.say('drain', state={str(number)!r}, reason='r' * (each * 13 % 3000))"
        )
    for other in others:
        other.result()
    found = Counter(line["state"] for line in named(file, "drain"))
    assert found == {str(number): 300 for number in range(4)}


def test_aForkedChildWritesItsOwnLines(actor: Start, file: Path) -> None:
    other = actor("muninn.share(np.zeros(8), name='a')", MUNINN_LOG=f"debug:{file}")
    child = other.do(
        "child = os.fork()\n"
        "if child == 0:\n"
        "    muninn.share(np.zeros(8), name='ofChild')\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0); child"
    )
    made = {line["bufferId"]: line["pid"] for line in named(file, "creation")}
    assert made == {"a": other.pid, "ofChild": child}
    eventually(lambda: named(file, "memberReclaimed"), "its end by os._exit is seen")
    assert [line["memberPid"] for line in named(file, "memberReclaimed")] == [child]


def test_aProcessThatIsKilledWithinALineSpoilsNoOther(actor: Start, file: Path) -> None:
    """Only the line on which it was at work may be torn."""
    other = actor(MUNINN_LOG=f"debug:{file}").join()
    for _ in range(5):
        writer = actor(MUNINN_LOG=f"debug:{file}").join()
        before = file.stat().st_size
        writer.begin(
            "from muninn.observe import events\nwhile True: events.say('drain', state='on', reason='r' * 3000)"
        )
        eventually(lambda: file.stat().st_size > before + 20_000, "it writes")
        writer.kill()
        other.do(
            "events = __import__('muninn.observe.events').observe.events; events.say('drain', state='after', reason='kill')"
        )
    whole, torn = 0, 0
    for line in file.read_bytes().splitlines():
        try:
            whole += json.loads(line).get("state") == "after"
        except ValueError:
            torn += 1
    assert whole == 5
    assert torn <= 5


def test_aLineOfWhichOnlyTheBeginningIsThereStaysAlone(
    sink: Callable[..., outlet.Outlet], file: Path
) -> None:
    """As after a death in the middle of a write, which the kernel makes seldom."""
    sink("info", str(file))
    events.say("drain", state="on", reason="first")
    with file.open("ab") as other:
        other.write(b'{"ts": "20')
    events.say("drain", state="on", reason="second")
    events.say("drain", state="on", reason="third")
    first, torn, *rest = file.read_text().splitlines()
    assert torn == '{"ts": "20'
    assert [json.loads(each)["reason"] for each in (first, *rest)] == ["first", "second", "third"]


def test_aFullDiskLosesLinesAndSaysHowMany(actor: Start, file: Path) -> None:
    """The limit of a file's size cuts a write as a full disk does."""
    other = actor(MUNINN_LOG=f"info:{file}").join()
    eventually(lambda: named(file, "takeover"), "it serves")
    room = file.stat().st_size + 100
    other.do(
        "import resource; from muninn.observe import events\n"
        f"hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, hard))\n"
        "for _ in range(7): events.say('drain', state='on', reason='lost')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard)); events.say('drain', state='on', reason='kept')"
    )
    found = file.read_bytes().splitlines()
    assert len(found[-3]) == 100  # what there was room for
    lost, kept = map(json.loads, found[-2:])
    assert (lost["event"], lost["lines"], lost["level"]) == ("linesLost", 7, "warning")
    assert kept["reason"] == "kept"
    assert other.do("muninn.share(np.zeros(8), name='a').array.sum()") == 0


def test_aDeviceThatIsFullIsNoError(actor: Start) -> None:
    other = actor(MUNINN_LOG="debug:/dev/full").join()
    assert other.do("muninn.share(np.zeros(8), name='a').array.sum()") == 0
    assert other.do("from muninn.system.logs import surroundings; surroundings.sink._dropped") > 0


def test_aReaderThatHasStoppedHoldsNobodyUp(actor: Start, tmp_path: Path) -> None:
    """A line that waited for the reader would hold up the broker, and with it everybody."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    other = actor(MUNINN_LOG=f"debug:{path}").join()
    other.do(
        "from muninn.observe import events\n"
        "for each in range(2000): events.say('drain', state='on', reason='r' * 100)"
    )
    assert (
        other.do(
            "surroundings = __import__('muninn.system.logs').system.logs.surroundings; surroundings.sink._dropped"
        )
        > 0
    )
    raw = b""
    while piece := _readable(reader):
        raw += piece
    assert all(json.loads(line) for line in raw.splitlines())
    other.do("events.say('drain', state='on', reason='after')")
    lost, after = map(json.loads, _readable(reader).splitlines())
    assert (lost["event"], after["reason"]) == ("linesLost", "after")
    # The broker's thread says something now and then.
    others = len(raw.splitlines()) - raw.count(b'"drain"')
    assert 2000 <= raw.count(b'"drain"') + lost["lines"] <= 2000 + others + 5
    os.close(reader)


def _readable(reader: int) -> bytes:
    try:
        return os.read(reader, 1 << 20)
    except BlockingIOError:
        return b""


def test_aPipeWithoutAReaderIsNoError(actor: Start, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    other = actor(MUNINN_LOG=f"debug:{path}").join()
    assert other.do("muninn.share(np.zeros(8), name='a').array.sum()") == 0


def test_aProcessWithoutStderrWritesIntoNoOtherFile(domain: str, tmp_path: Path) -> None:
    other = tmp_path / "data"
    code = (
        "import os; os.close(2)\n"
        "import sys; sys.stderr = None\n"
        f"assert os.open({str(other)!r}, os.O_WRONLY | os.O_CREAT) == 2\n"
        "import muninn, numpy as np; muninn.share(np.zeros(8), name='a')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "MUNINN_LOG": "debug"}, timeout=60
    )
    assert ended.returncode == 0
    assert other.read_bytes() == b""


def test_noDescriptorIsKept(actor: Start, file: Path) -> None:
    """So a program may close all that it does not know, and a fork shares none."""
    other = actor(MUNINN_LOG=f"debug:{file}").join()
    eventually(lambda: named(file, "takeover"), "it has written")

    def links() -> list[str]:
        found: list[str] = other.do(
            "found = []\nfor each in os.listdir('/proc/self/fd'):\n"
            "    try: found.append(os.readlink(f'/proc/self/fd/{each}'))\n    except OSError: pass\nfound"
        )
        return found

    # The broker's thread may be writing a line just now.
    eventually(lambda: str(file) not in links(), "no descriptor is kept")


def test_aWarningAboutTheSettingsIsALineAsAnyOther(domain: str, file: Path) -> None:
    """Broken: it came before the lines had their place, as text among the JSON."""
    code = "muninn.share(np.zeros(8), name='a')"
    ended = run(code, MUNINN_LOG="info", MUNINN_BOGUS="1")
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert "'MUNINN_BOGUS' means nothing to Muninn" in [line["message"] for line in lines]
    run(code, MUNINN_LOG=str(file), MUNINN_BOGUS="1", MUNINN_HTTP_TOKEN="x")
    warnings = [line["message"] for line in read(file) if line["level"] == "warning"]
    assert warnings == ["'MUNINN_BOGUS' means nothing to Muninn"]


def test_anInterruptionWithinALineIsTheProgramsAlone(actor: Start, file: Path) -> None:
    other = actor(MUNINN_LOG=f"debug:{file}").join()
    other.do("from muninn.observe import events")
    for turn in range(10):
        reason = f"turn {turn}"
        other.begin(f"while True: events.say('drain', state='on', reason={reason!r})")
        eventually(lambda: reason in file.read_text(), "it writes")
        os.kill(other.pid, signal.SIGINT)
        with pytest.raises(ActorError, match="KeyboardInterrupt"):
            other.result()
    other.do("events.say('drain', state='on', reason='after')")
    assert read(file)[-1]["reason"] == "after"
    assert other.do("muninn.share(np.zeros(8), name='a').array.sum()") == 0


@pytest.mark.parametrize("kind", ["terminal", "socket"])
def test_aStderrThatNobodyReadsHoldsNobodyUp(domain: str, kind: str) -> None:
    """Broken: a terminal that has room for something blocks a writer who has more. With
    systemd, stderr is a socket.
    """
    isTerminal = kind == "terminal"
    ours, theirs = pty.openpty() if isTerminal else (x.detach() for x in socket.socketpair())
    code = (
        "import muninn; muninn.domainInfo(); from muninn.observe import events\n"
        "for _ in range(3000): events.say('drain', state='on', reason='r' * 300)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "MUNINN_LOG": "debug"},
        stderr=theirs,
    )
    os.close(theirs)
    try:
        assert process.wait(BOUND_SECONDS) == 0
        first = os.read(ours, 1 << 16).splitlines()[0]
        assert (b"muninn[" if isTerminal else b'{"ts"') in first
    finally:
        process.kill()
        os.close(ours)


def test_aLineTakesNoDescriptorWhereThereIsNone(
    sink: Callable[..., outlet.Outlet], file: Path
) -> None:
    sink("info", str(file))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        events.say("drain", state="on", reason="lost")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    events.say("drain", state="on", reason="kept")
    assert [line["event"] for line in read(file)] == ["linesLost", "drain"]


def test_theLevelOfTheSettingHolds(sink: Callable[..., outlet.Outlet], file: Path) -> None:
    sink("warning", str(file))
    assert not events.isOn("drain")
    events.say("drain", state="on", reason="x")
    assert not file.exists()
    sink("info", str(file))
    assert events.isOn("drain")
    assert not events.isOn("creation")
