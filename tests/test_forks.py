"""`system/forks.py`: a fork waits for the steps that it must not cut in half."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

import muninn
from muninn.system.forks import Guard
from support import Actor, Background


def _inChild(call: Callable[[], bool]) -> bool:
    """What `call` returns in a forked child."""
    pid = os.fork()
    if not pid:
        os._exit(not call())
    return os.waitpid(pid, 0)[1] == 0


def test_whatAnotherThreadHeldIsFreeInAChild() -> None:
    """Broken: a lock of the module stayed taken in the child, for ever."""
    guard, held, end = Guard(), threading.Event(), threading.Event()

    def hold() -> None:
        with guard.lock:
            held.set()
            end.wait(20)

    openBuffer = Background(hold)
    assert held.wait(20)
    assert _inChild(lambda: guard.lock.acquire(timeout=0))
    assert not guard.lock.acquire(timeout=0), "in the parent it is as it was"
    end.set()
    openBuffer.ended()


@pytest.mark.parametrize("isWhole", [True, False])
def test_aForkInsideALockLeavesItAsItIsAndTheChildWithout(isWhole: bool) -> None:
    """Broken: a handler that forks inside a join or a departure has a child that can
    never join.
    """
    guard = Guard(isWhole)

    def frees() -> bool:
        lock = guard.lock
        with lock:
            pid = os.fork()
            isFree = _byAnotherThread(guard)
        if not pid:
            os._exit(not isFree)
        return not isFree and os.waitpid(pid, 0)[1] == 0

    assert frees()
    assert _byAnotherThread(guard), "and a fork leaves nothing taken"
    assert _inChild(lambda: _byAnotherThread(guard))


def _byAnotherThread(guard: Guard) -> bool:
    return bool(Background(lambda: guard.lock.acquire(timeout=0)).ended())


NESTED = """
import os, sys, signal, threading
from muninn.system.forks import Guard
guards, depth, forked = [Guard(isWhole=True) for _ in range(3)], 0, []
def isFree():
    found = []
    thread = threading.Thread(target=lambda: found.extend(guard.lock.acquire(timeout=0) and guard.lock.release() is None for guard in guards))
    thread.start(); thread.join()
    return all(found)
def fork():
    pid = os.fork()
    if not pid:
        os._exit(0 if isFree() else 3)
    forked.append(os.waitpid(pid, 0)[1])
if sys.argv[1] == "forks":
    hook = lambda: depth or nested()
else:
    def hook():
        raise KeyboardInterrupt
def nested():
    global depth
    depth += 1
    fork()
for at in ("before", "after_in_parent"):
    os.register_at_fork(**{at: hook})
def trace(frame, event, argument):
    frame.f_trace_opcodes = frame.f_code.co_filename.endswith("forks.py")
    if event == "opcode" and not depth:
        hook()
    return trace
sys.unraisablehook = lambda _: None
sys.settrace(trace)
fork()
sys.settrace(None)
print(set(forked), isFree())
"""


@pytest.mark.parametrize("what", ["forks", "raises"])
def test_aHandlerInTheMiddleOfAForkLeavesNoLockTaken(what: str) -> None:
    """Broken: the parent kept the lock for ever, and no other thread of it could join
    or leave; nor could the handler's child.
    """
    done = subprocess.run(
        [sys.executable, "-c", NESTED, what], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("{0} True\n", "")


def test_aForkWaitsForWhatMustBeWhole() -> None:
    """Broken: the child found what the other thread was importing half imported."""
    guard, held, made = Guard(isWhole=True), threading.Event(), list[int]()

    def make() -> None:
        with guard.lock:
            made.append(1)
            held.set()
            time.sleep(0.1)
            made.append(2)

    making = Background(make)
    assert held.wait(20)
    assert _inChild(lambda: len(made) == 2)
    making.ended()


CHILD = """
import os, sys, time, muninn
b = muninn.open("w")
time.sleep(float(sys.argv[1]))
if os.fork():
    os._exit(0)
print(b.read().sum(), flush=True)
sys.stdin.readline()
muninn.share(b"x", name="from the child")
print(muninn.domainInfo()["brokerPid"] == os.getpid(), flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("delay", ["0", "0.002", "0.004", "0.008"])
def test_aChildServesWhateverItsParentWasAboutToDo(
    domain: str, actor: Callable[..., Actor], delay: str
) -> None:
    """Broken: the parent's background thread was importing the broker when it was
    forked, and the child's could never do so.
    """
    broker = actor("b = muninn.share(np.ones(4), name='w')")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, delay],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "4.0\n"
        broker.kill()
        out, errors = process.communicate("\n", timeout=60)
    assert (out, errors) == ("True\n", "")
    muninn.free("w")


FORKED = """
import os, signal, sys, muninn
from muninn.errors import MuninnError
def say(*words):
    os.write(1, (" ".join(map(str, words)) + chr(10)).encode())
muninn.domainInfo()
children = []
def fork(*_):
    children.append(os.fork())
    say(os.getpid(), "forked")
signal.signal(signal.SIGUSR1, fork)
say(os.getpid(), "asks")
try:
    muninn.free("nothing")
except MuninnError as error:
    say("child" if children == [0] else "parent", type(error).__name__)
if children == [0]:
    say(muninn.open("w").read().sum())
    os._exit(0)
os.waitpid(children[0], 0)
"""


def test_aHandlerThatForksLeavesTheAnswerToTheParent(
    domain: str, actor: Callable[..., Actor]
) -> None:
    """Broken: child and parent waited at one socket, and either took the answer."""
    broker = actor("b = muninn.share(np.ones(4), name='w')")
    with subprocess.Popen(
        [sys.executable, "-c", FORKED],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "MUNINN_TAKEOVER_MS": "60000"},
    ) as process:
        assert process.stdout is not None
        broker.stop()
        pid = int(process.stdout.readline().split()[0])
        time.sleep(0.2)
        os.kill(pid, signal.SIGUSR1)
        lines = [process.stdout.readline().split() for _ in range(3)]  # of two processes
        broker.resume()
        assert sorted(line[1] for line in lines) == ["BrokerUnavailable", "forked", "forked"]
        assert ["child", "BrokerUnavailable"] in lines
        assert sorted(process.stdout.read().splitlines()) == ["4.0", "parent BufferNotFound"]
