"""The clock: a program may stop, move and replace Python's time, and neither it nor the others notice anything."""

from __future__ import annotations

import ast
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muninn.control import clock
from support import Actor, ActorError, eventually

PACKAGE = Path(__file__).parent.parent / "muninn"
#: What reads or counts by Python's `time`. `threading`'s locks, events and joins, `SimpleQueue` and `select` wait in C.
CLOCKED_MODULES = {"time", "datetime", "sched", "selectors"}
CLOCKED_ATTRIBUTES = {"wait_for", "as_completed", "Queue", "LifoQueue", "PriorityQueue"}
CLOCKED_WITH_TIMEOUT = {"run", "communicate", "check_output", "check_call", "call", "map"}
#: Module → why it may.
ALLOWED: dict[str, str] = {}

#: As freezegun and time-machine do: whoever imported a function of `time`, before or after, gets another one.
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
def test_waitsEndInTimeWhateverAProgramMakesOfPythonsTime(actor: Callable[..., Actor], replaced: str) -> None:
    other = actor("b = muninn.share(np.arange(3), name='there')\nlock = muninn.Lock('lock'); lock.acquire()")
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
def test_aBrokerWhoseTimeIsReplacedFreesWhatIsOverAndNothingElse(actor: Callable[..., Actor], replaced: str) -> None:
    broker = actor("kept = muninn.share(np.arange(3), name='mine')")
    broker.do(replaced)
    other = actor("b = muninn.share(np.arange(3), name='hour', lifetimeMs=3_600_000)")
    other.do("muninn.share(np.arange(3), name='moment', lifetimeMs=300).close()")
    broker.do("d = muninn.share(np.arange(4), name='more')")
    eventually(lambda: other.do("sorted(each['name'] for each in muninn.listBuffers())") == ["hour", "mine", "more"], "the moment is over")
    assert other.do("int(b.array.sum())") == 3
    assert 0 < broker.do("muninn.open('hour').describe()['endsInMs']") <= 3_600_000


def test_isTheKernelsMonotonicClock() -> None:
    assert time.monotonic() <= clock.now() <= time.monotonic()
    assert time.monotonic_ns() // 1_000_000 <= clock.monotonicMs() <= time.monotonic_ns() // 1_000_000


def test_sleepsToItsEndThroughSignals() -> None:
    seen: list[float] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(clock.now()))
    try:
        main = threading.get_ident()
        threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGUSR1)).start()
        began = clock.now()
        clock.sleep(0.3)
        assert clock.now() - began >= 0.3
        assert len(seen) == 1 and seen[0] - began < 0.3, "the handler ran while it slept"
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


def clocked(source: str) -> Iterator[str]:
    """What in a module's source counts by Python's `time`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in CLOCKED_MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in CLOCKED_MODULES:
                yield node.module or ""
            yield from (alias.name for alias in node.names if alias.name in CLOCKED_ATTRIBUTES)
        elif isinstance(node, ast.Attribute) and node.attr in CLOCKED_ATTRIBUTES:
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKED_WITH_TIMEOUT:
            yield from (f"{node.func.attr}(timeout)" for keyword in node.keywords if keyword.arg == "timeout")


def test_nothingCountsByPythonsTime() -> None:
    found = {str(path.relative_to(PACKAGE)): set(clocked(path.read_text())) for path in PACKAGE.rglob("*.py")}
    found = {module: uses for module, uses in found.items() if uses and module not in ALLOWED}
    assert not found, "use muninn.control.clock, or say in ALLOWED why not"


@pytest.mark.parametrize(
    "planted",
    [
        "import time", "def f():\n    import time as t", "from time import monotonic", "import datetime", "condition.wait_for(f, 1)",
        "import queue\nqueue.Queue()", "from queue import Queue", "import subprocess\nsubprocess.run([], timeout=1)", "import selectors",
    ],
)  # fmt: skip
def test_aUseOfPythonsTimeIsFound(planted: str) -> None:
    assert list(clocked(planted))
    assert not list(clocked("import threading, queue\nqueue.SimpleQueue(); threading.Event().wait(1)"))
