"""`api/alone.py`, `api/waiting.py` and `control/threads.py`: what works when an interpreter ends, in whatever order it does so."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

import muninn
from muninn.control import threads
from support import Actor, eventually

HEAD = "import atexit, sys, threading, time\n{before}import muninn\nimport numpy as np\n"
FREES = """
class Owner:
    def __init__(self):
        self.b = muninn.share(np.arange(3), name="tmp")
    def __del__(self):
        self.b.free()
        sys.__stdout__.write("freed\\n")
owner = Owner()
"""
LATE = """def late():
    muninn.share(np.zeros({size}, "u1"), name="late")
    print(muninn.open("late").read().sum(), flush=True)
    muninn.free("late")
atexit.register(late)
"""


def _ended(code: str, bound: float = 60) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=bound)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("isBroker", [True, False], ids=["broker", "member"])
@pytest.mark.parametrize("held", ["", "lock = muninn.Lock('l')\nlock.acquire()\n"], ids=["left", "stays"])
def test_anObjectThatLivesToTheEndMayFree(domain: str, actor: Callable[..., Actor], isBroker: bool, held: str) -> None:
    """Broken: ImportError, since nothing can be imported then, and the buffer stayed."""
    if not isBroker:
        actor().join()
    assert _ended(HEAD.format(before="") + held + FREES) == "freed\n"
    eventually(lambda: muninn.listBuffers() == [], "nothing is left")


@pytest.mark.parametrize("size", [100, 40_000_000])
@pytest.mark.parametrize("isFirst", [True, False], ids=["registeredBefore", "registeredAfter"])
@pytest.mark.parametrize("isJoined", [True, False], ids=["joined", "firstUse"])
def test_anExitHandlerMayShare(domain: str, size: int, isFirst: bool, isJoined: bool) -> None:
    """Broken: RuntimeError, since pools take nothing any more, and Python 3.12 starts no thread."""
    late = LATE.format(size=size)
    code = HEAD.format(before=late if isFirst else "") + ("" if isFirst else late) + ("muninn.domainInfo()\n" if isJoined else "")
    assert _ended(code) == "0\n"
    eventually(lambda: muninn.listBuffers() == [], "nothing is left")


def test_whatNobodyWillPublishKeepsNoProcess(domain: str) -> None:
    """Broken: the interpreter waited for the thread of a pool, which waited for a publication."""
    code = """
import asyncio
b = muninn.share(np.arange(3), name="b", lifetime="lastClose")
loop = asyncio.new_event_loop()
task = loop.create_task(b.waitNextAsync())
loop.run_until_complete(asyncio.sleep(0.1))
print("ends", flush=True)
task._log_destroy_pending = False
"""
    assert _ended(HEAD.format(before="") + code, 30) == "ends\n"
    eventually(lambda: muninn.listBuffers() == [], "nothing is left")


def test_aThreadIsStartedWherePythonStartsNone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the exit handlers of Python 3.12."""

    def refused(*_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refused)
    monkeypatch.setattr(threads._thread, "start_new_thread", refused)
    ran, bare = list[int](), threading.Event()
    thread = threads.start(lambda: ran.append(threading.get_ident()), "late")
    thread.join(20)
    threads.startBare(bare.set)
    assert ran and ran[0] != threading.get_ident() and bare.wait(20)
