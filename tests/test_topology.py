"""The verdicts on links between GPUs: what is kept of them, what is believed, and what
the command `topology` shows.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spawning

from muninn.cli import topology
from muninn.config import loadSettings
from muninn.control.header import bootId
from muninn.devices.host.device import HostDevice
from muninn.devices.port import Link
from muninn.devices.topology import Kept, Verdict, cache, keptFor
from muninn.devices.topology.matrix import keptVerdicts, pairsOf
from support import Actor, leftovers, program

Start = Callable[..., Actor]
GOOD = Verdict(True, 395e9, 52.5e9, 16 << 20, 2, "")
BAD = Verdict(False, note="3 of 4194304 bytes differ")
UNVERIFIED = Verdict(note="there was no memory for it")


@pytest.fixture
def path(cacheFolder: str) -> str:
    return f"{cacheFolder}/muninn/topology.json"


@pytest.fixture
def kept(path: str) -> Kept:
    return Kept(path, "driver 1")


def test_keepsVerdictsForLaterProcesses(path: str, kept: Kept) -> None:
    verdicts = {("a", "b"): GOOD, ("b", "a"): BAD, ("a", "c"): UNVERIFIED}
    for (source, target), verdict in verdicts.items():
        kept.put(source, target, verdict)
    later = Kept(path, "driver 1")
    assert later.pairs() == verdicts
    assert {pair: later.get(*pair) for pair in verdicts} == verdicts
    assert later.get("c", "a") is None
    kept.put("a", "b", BAD)
    assert later.get("a", "b") == BAD


def test_aVerdictHoldsForItsDriverOnly(path: str, kept: Kept) -> None:
    other = Kept(path, "driver 2")
    kept.put("a", "b", GOOD)
    assert other.get("a", "b") is None and other.pairs() == {}
    other.put("a", "b", BAD)
    assert kept.get("a", "b") == GOOD
    kept.forget()
    assert kept.pairs() == {} and other.get("a", "b") == BAD


def test_aVerdictHoldsForItsBootOnly(
    path: str, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.put("a", "b", GOOD)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "bootId", lambda: b"\1" * 16)
        assert kept.get("a", "b") is None
        kept.put("b", "c", GOOD)
        assert kept.pairs() == {("b", "c"): GOOD}
    assert kept.pairs() == {}, "the next write has dropped them"


def test_nothingIsKeptWhereTheBootIsUnknown(
    path: str, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "bootId", lambda: bytes(16))
    kept.put("a", "b", GOOD)
    assert kept.get("a", "b") is None and not os.path.exists(path)


def test_theFileIsTheUsersAlone(path: str, kept: Kept) -> None:
    before = os.umask(0)
    try:
        kept.put("a", "b", GOOD)
    finally:
        os.umask(before)
    folder = os.path.dirname(path)
    modes = {name: os.stat(f"{folder}/{name}").st_mode & 0o777 for name in os.listdir(folder)}
    assert modes == {"topology.json": 0o600, "topology.json.lock": 0o600}
    assert [os.stat(each).st_mode & 0o777 for each in (folder, os.path.dirname(folder))] == [
        0o700,
        0o700,
    ]


def _written(path: str, raw: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_bytes(raw)
    os.chmod(path, 0o600)


_ENTRY = ["driver 1", "a", "b", True, 1.0, 2.0, 3, 4, ""]


def _file(*entries: Any, **other: Any) -> bytes:
    content = {"format": 1, "boot": bootId().hex(), "pairs": list(entries), **other}
    return json.dumps(content).encode()


def _changed(place: int, value: Any) -> bytes:
    return _file([*_ENTRY[:place], value, *_ENTRY[place + 1 :]])


def test_theFileOfThisTestIsRead(path: str, kept: Kept) -> None:
    """Else the next test would hold whatever the reader did."""
    _written(path, _file(_ENTRY))
    assert kept.pairs() == {("a", "b"): Verdict(True, 1.0, 2.0, 3, 4, "")}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"null",
        b"[]",
        _file(_ENTRY)[:-3],
        _file(_ENTRY) + b" " * (1 << 20),
        _file(_ENTRY, format=2),
        _file(_ENTRY, boot="00" * 16),
        _file(_ENTRY, boot=7),
        _file(pairs={"a": 1}),
        _file(_ENTRY, None),
        _file(_ENTRY, []),
        _file(_ENTRY, [*_ENTRY, 1]),
        _changed(0, 3),
        _changed(1, "x" * 201),
        _changed(2, None),
        _changed(3, 1),
        _changed(3, "true"),
        _changed(4, -1),
        _changed(4, True),
        _changed(4, 1 << 60),
        _changed(4, 10**400),
        _changed(5, float("nan")),
        _changed(5, float("inf")),
        _changed(6, 1.5),
        _changed(7, False),
        _changed(8, ["x"]),
    ],
)
def test_contentThatItHasNotWrittenIsAsIfThereWereNone(path: str, kept: Kept, raw: bytes) -> None:
    _written(path, raw)
    assert kept.pairs() == {} and kept.get("a", "b") is None
    kept.put("c", "d", GOOD)
    assert kept.pairs() == {("c", "d"): GOOD}


def _asLink(path: str) -> None:
    os.rename(path, f"{path}.elsewhere")
    os.symlink(f"{path}.elsewhere", path)


def _asFifo(path: str) -> None:
    os.unlink(path)
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize("spoil", [_asLink, _asFifo, lambda path: os.chmod(path, 0o620)])
def test_aFileThatIsNotTheUsersAloneIsNotRead(
    path: str, kept: Kept, spoil: Callable[[str], None]
) -> None:
    kept.put("a", "b", GOOD)
    spoil(path)
    assert kept.pairs() == {}
    kept.put("c", "d", GOOD)
    assert kept.pairs() == {("c", "d"): GOOD}
    if os.path.exists(elsewhere := f"{path}.elsewhere"):
        assert b'"a"' in Path(elsewhere).read_bytes(), "it wrote through a link"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_aFileOfAnotherUserIsNotRead(path: str, kept: Kept) -> None:
    kept.put("a", "b", GOOD)
    os.chown(path, 12345, -1)
    assert kept.pairs() == {}


@pytest.mark.parametrize("inTheWay", ["folder", "file", "full", "locked"])
def test_whatCanNotBeWrittenIsNoError(
    path: str, kept: Kept, inTheWay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.put("a", "b", GOOD)
    if inTheWay == "folder":
        os.unlink(path)
        os.mkdir(path)
    elif inTheWay == "file":
        kept = Kept(f"{path}/muninn/topology.json", "driver 1")
    elif inTheWay == "full":
        monkeypatch.setattr(cache.os, "write", _full)
    else:
        monkeypatch.setattr(cache, "_LOCK_SECONDS", 0.05)
        holder = os.open(f"{path}.lock", os.O_RDWR)
        fcntl.flock(holder, fcntl.LOCK_EX)
    kept.put("c", "d", GOOD)
    assert kept.get("c", "d") is None
    assert not os.path.exists(f"{path}.new")
    if inTheWay in ("full", "locked"):
        assert kept.get("a", "b") == GOOD
    if inTheWay == "locked":
        os.close(holder)


def _full(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_aHomeThatIsReadOnlyIsNoError(domain: str, actor: Start) -> None:
    """/proc takes no files from anybody, root included."""
    assert _place(actor, XDG_CACHE_HOME="/proc/nothing") == "/proc/nothing/muninn/topology.json"


def _place(actor: Start, **environment: str) -> str:
    """Where a process keeps its verdicts; it has put one there."""
    other = actor(program("keepsAVerdict"), **environment)
    return str(other.do("kept.path"))


def test_theFileIsInTheCacheFolderOfTheUser(
    domain: str, actor: Start, request: pytest.FixtureRequest
) -> None:
    home = str(request.getfixturevalue("tmp_path"))
    assert _place(actor, XDG_CACHE_HOME="", HOME=home) == f"{home}/.cache/muninn/topology.json"
    assert os.path.exists(f"{home}/.cache/muninn/topology.json")
    assert _place(actor, XDG_CACHE_HOME="not/absolute", HOME=home).startswith(f"{home}/.cache")
    assert _place(actor, XDG_CACHE_HOME="", HOME="") == ""
    assert _place(actor, XDG_CACHE_HOME="", HOME="not/absolute") == ""
    assert _place(actor, XDG_CACHE_HOME="", HOME="/nowhere") in (
        "",
        "/nowhere/.cache/muninn/topology.json",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes into the homes of others")
def test_rootMakesNoFilesInTheHomeOfAnotherUser(
    domain: str, actor: Start, request: pytest.FixtureRequest
) -> None:
    home = str(request.getfixturevalue("tmp_path"))
    os.chown(home, 12345, -1)
    assert _place(actor, XDG_CACHE_HOME="", HOME=home) == ""
    assert os.listdir(home) == []


def test_theSettingNamesThePlace(path: str) -> None:
    device = HostDevice(2, 1 << 20)
    assert keptFor(device, "").path == path
    assert keptFor(device, "/elsewhere/file").path == "/elsewhere/file"
    none = keptFor(device, "-")
    none.put("a", "b", GOOD)
    none.forget()
    assert none.path == "" and none.pairs() == {} and not os.path.exists(path)


def test_aVerdictThatNoReaderWouldTakeIsNotWritten(kept: Kept) -> None:
    kept.put("a", "b", GOOD)
    for wrong in (GOOD._replace(p2pBytesPerSecond=float("inf")), GOOD._replace(pieceCount=-1)):
        with pytest.raises(ValueError):
            kept.put("a", "b", wrong)
    kept.put("a", "c", UNVERIFIED._replace(note="x" * 1000))
    assert kept.get("a", "b") == GOOD
    assert kept.get("a", "c") == UNVERIFIED._replace(note="x" * 200)


def test_aFileThatIsFullLosesItsOldest() -> None:
    boot = b"\1" * 16
    entries = {cache._Pair("d", f"{number:0>90}", "t" * 90): UNVERIFIED for number in range(5000)}
    raw = cache.packed(entries, boot)
    assert cache.MAX_FILE_BYTES - 300 < len(raw) <= cache.MAX_FILE_BYTES
    left = list(cache.parsed(raw, boot))
    assert left == list(entries)[-len(left) :] and 3000 < len(left) < 5000


def test_processesThatWriteAtOnceLoseNothing(path: str, kept: Kept) -> None:
    code = program("keepsManyVerdicts")
    writers = [subprocess.Popen([sys.executable, "-c", code, path, name, "60"]) for name in "abc"]
    assert [each.wait(120) for each in writers] == [0, 0, 0]
    assert set(kept.pairs()) == {(name, str(number)) for name in "abc" for number in range(60)}


def test_threadsThatWriteAtOnceLoseNothing(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_LOCK_SECONDS", 60.0)

    def put(name: str) -> None:
        for number in range(30):
            kept.put(name, str(number), GOOD)

    threads = [threading.Thread(target=put, args=(name,)) for name in "abc"]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert len(kept.pairs()) == 90


@pytest.mark.parametrize("place", ["write", "rename"])
def test_aWriterThatIsKilledLeavesTheOldFile(
    path: str, kept: Kept, place: str, domain: str, actor: Start
) -> None:
    """It dies with half of the new file written, or with all of it, beside the old one."""
    kept.put("a", "b", GOOD)
    code = program("diesWhileItKeeps", PLACE=repr(place))
    ended = subprocess.run([sys.executable, "-c", code, path], timeout=60, check=False)
    assert ended.returncode == -9
    assert os.path.getsize(f"{path}.new") > 0
    assert kept.pairs() == {("a", "b"): GOOD}
    kept.put("c", "d", BAD)
    assert kept.pairs() == {("a", "b"): GOOD, ("c", "d"): BAD}
    assert not os.path.exists(f"{path}.new")


def test_aForkedChildDoesNotKeepTheLock(path: str, kept: Kept, monkeypatch: Any) -> None:
    """A child that was forked inside a write has the descriptor of the lock."""
    replace, children = cache._replace, list[int]()
    ready, go = os.pipe()

    def forking(*arguments: Any) -> None:
        if (child := os.fork()) == 0:
            os.read(ready, 1)
            os._exit(0)
        children.append(child)
        replace(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_replace", forking)
        kept.put("a", "b", GOOD)
    try:
        kept.put("c", "d", GOOD)
        assert set(kept.pairs()) == {("a", "b"), ("c", "d")}
    finally:
        os.write(go, b"x")
        os.waitpid(children[0], 0)
        os.close(ready)
        os.close(go)


# --- the command ---------------------------------------------------------------------


def run(*arguments: str, **environment: str) -> str:
    """What `python -m muninn` prints on three emulated GPUs."""
    done = spawning.run(
        "command",
        *arguments,
        environment={
            **os.environ,
            "MUNINN_DEVICE": "host",
            "MUNINN_HOST_GPUS": "3",
            **environment,
        },
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def _emulated() -> tuple[HostDevice, Kept]:
    device = HostDevice(3, 1 << 20)
    return device, keptFor(device, "")


def test_theCommandShowsEveryOrderedPair(domain: str) -> None:
    printed = run("topology")
    lines = [line.split() for line in printed.splitlines()]
    assert ["FROM", "0", "1", "2"] in lines and ["1", "emul", "-", "emul"] in lines
    assert [line[0] for line in lines if line and "->" in line[0]] == ["0->1-2", "1->0,2", "2->0-1"]
    assert printed.count("not measured yet") == 3 and "The first copy sends" in printed


def test_theCommandTellsProgramsEverything(domain: str, path: str) -> None:
    device, kept = _emulated()
    kept.put(device.gpuUuid(0), device.gpuUuid(2), GOOD)
    told = json.loads(run("topology", "--json"))
    assert [gpu["uuid"] for gpu in told["gpus"]] == [device.gpuUuid(gpu) for gpu in range(3)]
    assert told["gpus"][1] == {
        "index": 1,
        "name": "Muninn host GPU 1",
        "uuid": device.gpuUuid(1),
        "busId": "",
        "numaNode": None,
        "bar1TotalBytes": None,
        "bar1UsedBytes": None,
    }
    pairs = {(pair["source"], pair["target"]): pair for pair in told["pairs"]}
    assert set(pairs) == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)}
    assert pairs[0, 2].pop("verdict") == GOOD._asdict()
    assert pairs[0, 2] == {
        "source": 0,
        "target": 2,
        "canAccess": True,
        "performanceRank": None,
        "hasNativeAtomics": True,
        "path": "emulated",
    }
    assert pairs[2, 0]["verdict"] is None
    assert told["cachePath"] == path and told["backend"] == "host" and told["missingFacts"] == ""


def test_theCommandShowsWhatWasFoundOut(domain: str) -> None:
    device, kept = _emulated()
    kept.put(device.gpuUuid(0), device.gpuUuid(1), GOOD)
    kept.put(device.gpuUuid(1), device.gpuUuid(0), BAD)
    kept.put(device.gpuUuid(2), device.gpuUuid(0), UNVERIFIED)
    printed = run("topology")
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if "->" in line}
    assert rows["0->1"] == ["emulated", "yes", "-", "395", "52.5", "intact"]
    assert rows["1->0"] == ["emulated", "yes", "-", "-", "-", "corrupt"]
    assert rows["2->0"][-2:] == ["not", "verified"] and rows["0->2"][-1] == "yet"
    assert ["1", "bad", "-", "emul"] in [line.split() for line in printed.splitlines()]
    for note in (BAD.note, UNVERIFIED.note, "are in GB/s", "bad: bytes arrive damaged"):
        assert note in printed


def test_refreshFindsOutEveryPairNow(domain: str) -> None:
    """What was kept does not count, and a pair that can not be tried says why, and has
    the figure of the way by the host.
    """
    links = "0>1=corrupt, 0-2=refuse, 1-2=none"
    device = HostDevice(3, 1 << 20, links=links)
    kept = keptFor(device, "")
    uuids = [device.gpuUuid(gpu) for gpu in range(3)]
    kept.put(uuids[0], uuids[1], GOOD)
    kept.put(uuids[1], uuids[0], BAD)
    told = json.loads(run("topology", "--refresh", "--json", MUNINN_HOST_LINKS=links))
    found = {(each["source"], each["target"]): each["verdict"] for each in told["pairs"]}
    assert {ends: verdict["isIntact"] for ends, verdict in found.items()} == {
        (0, 1): False,
        (0, 2): None,
        (1, 0): True,
        (1, 2): None,
        (2, 0): None,
        (2, 1): None,
    }
    assert "refuses access" in found[0, 2]["note"] and "arrived" in found[0, 1]["note"]
    for ends, verdict in found.items():
        assert (verdict["p2pBytesPerSecond"] > 0) == (ends == (1, 0))
        assert verdict["stagedBytesPerSecond"] > 0 and verdict["pieceCount"] > 0
    assert {
        (source, target): kept.get(uuids[source], uuids[target]) for source, target in found
    } == {ends: Verdict(**verdict) for ends, verdict in found.items()}


def test_refreshGoesOnWhereThereIsNoRoom(domain: str) -> None:
    printed = run("topology", "--refresh", MUNINN_HOST_GPU_BYTES="4M", MUNINN_CACHE_PATH="-")
    assert printed.count("not verified: GPU ") == 3 and "2->0-1" in printed


def test_refreshShowsWhatItFoundWhereNothingIsKept(domain: str) -> None:
    printed = run("topology", "--refresh", MUNINN_HOST_GPUS="2", MUNINN_CACHE_PATH="-")
    assert sum("->" in line and line.endswith("intact") for line in printed.splitlines()) == 2
    assert "not measured" not in printed and "are in GB/s" in printed


def test_theCommandSaysThatNothingIsMeasured(domain: str) -> None:
    printed = " ".join(run("topology", MUNINN_ENABLE_PEER_PROBING="false").split())
    assert "topology.enablePeerProbing is false" in printed
    assert "The first copy" not in printed
    printed = " ".join(run("topology", MUNINN_CACHE_PATH="-").split())
    assert "the verdict is then kept nowhere." in printed


@pytest.mark.parametrize("options", [(), ("--refresh",)])
def test_theCommandSaysThatNothingCanBeKept(
    request: pytest.FixtureRequest, domain: str, options: tuple[str, ...]
) -> None:
    """Broken: it named a file that can not be as the place of the verdict."""
    folder: Path = request.getfixturevalue("tmp_path")
    occupied = folder / "folder" / "topology.json"
    occupied.mkdir(parents=True)
    beneath = folder / "file"
    beneath.write_bytes(b"")
    for path, why in (
        ("/proc/x/y", "No such file or directory"),
        (f"{beneath}/y", "Not a directory"),
        (str(occupied), "it is a folder"),
    ):
        printed = " ".join(run("topology", *options, MUNINN_CACHE_PATH=path).split())
        assert f"No verdict can be kept in {path}: {why}. Correct topology.cachePath." in printed
        assert ("the verdict is then kept nowhere." in printed) == (not options)
        assert "until the next boot" not in printed
    path = str(folder / "new" / "topology.json")
    printed = " ".join(run("topology", *options, MUNINN_CACHE_PATH=path).split())
    assert "No verdict" not in printed
    assert (f"then kept in {path} until the next boot" in printed) == (not options)


@pytest.mark.parametrize("count", ["0", "1"])
def test_theCommandWorksWithoutPairs(domain: str, count: str) -> None:
    printed = run("topology", MUNINN_HOST_GPUS=count)
    assert ("no GPU" in printed) == (count == "0")
    assert "->" not in printed and "measured" not in printed
    told = json.loads(run("topology", "--json", MUNINN_HOST_GPUS=count))
    assert len(told["gpus"]) == int(count) and told["pairs"] == []


def test_theCommandJoinsNoDomain(domain: str) -> None:
    run("topology")
    assert leftovers(domain) == []


def _linked(gpuCount: int, path: str, **found: Any) -> list[topology.Pair]:
    link = Link(True, 0, True, path)
    return [
        topology.Pair(source, target, link, found.get("verdict"))
        for source in range(gpuCount)
        for target in range(gpuCount)
        if source != target
    ]


def _printed(device: HostDevice, pairs: list[topology.Pair], capsys: Any) -> list[str]:
    topology._printText(loadSettings().topology, device, keptFor(device, ""), pairs)
    return str(capsys.readouterr().out).splitlines()


def test_theTablesOfTwoGpusFitOneWindow(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = _linked(2, "PCIe, other NUMA node")
    pairs[1] = pairs[1]._replace(verdict=GOOD)
    lines = _printed(HostDevice(2, 1), pairs, capsys)
    assert max(map(len, lines)) <= 80 and "SYS: PCIe, other NUMA node" in lines


def test_pairsOfManyGpusThatAreAlikeShareALine(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = _linked(8, "NVLink ×18")
    lines = _printed(HostDevice(8, 1), pairs, capsys)
    assert sum("->" in line for line in lines) == 8
    assert "3     NV18  NV18  NV18  -     NV18  NV18  NV18  NV18" in lines
    assert max(map(len, lines)) <= 80 and "NV18: NVLink ×18" in lines
    odd = next(number for number, pair in enumerate(pairs) if pair[:2] == (3, 5))
    pairs[odd] = pairs[odd]._replace(verdict=BAD)
    lines = _printed(HostDevice(8, 1), pairs, capsys)
    assert [line.split()[0] for line in lines if line.startswith("3->")] == [
        "3->0-2,4,6-7",
        "3->5",
    ]


def test_aPairWithoutAPathIsNotWaitedFor(capsys: pytest.CaptureFixture[str]) -> None:
    device = HostDevice(2, 1, links="0-1=none")
    pairs = pairsOf(device, keptVerdicts(device, keptFor(device, "")))
    lines = _printed(device, pairs, capsys)
    assert sum("->" in line and line.endswith("no path") for line in lines) == 2
    assert "no: the driver has no path" in lines and not any("measured" in each for each in lines)


def test_doctorWarnsOfALinkThatCorrupts(domain: str) -> None:
    def found(**environment: str) -> dict[str, str]:
        finding: dict[str, str] = json.loads(run("doctor", "--json", **environment))["gpu pairs"]
        return finding

    assert found() == {
        "verdict": "ok",
        "found": "6 ordered pairs of GPUs, 6 not measured yet",
        "advice": "",
    }
    assert "no pair" in found(MUNINN_HOST_GPUS="1")["found"]
    assert "enablePeerProbing" in found(MUNINN_ENABLE_PEER_PROBING="false")["found"]
    device, kept = _emulated()
    kept.put(device.gpuUuid(0), device.gpuUuid(1), GOOD)
    assert found()["verdict"] == "ok"
    kept.put(device.gpuUuid(2), device.gpuUuid(1), BAD)
    warned = found()
    assert warned["verdict"] == "warn" and "by way of the host" in warned["advice"]
    assert "4 not measured yet" in warned["found"]
    assert f"bytes arrive damaged: 2->1 ({BAD.note})" in warned["found"]
