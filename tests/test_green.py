"""Green threads: the background thread is a real one, and while a green thread waits,
the others run.
"""

from __future__ import annotations

import _thread
import ast
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muninn.system import atomics, green, threads
from muninn.system.green import Condition
from support import Actor, eventually, program

PACKAGE = Path(__file__).parent.parent / "muninn"
#: Names that such libraries replace, in the modules that the serving thread uses.
REPLACED = {
    "threading": {
        "Thread",
        "Lock",
        "RLock",
        "Event",
        "Condition",
        "Semaphore",
        "local",
        "get_ident",
        "current_thread",
        "Timer",
        "Barrier",
    },
    "_thread": {"start_new_thread", "allocate_lock", "get_ident", "_local"},
    "select": {"select", "poll", "epoll"},
    "socket": {"socket", "socketpair", "fromfd"},
    "queue": {"SimpleQueue", "Queue"},
    "time": {"sleep"},
}
#: (module, name) → why it may use the name.
ALLOWED = {
    ("system/green.py", "threading.get_ident"): "it asks for the running thread",
    ("system/atomics.py", "threading.get_ident"): "the C part asks for the running thread",
    ("system/threads.py", "threading.Thread"): "where there are no green threads",
    ("system/threads.py", "_thread.start_new_thread"): "where there are no green threads",
    ("session/departure.py", "threading.current_thread"): "where there are no green threads",
    ("session/leaving.py", "threading.current_thread"): "for the same comparison",
    ("system/green.py", "queue.SimpleQueue"): "its type",
}

#: Stands for a library that makes green threads, as far as Muninn can tell: nothing
#: that it replaces works without its loop.
LIBRARY = """
import _thread, queue, select, socket, threading
def replaced(*_, **__): raise AssertionError('something of the library, on a thread that its loop does not run')
ident = threading.get_ident
for module, names in ((_thread, ('start_new_thread',)), (threading, ('Thread', 'Event', 'Lock', 'RLock', 'Condition', 'local')),
                      (socket, ('socket',)), (queue, ('SimpleQueue',))):
    for name in names: setattr(module, name, replaced)
del select.epoll, select.poll
threading.get_ident = lambda: ident()
"""
PATCHES = {
    "gevent": "from gevent import monkey; monkey.patch_all()\nfrom gevent import spawn, sleep\njoin = lambda each: each.get()\n",
    "eventlet": "import warnings; warnings.simplefilter('ignore')\nimport eventlet; eventlet.monkey_patch()\nfrom eventlet import spawn, sleep\njoin = lambda each: each.wait()\n",
}
TICKING = program("ticking")


@pytest.fixture(params=sorted(PATCHES))
def patch(request: pytest.FixtureRequest) -> str:
    """The code that makes threads green."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed: pip install '.[test]'")
    return PATCHES[request.param]


def ended(code: str) -> str:
    """The output of a program at its end."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def replaceable(path: Path) -> Iterator[str]:
    """The names that a module uses and that such a library replaces."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.attr in REPLACED.get(node.value.id, ())
        ):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            yield from (
                f"{node.module}.{each.name}"
                for each in node.names
                if each.name in REPLACED.get(node.module or "", ())
            )


def annotations(path: Path) -> set[str]:
    """The names that stand in annotations only."""
    found = (
        getattr(node, field, None)
        for node in ast.walk(ast.parse(path.read_text()))
        for field in ("annotation", "returns")
    )
    return {name for each in found if each is not None for name in _attributes(each)}


def _attributes(node: ast.AST) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
            yield f"{each.value.id}.{each.attr}"


def test_noReplacedNameIsUsed() -> None:
    found = {
        (str(path.relative_to(PACKAGE)), name)
        for package in (
            "system",
            "storage",
            "control",
            "wire",
            "interop",
            "devices",
            "broker",
            "session",
            "sync",
            "api",
        )
        for path in (PACKAGE / package).rglob("*.py")
        for name in set(replaceable(path)) - annotations(path)
    }
    assert found == set(ALLOWED)


@pytest.mark.parametrize("isImported", [False, True])
def test_aProgramWhoseThreadsWereReplacedIsServedByARealOne(domain: str, isImported: bool) -> None:
    """Broken: `share` never returned, because its background thread was one of the
    library's.
    """
    work = program("greenBroker")
    order = (
        "import muninn, numpy, muninn.session.membership, muninn.devices.choose, muninn.devices.host.streams\n",
        LIBRARY,
    )
    assert (
        ended(
            "".join(order if isImported else ("import logging, weakref, numpy\n", LIBRARY)) + work
        )
        == "[7, 1, 2] ['b', 'f']"
    )


def test_aWaitLetsTheOtherThreadsRun(domain: str, actor: Callable[..., Actor], patch: str) -> None:
    """Broken: the hub stood still until the wait was over."""
    actor(
        "b = muninn.share(np.zeros(3), name='b', access='readWrite'); scope = b.write(); scope.__enter__(); lock = muninn.Lock('lock'); lock.acquire()"
    )
    waits = (
        "muninn.open('none', timeout=0.5)",
        "b.waitNext(0.5)",
        "b.read(timeout=0.5)",
        "b.write(0.5).__enter__()",
        "lock.acquire(0.5)",
    )
    code = f"{patch}import muninn\nb, lock = muninn.open('b', access='readWrite'), muninn.Lock('lock')\n{TICKING}\nsleep(0.02)\n"
    counted = [
        int(each)
        for each in ended(
            code + "".join(f"print(ticksWhile(lambda: {wait}))\n" for wait in waits)
        ).split()
    ]
    assert len(counted) == len(waits) and min(counted) >= 5, counted


def test_aLockKeepsGreenThreadsApart(domain: str, patch: str) -> None:
    """The library calls them threads, but they run on one thread."""
    work = program("greenLock")
    assert ended(patch + work) == "60 60"


def test_greenThreadsAreKnownWheneverTheLibraryMakesThem(domain: str, patch: str) -> None:
    """Broken: Muninn kept the way in which it asked for the running thread at its first
    use, so locks kept no green thread out, and its thread ended with a KeyError.
    """
    early = """
import numpy as np, muninn
b, lock, plain = muninn.share(np.zeros(1), name='b', access='readWrite'), muninn.Lock('lock'), [0]
with lock, b.write(): pass
lock.acquire()
"""
    work = program("greenIdentities")
    done = subprocess.run(
        [sys.executable, "-c", early + patch + work],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split("\n") == [
        "60 60",
        "another thread has held lock 'lock' for 0.05 s",
        "",
    ], done.stdout + done.stderr[-3000:]
    assert "Error" not in done.stderr and "Exception" not in done.stderr


def test_oneOfThemLoadsAndTheOthersWait(domain: str, patch: str) -> None:
    work = """
import numpy as np, muninn
calls = []
def load():
    calls.append(1); sleep(0.2); return np.arange(4)
def once():
    return muninn.shareOnce('once', load).read().tolist()
print([join(each) for each in [spawn(once) for _ in range(4)]] == [[0, 1, 2, 3]] * 4, len(calls))
muninn.free('once')
"""
    assert ended(patch + work) == "True 1"


def test_theBrokerGoesOnWhileTheProgramComputes(
    domain: str, actor: Callable[..., Actor], patch: str
) -> None:
    """The hub runs no green thread meanwhile; other processes are served all the same."""
    work = "import numpy as np, muninn\nb = muninn.share(np.arange(3), name='b')\nprint('there', flush=True)\nend = __import__('sys').stdin.fileno()\n"
    # No library replaces this wait: it blocks the hub.
    work += "import ctypes\nctypes.CDLL(None).read(end, ctypes.create_string_buffer(1), 1)\n"
    with subprocess.Popen(
        [sys.executable, "-c", patch + work],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as busy:
        assert busy.stdin is not None and busy.stdout is not None
        try:
            assert busy.stdout.readline() == "there\n"
            other = actor()
            assert other.do(
                "muninn.share(np.arange(2), name='c').free(); muninn.open('b').array.tolist()"
            ) == [0, 1, 2]
            assert other.do("muninn.domainInfo()['brokerPid']") == busy.pid
        finally:
            busy.stdin.close()
            busy.wait(30)


def test_aChildOfAGreenThreadJoinsAnew(domain: str, patch: str) -> None:
    work = program("greenFork")
    assert ended(patch + work) == "[0, 1, 2]"


def test_aThreadIsARealOneWhateverIsMadeOfThreads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "get_ident", lambda: 42)
    monkeypatch.setattr(threading, "Thread", None)
    monkeypatch.setattr(threads._thread, "start_new_thread", None)
    assert green.areGreen() and green.identity() == 42
    ran = list[int]()
    thread = threads.start(lambda: ran.append(atomics.threadId()), "real")
    thread.join(20)
    threads.startBare(lambda: ran.append(atomics.threadId()))
    eventually(lambda: len(ran) == 2, "both have run")
    assert os.getpid() not in ran and atomics.threadId() not in ran


def test_aConditionIsNotifiedWhateverItsLockIsTakenTimes() -> None:
    condition, seen = Condition(), list[str]()

    def change() -> None:
        with condition.lock:
            seen.append("changed")
            condition.notifyAll()

    with condition.lock, condition.lock:
        thread = threading.Thread(target=change)
        thread.start()
        while not seen:
            condition.wait(20)
        assert condition.lock._is_owned()  # type: ignore[attr-defined]
    thread.join(20)
    with condition.lock:
        condition.wait(0.01)  # it is not notified


@pytest.mark.parametrize("later", range(6))
def test_aWaiterThatIsInterruptedAnywhereHasTheLock(
    domain: str, actor: Callable[..., Actor], later: int
) -> None:
    """By one signal or two, in a process of its own, with a lock that is taken twice.
    Broken: a signal between the sleep and the look at the lock left the lock released, and
    its block released it once more; after one as the lock was released it was taken once.
    """
    other = actor(program("interruptedCondition", LATER=str(later)))
    assert other.do("wrong") == []
    assert {"Condition.wait", "sleepOn"} <= set(other.do("sorted(seen)"))


def test_noPythonRunsBetweenAConditionsLockAndItsBlock() -> None:
    """An interruption there would leave the lock taken."""
    assert not hasattr(Condition, "__enter__")
    assert isinstance(Condition().lock, type(_thread.RLock()))
