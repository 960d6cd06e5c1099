"""`system/aside.py`: work that signals do not interrupt, and waits for it."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import muninn
from muninn.control.layout import TICKET_RING
from muninn.errors import BrokerUnavailable
from muninn.session.membership import current
from muninn.system import aside
from muninn.system.aside import Job
from muninn.system.latch import Latch
from support import Background, eventually

PACKAGE = Path(muninn.__file__).parent
#: Locks that a thread must not take again while it has them; the comment of each lock
#: gives the reason.
NOT_MET_AGAIN = {"session/releases.py"}


def test_aLatchLetsAllThreadsThrough() -> None:
    latch = Latch()
    assert not latch.isSet() and not latch.wait(0.01)
    waiting = [Background(lambda: latch.wait(60)).asleep() for _ in range(3)]
    latch.set()
    assert all(each.ended() for each in waiting) and latch.isSet() and latch.wait(0)


def test_aHandlerMayWaitForWhatItsThreadWaitsFor() -> None:
    """Broken, with `threading.Event`: the handler waited for the event's own lock,
    which the interrupted thread held.
    """
    latch, seen = Latch(), list[bool]()
    before = signal.signal(signal.SIGALRM, lambda *_: seen.append(latch.wait(60)))
    try:
        helper = Background(
            lambda: (
                time.sleep(0.05),
                signal.raise_signal(signal.SIGALRM),
                time.sleep(0.05),
                latch.set(),
            )
        )
        assert latch.wait(60)
        helper.ended()
        eventually(lambda: seen == [True], "the handler has waited too")
    finally:
        signal.signal(signal.SIGALRM, before)


def test_aJobIsDoneOnceForAllItsWaiters() -> None:
    done, go = list[int](), threading.Event()

    def work() -> int:
        done.append(threading.get_ident())
        assert aside.isOwn() and job.isOwn()
        go.wait(60)
        return 7

    job = Job(work)
    waiting = [Background(lambda: job.result(60)) for _ in range(4)]
    assert job.result(0.05) is None, "the wait is not over"
    go.set()
    assert [each.ended() for each in waiting] == [7] * 4 and job.result(0) == 7
    assert len(done) == 1 and done != [threading.get_ident()] and not aside.isOwn()


def test_anErrorOfAJobIsRaisedInItsWaiter() -> None:
    def work() -> None:
        raise KeyError("a")

    job = Job(work)
    for _ in range(2):
        with pytest.raises(KeyError):
            job.result(60)


def test_anErrorOfAJobKeepsNothingOnceItIsForgotten() -> None:
    """Broken: the error kept the frames of the job and the job kept the error, so
    everything that a failed join held stayed until the garbage collector ran.
    """

    class Held:
        pass

    held = Held()
    gone = weakref.ref(held)

    def work(held: Held) -> None:
        raise KeyError("a")

    job = Job(lambda kept=held: work(kept))
    del held
    gc.disable()
    try:
        with contextlib.suppress(KeyError):
            job.result(60)
        del job
        eventually(lambda: gone() is None, "nothing keeps it")
    finally:
        gc.enable()


def test_aLockMayBeMetAgainOnItsOwnThread() -> None:
    """A handler or a finalizer interrupts the code that the lock guards, and takes the
    lock again. Broken: the thread waited for itself.
    """
    plain = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "threading.Lock()" in path.read_text()
    }
    assert plain <= NOT_MET_AGAIN


class _Held:
    """Objects and locks that this thread has, for which a finalizer on one of Muninn's
    threads would have to wait.
    """

    def __init__(self, undo: contextlib.ExitStack) -> None:
        self.undo, self.lock = undo, muninn.Lock("l")
        self.buffer = muninn.share(np.zeros(4), name="a", access="readWrite")
        muninn.share(np.zeros(4), name="other").close()
        self.member, self.openBuffer = current(), self.buffer._checked()
        self.stream, semaphore = muninn.createStream(), threading.Event()
        self.stream.submit(lambda: semaphore.wait(60))
        undo.callback(semaphore.set)

    def signals(self, count: int = 1) -> None:
        for _ in range(count):
            self.buffer.signal(self.stream)

    def readsOnStream(self) -> None:
        self.undo.enter_context(self.buffer.read(stream=muninn.createStream()))

    def departs(self) -> None:
        self.member.departure.begin()
        self.undo.callback(self.member.departure.end)

    def has(self, lock: Any) -> None:
        self.undo.enter_context(lock)


#: An action of this thread, and the call that would then have to wait. Broken: each
#: call blocked, and with it the thread that serves.
_WAITS: dict[str, tuple[Callable[[_Held], object], Callable[[_Held], object]]] = {
    "a lock": (lambda held: held.lock.acquire(), lambda held: held.lock.acquire()),
    "a lock, for a while": (
        lambda held: held.lock.acquire(),
        lambda held: held.lock.acquire(timeout=60),
    ),
    "a write access": (
        lambda held: held.has(held.buffer.write()),
        lambda held: held.buffer.write().__enter__(),
    ),
    "a copy": (lambda held: held.has(held.buffer.write()), lambda held: held.buffer.read()),
    "a read access": (
        lambda held: held.has(held.buffer.write()),
        lambda held: held.buffer.read(stream=None).__enter__(),
    ),
    "readers": (lambda held: held.readsOnStream(), lambda held: held.buffer.write().__enter__()),
    "a generation": (lambda held: None, lambda held: held.buffer.waitNext(timeout=60)),
    "a name": (lambda held: None, lambda held: muninn.open("missing", timeout=60)),
    "a new array": (lambda held: None, lambda held: muninn.array("new", 4)),
    "a new lock": (lambda held: None, lambda held: muninn.Lock("new")),
    "another's load": (
        lambda held: None,
        lambda held: muninn.shareOnce("new", lambda: np.zeros(4)),
    ),
    "a ticket": (lambda held: held.signals(), lambda held: held.buffer.wait()),
    "room for a ticket": (
        lambda held: held.signals(TICKET_RING),
        lambda held: held.buffer.signal(held.stream),
    ),
    "a stream": (lambda held: None, lambda held: held.stream.synchronize()),
    "a departure": (lambda held: held.departs(), lambda held: held.lock.acquire()),
    "an open": (
        lambda held: held.has(held.member.leaseLock),
        lambda held: muninn.open("other"),
    ),
    "a signal": (
        lambda held: held.has(held.openBuffer.fencing),
        lambda held: held.buffer.signal(held.stream),
    ),
    "a join": (lambda held: held.member.leave(), lambda held: muninn.domainInfo()),
}


@pytest.mark.parametrize("what", _WAITS)
def test_aFinalizerOnAnOwnThreadWaitsForNothing(domain: str, what: str) -> None:
    before, call = _WAITS[what]
    with contextlib.ExitStack() as undo:
        held = _Held(undo)
        before(held)
        with pytest.raises(BrokerUnavailable, match="a finalizer ran on Muninn's own thread"):
            Job(lambda: call(held)).result(20)


def test_aFinalizerOnAnOwnThreadDoesWhatNeedsNoWait(domain: str) -> None:
    with contextlib.ExitStack() as undo:
        held = _Held(undo)

        def use() -> float:
            with held.lock, held.buffer.write() as view:
                view[:] = 7
            held.buffer.wait(ticket=held.buffer.signal())
            held.buffer.waitNext(after=0)
            return float(held.buffer.read().sum() + muninn.open("other").array.sum())

        assert Job(use).result(20) == 28
        held.lock.acquire()
        with pytest.raises(TimeoutError, match="another thread has held lock 'l' for 0 s"):
            Job(lambda: held.lock.acquire(timeout=0)).result(20)
