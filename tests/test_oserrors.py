"""`system/oserrors.py`: a refusal of the kernel becomes an error with its reason and
its fix, and calls that can work do.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

import muninn
from muninn.errors import (
    ControlBlockInvalid,
    DescriptorsExhausted,
    HostMemoryFull,
    MuninnError,
    PermissionDenied,
    PlatformUnsupported,
)
from muninn.storage.paths import Paths
from muninn.system import oserrors, processes
from muninn.system.oserrors import fileError, missingShm
from muninn.system.processes import ownPidNamespace, pidOf, processIsGone, startTimeOf
from support import Actor, ActorError

SHARING = "import muninn, numpy; print(muninn.share(numpy.arange(3), name='n').array.tolist())"
WORKS = "[0, 1, 2]"
USER = 12345
#: A change of the mount namespace → the output of a program that shares there, and the
#: findings of `doctor`.
MOUNTS = {
    "readOnly": (
        "mount -t tmpfs -o ro tmpfs /dev/shm",
        "MNN-0031.*is mounted read-only.*remount,rw",
        "fail  /dev/shm",
    ),
    "rootOnly": (
        "mount -t tmpfs -o mode=0755 tmpfs /dev/shm",
        "MNN-0031.*uid 12345 may not write.*chmod 1777",
        "fail  /dev/shm",
    ),
    "hidden": (
        "mount -t tmpfs -o mode=0700 tmpfs /dev/shm",
        "MNN-0031.*uid 12345 may not write.*chmod 1777",
        "fail  /dev/shm",
    ),
    "unlisted": (
        "mount -t tmpfs -o mode=1733 tmpfs /dev/shm",
        "MNN-0031.*uid 12345 may not list.*chmod 1777",
        "fail  /dev/shm",
    ),
    "missing": (
        "mount -t tmpfs -o mode=0755 tmpfs /dev",
        "MNN-0031.*/dev/shm is not there.*mount -t tmpfs",
        "fail  /dev/shm",
    ),
    "file": (
        "mount -t tmpfs -o mode=0755 tmpfs /dev && touch /dev/shm",
        "MNN-0031.*/dev/shm is no directory",
        "fail  /dev/shm",
    ),
    "withoutInodes": (
        "mount -t tmpfs -o nr_inodes=3,mode=1777 tmpfs /dev/shm",
        "MNN-0015.*no inodes left.*nr_inodes",
        "fail  /dev/shm",
    ),
    "small": (
        "mount -t tmpfs -o size=64k,mode=1777 tmpfs /dev/shm",
        "MNN-0015.*no room for .* for the control block",
        "fail  /dev/shm",
    ),
    "unlimited": ("mount -t tmpfs -o size=0,mode=1777 tmpfs /dev/shm", WORKS, "ok    /dev/shm"),
    "ramfs": ("mount -t ramfs ramfs /dev/shm && chmod 1777 /dev/shm", WORKS, "warn  /dev/shm"),
    "processesOnly": ("mount -t proc -o subset=pid proc /proc", WORKS, "ok    /proc"),
    "withoutProc": (
        "umount -l /proc",
        "MNN-0031.*/proc.* is not there.*mount -t proc",
        "fail  /proc",
    ),
}


@pytest.fixture
def root() -> None:
    """Only root may change mounts, roots and uids."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode != 0:
        pytest.skip("not root, or no mount namespaces: mounts can not be changed here")


def elsewhere(setup: str, *command: str) -> str:
    """The output of an ordinary user's program in a mount namespace of its own; a
    program that may use this Python is root's.
    """
    asUser = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    command = (
        "unshare",
        "-m",
        "sh",
        "-c",
        f'{setup} && exec "$@"',
        "x",
        *asUser,
        sys.executable,
        *command,
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("name", sorted(MOUNTS))
def test_saysWhatIsWrongWithTheMachineOrWorks(domain: str, name: str) -> None:
    """Broken: an `OSError`, or an error whose fix was to free buffers."""
    setup, said, found = MOUNTS[name]
    if "/dev/shm" in setup or "/dev" in setup:
        setup += "; true"
    else:
        setup += " && mount -t tmpfs -o mode=1777 tmpfs /dev/shm"  # it leaves nothing outside
    printed = elsewhere(setup, "-c", SHARING)
    if "Permission denied" in printed and "python" in printed:
        pytest.skip("an ordinary user may not run this Python")
    assert said == printed.strip() if said == WORKS else Matching(said) == printed
    assert found in elsewhere(setup, "-m", "muninn", "doctor")


class Matching(str):
    """Equal to a text in which the pattern is found; whole lines of tracebacks are
    shown where it is not.
    """

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        import re

        return isinstance(other, str) and re.search(str(self), other, re.DOTALL) is not None


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("isBroker", [False, True])
def test_aProcessThatHasChangedItsRootKeepsWhatItHas(
    domain: str, actor: Callable[..., Actor], tmp_path: Path, isBroker: bool
) -> None:
    """Broken: the errors were "the segment is gone: open it again" and "the directory
    was removed: try again", and a broker answered its members with an error of its own.
    """
    other = None if isBroker else actor("b = muninn.share(np.arange(5), name='later')")
    jailed = actor(
        "held = muninn.share(np.arange(4), name='held', access='readWrite'); lock = muninn.Lock('lock')"
    )
    other = other or actor("muninn.open('held'); b = muninn.share(np.arange(5), name='later')")
    jailed.do(f"os.chroot({str(tmp_path)!r}); os.chdir('/')")
    for _ in range(2):
        assert jailed.do(
            "with held.write() as view: view[0] = 7\nwith lock: pass\nheld.array.tolist()"
        ) == [7, 1, 2, 3]
        for call in ("muninn.open('later')", "muninn.share(np.arange(3))"):
            with pytest.raises(ActorError, match="PlatformUnsupported.*changed its root directory"):
                jailed.do(call)
        assert other.do(
            "muninn.share(np.arange(3)).array.tolist(), muninn.open('held').array.tolist()"
        ) == [[0, 1, 2], [7, 1, 2, 3]]
        assert other.do("muninn.domainInfo()['brokerPid']") == other.pid


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("isBound", [False, True])
def test_aBrokerThatHasChangedItsRootKeepsNoProcessOut(
    domain: str, actor: Callable[..., Actor], tmp_path: Path, isBound: bool
) -> None:
    """The broker was alone, and only waits now. Broken: each newcomer got the error of
    a wrong version, because without `/proc` the broker could not tell which process
    sent the hello.
    """
    jailed = actor("held = muninn.share(np.arange(4), name='held')")
    (tmp_path / "dev" / "shm").mkdir(parents=True)
    if isBound:
        subprocess.run(["mount", "--bind", "/dev/shm", tmp_path / "dev" / "shm"], check=True)
    try:
        jailed.do(f"os.chroot({str(tmp_path)!r}); os.chdir('/')")
        for count in range(2):
            newcomer = actor(f"muninn.share(np.arange(3), name='n{count}')")
            assert newcomer.do(
                "muninn.open('held').array.tolist(), muninn.domainInfo()['brokerPid']"
            ) == [[0, 1, 2, 3], newcomer.pid]
            assert jailed.do("len(muninn.domainInfo()['members'])") == 2
            newcomer.kill()
        assert jailed.do("held.array.tolist()") == [0, 1, 2, 3]
        why = "/proc/thread-self/fd is not there" if isBound else "changed its root directory"
        with pytest.raises(ActorError, match=f"PlatformUnsupported.*{why}"):
            jailed.do("held.free()")
        muninn.free("held")
        assert not [each for each in muninn.listBuffers() if each["name"] == "held"]
    finally:
        jailed.kill()
        if isBound:
            subprocess.run(["umount", tmp_path / "dev" / "shm"], check=True)


@pytest.mark.usefixtures("root")
def test_aBrokerThatHasChangedItsRootServesNothingMore(
    domain: str, actor: Callable[..., Actor], tmp_path: Path
) -> None:
    """It does not serve connected members either. Broken: it freed a row whose segment
    stayed, because the segment is not in that root.
    """
    jailed = actor(
        "held = muninn.share(np.arange(4), name='held'); muninn.share(np.arange(3), name='gone').close()"
    )
    other = actor("muninn.open('gone').close(); muninn.free('gone')")
    jailed.do(
        f"muninn.share(np.arange(3), name='gone').close(); os.chroot({str(tmp_path)!r}); os.chdir('/')"
    )
    assert other.do("muninn.free('gone'); muninn.domainInfo()['brokerPid']") == other.pid
    assert [each[0] for each in Paths(os.getuid(), domain).segments()] == [0]


def test_withoutProcNoProcessIsTakenForGone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with another start time is another process; without a start time no
    death is confirmed.
    """

    def missing(path: str, *_: object, **__: object) -> NoReturn:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    own, began, stat = ownPidNamespace(), startTimeOf(os.getpid()), os.stat
    monkeypatch.setattr(processes, "openFile", missing)
    monkeypatch.setattr(processes, "hasProc", lambda: False)
    monkeypatch.setattr(
        processes.os,
        "stat",
        lambda path, **more: (
            missing(path) if str(path).startswith("/proc/") else stat(path, **more)
        ),
    )
    assert not processIsGone(os.getpid(), began) and ownPidNamespace() == own
    with pytest.raises(PlatformUnsupported, match="/proc/thread-self/fdinfo/0 is not there"):
        pidOf(0)
    monkeypatch.setattr(processes, "hasProc", lambda: True)
    assert processIsGone(os.getpid(), began) and pidOf(0) is None


@pytest.mark.usefixtures("root")
def test_aRootThatHasTheSameMemoryIsAsGood(
    domain: str, actor: Callable[..., Actor], tmp_path: Path
) -> None:
    jailed = actor("held = muninn.share(np.arange(4), name='held')")
    other = actor("b = muninn.share(np.arange(5), name='later')")
    (tmp_path / "dev" / "shm").mkdir(parents=True)
    subprocess.run(["mount", "--bind", "/dev/shm", tmp_path / "dev" / "shm"], check=True)
    try:
        jailed.do(f"os.chroot({str(tmp_path)!r}); os.chdir('/')")
        assert jailed.do(
            "muninn.share(np.arange(3), name='more'); muninn.open('later').array.tolist()"
        ) == [0, 1, 2, 3, 4]
        assert other.do("muninn.open('more').array.tolist()") == [0, 1, 2]
        assert jailed.do("sorted(each['name'] for each in muninn.listBuffers())") == [
            "held",
            "later",
            "more",
        ]
    finally:
        jailed.kill()
        subprocess.run(["umount", tmp_path / "dev" / "shm"], check=True)


#: A program in which SIGXFSZ has its default action. Broken: the program died of it.
_DIES = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"


@pytest.mark.parametrize(
    ("limit", "code", "said"),
    [
        (
            "FSIZE",
            "muninn.share(np.zeros(9999))",
            "HostMemoryFull.*may write no file of more than 4096 bytes",
        ),
        (
            "FSIZE",
            "muninn.share(np.zeros(9999), mode='fastMode')",
            "HostMemoryFull.*may write no file of more than 4096 bytes",
        ),
        (
            "FSIZE",
            f"{_DIES}muninn.share(np.zeros(9999))",
            "HostMemoryFull.*may write no file of more than 4096 bytes",
        ),
        (
            "FSIZE",
            f"{_DIES}muninn.MuninnBuffer(9999, reserve='lazy')",
            "HostMemoryFull.*may write no file of more than 4096 bytes",
        ),
        (
            "FSIZE",
            f"{_DIES}muninn.share(np.zeros(9999), mode='fastMode')",
            "HostMemoryFull.*may write no file of more than 4096 bytes",
        ),
        ("AS", "muninn.MuninnBuffer(64 << 20)", "HostMemoryFull.*`ulimit -v` is [0-9.]+[MG]"),
        ("AS", "muninn.MuninnBuffer(64 << 20, mode='fastMode')", "HostMemoryFull.*ulimit -v"),
    ],
)
def test_aLimitOfTheProcessIsNamed(
    domain: str, actor: Callable[..., Actor], limit: str, code: str, said: str
) -> None:
    """Broken: the error was "File too large", and its fix was to free buffers."""
    program = actor(
        "import resource\nmuninn.domainInfo(); muninn.MuninnBuffer(8, mode='fastMode').free()",
        MUNINN_DEVICE="host",
    )
    size = (
        "4096"
        if limit == "FSIZE"
        else "(int(open('/proc/self/statm').read().split()[0]) + 4096) * 4096"
    )
    program.do(f"resource.setrlimit(resource.RLIMIT_{limit}, ({size}, resource.RLIM_INFINITY))")
    with pytest.raises(ActorError, match=said):
        program.do(code)
    program.do(
        f"resource.setrlimit(resource.RLIMIT_{limit}, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)); {code}"
    )


@pytest.mark.parametrize(
    "call",
    [
        "b.promote()",
        "v.copyTo(0)",
        "v.copyFrom(b)",
        "b.prefetch()",
        "muninn.open('b', targetGpu=0)",
        "muninn.open('v', targetGpu=0, route='staged')",
    ],
)
def test_aFirstUseWithoutADescriptorIsTyped(
    domain: str, actor: Callable[..., Actor], call: str
) -> None:
    """Broken: `OSError: Too many open files: '…/transfer/engines.py'`, of an import."""
    user = actor(
        "import resource; b = muninn.share(np.zeros(512), 'b', access='readWrite'); b.setHints(hotRanges=[(0, 4096)])"
    )
    user.do("v = muninn.share(np.zeros(512), 'v', mode='fastMode')")
    user.do(
        "most = resource.getrlimit(resource.RLIMIT_NOFILE); resource.setrlimit(resource.RLIMIT_NOFILE, (256, most[1])); fills = []"
    )
    user.do("try:\n    while True: fills.append(os.dup(0))\nexcept OSError: pass")
    said = user.do(
        f"try: {call}; said = ''\nexcept muninn.MuninnError as error: said = error.code\nsaid"
    )
    user.do("[os.close(each) for each in fills]")
    assert said in ("MNN-0025", ""), "one that needs none may do without"
    user.do(call)


def test_aMissingThreadIsNamed(domain: str, actor: Callable[..., Actor]) -> None:
    """Broken: `RuntimeError: can't start new thread`, and likewise from the C library."""
    program = actor(
        "from muninn.system import threads, atomics\ndef refused(*_): raise RuntimeError\nthreads._begin = refused"
    )
    program.do(
        "threads._thread.start_new_thread = refused; threads.LateThread.__init__.__defaults__ = (refused,)"
    )
    with pytest.raises(
        ActorError, match="ThreadsExhausted.*no thread can be started.*ulimit -u.*ulimit -d"
    ):
        program.do("muninn.share(np.arange(3))")
    assert (
        program.do(
            "try: muninn.listBuffers()\nexcept muninn.errors.ThreadsExhausted as error: found = error.code\nfound"
        )
        == "MNN-0034"
    )


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), DescriptorsExhausted, "x: Too many"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), HostMemoryFull, "quota of uid"),
        (OSError(errno.EISDIR, "Is a directory"), ControlBlockInvalid, "that Muninn makes there"),
        (OSError(errno.ELOOP, "Too many links"), ControlBlockInvalid, "that Muninn makes there"),
        (OSError(errno.EROFS, "Read-only file system"), PlatformUnsupported, "remount,rw"),
        (OSError(errno.EACCES, "Permission denied"), PermissionDenied, "x: Permission denied"),
        (
            OSError(errno.EAGAIN, "mmap: Resource temporarily unavailable"),
            HostMemoryFull,
            "ulimit -l",
        ),
        (
            OSError(errno.ENOENT, "No such file or directory", "/proc/self/ns/pid"),
            PlatformUnsupported,
            "mount -t proc",
        ),
    ],
)
def test_anErrorOfTheSystemHasAType(error: OSError, kind: type[MuninnError], words: str) -> None:
    typed = fileError(error, "x")
    assert type(typed) is kind and words in str(typed)


def test_anErrorThatSaysNothingOfTheMachineStaysAsItIs() -> None:
    for number in (errno.ENOENT, errno.EINVAL):
        error = OSError(number, os.strerror(number))
        assert fileError(error, "x") is error


def test_aFullDirectoryIsToldFromFullMemory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken: the error asked for memory where there were too many files."""
    error = OSError(errno.ENOSPC, "No space left on device")
    status: Any = SimpleNamespace(f_files=10, f_ffree=0)
    monkeypatch.setattr(oserrors.os, "statvfs", lambda _: status)
    assert "no inodes left" in str(fileError(error, "x"))
    status.f_ffree = 1
    assert "no inodes left" not in str(fileError(error, "x"))
    status.f_files = status.f_ffree = 0  # A ramfs, and a tmpfs without a limit, count no files.
    assert "no inodes left" not in str(fileError(error, "x"))


def test_anotherMemoryThanAtTheBeginningIsNoticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(oserrors, "_seen", {})
    monkeypatch.setattr(oserrors, "SHM_ROOT", str(tmp_path))
    assert missingShm() is None
    oserrors.joined()
    assert missingShm() is None
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(
        oserrors,
        "_identity",
        lambda path: (0, 0) if path == str(tmp_path) else oserrors._seen[path],
    )
    assert "another one" in str(missingShm())
