"""The domain's directory: one for all processes of the user, whatever other users and
umasks do to its name.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import muninn
from muninn.cli import domainchecks
from muninn.control.lockfile import LockFile
from muninn.errors import BrokerUnavailable, ControlBlockInvalid
from muninn.storage import folders
from muninn.storage.paths import Paths
from support import Actor, eventually, removeDomain

Start = Callable[..., Actor]
_STRANGER = 65534
needsRoot = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be two users")
_TAKEN: dict[str, Callable[[str], object]] = {
    "file": lambda path: os.close(os.open(path, os.O_CREAT, 0o666)),
    "directory": lambda path: os.mkdir(path, 0o777),
    "link": lambda path: os.symlink("/tmp", path),
    "loose link": lambda path: os.symlink("/nowhere", path),
    "fifo": os.mkfifo,
}


@pytest.fixture
def stem(domain: str) -> str:
    return Paths(os.getuid(), domain).stem


def take(path: str, what: str) -> None:
    """Let another user take the name."""
    _TAKEN[what](path)
    os.chown(path, _STRANGER, _STRANGER, follow_symlinks=False)


def giveUp(path: str) -> None:
    os.rmdir(path) if stat.S_ISDIR(os.lstat(path).st_mode) else os.unlink(path)


@needsRoot
@pytest.mark.parametrize("what", _TAKEN)
def test_aNameThatAnotherUserTookIsAvoided(
    domain: str, stem: str, actor: Start, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Broken: all calls raised MNN-0019 as long as the other user kept the name. Once
    the name is free, newcomers must not begin a second domain there.
    """
    path = f"/dev/shm/{stem}.d"
    take(path, what)
    maker = actor("held = muninn.share(np.arange(3), name='a')")
    with caplog.at_level(logging.WARNING):
        assert muninn.open("a").array.tolist() == [0, 1, 2]
    assert len([record for record in caplog.records if path in record.getMessage()]) == 1
    finding = domainchecks.names()
    assert finding.verdict == "warn" and f"{path} (uid {_STRANGER}'s)" in finding.found
    if what == "directory":
        assert not os.listdir(path)
    giveUp(path)
    assert actor().do("muninn.open('a').array.tolist(), len(muninn.domainInfo()['members'])") == [
        [0, 1, 2],
        3,
    ]
    take(path, "directory")
    assert actor().do("muninn.open('a').array.tolist(), len(muninn.domainInfo()['members'])") == [
        [0, 1, 2],
        4,
    ]
    giveUp(path)
    maker.kill()


@needsRoot
@pytest.mark.parametrize("what", ["directory", "link", "fifo"])
def test_theBlocksNameIsAvoidedWhateverAnotherUserPutThere(
    stem: str, actor: Start, what: str
) -> None:
    take(f"/dev/shm/{stem}", what)
    maker = actor("muninn.share(np.arange(3), name='a', lifetime='keep')")
    with muninn.open("a") as buffer:
        assert buffer.read().tolist() == [0, 1, 2]
        buffer.free()
    maker.kill()
    eventually(
        lambda: not muninn.listBuffers() and len(muninn.domainInfo()["members"]) == 1,
        "the last process is left with nothing",
    )
    muninn.session.membership.current().leave()
    assert os.lstat(f"/dev/shm/{stem}").st_uid == _STRANGER  # root leaves it alone too
    giveUp(f"/dev/shm/{stem}")


# --- the choice of a directory ------------------------------------------------------


def asStranger(call: Callable[[], object]) -> Callable[[], object]:
    """Call it in a forked child that is another user; the caller calls the result to
    get the value.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(_STRANGER)
            os.setuid(_STRANGER)
            answer = call()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)

    def result() -> object:
        with open(reading, "rb") as pipe:
            raw = pipe.read()
        os.waitpid(child, 0)
        return json.loads(raw)

    return result


@pytest.fixture
def strange(domain: str) -> Iterator[Paths]:
    """The paths of the other user's domain."""
    paths = Paths(_STRANGER, domain)
    yield paths
    with contextlib.suppress(OSError):
        os.rmdir(f"/dev/shm/{paths.stem}.d")
    removeDomain(domain, _STRANGER)


def test_aProcessLooksAgainOnceItHasTheDirectorysLock(
    stem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process made a second directory and established it meanwhile. Broken:
    each established its own.
    """
    first, second = f"{stem}.d", f"{stem}.d.{'0' * 6}"
    os.mkdir(f"/dev/shm/{first}", 0o700)
    locked = folders.locked

    @contextlib.contextmanager
    def slowlyLocked(name: str, deadline: float) -> Iterator[bool]:
        with locked(name, deadline) as isLocked:
            if not os.path.isdir(f"/dev/shm/{second}"):
                os.mkdir(f"/dev/shm/{second}", 0o700)
                Path(f"/dev/shm/{second}/{folders.LOCK_NAME}").touch(0o600)
            yield isLocked

    monkeypatch.setattr(folders, "locked", slowlyLocked)
    assert folders.made(stem, os.getuid()) == second
    assert not os.path.exists(f"/dev/shm/{first}/{folders.LOCK_NAME}")


@needsRoot
def test_processesThatStartAtOnceAgreeOnOneDirectory(strange: Paths) -> None:
    """Broken: one process found the name taken, another one found it free, and each
    began a domain.
    """
    elsewhere = 0
    wanted = f"/dev/shm/{strange.stem}.d"
    for attempt in range(30):
        start = time.monotonic() + 0.03

        def come(start: float = start) -> str:
            random.seed(os.getpid())
            while time.monotonic() < start + random.random() * 0.004:
                pass
            return folders.made(strange.stem, _STRANGER)

        # Root makes the directory before the processes start, so that in the attempts
        # in which it keeps the name it is first on a slow machine too.
        os.mkdir(wanted)
        coming = [asStranger(come) for _ in range(3)]
        while time.monotonic() < start + 0.003:  # root plays the other user here
            with contextlib.suppress(OSError):
                os.mkdir(wanted)
            time.sleep(random.random() * 0.0005)
            if attempt % 8 and os.path.isdir(wanted) and os.stat(wanted).st_uid == 0:
                os.rmdir(wanted)
        names = {each() for each in coming}
        assert len(names) == 1 and str(*names).startswith(strange.stem), names
        elsewhere += names != {f"{strange.stem}.d"}
        with contextlib.suppress(OSError):
            os.rmdir(wanted)
        removeDomain(strange.domain, _STRANGER)
    assert elsewhere, "the other user was never first: nothing was tested"


@needsRoot
def test_theUmaskOfTheFirstProcessKeepsNoOtherOut(strange: Paths) -> None:
    """Broken: the lock file had mode 0, and all other processes got an untyped
    PermissionError.
    """

    def first() -> int:
        os.umask(0o777)
        return LockFile(strange).inode

    inode = asStranger(first)()
    assert isinstance(inode, int)
    assert asStranger(lambda: LockFile(strange).inode)() == inode
    os.chmod(strange.lockPath, 0)  # its maker died before it could restore the mode
    assert asStranger(lambda: LockFile(strange).inode)() == inode
    os.chmod(strange.directory, 0)
    assert asStranger(lambda: LockFile(strange).inode)() == inode


@pytest.mark.parametrize("mode", [0o755, 0o500, 0o000, 0o711])
def test_aDirectoryInWhichNoOtherCouldWriteIsSetRight(domain: str, mode: int) -> None:
    """Broken: MNN-0019 said that the directory should belong to the user to whom it
    belonged.
    """
    paths = Paths(os.getuid(), domain)
    LockFile(paths).close()
    os.chmod(paths.directory, mode)
    LockFile(paths).close()
    assert stat.S_IMODE(os.stat(paths.directory).st_mode) == 0o700


def test_aDirectoryInWhichOthersCouldWriteIsNotBelieved(domain: str) -> None:
    paths = Paths(os.getuid(), domain)
    LockFile(paths).close()
    os.chmod(paths.directory, 0o770)
    with pytest.raises(ControlBlockInvalid, match="chmod 700"):
        LockFile(paths)


def test_aProcessThatChoosesADirectoryWaitsForTheOtherAndNotForEver(
    domain: str, stem: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process was stopped, or died, while it chose the directory."""
    os.mkdir(f"/dev/shm/{stem}.d", 0o700)
    holder = actor(
        f"import fcntl\nfd = os.open('/dev/shm/{stem}.d', os.O_RDONLY)\nfcntl.flock(fd, fcntl.LOCK_EX)"
    )
    monkeypatch.setattr(folders, "_BOUND_SECONDS", 0.1)
    with pytest.raises(BrokerUnavailable):
        LockFile(Paths(os.getuid(), domain))
    holder.kill()
    LockFile(Paths(os.getuid(), domain)).close()
