"""`session/finalization.py`, `session/lateimports.py`, `sync/asyncwait.py` and
`system/threads.py`: the calls that work while an interpreter ends, in any order of its
steps.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

import muninn
from muninn.system import threads
from support import Actor, eventually, program

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


#: An object whose `__del__` runs in the middle of the end: the interpreter restores
#: builtins after all exit handlers, when nothing can be imported.
HELD = {"builtins": "builtins.last = Last()", "global": "last = Last()"}
#: Calls that work in a process that has joined before.
WORKING = {
    "share": "muninn.share(np.arange(3.), name='x').free()",
    "shareOfDates": "muninn.share(np.zeros(2, 'M8[ns]'), name='x').describe() and muninn.free('x')",
    "shareStrided": "muninn.share(np.arange(8.)[::2], name='x').free()",
    "loadArray": "muninn.loadArray((3,), 'f8', lambda array: array.fill(2), name='x').free()",
    "array": "muninn.array('x', (3,), 'f8').free()",
    "shareOnce": "muninn.shareOnce('x' * 120, lambda: np.arange(3.)) and muninn.free('x' * 120)",
    "shareBundle": "muninn.shareBundle({'a': np.arange(3.)}, name='x').free()",
    "loadBundle": "muninn.loadBundle({'a': ((3,), 'f8')}, lambda spec: spec['a'].fill(1), name='x').free()",
    "openBundle": "muninn.shareBundle({'a': np.arange(3.)}, name='x') and muninn.openBundle('x').free()",
    "open": "muninn.open('b').close()",
    "free": "muninn.free('b')",
    "lock": "muninn.Lock('x').acquire()",
    "held": "muninn.Lock('x').held(timeout=1).__enter__()",
    "listBuffers": "muninn.listBuffers()",
    "domainInfo": "muninn.domainInfo()",
}
#: Calls on a buffer that was shared before.
OF_BUFFERS = {
    "read": "b.read()",
    "write": "b.write().__enter__()",
    "signal": "b.signal(None)",
    "handle": "muninn.open(b.handle).close()",
    "copy": "copy.copy(b).close()",
    "describe": "b.describe()",
    "html": "b._repr_html_()",
    "repr": "repr(b)",
    "dlpack": "np.from_dlpack(b)",
    "close": "b.close()",
    "freeIt": "b.free()",
}
#: Calls that need an import, and are refused.
REFUSED = {
    "load": "muninn.load('x.npy', 'x')",
    "createStream": "muninn.createStream()",
    "shareOnGpu": "muninn.share(np.arange(3.), name='x', mode='fastMode')",
    "shareStructured": "muninn.share(items, name='x')",
}


def _ended(code: str, bound: float = 60) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=bound
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("isBroker", [True, False], ids=["broker", "member"])
@pytest.mark.parametrize(
    "held", ["", "lock = muninn.Lock('l')\nlock.acquire()\n"], ids=["left", "stays"]
)
def test_anObjectThatLivesToTheEndMayFree(
    domain: str, actor: Callable[..., Actor], isBroker: bool, held: str
) -> None:
    """Broken: nothing can be imported then, so the free raised ImportError, and the
    buffer stayed.
    """
    if not isBroker:
        actor().join()
    assert _ended(HEAD.format(before="") + held + FREES) == "freed\n"
    eventually(lambda: muninn.listBuffers() == [], "nothing is left")


@pytest.mark.parametrize("size", [100, 40_000_000])
@pytest.mark.parametrize("isFirst", [True, False], ids=["registeredBefore", "registeredAfter"])
@pytest.mark.parametrize("isJoined", [True, False], ids=["joined", "firstUse"])
def test_anExitHandlerMayShare(domain: str, size: int, isFirst: bool, isJoined: bool) -> None:
    """Broken: pools accept no work any more, and Python 3.12 starts no thread, so the
    call raised RuntimeError.
    """
    late = LATE.format(size=size)
    code = (
        HEAD.format(before=late if isFirst else "")
        + ("" if isFirst else late)
        + ("muninn.domainInfo()\n" if isJoined else "")
    )
    assert _ended(code) == "0\n"
    eventually(lambda: muninn.listBuffers() == [], "nothing is left")


def test_aWaitForNoPublicationKeepsNoProcess(domain: str) -> None:
    """Broken: the interpreter waited for the thread of a pool, and the thread for a
    publication.
    """
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


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("name", [*WORKING, *OF_BUFFERS, *REFUSED, "waitNextAsync"])
def test_aCallAtTheVeryEndWorksOrIsRefused(domain: str, name: str, held: str) -> None:
    """Broken: imports inside functions, and numpy's own, raised a bare ImportError."""
    call = {
        **WORKING,
        **OF_BUFFERS,
        **REFUSED,
        "waitNextAsync": "b.waitNextAsync(timeout=1).send(None)",
    }[name]
    code = HEAD.format(before="") + program(
        "lastObject", IS_JOINED="True", CALL=call, HELD=HELD[held]
    )
    assert _ended(code) == ("works" if name in WORKING or name in OF_BUFFERS else "refused")
    eventually(
        lambda: {buffer["name"] for buffer in muninn.listBuffers()} <= {"b"},
        "the buffers that were shared at the end are freed",
    )


@pytest.mark.parametrize("name", [*WORKING, *REFUSED])
def test_aProcessThatHasNeverJoinedIsRefusedAtTheVeryEnd(domain: str, name: str) -> None:
    code = HEAD.format(before="") + program(
        "lastObject",
        IS_JOINED="False",
        CALL={**WORKING, **REFUSED}[name],
        HELD=HELD["builtins"],
    )
    assert _ended(code) == "refused"


@pytest.mark.parametrize(
    "holds",
    [
        "with b.promote(0, 4096) as scratch: kept = scratch.array",
        "kept = b.array",
        "kept = muninn.open('b', 'copyOnWrite').array",
    ],
    ids=["window", "buffer", "private"],
)
def test_memoryMayOutliveTheModules(
    domain: str, monkeypatch: pytest.MonkeyPatch, holds: str
) -> None:
    """A module that something refers to still, as PyTorch does to the program's, loses what
    it has imported before the program's own variables go. Broken: the finalizer of the
    memory then used names that were None, and Python printed a traceback for each.
    """
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "1")
    code = f"""
b = muninn.share(np.zeros(1 << 16), name="b", access="readWrite", lifetime="lastClose")
{holds}
sys.kept = [each for name, each in sys.modules.items() if name.split(".")[0] == "muninn"]
sys.program = sys.modules["__main__"]
print("ends")
"""
    assert _ended(HEAD.format(before="") + code) == "ends\n"
    eventually(lambda: muninn.listBuffers() == [], "nothing is left")


@pytest.mark.parametrize("stream", ["", "stream=muninn.createStream(0)"], ids=["host", "stream"])
@pytest.mark.parametrize("isLocked", [True, False], ids=["lock", "noLock"])
@pytest.mark.parametrize("kind", ["write", "read"])
def test_anAccessMayOutliveTheModules(
    domain: str, monkeypatch: pytest.MonkeyPatch, kind: str, isLocked: bool, stream: str
) -> None:
    """Broken: the access called functions of Python by a table that was gone with its
    module, and the process ended by SIGSEGV.
    """
    monkeypatch.setenv("MUNINN_DEVICE", "host")
    monkeypatch.setenv("MUNINN_HOST_GPUS", "1")
    code = f"""
b = muninn.share(np.arange(3), name="b", access="readWrite", lifetime="lastClose")
w = b.{kind}({stream or ("timeout=9" if kind == "write" else "stream=None")})
v = w.__enter__()
lock = muninn.Lock("l")
if {isLocked}:
    lock.acquire()
sys.program = sys.modules["__main__"]
print("ends")
"""
    assert _ended(HEAD.format(before="") + code) == "ends\n"
    eventually(lambda: muninn.listBuffers() == [], "nothing is left")


def test_aThreadIsStartedWherePythonStartsNone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 starts no thread in exit handlers."""

    def refused(*_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threads, "_begin", refused)
    monkeypatch.setattr(threads._thread, "start_new_thread", refused)
    ran, bare = list[int](), threading.Event()
    thread = threads.start(lambda: ran.append(threading.get_ident()), "late")
    thread.join(20)
    threads.startBare(bare.set)
    assert ran and ran[0] != threading.get_ident() and bare.wait(20)
