"""The clock: a program may stop, move and replace Python's time, and harms neither
itself nor other processes.
"""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muninn.api.lifetimes import asDeadline
from muninn.errors import InvalidArgument
from muninn.system import clock
from support import Actor, ActorError, eventually, program

PACKAGE = Path(__file__).parent.parent / "muninn"
#: Modules and functions that read or count by Python's `time`. `threading`'s locks,
#: events and joins, `SimpleQueue` and `select` wait in C.
CLOCKED_MODULES = {"time", "datetime", "sched", "selectors"}
CLOCKED_ATTRIBUTES = {"wait_for", "as_completed", "Queue", "LifoQueue", "PriorityQueue"}
CLOCKED_WITH_TIMEOUT = {"run", "communicate", "check_output", "check_call", "call", "map"}
#: Module → why it may use them.
ALLOWED: dict[str, str] = {
    "observe/lines.py": "a line shows the time that the program's own log shows",
    "observe/spans.py": "so does a span",
    "cli/top/looking.py": "it shows the time of day, in a process of its own",
    "cli/top/terminal.py": "a process of its own waits at its terminal",
}

#: Replace `time` as freezegun and time-machine do: a module that imported a function of
#: `time`, before or after, gets the replacement.
REPLACED = """
import sys
def replaceTime(answer, sleep):
    real = {name: getattr(time, name) for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")}
    fakes = {id(call): (lambda name=name, call=call: answer(name, call)) for name, call in real.items()}
    fakes[id(time.sleep)] = sleep
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if id(value) in fakes and module is not sys.modules["__main__"]:
                setattr(module, name, fakes[id(value)])
"""
FROZEN = REPLACED + "replaceTime(lambda name, call: 1_000_000, lambda seconds: None)\n"
MOVED = REPLACED + "replaceTime(lambda name, call: call() * 1000 + 10**15, lambda seconds: None)\n"


@pytest.mark.parametrize("replaced", [FROZEN, MOVED], ids=["frozen", "moved"])
def test_waitsEndInTimeWhateverAProgramMakesOfPythonsTime(
    actor: Callable[..., Actor], replaced: str
) -> None:
    other = actor(
        "b = muninn.share(np.arange(3), name='there')\nlock = muninn.Lock('lock'); lock.acquire()"
    )
    here = actor(replaced)
    began = time.monotonic()
    with pytest.raises(ActorError, match="BufferNotFound"):
        here.do("muninn.open('not there', timeout=0.3)")
    with pytest.raises(ActorError, match="TimeoutError"):
        here.do("b = muninn.open('there'); b.waitNext(timeout=0.3)")
    with pytest.raises(ActorError, match="TimeoutError"):
        here.do("muninn.Lock('lock').acquire(timeout=0.3)")
    assert time.monotonic() - began >= 0.9
    assert here.do("muninn.share(np.arange(5), name='new').array.tolist()") == [0, 1, 2, 3, 4]
    other.do("lock.release()")


@pytest.mark.parametrize("replaced", [FROZEN, MOVED], ids=["frozen", "moved"])
def test_aBrokerWhoseTimeIsReplacedEndsOnlyLifetimesThatAreOver(
    actor: Callable[..., Actor], replaced: str
) -> None:
    broker = actor("kept = muninn.share(np.arange(3), name='mine')")
    broker.do(replaced)
    other = actor("b = muninn.share(np.arange(3), name='hour', lifetimeMs=3_600_000)")
    other.do("muninn.share(np.arange(3), name='moment', lifetimeMs=300).close()")
    broker.do("d = muninn.share(np.arange(4), name='more')")
    eventually(
        lambda: (
            other.do("sorted(each['name'] for each in muninn.listBuffers())")
            == ["hour", "mine", "more"]
        ),
        "the moment is over",
    )
    assert other.do("int(b.array.sum())") == 3
    assert 0 < broker.do("muninn.open('hour').describe()['endsInMs']") <= 3_600_000


#: As libfaketime does it: a program that loads this before the C library is two hours
#: ahead.
_PRELOADED = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now)
{
	long result = syscall(SYS_clock_gettime, clock, now);
	now->tv_sec += 7200;
	return (int)result;
}
"""


def test_aClockBeforeTheCLibrarysIsNotAsked(actor: Callable[..., Actor], tmp_path: Path) -> None:
    """Broken: a broker two hours ahead of all others freed buffers that they had shared
    for an hour.
    """
    (tmp_path / "clock.c").write_text(_PRELOADED)
    library = str(tmp_path / "clock.so")
    subprocess.run(
        [
            *shlex.split(os.environ.get("CC") or "cc"),
            "-shared",
            "-fPIC",
            "-o",
            library,
            str(tmp_path / "clock.c"),
        ],
        check=True,
    )
    broker = actor("from muninn.system import clock", LD_PRELOAD=library)
    assert broker.do("time.monotonic()") - time.monotonic() > 7000, (
        "it is loaded before the C library"
    )
    before = time.monotonic()
    assert (
        before
        <= broker.do("muninn.share(np.arange(3), name='mine'); clock.now()")
        <= time.monotonic()
    )
    other = actor("b = muninn.share(np.arange(3), name='hour', lifetimeMs=3_600_000)")
    other.do("muninn.share(np.arange(3), name='moment', lifetimeMs=300).close()")
    eventually(
        lambda: (
            other.do("sorted(each['name'] for each in muninn.listBuffers())") == ["hour", "mine"]
        ),
        "the moment is over",
    )
    assert broker.do("began = clock.now(); clock.sleep(0.2); clock.now() - began") >= 0.2


def test_aThreadOutlivesALogThatRaises(actor: Callable[..., Actor]) -> None:
    """Broken: a program had patched `time.time`, which `logging` calls; the exception
    ended the background thread, and all members took the process for dead.
    """
    here = actor(
        "import unittest.mock\nb = muninn.share(np.arange(3), name='kept')\nfrom muninn.session import membership\nm = membership.current()"
    )
    here.do(
        "for name in ('time', 'time_ns'): unittest.mock.patch(f'time.{name}', side_effect=StopIteration).start()"
    )
    here.do(
        "renew, called = m.openBuffers.renewAll, []\ndef fail(): called.append(1); m.openBuffers.renewAll = renew; raise OSError('once')"
    )
    here.do("m.openBuffers.renewAll = fail; m.wake()")
    eventually(lambda: here.do("len(called)") == 1, "the background thread has something to log")
    assert here.do("muninn.share(np.arange(5), name='new').array.tolist()") == [0, 1, 2, 3, 4]
    assert here.do("m.worker.thread.is_alive()") and here.do("m is membership.current()")


def test_isTheKernelsMonotonicClock() -> None:
    assert time.monotonic() <= clock.now() <= time.monotonic()
    assert (
        time.monotonic_ns() // 1_000_000 <= clock.monotonicMs() <= time.monotonic_ns() // 1_000_000
    )


def test_sleepsToItsEndThroughSignals() -> None:
    seen: list[float] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(clock.now()))
    try:
        main = threading.get_ident()
        threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGUSR1)).start()
        began = clock.now()
        clock.sleep(0.3)
        assert clock.now() - began >= 0.3
        assert len(seen) == 1 and seen[0] - began < 0.3, "the handler ran while the thread slept"
    finally:
        signal.signal(signal.SIGUSR1, before)
    clock.sleep(0)
    clock.sleep(-1)


def test_aHandlerThatRaisesEndsASleep() -> None:
    def handle(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1)).start()
        with pytest.raises(KeyboardInterrupt):
            clock.sleep(30)
    finally:
        signal.signal(signal.SIGUSR1, before)


# --- time namespaces ----------------------------------------------------------------

#: Starts a program whose CLOCK_MONOTONIC is more than a day ahead of the host's, and
#: its CLOCK_BOOTTIME by another number.
AHEAD = ("unshare", "--time", "--monotonic", "100000", "--boottime", "300000")


def skipWithoutTimeNamespaces() -> None:
    tried = (
        subprocess.run([*AHEAD, "true"], capture_output=True, text=True, check=False)
        if shutil.which("unshare")
        else None
    )
    if tried is None or tried.returncode:
        pytest.skip(
            f"no time namespace can be made here: {tried.stderr.strip() if tried else 'there is no program unshare'}"
        )


def test_aMemberAheadOfTheHostSharesOpensAndWaits(actor: Callable[..., Actor]) -> None:
    skipWithoutTimeNamespaces()
    host = actor("b = muninn.share(np.arange(3), name='hosts', lifetimeMs=3_600_000)")
    ahead = actor("b = muninn.share(np.arange(4), name='aheads', lifetimeMs=3_600_000)", AHEAD)
    assert ahead.do("time.monotonic()") > host.do("time.monotonic()") + 90_000
    for each in (host, ahead):
        ends = each.do(
            "{e['name']: (e['endsInMs'], e['ageMs'], e['importers'][0]['lease']) for e in muninn.listBuffers()}"
        )
        assert set(ends) == {"hosts", "aheads"}
        for endsInMs, ageMs, lease in ends.values():
            assert 0 < endsInMs <= 3_600_000 and 0 <= ageMs < 3_600_000 and lease == "ok"
        assert all(
            0 <= age < 3_600_000
            for age in each.do("[m['ageMs'] for m in muninn.domainInfo()['members']]")
        )
    ahead.do("a = muninn.open('hosts'); h = a.array.tolist()")
    host.do("muninn.share(np.arange(3), name='moment', lifetimeMs=300).close()")
    ahead.do("muninn.share(np.arange(3), name='instant', lifetimeMs=300).close()")
    eventually(
        lambda: host.do("len(muninn.listBuffers())") == 2,
        "both short lifetimes are over, and the long ones are not",
    )
    with pytest.raises(ActorError, match="TimeoutError"):
        ahead.do("a.waitNext(timeout=0.2)")
    assert isinstance(host.do("with b.write() as view: view[:] = 7"), type(None))
    assert ahead.do("a.read().tolist()") == [7, 7, 7]


@pytest.mark.parametrize("which", ["ahead", "host"])
def test_aBrokerOfAnotherTimeNamespaceEndsLifetimesWhenTheyAreOver(
    actor: Callable[..., Actor], which: str
) -> None:
    skipWithoutTimeNamespaces()
    launchers = ((), AHEAD) if which == "host" else (AHEAD, ())
    broker, other = (actor("", launcher) for launcher in launchers)
    broker.join()
    other.do("b = muninn.share(np.arange(3), name='hour', lifetimeMs=3_600_000)")
    other.do("muninn.share(np.arange(3), name='moment', lifetimeMs=400).close()")
    eventually(
        lambda: other.do("[each['name'] for each in muninn.listBuffers()]") == ["hour"],
        "the moment is over",
    )
    assert other.do("b.array.tolist()") == [0, 1, 2]
    # The death is confirmed across the namespaces, and the other member is elected.
    broker.kill()
    assert other.do("muninn.share(np.arange(2), name='next').array.tolist()") == [0, 1]
    eventually(
        lambda: len(other.do("muninn.domainInfo()['members']")) == 1,
        "the dead member's slot is taken back",
    )


def test_aForkedChildInANewTimeNamespaceKnowsItsOffset(actor: Callable[..., Actor]) -> None:
    skipWithoutTimeNamespaces()
    here = actor(
        "import ctypes, signal\nlibc = ctypes.CDLL(None, use_errno=True)\nb = muninn.share(np.arange(3), name='parents')"
    )
    here.do(
        "assert libc.unshare(0x80) == 0, ctypes.get_errno()\nopen('/proc/self/timens_offsets', 'w').write('monotonic 5000 0')"
    )
    # unshare moves the children only.
    here.do("again = muninn.share(np.arange(3), name='again', lifetimeMs=3_600_000)")
    here.do(
        "child = os.fork()\nif child == 0:\n    signal.alarm(30)\n"
        "    muninn.share(np.arange(3), name='childs', lifetimeMs=3_600_000)\n    time.sleep(60)"
    )
    other = actor()
    ends = eventually(
        lambda: (
            (e := other.do("{e['name']: e['endsInMs'] for e in muninn.listBuffers()}"))
            and "childs" in e
            and e
        ),
        "shared",
    )
    here.do("os.kill(child, 9); os.waitpid(child, 0)[0] == child")
    assert 3_000_000 < ends["childs"] <= 3_600_000 and 3_000_000 < ends["again"] <= 3_600_000


def test_aProcessThatCanNotKnowItsClockBelievesNoDeadline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clock.namespaceOf(7, 8, "monotonic 5 6\nboottime 7 8\n").inode == 0
    monkeypatch.setattr(clock, "_own", clock.namespaceOf(7, 8, "monotonic 5 6\nboottime 7 8\n"))
    assert not clock.knowsHostTime()
    with pytest.raises(InvalidArgument, match="time namespace"):
        asDeadline("share", 5)
    assert asDeadline("share", None) == 0


def test_theOffsetIsReadAsTheKernelWritesIt() -> None:
    text = "monotonic      100000         5\nboottime           -3 500000000\n"
    assert clock.namespaceOf(7, 7, text) == clock.TimeNamespace(
        7, 100_000 * 10**9 + 5, -3 * 10**9 + 500_000_000
    )
    assert clock.namespaceOf(7, 7, "1 2 3\n7 4 5\n") == clock.TimeNamespace(
        7, 2 * 10**9 + 3, 4 * 10**9 + 5
    )
    assert clock.namespaceOf(0xEFFFFFFA, 8, text) == clock.TimeNamespace(0xEFFFFFFA, 0, 0), (
        "a process that calls unshare is not moved itself"
    )
    for damaged in ("", "monotonic 1 0\n", "monotonic a b\nboottime 1 1\n"):
        assert clock.namespaceOf(7, 7, damaged).inode == 0


def clocked(source: str) -> Iterator[str]:
    """The names in a module's source that count by Python's `time`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (
                alias.name for alias in node.names if alias.name.split(".")[0] in CLOCKED_MODULES
            )
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in CLOCKED_MODULES:
                yield node.module or ""
            yield from (alias.name for alias in node.names if alias.name in CLOCKED_ATTRIBUTES)
        elif isinstance(node, ast.Attribute) and node.attr in CLOCKED_ATTRIBUTES:
            yield node.attr
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in CLOCKED_WITH_TIMEOUT
        ):
            yield from (
                f"{node.func.attr}(timeout)"
                for keyword in node.keywords
                if keyword.arg == "timeout"
            )


def test_nothingCountsByPythonsTime() -> None:
    found = {
        str(path.relative_to(PACKAGE)): set(clocked(path.read_text()))
        for path in PACKAGE.rglob("*.py")
    }
    found = {module: uses for module, uses in found.items() if uses and module not in ALLOWED}
    assert not found, "use muninn.system.clock, or say in ALLOWED why not"


@pytest.mark.parametrize(
    "planted",
    [
        "import time",
        "def f():\n    import time as t",
        "from time import monotonic",
        "import datetime",
        "condition.wait_for(f, 1)",
        "import queue\nqueue.Queue()",
        "from queue import Queue",
        "import subprocess\nsubprocess.run([], timeout=1)",
        "import selectors",
    ],
)
def test_aUseOfPythonsTimeIsFound(planted: str) -> None:
    assert list(clocked(planted))
    assert not list(
        clocked("import threading, queue\nqueue.SimpleQueue(); threading.Event().wait(1)")
    )


def test_theFilesOfAProcessWhoseFirstThreadHasEndedAreRead() -> None:
    """Broken: /proc/self is empty then; the time namespace was unknown, and doctor
    found neither the mounts nor the PID namespace.
    """
    code = program("firstThreadEnds")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True True True\n", done.stderr
