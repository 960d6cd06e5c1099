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
from support import Actor, Background, program


def _inChild(call: Callable[[], bool]) -> bool:
    """Whether `call` returns True in a forked child."""
    pid = os.fork()
    if not pid:
        os._exit(not call())
    return os.waitpid(pid, 0)[1] == 0


def test_aLockOfAnotherThreadIsFreeInAChild() -> None:
    """Broken: a lock of the module stayed taken in the child for ever."""
    guard, held, end = Guard(), threading.Event(), threading.Event()

    def hold() -> None:
        with guard.lock:
            held.set()
            end.wait(20)

    openBuffer = Background(hold)
    assert held.wait(20)
    assert _inChild(lambda: guard.lock.acquire(timeout=0))
    assert not guard.lock.acquire(timeout=0), "in the parent the lock is still taken"
    end.set()
    openBuffer.ended()


@pytest.mark.parametrize("isWhole", [True, False])
def test_aForkInsideALockLeavesItAsItIsAndTheChildWithout(isWhole: bool) -> None:
    """Broken: after a handler forked inside a join or a departure, the child could
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
    assert _byAnotherThread(guard), "the fork leaves no lock taken"
    assert _inChild(lambda: _byAnotherThread(guard))


def _byAnotherThread(guard: Guard) -> bool:
    return bool(Background(lambda: guard.lock.acquire(timeout=0)).ended())


NESTED = program("nestedForks")


@pytest.mark.parametrize("what", ["forks", "raises"])
def test_aHandlerInTheMiddleOfAForkLeavesNoLockTaken(what: str) -> None:
    """Broken: the parent kept the lock for ever, and no other thread of the parent
    could join or leave; nor could the handler's child.
    """
    done = subprocess.run(
        [sys.executable, "-c", NESTED, what], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("{0} True\n", "")


def test_aForkWaitsForStepsThatMustBeWhole() -> None:
    """Broken: another thread was importing a module, and the child found it half
    imported.
    """
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
    """Broken: the parent's background thread was importing the broker at the fork, and
    the child's thread could never import it.
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


FORKED = program("forkedInAHandler")


def test_aHandlerThatForksLeavesTheAnswerToTheParent(
    domain: str, actor: Callable[..., Actor]
) -> None:
    """Broken: child and parent waited at one socket, and either of them took the
    answer.
    """
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
        # lines of two processes
        lines = [process.stdout.readline().split() for _ in range(3)]
        broker.resume()
        assert sorted(line[1] for line in lines) == ["BrokerUnavailable", "forked", "forked"]
        assert ["child", "BrokerUnavailable"] in lines
        assert sorted(process.stdout.read().splitlines()) == ["4.0", "parent BufferNotFound"]
