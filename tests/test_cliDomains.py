"""`domains`: what it says of domains of every kind, and that it leaves them as they are."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inspector import run, runAs

import muninn
from muninn.control import layout
from muninn.service import domains
from muninn.session.membership import current
from muninn.storage.paths import Paths
from support import Actor, removeDomain

Start = Callable[..., Actor]
STRANGER = 23456
needsRoot = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")


def seen(domain: str, *options: str) -> dict[str, Any]:
    """The domain, as the command tells it to programs."""
    done = run("domains", "--domain", domain, "--json", *options)
    assert done.returncode == 0, done.stderr
    (described,) = json.loads(done.stdout)["domains"]
    return dict(described)


def filesOf(domain: str) -> dict[str, tuple[int, bytes]]:
    """Everything of the domain in `/dev/shm`: when each file was changed, and its bytes."""
    paths = Paths(os.getuid(), domain)
    names = [
        paths.blockPath,
        *(f"{paths.directory}/{each}" for each in os.listdir(paths.directory)),
    ]
    return {
        name: (
            os.lstat(name).st_mtime_ns,
            b"" if name.endswith(".sock") else Path(name).read_bytes(),
        )
        for name in names
        if os.path.lexists(name)
    }


def test_saysWhoIsInADomainAndWhatItTakes(domain: str, actor: Start) -> None:
    holder = actor(
        "host = muninn.share(np.zeros(3 << 20, np.uint8), name='h')\n"
        "fast = muninn.share(np.zeros(2 << 20, np.uint8), name='f', mode='fastMode')"
    )
    told = seen(domain)
    assert (told["uid"], told["state"], told["buffers"]) == (os.getuid(), "live", 2)
    assert told["shmBytes"] >= 3 << 20 and told["vramBytes"] == 2 << 20
    assert told["processes"] == [{"pid": holder.pid, "program": "zygote.py"}]
    assert told["brokerPid"] == holder.pid
    lines = run("domains", "--domain", domain, "--processes").stdout.splitlines()
    assert lines[0].split() == [
        "DOMAIN",
        "UID",
        "STATE",
        "BUFFERS",
        "SHM",
        "VRAM",
        "PROCESSES",
        "BROKER",
    ]
    assert lines[1].split()[:4] == [domain, str(os.getuid()), "live", "2"]
    assert lines[1].split()[5:] == ["2M", "1", str(holder.pid), "zygote.py"]
    assert lines[2] == f"  process {holder.pid} zygote.py"
    assert lines[3].startswith("1 domain, 1 process, ") and lines[3].endswith(", 2M of VRAM")


def test_joinsNoDomainAndChangesNone(domain: str, actor: Start) -> None:
    holder = actor("muninn.share(b'x', name='one')")
    before = holder.do("muninn.domainInfo()['epoch'], len(muninn.domainInfo()['members'])")
    slots = holder.do("muninn.session.membership.current().members.occupied()")
    for _ in range(3):
        seen(domain)
    assert holder.do("muninn.session.membership.current().members.occupied()") == slots
    assert holder.do("muninn.domainInfo()['epoch'], len(muninn.domainInfo()['members'])") == before
    holder.kill()
    files = filesOf(domain)
    assert seen(domain)["state"] == "idle"
    assert run("completion", "names").stdout == "one\n"
    assert filesOf(domain) == files


def test_aDomainWithoutAProcessIsListedToo(domain: str, actor: Start) -> None:
    actor(
        "muninn.share(b'x' * 5000, name='one'); muninn.share(b'x', name='f', mode='fastMode')"
    ).kill()
    told = seen(domain)
    assert (told["state"], told["buffers"], told["vramBytes"]) == ("idle", 1, 0)
    assert (told["processes"], told["brokerPid"]) == ([], None)
    muninn.free("one")
    current().leave()
    assert seen(domain)["state"] == "empty"
    assert "(no domain); 1 empty not listed" in run("domains", "--domain", domain).stdout
    assert run("domains", "--domain", domain, "--all").stdout.splitlines()[1].split()[2] == "empty"


def test_aKilledProcessIsNotNamed(domain: str, actor: Start) -> None:
    """Nobody has taken its slot back yet: the broker is stopped."""
    broker, other = actor("muninn.share(b'x', name='one')"), actor("b = muninn.open('one')")
    assert len(seen(domain)["processes"]) == 2
    broker.stop()
    other.kill()
    assert [each["pid"] for each in seen(domain)["processes"]] == [broker.pid]
    broker.kill()
    told = seen(domain)
    assert (told["processes"], told["brokerPid"], told["state"]) == ([], None, "idle")


def test_aProcessThatHasLostItsByteStillCounts(domain: str, actor: Start) -> None:
    """A program that reads the lock file gives its locks away, without knowing it."""
    holder = actor("muninn.share(b'x', name='one')")
    holder.do(f"open({Paths(os.getuid(), domain).lockPath!r}).close()")
    assert [each["pid"] for each in seen(domain)["processes"]] == [holder.pid]


def test_aDomainWithoutItsLockFileIsListedWithItsProcesses(domain: str, actor: Start) -> None:
    """A missing lock file tells nothing of a death, and hides no other domain."""
    holder = actor("muninn.share(b'x', name='one')")
    os.unlink(Paths(os.getuid(), domain).lockPath)
    told = seen(domain)
    assert (told["state"], told["why"]) == ("live", "its lock file was removed")
    assert [each["pid"] for each in told["processes"]] == [holder.pid]
    holder.kill()
    told = seen(domain)
    assert (told["state"], told["processes"]) == ("idle", [])


def test_aProcessInADomainDoesNotLookFromOutside(domain: str) -> None:
    muninn.domainInfo()
    with pytest.raises(RuntimeError, match="does not look from outside"):
        domains.everyDomain()


@pytest.fixture
def left(domain: str, actor: Start) -> Paths:
    """A domain whose process was killed."""
    actor("muninn.share(b'x' * 5000, name='one')").kill()
    return Paths(os.getuid(), domain)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.write_bytes(b"garbage!" * 1024), "does not begin with Muninn's magic"),
        (lambda path: path.write_bytes(path.read_bytes()[:9000]), "has 9000 bytes and states"),
        (
            lambda path: patched(path, layout.VERSION_OFFSET, (77).to_bytes(4, "little")),
            "has layout version 77",
        ),
        (
            lambda path: patched(path, layout.MAX_MEMBERS_OFFSET, b"\xff" * 4),
            "are impossible",
        ),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is no file of uid"),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "symbolic link"),
        (lambda path: (path.unlink(), path.mkdir()), "is no file of uid"),
    ],
)
def test_whatCanNotBeReadIsSaid(left: Paths, damage: Callable[[Path], object], why: str) -> None:
    damage(Path(left.linkPath))
    told = seen(left.domain)
    assert told["state"] == "unreadable"
    assert why in told["why"]
    shown = run("domains", "--domain", left.domain)
    assert shown.returncode == 0 and why in shown.stdout


def patched(path: Path, offset: int, raw: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(raw)


def test_anotherVersionsProcessesAreCounted(domain: str, actor: Start) -> None:
    holder = actor("muninn.share(b'x', name='one')")
    path = Path(Paths(os.getuid(), domain).linkPath)
    patched(path, layout.VERSION_OFFSET, (77).to_bytes(4, "little"))
    told = seen(domain)
    patched(path, layout.VERSION_OFFSET, layout.VERSION.to_bytes(4, "little"))
    assert told["state"] == "unreadable"
    assert [each["pid"] for each in told["processes"]] == [holder.pid]


def test_noBytesOfABlockDoAnyHarm(left: Paths) -> None:
    """Random bytes at random places, a header with all sizes at their limits, and files
    that end anywhere.
    """
    path, chance = Path(left.linkPath), random.Random(16)
    whole = path.read_bytes()
    states = set[str]()
    for _ in range(300):
        raw = bytearray(whole)
        for _ in range(chance.randrange(1, 40)):
            end = chance.choice((layout.MEMBERS_OFFSET, layout.MEMBERS_OFFSET + 4096, len(raw)))
            at = chance.randrange(layout.VERSION_OFFSET + 4, end)
            raw[at : at + 8] = chance.choice((b"\xff" * 8, chance.randbytes(8), bytes(8)))
        size = len(raw) if chance.random() < 0.8 else chance.randrange(len(raw))
        path.write_bytes(raw[:size])
        states.add(domains._seen(left.uid, left.domain).state)
        domains.namesIn(left.domain)
    assert {"idle", "unreadable"} <= states


def test_aNameThatATerminalWouldObeyIsShownWithoutHarm(domain: str, actor: Start) -> None:
    actor("import sys\nsys.argv[0] = 'evil\\x1b[2J'\nheld = muninn.share(b'x', name='one')")
    shown = run("domains", "--domain", domain, "--processes").stdout
    assert "\x1b" not in shown and "evil\N{REPLACEMENT CHARACTER}[2J" in shown


@pytest.mark.parametrize(
    "name", ["muninn-0-a.b.d", "muninn-x-a.d", "muninn-0-.d", "muninn-0-a.d.zz"]
)
def test_whatIsNamedOtherwiseIsNoDomain(name: str) -> None:
    assert domains._NAMED.fullmatch(name) is None


@needsRoot
def test_rootSeesTheDomainsOfAllUsersAndOthersTheirOwn(domain: str) -> None:
    muninn.share(b"x", name="mine").close()
    current().leave()
    made = runAs(STRANGER, "alloc", "--size", "1K", "--name", "theirs")
    try:
        assert made.returncode == 0, made.stderr
        told = json.loads(run("domains", "--domain", domain, "--json").stdout)["domains"]
        assert [(each["uid"], each["state"], each["buffers"]) for each in told] == [
            (0, "idle", 1),
            (STRANGER, "idle", 1),
        ]
        shown = runAs(STRANGER, "domains", "--domain", domain)
        assert [line.split()[:4] for line in shown.stdout.splitlines()[1:-1]] == [
            [domain, str(STRANGER), "idle", "1"]
        ]
        assert "; 1 of other users not listed: root sees them" in shown.stdout
        hidden = runAs(STRANGER, "domains", "--domain", domain, "--all").stdout
        assert f"{domain}  0      hidden  -        -" in hidden
    finally:
        removeDomain(domain, STRANGER)


@needsRoot
def test_aStrangersDirectoryUnderANameOfOursIsNotListed(domain: str) -> None:
    path = f"/dev/shm/muninn-0-{domain}.d"
    os.mkdir(path)
    os.chown(path, STRANGER, STRANGER)
    try:
        assert json.loads(run("domains", "--domain", domain, "--json").stdout)["domains"] == []
    finally:
        shutil.rmtree(path)
