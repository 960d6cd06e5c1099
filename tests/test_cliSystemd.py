"""`keep --systemd`, as systemd sees it: its socket, and the unit."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from inspector import run

from muninn.cli import systemd
from muninn.errors import InvalidConfig

UNIT = Path(__file__).parent.parent / "ops" / "muninn-keep@.service"


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """systemd's end: its socket, and what NOTIFY_SOCKET says of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.settimeout(60)
        name = f"@muninn-test-{os.getpid()}-{os.urandom(4).hex()}"
        address = name if request.param == "abstract" else str(tmp_path / "n")
        ours.bind(address.replace("@", "\0", 1) if request.param == "abstract" else address)
        yield ours, address


def test_tellsThatItIsReadyThatItLivesAndThatItStops(
    domain: str, manager: tuple[socket.socket, str]
) -> None:
    ours, address = manager
    environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "900000"}
    kept = subprocess.Popen(
        [sys.executable, "-m", "muninn", "keep", "--systemd"], env=os.environ | environment
    )
    try:
        assert ours.recv(999) == f"READY=1\nSTATUS=keeps domain {domain}".encode()
        joined = run("list", "--json").stdout
        assert f'"brokerPid": {kept.pid}' in joined or str(kept.pid) in joined, "it is a member"
        assert [ours.recv(999) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        kept.send_signal(signal.SIGTERM)
        last = b"WATCHDOG=1"
        while last == b"WATCHDOG=1":
            last = ours.recv(999)
        assert last == b"STOPPING=1"
        assert kept.wait(60) == 0
    finally:
        kept.kill()
        kept.wait(60)


def _signs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answers: bool) -> list[bytes]:
    """What systemd gets of a keeper whose broker answers, or does not, for some looks."""
    looks, stop = list[float](), threading.Event()

    def awaitAnswer(seconds: float) -> bool:
        looks.append(seconds)
        if len(looks) == 3:
            stop.set()
        return answers

    monkeypatch.setenv("WATCHDOG_USEC", "30000")
    client = SimpleNamespace(awaitAnswer=awaitAnswer)
    member: Any = SimpleNamespace(domain="d", client=client, isStale=lambda: False)
    address = str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind(address)
        ours.settimeout(60)
        with systemd.notifying(member, address, stop):
            assert stop.wait(60)
        got = list[bytes]()
        while not got or got[-1] != b"STOPPING=1":
            got.append(ours.recv(999))
    return got[1:]


def test_aKeeperWhoseBrokerDoesNotAnswerGivesNoSignOfLife(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    *signs, last = _signs(monkeypatch, tmp_path, True)
    assert len(signs) >= 3 and set(signs) == {b"WATCHDOG=1"} and last == b"STOPPING=1"
    (tmp_path / "n").unlink()
    assert _signs(monkeypatch, tmp_path, False) == [b"STOPPING=1"]


@pytest.mark.parametrize(
    ("variables", "period"),
    [
        ({"WATCHDOG_USEC": "2000000"}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_theWatchdogIsThatOfThisProcess(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], period: float | None
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert systemd.periodSeconds() == period


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative"])
def test_withoutSystemdItIsAnErrorAndNoMember(
    domain: str, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    done = run("keep", "--systemd", NOTIFY_SOCKET=address)
    assert done.returncode == 1
    assert done.stderr.startswith("MNN-0001") and "NOTIFY_SOCKET" in done.stderr
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with pytest.raises(InvalidConfig, match="NOTIFY_SOCKET"):
        systemd.addressOf()


def test_aManagerThatIsGoneDoesNotEndTheKeeper(tmp_path: Path) -> None:
    systemd.tell(str(tmp_path / "nobody"), "WATCHDOG=1")


def test_theUnitIsOneThatSystemdTakes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed here: apt-get install systemd")
    program = tmp_path / "muninn"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("%h/.local/bin/muninn", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if UNIT.stem in line or "muninn" in line]
    assert (done.returncode, said) == (0, []), done.stderr


def test_theUnitCallsACommandThatThereIs() -> None:
    (line,) = [each for each in UNIT.read_text().splitlines() if each.startswith("ExecStart=")]
    _, *arguments = line.removeprefix("ExecStart=").replace("%i", "default").split()
    from muninn.cli.grammar import argumentsOf

    parsed = argumentsOf(arguments)
    assert (parsed.command, parsed.systemd, parsed.domain) == ("keep", True, "default")
