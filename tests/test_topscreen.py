"""The live view in a real terminal, beside real processes: what it shows, and that the
terminal is as it was, however the view ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyte
import pytest

import muninn
from muninn.control import layout
from muninn.errors import ControlBlockInvalid
from muninn.service import onlooker as onlooking
from muninn.service.onlooker import Onlooker
from muninn.session import membership
from muninn.session.membership import current
from muninn.storage.paths import Paths
from support import BOUND_SECONDS, Actor, ActorError, eventually, removeDomain

Start = Callable[..., Actor]
COMMAND = [sys.executable, "-m", "muninn", "top"]
ENTERED, LEFT = b"\x1b[?1049h", b"\x1b[?1049l"


class Screen:
    """A terminal in which `top` runs, and what it shows.

    Parameters
    ----------
    program
        Run instead of `top`.
    """

    def __init__(
        self,
        *arguments: str,
        columns: int = 80,
        lines: int = 24,
        program: list[str] | None = None,
        **environment: str,
    ) -> None:
        settings = {"TERM": "xterm-256color", "PYTHONUTF8": "1", **environment}
        command = program or [*COMMAND, "--interval", "0.5", *arguments]
        self._ours, theirs = os.openpty()
        self._size(columns, lines)
        self.modes = termios.tcgetattr(theirs)
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for number in range(3):
                os.dup2(theirs, number)
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
            os.execve(command[0], command, {**os.environ, **settings})
        self.theirs = theirs  # so that it can be looked at after the end
        self.sent = b""
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.status: int | None = None

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        self._screen.resize(lines, columns)
        self._size(columns, lines)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def look(self) -> list[str]:
        """What is on the screen now."""
        while select.select([self._ours], [], [], 0.02)[0]:
            raw = os.read(self._ours, 1 << 16)
            self.sent += raw
            self._stream.feed(raw)
        return [line.rstrip() for line in self._screen.display]

    def until(self, *texts: str) -> list[str]:
        """Wait until all these are on the screen."""
        seen: list[str] = []

        def isThere() -> bool:
            seen[:] = self.look()
            return all(text in "\n".join(seen) for text in texts)

        try:
            eventually(isThere, f"{texts} on the screen")
        except AssertionError:
            raise AssertionError(f"not there: {texts}\n" + "\n".join(seen)) from None
        return seen

    def end(self) -> int:
        """Wait for the end; returns the status as the shell has it."""

        def hasEnded() -> bool:
            self.look()
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.status = os.waitstatus_to_exitcode(status)
            return bool(ended)

        if self.status is None:
            eventually(hasEnded, "the view ends")
        self.look()
        assert self.status is not None
        return self.status

    def isRestored(self) -> bool:
        """Whether the modes are those of before, and the screen was given back last."""
        self.look()
        isShown = self.sent.rfind(b"\x1b[?25h") > self.sent.rfind(b"\x1b[?25l")
        isLeft = self.sent.rfind(LEFT) > self.sent.rfind(ENTERED)
        return isShown and isLeft and termios.tcgetattr(self.theirs) == self.modes

    def close(self) -> None:
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.end()
        os.close(self.theirs)
        os.close(self._ours)


@pytest.fixture
def screens(domain: str) -> Iterator[Callable[..., Screen]]:
    started: list[Screen] = []

    def start(*arguments: str, **options: Any) -> Screen:
        started.append(Screen(*arguments, **options))
        return started[-1]

    yield start
    for screen in started:
        screen.close()


Screens = Callable[..., Screen]


def once(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        env={**os.environ, "PYTHONUTF8": "1", **environment},
        check=False,
    )


def report(*arguments: str) -> dict[str, Any]:
    done = once("--json", *arguments)
    assert done.returncode == 0, done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


# --- what it shows -------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_aRealTerminalShowsBuffersAndTheirHolders(
    screens: Screens, actor: Start, columns: int
) -> None:
    kept = muninn.share(np.zeros(1 << 20, "u1"), "weights", access="readWrite")
    holder = actor("held = muninn.open('weights')")
    screen = screens(columns=columns, lines=24 if columns < 200 else 50)
    lines = screen.until("weights", "BUFFERS 1", f"{holder.pid}")
    assert len(max(lines, key=len)) <= columns
    found = next(line for line in lines if line.startswith("weights "))
    assert {"1M", "2"} <= set(found.split())
    assert kept.name == "weights"


def test_keysChangeWhatIsShown(screens: Screens) -> None:
    kept = [muninn.share(np.zeros(8), f"buffer{number}", tenant="t1") for number in range(40)]
    screen = screens()
    screen.until("buffer0", "lines 1-")
    screen.press("\x1b[6~\x1b[6~\x1b[6~\x1b[F")
    screen.until("buffer9", "-40 of 40")
    screen.press("h")
    screen.until("turn the order around")
    screen.press("q")
    screen.until("buffer9")
    screen.press("/")
    screen.press("er3")
    screen.until("filter: er3_", "BUFFERS 11 of 40")
    screen.press("\r")
    screen.press("g")
    screen.until("group tenant", "t1 (11)")
    screen.press("t")
    screen.until("PROCESSES 1", "broker")
    screen.press(" ")
    screen.until("PAUSED")
    screen.press("q")
    assert screen.end() == 0 and screen.isRestored()
    assert len(kept) == 40


def test_theScreenFollowsTheSizeOfItsWindow(screens: Screens) -> None:
    kept = muninn.share(np.zeros(8), "a")
    screen = screens(columns=200, lines=50)
    screen.until("GENERATION", " speed")
    screen.resize(60, 15)
    eventually(lambda: "quit" in screen.look()[14], "the footer is in the last line")
    assert "GENERATION" not in "\n".join(screen.look())
    screen.resize(200, 50)
    screen.until("GENERATION")
    assert kept.name == "a"


def test_withoutColourThereAreNoColours(screens: Screens) -> None:
    kept = muninn.share(np.zeros(8), "a")
    screen = screens(NO_COLOR="1")
    screen.until("BUFFERS 1")
    assert b"\x1b[32m" not in screen.sent and b"\x1b[1;32" not in screen.sent
    coloured = screens()
    coloured.until("BUFFERS 1")
    assert b"\x1b[32m" in coloured.sent
    assert kept.name == "a"


def test_ratesAndWaitersAreOfRealProcesses(domain: str, actor: Start) -> None:
    kept = muninn.share(np.zeros(1 << 16, "u1"), "a", access="readWrite")
    copier = actor("held = muninn.open('a', access='readWrite')")
    copier.begin("""
deadline = time.monotonic() + 60
while not os.path.exists('/dev/shm/' + os.environ['MUNINN_DOMAIN'] + '-stop') and time.monotonic() < deadline:
    with held.write() as view:
        view[:1] = 1
    held.copyTo(0).close()
""")
    mark = f"/dev/shm/{domain}-stop"
    try:
        found = report()
    finally:
        with open(mark, "w"):
            pass
        copier.result()
        os.unlink(mark)
    buffer = next(each for each in found["buffers"] if each["name"] == "a")
    assert buffer["publicationsPerSecond"] > 0 and buffer["tenant"] == "default"
    assert found["routes"]["upload"]["bytesPerSecond"] > 0
    moved = {each["pid"]: each["movedBytesPerSecond"] for each in found["members"]}
    assert moved[copier.pid] > 0 and moved[os.getpid()] == 0
    assert kept.name == "a"


def test_aProcessThatWaitsToWriteIsNamed(domain: str, actor: Start) -> None:
    kept = muninn.share(np.zeros(8), "a", access="readWrite")
    waiter = actor("held = muninn.open('a', access='readWrite')")
    if not _saysWhereItSleeps(waiter.pid):
        pytest.skip("the kernel does not let this user read /proc/PID/syscall (Yama)")
    with kept.write():
        waiter.begin("with held.write(): pass")
        # A waiter wakes now and then for a moment, in which it is not seen.
        found = eventually(
            lambda: next(
                (
                    each
                    for each in report("--interval", "0.5")["buffers"]
                    if each["isAwaited"] and each["waiters"]
                ),
                None,
            ),
            "the waiter is seen",
        )
    waiter.result()
    assert found["waiters"] == [{"pid": waiter.pid, "for": "write"}]
    assert found["writer"] == os.getpid() and found["holders"] == [os.getpid(), waiter.pid]


def _saysWhereItSleeps(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/syscall") as file:
            return bool(file.read())
    except OSError:
        return False


def test_membersHaveTheirParentsAndPrograms(domain: str, actor: Start) -> None:
    member = actor().join()
    found = next(each for each in report()["members"] if each["pid"] == member.pid)
    assert found["isNear"] and "python" in found["command"]
    assert found["ancestors"] and found["residentBytes"] > 0


def test_aHostileNameDoesNotReachTheTerminal(screens: Screens, actor: Start) -> None:
    kept = muninn.share(np.zeros(8), "名前" * 20 + "end")
    actor("import sys; sys.argv[0] = '\\x1b]0;owned\\x07'").join()
    screen = screens()
    screen.until("BUFFERS 1", "end")
    screen.press("t")
    screen.until("PROCESSES 2")
    assert b"\x1b]0;" not in screen.sent
    assert kept.nbytes == 64


# --- the domain ----------------------------------------------------------------------


def test_anOnlookerIsNoMember(domain: str) -> None:
    onlooker = Onlooker(Paths(os.geteuid(), domain))
    assert onlooker.read() is None
    assert not [each for each in os.listdir("/dev/shm") if domain in each], "it made nothing"
    kept = muninn.share(np.zeros(8), "a")
    reading = onlooker.read()
    assert reading is not None and len(reading.members) == 1
    assert onlooker.names(reading.rows.number) == ["a"]
    assert len(muninn.domainInfo()["members"]) == 1
    assert kept.describe()["importers"][0]["pid"] == os.getpid()
    onlooker.close()
    onlooker.close()


def test_memoryOfGpusIsGoneWithTheLastProcess(domain: str, actor: Start) -> None:
    """Broken: the live view showed it as idle for ever, where `list` had it no more."""
    owner = actor(
        "v = muninn.share(np.zeros(8), 'v', mode='fastMode'); h = muninn.share(b'x', 'h')"
    )
    onlooker = Onlooker(Paths(os.geteuid(), domain))

    def shown() -> list[str]:
        reading = onlooker.read()
        return [] if reading is None else sorted(onlooker.names(reading.rows.number))

    assert shown() == ["h", "v"]
    owner.kill()
    eventually(lambda: shown() == ["h"], "what is in VRAM has gone")
    onlooker.close()


def test_anOnlookerMapsNoFileOfTheDomain(domain: str, actor: Start) -> None:
    """So a mistake in it damages nothing, and a file that shrinks does not end it."""
    actor("kept = muninn.share(np.zeros(8), 'a')").kill()
    onlooker = Onlooker(Paths(os.geteuid(), domain))
    assert onlooker.read() is not None
    with open(f"/proc/{os.getpid()}/maps") as file:
        assert not [line for line in file if domain in line]
    onlooker.close()


@pytest.mark.parametrize("sizeBytes", [0, 100, 4096, 70_000])
def test_aTruncatedBlockDoesNotEndAnOnlooker(domain: str, actor: Start, sizeBytes: int) -> None:
    """Broken: a SIGBUS, by a file that another user owns."""
    actor("kept = muninn.share(np.zeros(8), 'a')").kill()
    looking = actor(
        "from muninn.service.onlooker import Onlooker\nfrom muninn.storage.paths import Paths\n"
        f"onlooker = Onlooker(Paths({os.geteuid()}, {domain!r}))"
    )
    assert looking.do("onlooker.read() is not None") is True
    os.truncate(Paths(os.geteuid(), domain).linkPath, sizeBytes)
    if sizeBytes < layout.ELECTION_OFFSET:
        assert looking.do("onlooker.read() is None") is True
    else:
        with pytest.raises(ActorError) as raised:
            looking.do("onlooker.read()")
        assert raised.value.kind == "ControlBlockInvalid"


def test_aBlockThatShrinksWhileItIsReadIsSaid(
    domain: str, actor: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor("kept = muninn.share(np.zeros(8), 'a')").kill()
    paths, checked = Paths(os.geteuid(), domain), onlooking.readHeader

    def readHeader(*arguments: Any) -> Any:
        geometry = checked(*arguments)
        os.truncate(paths.linkPath, 4096)
        return geometry

    monkeypatch.setattr(onlooking, "readHeader", readHeader)
    with pytest.raises(ControlBlockInvalid, match="has shrunk to"):
        Onlooker(paths).read()


def statesOf(paths: Paths) -> dict[str, tuple[int, ...]]:
    """Mode, owner, size and times of the files of a domain."""
    found = {}
    for name in ("", *sorted(os.listdir(paths.directory))):
        status = os.lstat(f"{paths.directory}/{name}")
        found[name] = (status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns)
    return found


def test_anOnlookerChangesNoFileOfADomain(domain: str, actor: Start) -> None:
    """Broken: root put the modes of another user's files right, through links too."""
    actor("kept = muninn.share(np.zeros(8), 'a')").kill()
    paths = Paths(os.geteuid(), domain)
    os.chmod(paths.directory, 0o755)
    for name in ("lock", "block"):
        os.chmod(f"{paths.directory}/{name}", 0o644)
    before = statesOf(paths)
    onlooker = Onlooker(paths)
    assert onlooker.read() is not None
    assert statesOf(paths) == before
    os.unlink(paths.lockPath)
    onlooker.read()
    assert not os.path.lexists(paths.lockPath)
    onlooker.close()


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_aTrapInThePlaceOfABlockIsSaid(domain: str, tmp_path: Path, kind: str) -> None:
    paths = Paths(os.geteuid(), domain)
    os.mkdir(paths.directory, 0o700)
    if kind == "fifo":
        os.mkfifo(paths.linkPath)
    elif kind == "link":
        os.symlink("/etc/passwd", paths.linkPath)
    else:
        os.mkdir(paths.linkPath)
    with pytest.raises(ControlBlockInvalid):
        Onlooker(paths).read()


def test_anOnlookerKeepsNoDomainFromEndingAndSeesTheNext(domain: str) -> None:
    onlooker = Onlooker(Paths(os.geteuid(), domain))
    muninn.share(np.zeros(8), "a").free()
    first = onlooker.read()
    assert first is not None
    current().leave()
    membership._current = None
    assert onlooker.read() is None
    kept = muninn.share(np.zeros(8), "b")
    second = onlooker.read()
    assert second is not None and second.identity != first.identity
    assert onlooker.names(second.rows.number) == [kept.name]
    onlooker.close()


def test_theViewGoesOnWhenTheBrokerDiesAndWhenTheDomainEnds(screens: Screens, actor: Start) -> None:
    broker = actor().join()
    other = actor("kept = muninn.share(np.zeros(8), 'survives')").join()
    screen = screens(columns=200)
    screen.until(f"broker {broker.pid}", "survives")
    broker.kill()
    screen.until(f"broker {other.pid}", "survives")
    other.do("kept.free()")
    other.leave()
    screen.until("no process is in domain")
    kept = muninn.share(np.zeros(8), "again")
    screen.until("again", f"broker {os.getpid()}")
    screen.press("q")
    assert screen.end() == 0 and screen.isRestored()
    assert kept.name == "again"


def test_buffersThatOutliveTheirProcessesAreSeen(domain: str) -> None:
    muninn.share(np.zeros(8), "a", lifetime="keep").close()
    current().leave()
    membership._current = None
    found = report()
    assert found["members"] == [] and found["broker"] is None
    assert [(each["name"], each["state"]) for each in found["buffers"]] == [("a", "idle")]
    assert sum(tier["idleBytes"] for tier in found["tiers"]) == 4096
    muninn.open("a").free()


def test_aStoppedBrokerIsLookedAtAllTheSame(domain: str, actor: Start) -> None:
    broker = actor("kept = muninn.share(np.zeros(8), 'a')").join()
    broker.stop()
    try:
        found = report()
    finally:
        broker.resume()
    assert found["broker"] == broker.pid and [each["name"] for each in found["buffers"]] == ["a"]


@pytest.fixture
def stranger(domain: str) -> Iterator[int]:
    """The uid of another user, whose domain of this name is removed."""
    yield 65534
    removeDomain(domain, 65534)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at another user's domain")
def test_rootLooksAtTheDomainOfAnotherUser(domain: str, actor: Start, stranger: int) -> None:
    other = actor("import muninn").join()
    other.do(f"os.setgid({stranger}); os.setuid({stranger})")
    other.do("kept = muninn.share(np.zeros(8), 'theirs')")
    found = report("--user", str(stranger))
    assert [each["name"] for each in found["buffers"]] == ["theirs"]
    assert [each["pid"] for each in found["members"]] == [other.pid]
    assert report()["buffers"] == [], "the domain of root is another one"
    other.do("kept.free()")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_noOtherUserLooksAtADomain(domain: str, actor: Start, stranger: int) -> None:
    kept = muninn.share(np.zeros(8), "secret")
    other = actor().join()
    other.do(f"os.setgid({stranger}); os.setuid({stranger})")
    code = (
        "from muninn.service.onlooker import Onlooker\n"
        "from muninn.storage.paths import Paths\n"
        f"Onlooker(Paths(0, {domain!r})).read()"
    )
    with pytest.raises(ActorError) as raised:
        other.do(code)
    assert raised.value.kind == "PermissionDenied" and kept.name == "secret"


def test_aUserThatDoesNotExistIsWrongUsage(domain: str) -> None:
    done = once("--user", "no-such-user")
    assert done.returncode == 2 and "there is no user 'no-such-user'" in done.stderr


# --- without a screen ----------------------------------------------------------------


def test_aPipeGetsOneLookAndMayClose(domain: str) -> None:
    kept = [muninn.share(np.zeros(8), f"b{number}" * 20) for number in range(60)]
    done = once()
    assert done.returncode == 0 and "\x1b" not in done.stdout
    assert sum(f"b{number}" * 20 in done.stdout for number in range(60)) == 60
    shell = f"'{sys.executable}' -m muninn top | head -1"
    headed = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell],
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        check=False,
    )
    assert headed.stdout.startswith("muninn top  domain") and "Traceback" not in headed.stderr
    assert len(kept) == 60


def test_aDumbTerminalGetsOneLook(screens: Screens) -> None:
    kept = muninn.share(np.zeros(8), "a")
    screen = screens(TERM="dumb")
    assert screen.end() == 0
    assert b"BUFFERS 1" in screen.sent and b"\x1b" not in screen.sent
    assert kept.name == "a"


def test_onceFitsTheTerminal(screens: Screens) -> None:
    kept = muninn.share(np.zeros(8), "n" * 100)
    screen = screens("--once", columns=40)
    assert screen.end() == 0
    assert ENTERED not in screen.sent
    assert max(len(line) for line in screen.look()) <= 40
    assert kept.nbytes == 64


def test_whereUnicodeCanNotBeShownItIsNot(screens: Screens) -> None:
    kept = muninn.share(np.zeros(8), "a")
    screen = screens(
        PYTHONUTF8="0", LC_ALL="C", LANG="C", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii"
    )
    screen.until("BUFFERS 1", "SIZEv")
    assert screen.sent.isascii() and b"\\u" not in screen.sent
    assert kept.name == "a"


@pytest.mark.parametrize(
    "wrong", [("--interval", "0"), ("--interval", "nan"), ("--sort", "x"), ("--group", "x")]
)
def test_wrongOptionsAreWrongUsage(domain: str, wrong: tuple[str, str]) -> None:
    assert once(*wrong).returncode == 2


# --- the terminal is given back ------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGHUP, -signal.SIGHUP),
        (signal.SIGQUIT, -signal.SIGQUIT),
    ],
)
def test_aSignalGivesTheTerminalBack(screens: Screens, number: signal.Signals, status: int) -> None:
    screen = screens()
    screen.until("no process")
    assert not screen.isRestored(), "the check can fail"
    os.kill(screen.pid, number)
    assert screen.end() == status and screen.isRestored()


def test_ctrlCGivesTheTerminalBack(screens: Screens) -> None:
    screen = screens()
    screen.until("no process")
    screen.press("\x03")
    assert screen.end() == 130 and screen.isRestored()


def test_aTerminalThatStandsStillKeepsNoViewAlive(screens: Screens) -> None:
    screen = screens()
    screen.until("no process")
    screen.press("\x13")  # Ctrl-S
    screen.press("h")
    if not _saysWhereItSleeps(screen.pid):
        pytest.skip("the kernel does not let this user read /proc/PID/syscall (Yama)")
    eventually(lambda: callOf(screen.pid) == _WRITE, "it waits for its terminal")
    os.kill(screen.pid, signal.SIGTERM)
    assert screen.end() == -signal.SIGTERM and screen.isRestored()


#: The number of write(2), by machine.
_WRITE = {"x86_64": "1", "aarch64": "64"}.get(platform.machine())


def callOf(pid: int) -> str:
    """The number of the system call in which a process is."""
    with open(f"/proc/{pid}/syscall") as file:
        return file.read().split()[0]


def test_keysComeFromTheTerminalAlsoWhereInputIsAPipe(screens: Screens) -> None:
    job = " ".join(map(repr, COMMAND))
    screen = screens(program=["/bin/bash", "-c", f"echo x | {job}"])
    screen.until("no process")
    screen.press("q")
    assert screen.end() == 0 and screen.isRestored()


def test_anErrorGivesTheTerminalBackAndIsSaid(screens: Screens) -> None:
    code = (
        "import sys; from muninn.cli.top import command\n"
        "def broken(*arguments): raise RuntimeError('broken on purpose')\n"
        "command.nobodyFrame = broken\n"
        "from muninn.cli.main import main; sys.exit(main(['top']))"
    )
    screen = screens(program=[sys.executable, "-c", code])
    assert screen.end() == 1 and screen.isRestored()
    assert screen.sent.rfind(b"broken on purpose") > screen.sent.rfind(LEFT)


def stateOf(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_aStopGivesTheTerminalBackAndGoingOnTakesItAgain(screens: Screens) -> None:
    # The kernel stops no process whose parent could not let it go on, so a shell is between.
    job = " ".join(map(repr, COMMAND))
    screen = screens(
        program=["/bin/bash", "--norc", "-i", "-c", f"set -m; {job}; fg; echo over $?"]
    )
    screen.until("no process")
    screen.press("\x1a")
    eventually(lambda: screen.look() and screen.sent.count(ENTERED) >= 2, "it has gone on by `fg`")
    assert screen.sent.find(LEFT) < screen.sent.rfind(ENTERED)
    screen.until("no process")
    screen.press("q")
    screen.until("over 0")
    assert screen.end() == 0
    assert screen.sent.count(ENTERED) == screen.sent.count(LEFT)


def test_afterASilentStopTheScreenIsDrawnAnew(screens: Screens) -> None:
    screen = screens()
    screen.until("no process")
    os.kill(screen.pid, signal.SIGSTOP)
    eventually(lambda: stateOf(screen.pid) == "T", "it is stopped")
    drawn = screen.sent.count(b"no process")
    os.kill(screen.pid, signal.SIGCONT)
    eventually(lambda: screen.look() and screen.sent.count(b"no process") > drawn, "drawn anew")
    screen.press("q")
    assert screen.end() == 0 and screen.isRestored()


def test_aTerminalThatHangsUpEndsTheView(domain: str) -> None:
    child, terminal = pty.fork()
    if child == 0:
        os.execve(COMMAND[0], COMMAND, {**os.environ, "TERM": "xterm"})
    deadline, sent = time.monotonic() + BOUND_SECONDS, b""
    while b"no process" not in sent:
        assert time.monotonic() < deadline
        sent += os.read(terminal, 1 << 16)
    os.close(terminal)
    eventually(lambda: os.waitpid(child, os.WNOHANG)[0], "the view ends with its terminal")
