"""`python -m muninn`, as people and programs use it: what it prints, where, and with which exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import muninn
from support import Actor, eventually, leftovers

Start = Callable[..., Actor]
COMMANDS = ("list", "alloc", "open", "close", "free", "describe", "evict", "drain", "keep", "load", "doctor", "promote", "top", "prof")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "muninn", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


def answer(*arguments: str) -> dict[str, object]:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    value: dict[str, object] = json.loads(done.stdout)
    return value


def test_listsWithTheColumnsOfTheManual(domain: str, actor: Start) -> None:
    holder = actor("held = muninn.share(np.zeros(1 << 20, np.uint8), name='weights', tenant='org/a')")
    muninn.share(b"x", name="small").close()
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == ["BUFFER", "MODE", "SIZE", "TENANT", "GPU", "IMPORTERS", "LEASE", "AGE"]
    assert lines[1].split()[:7] == ["small", "bigMode", "1", "default", "-", "0", "-"]
    assert lines[2].split()[:7] == ["weights", "bigMode", "1M", "org/a", "-", "1", "ok"]
    bare = run().stdout
    assert f"held by {holder.pid} actor.py" in bare
    assert "broker" in bare.splitlines()[-1]
    assert len(run("list", "--tenant", "org/a").stdout.splitlines()) == 2
    assert len(run("list", "--mode", "fastMode").stdout.splitlines()) == 2


def test_jsonOfListIsTheDomainAndItsBuffers(domain: str) -> None:
    muninn.share(b"x", name="one").close()
    for order in (("list", "--json"), ("--json", "list"), ("--json",)):
        listed = json.loads(run(*order).stdout)
        assert listed["domain"] == domain
        assert [buffer["name"] for buffer in listed["buffers"]] == ["one"]


def test_allocatesDescribesAndFrees(domain: str) -> None:
    muninn.domainInfo()
    assert answer("alloc", "--size", "3M", "--name", "zeros")["size"] == 3 << 20
    described = answer("describe", "zeros")
    assert (described["access"], described["lifetime"], described["importers"]) == ("readWrite", "keep", [])
    assert not muninn.open("zeros").array.any()
    assert answer("free", "zeros") == {"freed": "zeros"}
    assert leftovers(domain) == []


def test_opensAndHoldsUntilItIsTold(domain: str) -> None:
    muninn.share(b"x", name="one").close()
    opened = subprocess.Popen([sys.executable, "-m", "muninn", "open", "one"], stdout=subprocess.PIPE, text=True)
    assert opened.stdout is not None
    assert "held until Ctrl-C" in opened.stdout.readline()
    assert len(muninn.listBuffers()[0]["importers"]) == 1
    opened.send_signal(signal.SIGINT)
    assert opened.wait(30) == 0
    opened.stdout.close()
    eventually(lambda: not muninn.listBuffers()[0]["importers"], "its lease is given back")


def test_closeRevokesAnotherProcessesLease(domain: str, actor: Start) -> None:
    holder = actor("held = muninn.share(b'x', name='one')")
    assert answer("close", "one", "--pid", str(holder.pid)) == {"revoked": 1}
    assert holder.do("try:\n    held.read()\nexcept muninn.errors.LeaseRevoked as error:\n    said = error.code\nsaid") == "MNN-0014"
    assert run("close", "one", "--pid", str(holder.pid)).returncode == 1
    assert answer("evict", "--name", "one") == {"revoked": 0}


def test_drainStopsCreation(domain: str) -> None:
    muninn.domainInfo()
    assert answer("drain")["draining"] is True
    done = run("alloc", "--size", "1K", "--name", "no")
    assert done.returncode == 1
    assert done.stderr.startswith("MNN-0024 DomainDraining: ")
    assert answer("drain", "--off")["draining"] is False
    assert run("alloc", "--size", "1K", "--name", "yes").returncode == 0


@pytest.mark.parametrize(("suffix", "kind"), [(".npy", "array"), (".npz", "bundle")])
def test_loadsFiles(domain: str, tmp_path: Path, suffix: str, kind: str) -> None:
    muninn.domainInfo()
    array = np.arange(1000.0)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", inside=array)
    assert answer("load", str(tmp_path / f"x{suffix}"), "--name", "loaded")["kind"] == kind
    there = muninn.open("loaded").array if kind == "array" else muninn.openBundle("loaded")["inside"]
    assert np.array_equal(there, array)
    assert not there.flags.writeable


def test_keepIsPreferredAsBrokerAndEndsPolitely(domain: str, actor: Start) -> None:
    actor().join()
    kept = subprocess.Popen([sys.executable, "-m", "muninn", "keep"], stdout=subprocess.PIPE, text=True)
    assert kept.stdout is not None
    assert str(kept.pid) in kept.stdout.readline()
    eventually(lambda: muninn.domainInfo()["brokerPid"] == kept.pid, "the member that stays takes over")
    kept.terminate()
    assert kept.wait(30) == 0
    kept.stdout.close()
    muninn.share(b"x", name="after").free()
    assert muninn.domainInfo()["brokerPid"] not in (None, kept.pid)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("free", "nothing"), "MNN-0011"),
        (("describe", "nothing"), "MNN-0011"),
        (("open", "nothing"), "MNN-0011"),
        (("alloc", "--size", "0", "--name", "x"), "MNN-0026"),
        (("alloc", "--size", "1", "--name", "x", "--mode", "slow"), "MNN-0002"),
        (("alloc", "--size", "1", "--name", "x" * 200), "MNN-0026"),
        (("load", "/nowhere.npy", "--name", "x"), "MNN-0023"),
        (("list", "--domain", "no/slash"), "MNN-0001"),
        (("list", "--mode", "slow"), "MNN-0002"),
    ],
)
def test_errorsGoToStderrWithTheirCode(domain: str, arguments: tuple[str, ...], code: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(code)
    assert "Fix: " in done.stderr
    asJson = run(*arguments, "--json")
    assert asJson.returncode == 1
    assert json.loads(asJson.stdout)["error"]["code"] == code


@pytest.mark.parametrize("command", COMMANDS)
def test_everyCommandExplainsItself(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert "example: python -m muninn" in done.stdout


@pytest.mark.parametrize("arguments", [("bogus",), ("alloc",), ("promote",), ("top",), ("prof",)])
def test_wrongUsageIsStatusTwo(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).returncode == 2


@pytest.mark.parametrize("script", ["muninctl", "muninn-top", "muninn-prof"])
def test_consoleScriptsExist(script: str) -> None:
    done = subprocess.run([str(Path(sys.executable).parent / script), "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 2)
    assert done.stdout + done.stderr


def test_doctorFindsThisMachineFit(domain: str) -> None:
    findings = answer("doctor")
    wanted = {"/dev/shm", "memlock", "pid namespace", "fd passing", "huge pages", "numa", "futex", "pidfd", "cuda", "domain"}
    assert wanted <= findings.keys()
    lines = run("doctor").stdout.splitlines()
    assert len(lines) == len(findings)
    assert all(line.split()[0] in ("ok", "warn") for line in lines)


def test_doctorRepairsADamagedControlBlock(domain: str) -> None:
    assert run("alloc", "--size", "1K", "--name", "kept").returncode == 0
    block = Path(f"/dev/shm/muninn-{os.getuid()}-{domain}")
    with block.open("r+b") as file:
        file.write(b"garbage!")
    assert run("list").stderr.startswith("MNN-0019")
    assert answer("doctor", "--repair")["recovered"] == ["kept"]
    assert "kept" in run("list").stdout


def test_aReaderThatLeavesIsNoError(domain: str) -> None:
    done = subprocess.run(f"{sys.executable} -m muninn list --json | true", shell=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
