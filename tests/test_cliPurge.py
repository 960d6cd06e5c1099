"""`purge`: what it removes, what it keeps until it is told otherwise, and what it leaves to
the next process when it dies in the middle.
"""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from inspector import run, runAs

import muninn
from muninn.api import admin
from muninn.broker import purging
from muninn.session.membership import current
from muninn.storage.paths import Paths
from support import Actor, eventually, leftovers, program, removeDomain

Start = Callable[..., Actor]
STRANGER = 23457
needsRoot = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")
KEPT = "muninn.share(np.arange(1000), name='kept')"


def purge(domain: str, *options: str) -> dict[str, Any]:
    """What the command tells programs of this domain."""
    done = run("purge", domain, "--json", *options)
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)["domains"]
    return dict(told)


def entries(domain: str) -> list[str]:
    """The files of the domain, as kinds."""
    paths = Paths(os.getuid(), domain)
    names = [each.partition("-")[0] for each in sorted(os.listdir(paths.directory))]
    return names + ["name"] * os.path.lexists(paths.blockPath)


@pytest.fixture
def left(domain: str, actor: Start) -> str:
    """A domain whose only process was killed, and had a buffer that stays."""
    actor(KEPT).kill()
    return domain


@pytest.fixture
def bare(domain: str, actor: Start) -> str:
    """A domain whose only process was killed, and had nothing that stays."""
    actor("muninn.share(b'x', name='f', mode='fastMode')").kill()
    return domain


def test_removesAllOfADomainThatNobodyNeeds(bare: str) -> None:
    assert {"block", "broker", "journal", "name"} <= set(entries(bare))
    shown = run("purge", bare, "--dry-run").stdout
    assert shown.startswith(f"domain '{bare}': would remove ") and shown.count("\n") == 1
    assert {"block", "broker", "journal", "name"} <= set(entries(bare)), "nothing was removed"
    assert run("purge", bare).stdout.startswith(f"domain '{bare}': removed ")
    assert entries(bare) == ["lock"]
    assert run("purge", bare).stdout == f"domain '{bare}': nothing to remove\n"
    muninn.share(b"x", name="again").free()


def test_keepsWhatTheNextProcessWouldAdopt(left: str) -> None:
    told = purge(left)
    assert list(told["keptBuffers"]) == ["kept"] and told["keptBuffers"]["kept"] >= 8000
    assert all(each.endswith(".sock") for each in told["removed"]) and told["removed"]
    assert {"block", "journal", "segment", "name"} <= set(entries(left))
    assert muninn.open("kept").array.tolist() == list(range(1000))


def test_removesThatTooIfItIsTold(left: str) -> None:
    before = purge(left, "--yes", "--dry-run")
    assert before["keptBuffers"] == {}
    assert "segment" in entries(left), "a dry run removes nothing"
    told = purge(left, "--yes")
    assert told == {**before, "livingPid": None}
    assert told["bytes"] >= 8000 and entries(left) == ["lock"]
    assert muninn.listBuffers() == []


def test_saysWhatWouldBeLost(left: str) -> None:
    said = run("purge", left).stdout
    assert (
        "kept 1 buffer of " in said and "for the next process (kept): --yes removes it too" in said
    )


@pytest.mark.parametrize(
    ("answer", "isGone"), [("n", False), ("", False), ("y", True), ("yes", True)]
)
def test_asksOnATerminal(left: str, answer: str, isGone: bool) -> None:
    ours, theirs = pty.openpty()
    asked = subprocess.Popen(
        [sys.executable, "-m", "muninn", "purge", left], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(ours, 4096)
    assert "segment" in entries(left), "it waits for the answer"
    os.write(ours, f"{answer}\n".encode())
    assert asked.wait(60) == 0
    os.close(ours)
    assert b"1 buffer of " in shown and b"B  kept\r\n" in shown.replace(b"K  kept", b"B  kept")
    assert ("segment" in entries(left)) != isGone


@pytest.mark.parametrize("options", [(), ("--yes",), ("--dry-run",)])
def test_leavesADomainAloneThatHasALivingProcess(
    domain: str, actor: Start, options: tuple[str, ...]
) -> None:
    """Also one that has lost the byte of its slot: a free byte alone proves no death."""
    holder = actor(KEPT)
    files = entries(domain)
    for _ in range(2):
        assert purge(domain, *options)["livingPid"] == holder.pid
        assert entries(domain) == files
        holder.do(f"open({Paths(os.getuid(), domain).lockPath!r}).close()")
    assert holder.do("int(muninn.open('kept').array.sum())") == 499500
    said = run("purge", domain, *options).stdout
    assert said == f"domain '{domain}': process {holder.pid} is in it: nothing to remove\n"


def test_leavesAStoppedProcessAlone(domain: str, actor: Start) -> None:
    holder = actor(KEPT)
    holder.stop()
    assert purge(domain, "--yes")["livingPid"] == holder.pid


def test_removesASegmentThatNothingKnows(left: str) -> None:
    paths = Paths(os.getuid(), left)
    stray = Path(f"/dev/shm{paths.segmentName(77, 3, 0x1234)}")
    stray.write_bytes(b"x" * 5000)
    Path(paths.temporaryPath).write_bytes(b"unfinished")
    told = purge(left)
    assert {str(stray), paths.temporaryPath} <= set(told["removed"])
    assert len(leftovers(left)) == 1
    assert muninn.open("kept").array.sum() == 499500


def socketsOf(paths: Paths) -> list[str]:
    """Sockets as processes leave them that were killed while they served."""
    paths = paths._replace(identity=0x77)
    left = [
        paths.httpPath(),
        paths.endpointPath(9464),
        paths.socketPath(3),
        paths.descriptorServerPath(3),
    ]
    for path in left:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
    return left


def test_removesTheSocketsOfAllThatServed(left: str) -> None:
    sockets = socketsOf(Paths(os.getuid(), left))
    assert set(sockets) <= set(purge(left)["removed"])
    purge(left, "--yes")
    assert entries(left) == ["lock"]
    shown = run("domains", "--domain", left, "--json").stdout
    assert json.loads(shown)["domains"][0]["state"] == "empty"


def test_aNewBlockRemovesTheSocketsOfOlderOnes(left: str) -> None:
    paths = Paths(os.getuid(), left)
    sockets = socketsOf(paths)
    os.unlink(paths.linkPath)
    os.unlink(paths.blockPath)
    assert muninn.open("kept").array.sum() == 499500
    assert not [each for each in sockets if os.path.lexists(each)]


def test_leavesFilesThatMuninnHasNotMade(bare: str) -> None:
    folder = Paths(os.getuid(), bare).directory
    notes = [Path(folder, each) for each in ("notes.txt", "segment-notes", "my-http.sock")]
    for note in notes:
        note.write_text("mine")
    purge(bare, "--yes")
    assert [note.read_text() for note in notes] == ["mine"] * 3


def test_keepsWhatAJournalVouchesForWhereTheBlockIsGone(left: str) -> None:
    paths = Paths(os.getuid(), left)
    os.unlink(paths.blockPath)
    os.unlink(paths.linkPath)
    assert list(purge(left)["keptBuffers"]) == ["kept"]
    assert muninn.open("kept").array.sum() == 499500


@pytest.mark.parametrize("damage", [None, b"\xff" * 4096, b""])
def test_aDryRunWithoutALockFileSaysWhatAPurgeWouldDo(left: str, damage: bytes | None) -> None:
    """A dry run makes no lock file, and a purge does."""
    paths = Paths(os.getuid(), left)
    if damage is not None:
        with open(paths.linkPath, "r+b") as file:
            file.write(damage) if damage else file.truncate()
    os.unlink(paths.lockPath)
    for options in ((), ("--yes",)):
        before = purge(left, "--dry-run", *options)
        if not options:
            assert not os.path.lexists(paths.lockPath)
            assert list(before["keptBuffers"]) == ["kept"]
        assert purge(left, *options) == before
    assert entries(left) == ["lock"]


def test_keepsWhatTheBlockAloneKnows(left: str) -> None:
    paths = Paths(os.getuid(), left)
    for ofBlock, epoch in paths.journals():
        os.unlink(ofBlock.journalPath(epoch))
    assert list(purge(left)["keptBuffers"]) == ["kept"]
    assert muninn.open("kept").array.sum() == 499500


def test_aDrainIsKept(bare: str) -> None:
    assert run("drain", "--reason", "disk change").returncode == 0
    told = purge(bare)
    assert told["keptWhy"] == "the domain drains (disk change)"
    assert "draining (disk change)" in run().stdout
    purge(bare, "--yes")
    assert "draining" not in run().stdout


@pytest.mark.parametrize("options", [(), ("--yes",)])
def test_theDeathOfTheHolderOfALockIsKept(
    domain: str, actor: Start, options: tuple[str, ...]
) -> None:
    """A lock has no segment, and the data that it protects may be elsewhere."""
    actor("free = muninn.Lock('free'); lock = muninn.Lock('file'); lock.acquire()").kill()
    told = purge(domain, *options)
    assert told["keptWhy"] == (None if options else "the holder of lock 'file' has died")
    lock = muninn.Lock("file")
    with lock:
        assert lock.recovered != bool(options)


def test_aReasonThatTheUserWasNotToldOfStays(domain: str, actor: Start) -> None:
    """Told of a drain, and then the holder of a lock dies."""
    actor("muninn.Lock('file').acquire()").kill()
    told = purging.Remains({}, frozenset(), "the domain drains", [], [])
    done = purging.purge(Paths(os.getuid(), domain), told)
    assert isinstance(done, purging.Remains) and done.needed


def test_aDamagedBlockIsLeftToRepair(left: str) -> None:
    paths = Paths(os.getuid(), left)
    stray = Path(f"/dev/shm{paths.segmentName(77, 3, 0x1234)}")
    stray.write_bytes(b"x")
    with open(paths.linkPath, "r+b") as file:
        file.write(b"\xff" * 4096)
    told = purge(left)
    assert "does not begin with Muninn's magic" in told["keptWhy"] and stray.exists()
    assert admin.repair()["recovered"] == ["kept"]
    assert muninn.open("kept").array.sum() == 499500


def test_aDamagedBlockGoesIfThatIsTold(left: str) -> None:
    with open(Paths(os.getuid(), left).linkPath, "r+b") as file:
        file.write(b"\xff" * 4096)
    purge(left, "--yes")
    assert entries(left) == ["lock"]


def test_aDamagedBlockOfALivingProcessIsLeftAlone(domain: str, actor: Start) -> None:
    holder = actor(KEPT)
    paths = Paths(os.getuid(), domain)
    path, known = paths.linkPath, frozenset(paths.segmentKeys())
    told = purging.Remains({}, known, "its block is damaged", [], [])
    whole = Path(path).read_bytes()[:4096]
    for raw in (b"\xff" * 4096, whole):
        with open(path, "r+b") as file:
            file.write(raw)
        if raw != whole:
            assert purge(domain, "--yes")["livingPid"] == holder.pid
            assert purging.purge(paths, told) == purging.Inhabited(holder.pid)
    assert holder.do("int(muninn.open('kept').array.sum())") == 499500


def test_aPurgeBelievesNoFreeByte(domain: str, actor: Start) -> None:
    """The process joins after the look from outside, and loses its byte."""
    paths = Paths(os.getuid(), domain)
    actor(KEPT).kill()
    told = purging.remainsOf(paths)
    assert isinstance(told, purging.Remains)
    holder = actor(KEPT.replace("kept", "other"))
    holder.do(f"open({paths.lockPath!r}).close()")
    done = purging.purge(paths, told)
    assert done == purging.Inhabited(holder.pid)
    assert holder.do("int(muninn.open('other').array.sum())") == 499500


def test_aKeptBlockIsTheSameAfterwards(left: str) -> None:
    block = Path(Paths(os.getuid(), left).linkPath)
    before = block.read_bytes()[:64]
    purge(left)
    assert block.read_bytes()[:64] == before


def test_whatTheUserWasNotToldOfStays(left: str) -> None:
    """Between the question and the answer another process comes, and goes."""
    paths = Paths(os.getuid(), left)
    told = purging.remainsOf(paths)
    assert isinstance(told, purging.Remains) and list(told.buffers) == ["kept"]
    muninn.share(b"x", name="later").close()
    current().leave()
    done = purging.purge(paths, told)
    assert isinstance(done, purging.Remains) and sorted(done.buffers) == ["kept", "later"]
    assert sorted(each["name"] for each in muninn.listBuffers()) == ["kept", "later"]


def test_aProcessThatJoinsMeanwhileWaits(
    left: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, joiner = purging._remains, list[Actor]()

    def slowly(*arguments: Any) -> Any:
        joiner.append(actor())
        joiner[0].begin(
            "muninn.share(b'mine', name='mine')\n"
            "sorted(each['name'] for each in muninn.listBuffers())"
        )
        time.sleep(0.3)
        assert joiner[0].isBusy()
        return looking(*arguments)

    paths = Paths(os.getuid(), left)
    told = purging.remainsOf(paths)
    assert isinstance(told, purging.Remains)
    monkeypatch.setattr(purging, "_remains", slowly)
    done = purging.purge(paths, told)
    assert isinstance(done, purging.Remains) and not done.needed
    assert joiner[0].result() == ["mine"]


@pytest.mark.parametrize("isTold", [False, True])
@pytest.mark.parametrize("step", ["unlink", "pwrite"])
def test_aPurgeThatIsKilledLeavesADomainThatWorks(
    domain: str, actor: Start, step: str, isTold: bool
) -> None:
    """The kill comes before each of its calls of one kind."""
    told = "remains" if isTold else "None"
    for number in range(1, 20):
        actor(
            KEPT
            if number == 1
            else f"names = muninn.listBuffers()\n{KEPT.replace('kept', f'n{number}')}"
        ).kill()
        purger = actor(program("killedRepair", STEP=step, NUMBER=str(number)))
        purger.begin(
            "from muninn.broker import purging\nfrom muninn.storage.paths import Paths\n"
            f"paths = Paths(os.getuid(), {domain!r})\nremains = purging.remainsOf(paths)\n"
            f"purging.purge(paths, {told}) is not None"
        )
        try:
            assert purger.result() is True
            isDone = True
        except AssertionError:
            isDone = False
        names = actor().do("sorted(each['name'] for each in muninn.listBuffers())")
        if not isTold:
            assert names == sorted(["kept", *(f"n{each}" for each in range(2, number + 1))])
        if isDone:
            assert number > 1, "it was never killed"
            return
    pytest.fail("it never came to its end")


def test_aDomainThatIsNotThereIsWrongUsage(domain: str) -> None:
    done = run("purge", "no-such-domain", "--json")
    assert done.returncode == 2 and "there is no domain 'no-such-domain'" in done.stderr
    assert json.loads(done.stdout)["error"]["code"] is None


def test_aProcessThatHoldsCreateIsNamed(left: str, actor: Start) -> None:
    paths = Paths(os.getuid(), left)
    holder = actor(
        "from muninn.control.lockfile import LockFile\nfrom muninn.storage.paths import Paths\n"
        f"lock = LockFile(Paths(os.getuid(), {left!r}))\nheld = lock.creating()\nheld.__enter__()"
    )
    done = run("purge", left, "--yes")
    assert done.returncode == 1
    assert f"process {holder.pid} has been creating the control block" in done.stdout
    assert os.path.exists(paths.linkPath)


@needsRoot
def test_rootPurgesForOthersAndNobodyElseDoes(domain: str) -> None:
    made = runAs(STRANGER, "alloc", "--size", "1K", "--name", "theirs")
    try:
        assert made.returncode == 0, made.stderr
        assert run("purge", domain).returncode == 2, "root's own has no such domain"
        refused = runAs(STRANGER, "purge", "--user", "all", "--dry-run")
        assert refused.returncode == 1 and refused.stderr.startswith("MNN-0008")
        assert run("purge", domain, "--user", "x").returncode == 2
        said = run("purge", domain, "--user", str(STRANGER), "--yes").stdout
        assert said.startswith(f"domain '{domain}' of uid {STRANGER}: removed ")
        folder = Paths(STRANGER, domain).directory
        assert os.listdir(folder) == ["lock"]
        assert os.lstat(f"{folder}/lock").st_uid == STRANGER
    finally:
        removeDomain(domain, STRANGER)


def setpriv(uid: int, gid: int) -> tuple[str, ...]:
    """What starts a program as this user."""
    return ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups")


@pytest.fixture
def stranger(domain: str) -> Iterator[int]:
    """The uid of another user, whose domain of this name is removed. Each test has one
    of its own: a process that hides its files counts for all domains of its user.
    """
    uid = 30_000 + int(domain[-4:], 16) % 20_000
    yield uid
    removeDomain(domain, uid)


@needsRoot
@pytest.mark.parametrize("options", [(), ("--yes",), ("--dry-run", "--yes")])
def test_rootLeavesADomainOfAnotherUserAloneWhoseLockFileIsGone(
    domain: str, stranger: int, actor: Start, options: tuple[str, ...]
) -> None:
    """Which files a process has open is shown to its user, and not to its uid alone."""
    holder = actor(KEPT, launcher=setpriv(stranger, stranger), HOME="/nonexistent")
    os.unlink(Paths(stranger, domain).lockPath)
    for _ in range(2):  # after the first there is a new lock file
        told = purge(domain, "--user", str(stranger), *options)
        assert told["livingPid"] == holder.pid and told["removed"] == []
    assert holder.do("int(muninn.open('kept').array.sum())") == 499500


@needsRoot
def test_rootLeavesADomainAloneWhoseProcessHidesItsFiles(
    domain: str, stranger: int, actor: Start
) -> None:
    """Its gid is another one, so the kernel does not show its files to its own user."""
    holder = actor(KEPT, launcher=setpriv(stranger, stranger + 1), HOME="/nonexistent")
    paths = Paths(stranger, domain)
    os.chown(paths.directory, stranger, stranger)
    os.unlink(paths.lockPath)
    user = ("--user", str(stranger))
    told = purge(domain, *user, "--yes")
    assert (told["livingPid"], told["hiddenPid"]) == (None, holder.pid)
    said = run("purge", domain, *user, "--yes").stdout
    assert f"process {holder.pid} hides its files, and may be in it" in said
    assert holder.do("int(muninn.open('kept').array.sum())") == 499500
    holder.kill()
    assert list(purge(domain, *user)["keptBuffers"]) == ["kept"]
    assert purge(domain, *user, "--yes")["error"] is None
    assert os.listdir(paths.directory) == ["lock"]


@needsRoot
def test_aHiddenProcessOfAnotherDomainKeepsNoDomain(
    domain: str, stranger: int, actor: Start
) -> None:
    actor(
        KEPT,
        launcher=setpriv(stranger, stranger + 1),
        HOME="/nonexistent",
        MUNINN_DOMAIN=f"{domain}-o",
    )
    actor(KEPT, launcher=setpriv(stranger, stranger), HOME="/nonexistent").kill()
    paths = Paths(stranger, domain)
    os.unlink(paths.linkPath)
    os.unlink(paths.blockPath)
    assert list(purge(domain, "--user", str(stranger))["keptBuffers"]) == ["kept"]


def test_theNamesOfABundleAndOfNothingElseAreTold(domain: str, actor: Start) -> None:
    actor("muninn.shareBundle({'a': np.ones(5000), 'b': np.zeros(7)}, name='both')").kill()
    assert list(purge(domain)["keptBuffers"]) == ["both"]
    eventually(lambda: "both" in run("list").stdout, "it is there")
